"""Raw k-space simulated while a network trains: images in, examples out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from recon.calibration import noise_level
from recon.datasets.coils import noise_covariance, random_loops
from recon.datasets.layers import with_layers
from recon.datasets.masks import MASKS, make_mask
from recon.datasets.phase import random_phase, tissue_phase
from recon.datasets.random import child_generator
from recon.physics.errors import CalibrationError, DataError, OptionError
from recon.physics.fft import fft_centred
from recon.training.examples import PEAK, Example, make_example

ImageSource = Callable[[torch.Generator], tuple[Tensor, str]]
"""Draws an image ``(y, x)``, not negative, its maximum near 1, and says what it is."""

_SCENE, _SAMPLING = range(2)  # what each child generator is for
_LINES = ("random", "equispaced", "equispaced_fraction", "gaussian_lines")
_CENTRE_SHARE = 0.5  # of the samples, at most, is the centre's
_SIDES = 8  # sides are multiples of it
_ATTEMPTS = 20  # images drawn until one has signal


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How scans are simulated; ranges are drawn from evenly, in the logarithm where they span factors.

    Parameters
    ----------
    coils
        Fewest and most coils.
    masks
        Names of masks (`recon.datasets.masks.MASKS`) and how often each is drawn.
    acceleration, line_acceleration
        Of masks of points, and of masks of lines.
    calibration
        Side of the fully sampled centre, which has no more than half of the samples.
    noise
        Standard deviation of the real part of a k-space sample, over the image's 99.9th percentile.
    correlation
        Of the noise between coils.
    field_of_view
        Factor by which air is added around the image.
    tissue_phase
        Root mean square of the phase that follows the anatomy, in radians.
    layers
        Share of images that get layers of fat and bone (`recon.datasets.layers`).
    estimate_noise
        Give examples the noise level as it is estimated from them, with the error that it has when a scan is
        reconstructed, in place of the true one.
    """

    coils: tuple[int, int] = (4, 16)
    masks: Mapping[str, float] = field(
        default_factory=lambda: {
            "poisson": 0.45,
            "gaussian": 0.15,
            "random": 0.15,
            "equispaced": 0.15,
            "gaussian_lines": 0.1,
        }
    )
    acceleration: tuple[float, float] = (3.0, 12.0)
    line_acceleration: tuple[float, float] = (3.0, 8.0)
    calibration: tuple[int, int] = (16, 28)
    noise: tuple[float, float] = (0.002, 0.03)
    correlation: tuple[float, float] = (0.0, 0.4)
    field_of_view: tuple[float, float] = (1.0, 1.15)
    tissue_phase: tuple[float, float] = (0.02, 0.25)
    layers: float = 0.5
    estimate_noise: bool = True

    def __post_init__(self) -> None:
        for name in (
            "coils",
            "acceleration",
            "line_acceleration",
            "calibration",
            "noise",
            "field_of_view",
            "tissue_phase",
        ):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise OptionError(f"{name} is a range from low to high", found=f"{low}, {high}")
        if not 0 <= self.layers <= 1:
            raise OptionError("layers is a share of the images", found=self.layers)
        if not self.masks or min(self.masks.values()) < 0 or not sum(self.masks.values()) > 0:
            raise OptionError("masks need weights", found=dict(self.masks))
        unknown = [name for name in self.masks if name not in MASKS]
        if unknown:
            raise OptionError("no such masks", found=", ".join(unknown), expected=f"some of {', '.join(MASKS)}")

    @property
    def accelerations(self) -> tuple[float, float]:
        """Least and greatest acceleration of any mask."""
        both = (*self.acceleration, *self.line_acceleration)
        return min(both), max(both)


@dataclass(frozen=True, eq=False)
class _Scene:
    """What several samplings of one slice share; without maps each estimates its own."""

    kspace: Complex[Tensor, "coil y x"]
    colour: Complex[Tensor, "coil coil"]
    sigma: float
    center: int
    coil_maps: Complex[Tensor, "coil y x"] | None
    name: str


