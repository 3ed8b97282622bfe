"""From an image or volume to raw multi-coil k-space: coils, background phase, correlated noise, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Complex128, Float, Num
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import pad

from recon.datasets.coils import LoopArray, noise_covariance, random_loops, resample_maps
from recon.datasets.lazy import LazySlices
from recon.datasets.mask_center import Center
from recon.datasets.masks import make_mask
from recon.datasets.phase import random_phase
from recon.datasets.random import Number, child_generator
from recon.datasets.scan import Image, Scan, SliceArray, Source
from recon.physics import NonCartesianMRI, trajectories
from recon.physics.errors import DataError, MaskError, OptionError, ShapeError
from recon.physics.fft import fft_centred
from recon.physics.layout import to_channels

Pixels = Num[ndarray, "..."] | Num[Tensor, "..."]  # the shapes are checked with a message
Maps = Num[ndarray, "..."] | Num[Tensor, "..."]

_NOISE_SAMPLES = 4096  # of the noise-only acquisition
_BODY_THRESHOLD = 0.1  # of the 99th percentile
_INTERLEAVES = 16  # of spirals
_COMPLEX = np.dtype(np.complex64)
_COILS, _NOISE_LEVELS, _PHASE, _MASK, _NOISE_SCAN, _NOISE = range(6)  # what each child generator is for


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """Raw data and what they were made from. The arrays are computed slice by slice.

    Parameters
    ----------
    scan
        What a scanner would have written: k-space, mask or trajectory, a noise-only acquisition; its
        ``reference`` is the magnitude of the truth.
    truth
        ``(slice, y, x)`` complex: the image with its background phase.
    coil_maps
        ``(slice, coil, y, x)``.
    covariance
        ``(coil, coil)``: covariance of the noise's real parts (and of its imaginary parts) between coils;
        half of ``E[n n^H]``.
    sigma
        Root mean square over coils of the standard deviation of the real part of a k-space sample.
    """

    scan: Scan
    truth: SliceArray
    coil_maps: SliceArray
    covariance: Complex128[ndarray, "coil coil"]
    sigma: float


def simulate_mri(
    image: Image | Pixels,
    *,
    coils: int | Maps = 8,
    snr: Number = 30.0,
    mask: str | Bool[ndarray, "..."] | Bool[Tensor, "..."] = "random",
    acceleration: Number = 4.0,
    center: Center = None,
    offset: int | None = None,
    trajectory: str | Float[ndarray, "sample 2"] | Float[Tensor, "sample 2"] | None = None,
    phase: bool = True,
    correlation: Number = 0.3,
    oversampling: Number = 1.0,
    seed: int = 0,
) -> Simulation:
    r"""Make raw multi-coil k-space of an image or of each slice of a volume.

    .. math:: y_c = M F (S_c\, e^{i\varphi} x) + n_c

    Slices are computed when they are read, each with its own noise, and come out the same in whatever order they
    are read.

    Parameters
    ----------
    image
        ``(y, x)`` or ``(slice, y, x)``, or an `Image`; real or complex.
    coils
        Number of coils, drawn by `recon.datasets.coils.random_loops`, or coil maps ``(coil, y, x)`` or
        ``(slice, coil, y, x)``, of a real scan say; maps of another matrix are resampled.
    snr
        Mean magnitude inside the body over ``sigma``, the standard deviation of the real part of the noise in
        a k-space sample. The Fourier transform is orthonormal and the maps' squares sum to 1, so ``sigma`` is
        also the noise of the real part of an image from full data (exactly so if it is white). The body is
        where the magnitude exceeds a tenth of the largest slice's 99th percentile. ``inf`` for no noise.
    mask
        Name of a mask (`recon.datasets.masks.MASKS`), or a mask.
    acceleration, center, offset
        Of the mask with that name, see `recon.datasets.masks.make_mask`; the acceleration also of a trajectory.
    trajectory
        ``radial``, ``spiral``, or points in cycles per field of view: samples along it in place of the grid.
    phase
        Give the image a smooth random background phase.
    correlation
        Of the noise between coils, see `recon.datasets.coils.noise_covariance`.
    oversampling
        Factor by which the readout (y) is oversampled; 2 on most scanners. Needs a mask of lines.
    seed
        Of everything random: coils, phase, mask, noise.

    Raises
    ------
    ShapeError, DataError
        An image that is not one, is zero or not finite; maps that do not fit.
    OptionError, MaskError
        Options that do not exist, contradict each other or cannot be met.
    """
    pixels, source = _pixels(image)
    n, *size = pixels.shape
    shape = (size[0], size[1])
    if not snr > 0:
        raise OptionError("a signal-to-noise ratio is above 0", found=snr)
    if trajectory is None:
        sampling: _Grid | _Path = _grid(shape, mask, acceleration, center, offset, oversampling, seed)
    else:
        sampling = _path(shape, trajectory, acceleration, oversampling)
    maps_of, sensitivity = _coil_maps(coils, n, shape, seed)
    n_coils = len(sensitivity)
    relative = noise_covariance(sensitivity, correlation, child_generator(seed, _NOISE_LEVELS))
    sigma = 0.0 if math.isinf(snr) else _mean_in_body(pixels) / float(snr)
    colour = sigma * torch.linalg.cholesky(relative)
    background = random_phase(child_generator(seed, _PHASE)) if phase else None

    def truth(index: int) -> Complex64[ndarray, "y x"]:
        x = _slice(pixels, index)
        if background is None:
            return x
        return np.asarray(x * np.exp(1j * background(shape, _height(index, n)).numpy()), dtype=np.complex64)

    def kspace(index: int) -> Complex64[ndarray, "coil *sampled"]:
        y = sampling.measure(torch.from_numpy(truth(index)), maps_of(index))
        if sigma:
            noise = _coloured(colour, math.prod(y.shape[1:]), child_generator(seed, _NOISE, index))
            y = y + sampling.mask * noise.reshape(y.shape)
        return y.numpy()

    options = {
        "coils": n_coils,
        "snr": float(snr),
        "mask": mask if isinstance(mask, str) else "given",
        "trajectory": trajectory if trajectory is None or isinstance(trajectory, str) else "given",
        "acceleration": float(acceleration),
        "phase": phase,
        "correlation": float(correlation),
        "seed": seed,
        "sigma": sigma,
    }
    noise_scan = _coloured(colour, _NOISE_SAMPLES, child_generator(seed, _NOISE_SCAN)).numpy()
    grid = sampling if isinstance(sampling, _Grid) else None
    has_readout = grid is not None and grid.of_lines
    scan = Scan(
        kspace=LazySlices((n, n_coils, *sampling.shape), _COMPLEX, kspace),
        source=source,
        mask=None if grid is None else grid.mask.numpy(),
        trajectory=sampling.trajectory.numpy() if isinstance(sampling, _Path) else None,
        noise=noise_scan if sigma else None,
        reference=LazySlices((n, *shape), np.dtype(np.float32), lambda index: np.abs(truth(index))),
        spacing=image.spacing if isinstance(image, Image) else None,
        affine=image.affine if isinstance(image, Image) else None,
        matrix=shape,
        readout_axis=-2 if has_readout else None,
        oversampling=float(oversampling) if has_readout else None,
        labels=tuple({"slice": index} for index in range(n)),
        header={"simulation": options},
    )
    return Simulation(
        scan=scan,
        truth=LazySlices((n, *shape), _COMPLEX, truth),
        coil_maps=LazySlices((n, n_coils, *shape), _COMPLEX, lambda index: maps_of(index).numpy()),
        covariance=(sigma**2 * relative).numpy(),
        sigma=sigma,
    )


@dataclass(frozen=True)
class _Grid:
    """Cartesian sampling; ``shape`` is that of the encoded matrix, oversampling included."""

    mask: Bool[Tensor, "#y x"]
    shape: tuple[int, int]

    @property
    def of_lines(self) -> bool:
        return torch.equal(self.mask, self.mask[:1].expand_as(self.mask))

    def measure(self, x: Complex64[Tensor, "y x"], maps: Complex64[Tensor, "coil y x"]) -> Complex64[Tensor, "c v u"]:
        before = self.shape[0] // 2 - len(x) // 2
        images = pad(maps * x, (0, 0, before, self.shape[0] - len(x) - before))
        return fft_centred(images, (-2, -1)) * self.mask


class _Path:
    """Sampling along a trajectory."""

    def __init__(self, trajectory: Float[Tensor, "sample 2"], image_shape: tuple[int, int]) -> None:
        self.trajectory, self.shape = trajectory, (len(trajectory),)
        self.mask = torch.ones((), dtype=torch.bool)
        self._physics = NonCartesianMRI(torch.ones(1, *image_shape, dtype=torch.complex64), trajectory)

    def measure(self, x: Complex64[Tensor, "y x"], maps: Complex64[Tensor, "coil y x"]) -> Complex64[Tensor, "c k"]:
        return self._physics.A(to_channels(x[None, None]), coil_maps=maps)[0]


def _grid(
    shape: tuple[int, int],
    mask: str | Bool[ndarray, "..."] | Bool[Tensor, "..."],
    acceleration: Number,
    center: Center,
    offset: int | None,
    oversampling: Number,
    seed: int,
) -> _Grid:
    if not 1 <= oversampling <= 8:
        raise OptionError("oversampling is a factor from 1 to 8", found=oversampling)
    encoded = (round(shape[0] * oversampling), shape[1])
    if isinstance(mask, str):
        rng = child_generator(seed, _MASK)
        mask = make_mask(mask, encoded, acceleration, center=center, offset=offset, generator=rng)
    mask = torch.as_tensor(mask)
    if mask.ndim != 2 or any(m not in (1, k) for m, k in zip(mask.shape, encoded, strict=True)) or not mask.any():
        raise MaskError("the mask does not fit the image", found=tuple(mask.shape), expected=f"that of {encoded}")
    grid = _Grid(mask, encoded)
    if oversampling != 1 and not grid.of_lines:
        raise OptionError(
            "only a readout is oversampled, and this mask has none",
            found=f"oversampling {oversampling:g}",
            cure="Take a mask of lines, or no oversampling",
        )
    return grid


def _path(
    shape: tuple[int, int],
    trajectory: str | Float[ndarray, "sample 2"] | Float[Tensor, "sample 2"],
    acceleration: Number,
    oversampling: Number,
) -> _Path:
    if oversampling != 1:
        raise OptionError("oversampling belongs to sampling on the grid", found=oversampling)
    if not isinstance(trajectory, str):
        return _Path(torch.as_tensor(trajectory).to(torch.float32), shape)
    if not acceleration >= 1:
        raise OptionError("no trajectory has this acceleration", found=acceleration, expected="1 or more")
    side = max(shape)
    if trajectory == "radial":
        points = trajectories.radial(shape, max(round(math.pi / 2 * side / acceleration), 1), golden=True)
    elif trajectory == "spiral":
        turns = side / (2 * _INTERLEAVES * float(acceleration))
        samples = max(math.ceil(math.pi * turns * side / 2), 2)  # a sample for each unit of the arc
        points = trajectories.spiral(shape, _INTERLEAVES, samples, turns=turns)
    else:
        raise OptionError(f"no trajectory is called {trajectory!r}", expected="radial or spiral")
    return _Path(points.to(torch.float32), shape)


def _coil_maps(
    coils: int | Maps, n: int, shape: tuple[int, int], seed: int
) -> tuple[Callable[[int], Tensor], Complex64[Tensor, "coil *coarse"]]:
    """Return the maps of each slice, and sensitivities that say how much of the body's noise coils share."""
    if isinstance(coils, int):
        array: LoopArray = random_loops(coils, child_generator(seed, _COILS))
        return lambda index: array.maps(shape, _height(index, n)), array.sensitivity((32, 32))
    maps = torch.as_tensor(coils).to(torch.complex64)
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or len(maps) not in (1, n):
        raise ShapeError(
            "coil maps that do not fit the image",
            found=tuple(maps.shape),
            expected=f"(coil, y, x), or (slice, coil, y, x) for {n} slices",
        )

    def of_slice(index: int) -> Tensor:
        own = maps[index if len(maps) > 1 else 0]
        return own if tuple(own.shape[1:]) == shape else resample_maps(own, shape)

    return of_slice, maps[len(maps) // 2]


def _pixels(image: Image | Pixels) -> tuple[SliceArray, Source]:
    pixels = image.pixels if isinstance(image, Image) else torch.as_tensor(image).numpy()
    source = Source("simulation", image.source.path if isinstance(image, Image) else None)
    if len(pixels.shape) == 2:
        pixels = np.asarray(pixels)[None]
    if len(pixels.shape) != 3 or min(pixels.shape) < 1:
        raise ShapeError(
            "no measurements can be made from this image",
            file=source.path,
            found=tuple(pixels.shape),
            expected="(y, x) or (slice, y, x), one value a pixel",
        )
    return pixels, source


def _slice(pixels: SliceArray, index: int) -> Complex64[ndarray, "y x"]:
    x = np.asarray(pixels[index], dtype=np.complex64)
    if not np.isfinite(x).all():
        raise DataError(f"slice {index} of the image has values that are not finite")
    return x


def _mean_in_body(pixels: SliceArray) -> float:
    """Mean magnitude of what is not air, one slice in memory at a time."""
    n = pixels.shape[0]
    threshold = _BODY_THRESHOLD * max(float(np.percentile(np.abs(_slice(pixels, i)), 99)) for i in range(n))
    total = count = 0.0
    for index in range(n):
        magnitude = np.abs(_slice(pixels, index)).astype(np.float64)
        body = magnitude > threshold
        total, count = total + float(magnitude[body].sum()), count + float(body.sum())
    if count == 0:
        raise DataError("the image is zero", cure="Give an image with something in it, or no noise (snr inf)")
    return total / count


def _coloured(factor: Complex128[Tensor, "coil coil"], samples: int, rng: torch.Generator) -> Complex64[Tensor, "c k"]:
    white = torch.randn(len(factor), samples, 2, generator=rng)
    return factor.to(torch.complex64) @ torch.view_as_complex(white)


def _height(index: int, n: int) -> float:
    """Height of a slice, from -1 to 1 over the volume."""
    return (2 * index + 1) / n - 1
