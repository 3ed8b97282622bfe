"""Endless images of anatomy out of a few magnitude volumes: planes, contrasts, poses, sharpness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from recon.datasets.random import Number
from recon.datasets.readers import Opened
from recon.datasets.readers import open as open_file
from recon.datasets.scan import Image, Scan, SliceArray
from recon.physics.errors import DataError
from recon.physics.fft import fft_centred, ifft_centred

_ISOTROPIC = 1.6  # planes across the slices are used where slices are at most so many pixels thick
_FEWEST = 48  # pixels an axis
_EMPTY = 0.1  # planes with less than this share of the largest plane's signal are left out
_PEAK = 0.998  # quantile of a volume that is scaled to 1


@dataclass(frozen=True, eq=False)
class Volume:
    """A magnitude volume, scaled to about 1.

    Parameters
    ----------
    pixels
        ``(z, y, x)``, not negative.
    axes
        Axes across which planes are taken: all of a nearly isotropic volume, else the slice axis.
    planes
        Of each such axis the indices of planes that are not empty.
    name
        Of the file.
    """

    pixels: Float[Tensor, "z y x"]
    axes: tuple[int, ...]
    planes: tuple[Tensor, ...]
    name: str


def load_volume(path: Path) -> Volume:
    """Read a volume or single image of any format that `recon.datasets.open` knows.

    A BART file cannot say whether it holds an image or k-space; with one coil it is taken for an image.

    Raises
    ------
    DataError
        Not an image, or one that is empty, not finite, or too small.
    """
    return as_volume(open_file(path), path)


def as_volume(opened: Opened, path: Path) -> Volume:
    """Make a volume of what was opened; see `load_volume`."""
    stack: SliceArray
    if isinstance(opened, Image):
        stack = opened.pixels
    elif isinstance(opened, Scan) and opened.n_coils == 1 and opened.source.format == "cfl":
        stack = np.concatenate([opened.slice(i) for i in range(opened.n_slices)])
    else:
        raise DataError("no image to take planes from", file=path, cure="Give NIfTI, DICOM or other images")
    pixels = torch.from_numpy(np.stack([np.abs(np.asarray(stack[i])) for i in range(stack.shape[0])])).float()
    if pixels.ndim != 3 or not torch.isfinite(pixels).all() or not pixels.max() > 0:
        raise DataError("a volume that is empty, not finite or not grey", file=path, found=tuple(pixels.shape))
    spacing = getattr(opened, "spacing", None) or (1.0, 1.0, 1.0)
    isotropic = len(pixels) >= _FEWEST and spacing[0] <= _ISOTROPIC * min(spacing[1:])
    axes = (0, 1, 2) if isotropic else (0,)
    planes = []
    for axis in axes:
        signal = pixels.sum(dim=[a for a in range(3) if a != axis])
        planes.append(torch.nonzero(signal >= _EMPTY * signal.max()).flatten())
    if min(pixels.shape[1:]) < _FEWEST:
        raise DataError("a volume with too few pixels", file=path, found=tuple(pixels.shape), expected=_FEWEST)
    return Volume(pixels / float(np.quantile(pixels.numpy(), _PEAK)), axes, tuple(planes), path.name)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How far images differ from the volumes; each is a range that is drawn from evenly.

    Parameters
    ----------
    rotation
        Largest angle in the plane, degrees.
    zoom
        Size of the object relative to the field of view of the volume.
    stretch
        Largest difference between the zoom along y and x.
    gamma
        Exponent of the contrast, drawn evenly in its logarithm.
    curve
        Share of images whose grey values go through a random curve instead.
    sharpen
        Largest factor by which the highest spatial frequencies are raised.
    resolution
        Share of the k-space of the volume's plane that is kept along an axis: less than 1 makes pixels larger.
    exact
        Share of images that are planes of the volume as they are, but for flips and contrast.
    """

    rotation: float = 20.0
    zoom: tuple[float, float] = (0.75, 1.25)
    stretch: float = 0.15
    gamma: tuple[float, float] = (0.6, 1.6)
    curve: float = 0.25
    sharpen: float = 2.5
    resolution: tuple[float, float] = (0.6, 1.0)
    exact: float = 0.4