class SimulatedScans(Dataset[Example]):
    """Scans of random images; item and epoch determine an example, whoever computes it.

    Parameters
    ----------
    source
        Draws images, such as `recon.datasets.anatomy.Planes`.
    length
        Examples an epoch.
    acquisition
        How scans differ.
    seed
        Of everything random.
    repeats
        How often a slice, its coils and their estimated maps come back within an epoch with another mask and noise.
        More repeats cost less time and give less variety.
    matrix
        Crop images, or add air, to this (y, x): what batches of more than one example need.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        length: int,
        acquisition: Acquisition,
        seed: int = 0,
        repeats: int = 1,
        matrix: tuple[int, int] | None = None,
    ) -> None:
        self.source, self.length, self.acquisition = source, length, acquisition
        self.seed, self.repeats, self.matrix = seed, repeats, matrix
        self.epoch = 0
        self._scenes: dict[int, _Scene] = {}

    def set_epoch(self, epoch: int) -> None:
        """Go on to the examples of an epoch."""
        self.epoch = epoch
        self._scenes.clear()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        """Simulate one example."""
        if not 0 <= index < self.length:
            raise IndexError(f"example {index} of {self.length}")
        number = index % -(-self.length // self.repeats)
        if number not in self._scenes:
            self._scenes[number] = self._scene(number)
        scene = self._scenes[number] if self.repeats > 1 else self._scenes.pop(number)
        rng = child_generator(self.seed, _SAMPLING, self.epoch, index)
        return self._scanned(scene, rng, f"{scene.name}, example {index} of epoch {self.epoch}")

    def _scanned(self, scene: _Scene, rng: torch.Generator, name: str) -> Example:
        """Draw mask and noise."""
        shape = (scene.kspace.shape[1], scene.kspace.shape[2])
        mask = _draw_mask(self.acquisition, shape, scene.center, rng)
        white = torch.randn(*scene.kspace.shape, 2, generator=rng)
        noise = torch.einsum("dc,cyx->dyx", scene.colour, torch.view_as_complex(white))
        measured = (scene.kspace + noise) * mask
        return make_example(
            measured,
            mask,
            target=scene.kspace,
            coil_maps=scene.coil_maps,
            sigma=_estimated(measured, mask, scene.sigma) if self.acquisition.estimate_noise else scene.sigma,
            name=name,
        )

    def _scene(self, number: int) -> _Scene:
        rng, a = child_generator(self.seed, _SCENE, self.epoch, number), self.acquisition
        image, name = self._image(rng)
        size = (image.shape[0], image.shape[1])
        height = _between(rng, (-1.0, 1.0))
        n_coils = int(torch.randint(a.coils[0], a.coils[1] + 1, (), generator=rng))
        array = random_loops(n_coils, rng)
        phase = random_phase(rng)(size, height) + tissue_phase(
            image.clamp_min(0), _log_between(rng, a.tissue_phase), rng
        )
        layered = _between(rng, (0.0, 1.0)) < a.layers
        own = with_layers(image.clamp_min(0), rng) if layered else image.clamp_min(0)
        kspace = fft_centred(array.maps(size, height) * own * torch.polar(torch.ones_like(phase), phase), (-2, -1))
        sigma = _log_between(rng, a.noise) * float(torch.quantile(image, PEAK))
        relative = noise_covariance(array.sensitivity((32, 32)), _between(rng, a.correlation), rng)
        colour = (sigma * torch.linalg.cholesky(relative)).to(torch.complex64)
        center = int(torch.randint(a.calibration[0], a.calibration[1] + 1, (), generator=rng))
        scene = _Scene(kspace, colour, sigma, center, None, name)
        if self.repeats == 1:
            return scene
        return replace(scene, coil_maps=self._scanned(scene, rng, name).coil_maps)

    def _image(self, rng: torch.Generator) -> tuple[Float[Tensor, "y x"], str]:
        for _ in range(_ATTEMPTS):
            image, name = self.source(rng)
            if self.matrix is None:
                wanted = [_rounded(n * _between(rng, self.acquisition.field_of_view)) for n in image.shape]
            else:
                wanted = list(self.matrix)
            image = fitted(image, wanted)
            if torch.quantile(image, PEAK) > 0.05:
                return image, name
        raise DataError("images that hold hardly any signal", found=name)


def _estimated(y: Tensor, mask: Tensor, true: float) -> float:
    try:
        return float(noise_level(y[None], mask[None, None]))
    except CalibrationError:
        return true


def _draw_mask(a: Acquisition, size: tuple[int, int], center: int, rng: torch.Generator) -> Tensor:
    names = list(a.masks)
    weights = torch.tensor([a.masks[name] for name in names], dtype=torch.float64)
    name = names[int(torch.multinomial(weights, 1, generator=rng))]
    if name not in _LINES:
        acceleration = _log_between(rng, a.acceleration)
        side = min(center, int((_CENTRE_SHARE * size[0] * size[1] / acceleration) ** 0.5))
        return make_mask(name, size, acceleration, center=side, generator=rng)
    acceleration = _log_between(rng, a.line_acceleration)
    lines = min(center, round(_CENTRE_SHARE * size[1] / acceleration))
    if name == "equispaced":
        return make_mask(name, size, max(round(acceleration), 2), center=lines, generator=rng)
    return make_mask(name, size, acceleration, center=lines, generator=rng)


def _rounded(n: float) -> int:
    """Return the nearest size whose Fourier transform is fast."""
    return max(round(n / _SIDES), 1) * _SIDES


def fitted(image: Tensor, size: Sequence[int]) -> Float[Tensor, "y x"]:
    """Cut off, or add air, around the middle."""
    for dim, n in enumerate(size):
        have = image.shape[dim]
        if have > n:
            image = image.narrow(dim, (have - n) // 2, n)
        elif have < n:
            before = (n - have) // 2
            margins = (before, n - have - before)
            image = pad(image, (0, 0, *margins) if dim == 0 else margins)
    return image


def _between(rng: torch.Generator, limits: tuple[float, float]) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * torch.rand((), generator=rng))


def _log_between(rng: torch.Generator, limits: tuple[float, float]) -> float:
    low, high = torch.tensor(limits).log().tolist()
    return float(torch.tensor(_between(rng, (low, high))).exp())
