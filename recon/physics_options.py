"""What each operator can be asked for in a text such as ``ct:angles=60,geometry=fan``, and how it is made of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import NoiseModel
from torch import Tensor

from recon.datasets.masks import make_mask
from recon.datasets.random import child_generator
from recon.datasets.simulate_compressed import make_matrix
from recon.physics import (
    BlockCompressedSensing,
    Blur,
    CircularBlur,
    Demosaicing,
    Denoising,
    FanCT,
    Inpainting,
    ParallelCT,
    Resampling,
    SingleCoilMRI,
    SuperResolution,
)
from recon.physics.errors import OptionError
from recon.physics.inpainting import block_mask, coded_mask, random_mask
from recon.physics.kernels import gaussian_kernel, motion_kernel, random_motion_kernel
from recon.physics.noise import PhotonNoise, PostLogNoise, noise_model

Size = tuple[int, int, int]
Arrays = Mapping[str, Tensor]
"""What was read from the files that the text names, by key."""

_OPERATOR, _NOISE = 0, 1  # children of the seed


@dataclass(frozen=True, kw_only=True)
class OperatorOptions(ABC):
    """Options of an operator; a field is a key of the text, its type says what it takes.

    Parameters
    ----------
    sigma, gain
        Of the noise: Gaussian standard deviation and Poisson gain, in the unit of ``y``.
    seed
        Of all random choices.
    """

    files: ClassVar[tuple[str, ...]] = ()
    """Keys whose value is the name of a file of an array."""

    sigma: float | None = None
    gain: float | None = None
    seed: int = 0

    @abstractmethod
    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:
        """Make the operator for images of ``size`` (c, y, x)."""

    def image_size(self, measured: tuple[int, int, int], arrays: Arrays) -> Size:  # noqa: ARG002
        """Return (c, y, x) of the image whose measurements are ``(channel, rows, columns)``."""
        return measured

    def noise(self) -> NoiseModel:
        """Return the noise model."""
        return noise_model(self.sigma, self.gain, self.generator(_NOISE))

    def generator(self, part: int = _OPERATOR) -> torch.Generator:
        """Return the random numbers of the operator, or of its noise."""
        return child_generator(self.seed, part)


@dataclass(frozen=True, kw_only=True)
class DenoisingOptions(OperatorOptions):
    """``denoising:sigma=25``."""

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:  # noqa: ARG002
        """Make the operator."""
        physics = Denoising(self.noise())
        physics.img_size = size
        return physics


@dataclass(frozen=True, kw_only=True)
class InpaintingOptions(OperatorOptions):
    """``inpainting:keep=0.5``, ``inpainting:blocks=4,block=16x16``, ``inpainting:coded=13``, ``inpainting:mask=F``."""

    files: ClassVar[tuple[str, ...]] = ("mask",)

    keep: float | None = None
    blocks: int | None = None
    block: tuple[int, int] = (16, 16)
    coded: int | None = None
    mask: str | None = None

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:
        """Make the operator."""
        _one_of("inpainting", keep=self.keep, blocks=self.blocks, coded=self.coded, mask=self.mask)
        shape = size[1:]
        if "mask" in arrays:
            mask = (arrays["mask"] != 0).float()
        elif self.blocks is not None:
            mask = block_mask(shape, self.block, self.blocks, self.generator())
        elif self.coded is not None:
            mask = coded_mask(shape, self.coded)
        else:
            mask = random_mask(shape, 0.5 if self.keep is None else self.keep, self.generator())
        return Inpainting(mask, size, noise_model=self.noise())


@dataclass(frozen=True, kw_only=True)
class DemosaicingOptions(OperatorOptions):
    """``demosaicing:pattern=rggb``."""

    pattern: str = "rggb"

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:  # noqa: ARG002
        """Make the operator."""
        if size[0] != 3:
            raise OptionError("demosaicing gives three colours", found=f"an image of {size[0]} channels")
        return Demosaicing(size[1:], self.pattern, noise_model=self.noise())

    def image_size(self, measured: tuple[int, int, int], arrays: Arrays) -> Size:  # noqa: ARG002
        """Return the size with three colours, also where the mosaic is one plane."""
        return (3, *measured[1:])


@dataclass(frozen=True, kw_only=True)
class KernelOptions(OperatorOptions):
    """A kernel: ``width=2`` (Gaussian), ``motion=9,angle=30``, ``shake=15`` (random), or ``kernel=FILE``."""

    files: ClassVar[tuple[str, ...]] = ("kernel",)

    width: float | None = None
    motion: float | None = None
    angle: float = 0.0
    shake: int | None = None
    kernel: str | None = None

    def made_kernel(self, arrays: Arrays) -> Tensor | None:
        """Return the kernel, its sum 1; None where none was asked for."""
        _one_of("a blur", width=self.width, motion=self.motion, shake=self.shake, kernel=self.kernel)
        if "kernel" in arrays:
            return arrays["kernel"] / arrays["kernel"].sum()
        if self.motion is not None:
            return motion_kernel(self.motion, self.angle)
        if self.shake is not None:
            return random_motion_kernel(self.shake, self.generator())
        return None if self.width is None else gaussian_kernel(self.width)


@dataclass(frozen=True, kw_only=True)
class BlurOptions(KernelOptions):
    """``blur:width=2`` (Gaussian), ``blur:motion=9,angle=30``, ``blur:shake=15`` (random), ``blur:kernel=FILE``."""

    border: Literal["valid", "replicate", "reflect", "constant", "circular"] = "valid"

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:
        """Make the operator."""
        kernel = self._kernel(arrays)
        if self.border == "circular":
            return CircularBlur(kernel, size, noise_model=self.noise())
        return Blur(kernel, size, padding=self.border, noise_model=self.noise())

    def image_size(self, measured: tuple[int, int, int], arrays: Arrays) -> Size:
        """Return the size with the border that the kernel reaches."""
        if self.border != "valid":
            return measured
        h, w = self._kernel(arrays).shape[-2:]
        return measured[0], measured[1] + h - 1, measured[2] + w - 1

    def _kernel(self, arrays: Arrays) -> Tensor:
        kernel = self.made_kernel(arrays)
        return gaussian_kernel(2.0) if kernel is None else kernel


@dataclass(frozen=True, kw_only=True)
class SuperResolutionOptions(KernelOptions):
    """``superresolution:factor=2,filter=bicubic``, with a kernel as of ``blur``, or ``superresolution:factor=1.5``."""

    factor: float = 2.0
    filter: Literal["bicubic", "bilinear", "gaussian", "sinc", "none"] = "bicubic"
    border: Literal["circular", "replicate", "reflect", "constant"] = "circular"

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:
        """Make the operator."""
        kernel = self.made_kernel(arrays)
        if self.factor != int(self.factor):
            if kernel is not None or self.filter != "bicubic":
                raise OptionError("a factor that is no whole number has its own filter", found=self.factor)
            return Resampling(self.factor, size, noise_model=self.noise())
        named = None if self.filter == "none" else self.filter
        return SuperResolution(
            int(self.factor),
            size,
            named if kernel is None else kernel,
            padding=self.border,
            noise_model=self.noise(),
        )

    def image_size(self, measured: tuple[int, int, int], arrays: Arrays) -> Size:  # noqa: ARG002
        """Return the fine size."""
        return measured[0], int(measured[1] * self.factor), int(measured[2] * self.factor)


@dataclass(frozen=True, kw_only=True)
class CTOptions(OperatorOptions):
    """``ct:angles=60``, ``ct:angles=60,geometry=fan``, ``ct:angles=90,arc=120`` (limited), ``ct:photons=1e5``.

    Parameters
    ----------
    angles, arc, start
        How many, over how many degrees, from where on; 180 degrees for a parallel beam, 360 for a fan.
    detectors, spacing, pixel, source, detector
        Cells of the detector, their distance, the side of a pixel, and the distances of source and detector from the
        centre, all in the unit of ``pixel``.
    photons
        On a cell where nothing is in the beam: noise of counts, by logarithm (``model=log``), or its Gaussian
        approximation (``model=post-log``).
    normalize
        Operator of norm 1.
    """

    angles: int = 60
    geometry: Literal["parallel", "fan"] = "parallel"
    arc: float | None = None
    start: float = 0.0
    detectors: int | None = None
    spacing: float | None = None
    pixel: float = 1.0
    source: float | None = None
    detector: float | None = None
    photons: float | None = None
    model: Literal["log", "post-log"] = "log"
    normalize: bool = False
    size: tuple[int, int] | None = None

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:  # noqa: ARG002
        """Make the operator."""
        if self.angles < 1:
            raise OptionError("CT needs at least one angle", found=self.angles)
        full_arc = (ParallelCT if self.geometry == "parallel" else FanCT).full_arc
        arc = full_arc if self.arc is None else self.arc
        angles = [self.start + arc * k / self.angles for k in range(self.angles)]
        if self.geometry == "parallel":
            if self.source is not None or self.detector is not None:
                raise OptionError("a parallel beam has no distances of source and detector", cure="Add geometry=fan")
            return ParallelCT(
                size,
                angles,
                detectors=self.detectors,
                detector_spacing=self.spacing,
                pixel_size=self.pixel,
                normalize=self.normalize,
                noise_model=self.noise(),
            )
        return FanCT(
            size,
            angles,
            source_distance=self.source,
            detector_distance=self.detector,
            detectors=self.detectors,
            detector_spacing=self.spacing,
            pixel_size=self.pixel,
            normalize=self.normalize,
            noise_model=self.noise(),
        )

    def image_size(self, measured: tuple[int, int, int], arrays: Arrays) -> Size:  # noqa: ARG002
        """Return the size that was asked for, else a square as wide as the detector."""
        height, width = self.size or (measured[1], measured[1])
        return measured[0], height, width

    def noise(self) -> NoiseModel:
        """Return the noise model, of photons where they were counted."""
        if self.photons is None:
            return super().noise()
        if self.normalize:
            raise OptionError("photons see the line integrals themselves", cure="Leave out normalize or photons")
        kind = PhotonNoise if self.model == "log" else PostLogNoise
        return kind(self.photons, rng=self.generator(_NOISE))


@dataclass(frozen=True, kw_only=True)
class MRIOptions(OperatorOptions):
    """``mri:sampling=gaussian,acceleration=4``, ``mri:mask=FILE``; a complex image is two channels."""

    files: ClassVar[tuple[str, ...]] = ("mask",)

    sampling: str = "gaussian"
    acceleration: float = 4.0
    center: int | None = None
    mask: str | None = None

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:
        """Make the operator."""
        if size[0] != 2:
            raise OptionError("MRI has complex images, two channels", found=f"an image of {size[0]} channels")
        if "mask" in arrays:
            mask = arrays["mask"] != 0
        else:
            mask = make_mask(self.sampling, size[1:], self.acceleration, center=self.center, generator=self.generator())
        mask = mask.expand(size[1:]) if mask.ndim == 2 else mask
        return SingleCoilMRI(mask, noise_model=self.noise())


@dataclass(frozen=True, kw_only=True)
class CompressedOptions(OperatorOptions):
    """``cs:ratio=0.25,matrix=gaussian,block=33x33``."""

    ratio: float = 0.25
    matrix: Literal["gaussian", "hadamard", "dct"] = "gaussian"
    block: tuple[int, int] = (33, 33)

    def build(self, size: Size, arrays: Arrays) -> LinearPhysics:  # noqa: ARG002
        """Make the operator."""
        matrix = make_matrix(self.matrix, self.ratio, self.block, seed=self.seed)
        return BlockCompressedSensing(matrix, size[1:], self.block, noise_model=self.noise())


OPERATORS: dict[str, type[OperatorOptions]] = {
    "denoising": DenoisingOptions,
    "inpainting": InpaintingOptions,
    "demosaicing": DemosaicingOptions,
    "blur": BlurOptions,
    "superresolution": SuperResolutionOptions,
    "ct": CTOptions,
    "mri": MRIOptions,
    "cs": CompressedOptions,
}


def _one_of(what: str, **choices: object) -> None:
    given = [name for name, value in choices.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"{what} takes one of {', '.join(choices)}", found=" and ".join(given))