@dataclass(frozen=True, eq=False)
class Planes:
    """Draws a volume, a plane, a pose, a contrast and a resolution.

    Parameters
    ----------
    volumes, weights
        What is drawn from, and how often (need not sum to 1).
    variation
        How.
    largest
        Longest side of the image; of larger ones a random window is taken.
    """

    volumes: Sequence[Volume]
    weights: Sequence[float]
    variation: Variation
    largest: int = 256

    def __post_init__(self) -> None:
        if not self.volumes:
            raise DataError("no volumes to draw images from")

    def __call__(self, generator: torch.Generator) -> tuple[Float[Tensor, "y x"], str]:
        """Return an image whose maximum is near 1, and the name of its volume."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        volume = self.volumes[int(torch.multinomial(weights, 1, generator=generator))]
        axis = int(torch.randint(len(volume.axes), (), generator=generator))
        planes = volume.planes[axis]
        index = int(planes[torch.randint(len(planes), (), generator=generator)])
        plane = volume.pixels.select(volume.axes[axis], index)
        if _uniform(generator) < 0.5:
            plane = plane.T
        plane = plane.flip([dim for dim in (0, 1) if _uniform(generator) < 0.5])
        if _uniform(generator) >= self.variation.exact:
            plane = _posed(plane, self.variation, generator)
        plane = _contrast(plane.clamp_min(0), self.variation, generator)
        plane = _resolved(plane, self.variation, generator)
        for dim in (0, 1):
            spare = max(plane.shape[dim] - self.largest, 0)
            start = round(spare * _uniform(generator))
            plane = plane.narrow(dim, start, plane.shape[dim] - spare)
        return plane.contiguous(), volume.name


def _uniform(generator: torch.Generator, low: Number = 0.0, high: Number = 1.0) -> float:
    return float(low + (high - low) * torch.rand((), generator=generator))


def _posed(plane: Tensor, v: Variation, generator: torch.Generator) -> Tensor:
    """Rotate and zoom about the centre, by bicubic interpolation of pixels half as large."""
    angle = math.radians(_uniform(generator, -v.rotation, v.rotation))
    zoom = _uniform(generator, *v.zoom)
    ratio = 1 + _uniform(generator, -v.stretch, v.stretch)
    height, width = plane.shape
    scale = torch.tensor([[1 / (zoom * ratio), 0], [0, ratio / zoom]])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    aspect = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    matrix = (turn @ scale) * aspect
    theta = torch.cat((matrix, torch.zeros(2, 1)), 1)[None]
    grid = affine_grid(theta, [1, 1, height, width], align_corners=False)
    return grid_sample(plane[None, None], grid, mode="bicubic", align_corners=False)[0, 0]


def _contrast(plane: Tensor, v: Variation, generator: torch.Generator) -> Tensor:
    """Change grey values by a power or a random curve that leaves air dark."""
    top = plane.max().clamp_min(1e-6)
    x = plane / top
    if _uniform(generator) < v.curve:
        knots = torch.rand(7, generator=generator)
        knots[0] = 0.0
        place = x * (len(knots) - 1)
        below = place.floor().clamp_max(len(knots) - 2)
        index = below.long()
        return torch.lerp(knots[index], knots[index + 1], place - below)
    low, high = (math.log(g) for g in v.gamma)
    return x ** math.exp(_uniform(generator, low, high))


def _resolved(plane: Tensor, v: Variation, generator: torch.Generator) -> Tensor:
    """Raise high frequencies, then keep the middle of k-space: larger pixels, with a scanner's ringing."""
    k = fft_centred(plane.to(torch.complex64), (0, 1))
    gain = _uniform(generator, 0, math.log(v.sharpen))
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in plane.shape)
    k = k * torch.exp(gain * (y[:, None] ** 2 + x**2).clamp_max(1))
    for dim in (0, 1):
        n = k.shape[dim]
        keep = min(max(round(n * _uniform(generator, *v.resolution)), min(_FEWEST, n)), n)
        k = k.narrow(dim, n // 2 - keep // 2, keep)
    image = ifft_centred(k, (0, 1)).real
    return image / image.abs().max().clamp_min(1e-6)
