"""The problems that one model for every operator learns: how each draws its operator and its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from recon.datasets.coils import random_loops
from recon.datasets.masks import make_mask
from recon.physics import MultiCoilMRI
from recon.physics.blur import Blur, CircularBlur
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.ct import ParallelCT
from recon.physics.demosaicing import PATTERNS, Demosaicing
from recon.physics.denoising import Denoising
from recon.physics.inpainting import Inpainting, block_mask, random_mask
from recon.physics.kernels import gaussian_kernel, random_motion_kernel
from recon.physics.measurement_matrices import gaussian_matrix, measurements_at
from recon.physics.single_coil import SingleCoilMRI
from recon.physics.superresolution import SuperResolution

Shape = tuple[int, int, int]
_MASKS = ("gaussian", "random", "equispaced", "poisson")
_CENTRE = 0.3  # of the samples, at most, is the centre's
_ANGLES = (16, 24, 32, 45, 60, 90)  # views of CT
_MATRICES = 4  # of compressed sensing, from which rows are taken
_BLOCKS = (33, 32)  # sides of the blocks of compressed sensing, where images are as large


@dataclass(frozen=True)
class Task:
    """What a task draws.

    Parameters
    ----------
    images
        Kinds of images that it is about.
    operator
        Draws the operator for a batch of images of a shape (c, y, x).
    sigma
        Range of the noise level over the root mean square of the exact measurements, even in the logarithm.
    gain
        Range of the photon gain over the mean of the exact measurements; None: no photon noise.
    """

    images: tuple[str, ...]
    operator: Callable[[int, Shape, torch.Generator], LinearPhysics]
    sigma: tuple[float, float]
    gain: tuple[float, float] | None = None


def _denoising(_batch: int, _shape: Shape, _rng: torch.Generator) -> LinearPhysics:
    return Denoising()


def _inpainting(batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    masks = []
    for _ in range(batch):
        if uniform(rng) < 0.7:
            masks.append(random_mask(shape[1:], uniform(rng, 0.1, 0.9), rng))
        else:
            side = max(round(min(shape[1:]) * uniform(rng, 0.05, 0.2)), 1)
            masks.append(block_mask(shape[1:], (side, side), int(torch.randint(1, 9, (), generator=rng)), rng))
    return Inpainting(torch.stack(masks)[:, None], shape)


def _gaussian_blur(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    widths = (log_uniform(rng, 0.6, 4.0), log_uniform(rng, 0.6, 4.0))
    if uniform(rng) < 0.5:
        widths = (widths[0], widths[0])
    return _blurred(gaussian_kernel(widths, uniform(rng, 0, 180)), shape, rng)


def _motion_blur(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    most = min(31, (min(shape[1:]) // 4) | 1)
    size = 2 * int(torch.randint(2, max(most // 2, 3), (), generator=rng)) + 1
    return _blurred(random_motion_kernel(size, rng), shape, rng)


def _blurred(kernel: Tensor, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    """Take a periodic image, or the part of the blurred one that depends on nothing outside."""
    top, left = ((side - min(side, size // 2 | 1)) // 2 for side, size in zip(kernel.shape[2:], shape[1:], strict=True))
    kernel = kernel[..., top : kernel.shape[2] - top, left : kernel.shape[3] - left]
    kernel = kernel / kernel.sum()
    if uniform(rng) < 0.5:
        return CircularBlur(kernel, shape)
    return _of_norm(Blur(kernel, shape), 1.0)


def _super_resolution(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    factors = [f for f in (2, 3, 4) if all(n % f == 0 for n in shape[1:])]
    factor = factors[int(torch.randint(len(factors), (), generator=rng))]
    kernel = "bicubic" if uniform(rng) < 0.6 else gaussian_kernel(uniform(rng, 0.4, 0.8) * factor)
    operator = SuperResolution(factor, shape, kernel)
    # A A^T of blur and decimation is the mean of the spectrum over its aliases.
    spectrum = operator.Fh.abs().square()
    aliases = spectrum.unflatten(-2, (factor, -1)).unflatten(-1, (factor, -1)).mean((-4, -2))
    return _of_norm(operator, float(aliases.max()))


def _compressed_sensing(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    side = min(_BLOCKS[0] if uniform(rng) < 0.5 else _BLOCKS[1], *shape[1:])
    number = int(torch.randint(_MATRICES, (), generator=rng))
    m = measurements_at(log_uniform(rng, 0.04, 0.5), side**2)
    rows = _orthonormal(side**2, number)[torch.randperm(side**2, generator=rng)[:m]]
    return BlockCompressedSensing(rows, shape[1:], (side, side))


def _ct(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    return _tomography(shape, _ANGLES[int(torch.randint(len(_ANGLES), (), generator=rng))])


def _mri(batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    return SingleCoilMRI(_masks(batch, shape, rng, (2.0, 6.0)).float())


def _multicoil_mri(batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    coils = int(torch.randint(3, 13, (), generator=rng))
    maps = torch.stack([_maps(coils, shape, rng) for _ in range(batch)])
    return _of_norm(MultiCoilMRI(maps, _masks(batch, shape, rng, (3.0, 12.0))), 1.0)


def _demosaicing(_batch: int, shape: Shape, rng: torch.Generator) -> LinearPhysics:
    patterns = list(PATTERNS)
    return Demosaicing(shape[1:], patterns[int(torch.randint(len(patterns), (), generator=rng))])


_PHOTOGRAPHS = ("grey", "colour")

TASKS: Mapping[str, Task] = {
    "denoising": Task(("grey", "colour", "complex"), _denoising, (0.02, 0.8)),
    "poisson": Task(_PHOTOGRAPHS, _denoising, (0.005, 0.1), (0.01, 1.0)),
    "inpainting": Task(("grey", "colour", "complex"), _inpainting, (0.002, 0.15)),
    "gaussian-blur": Task(_PHOTOGRAPHS, _gaussian_blur, (0.002, 0.1)),
    "motion-blur": Task(_PHOTOGRAPHS, _motion_blur, (0.002, 0.1)),
    "super-resolution": Task(_PHOTOGRAPHS, _super_resolution, (0.002, 0.05)),
    "compressed-sensing": Task(("grey",), _compressed_sensing, (0.001, 0.05)),
    "ct": Task(("attenuation", "grey"), _ct, (0.002, 0.03)),
    "mri": Task(("complex",), _mri, (0.005, 0.1)),
    "multicoil-mri": Task(("complex",), _multicoil_mri, (0.005, 0.15)),
    "demosaicing": Task(("colour",), _demosaicing, (0.002, 0.1)),
}
"""By name. The kinds of images are grey, colour, complex (two channels), and attenuation (CT)."""


def uniform(rng: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    """Draw a number evenly."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def log_uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw a number evenly in its logarithm."""
    return math.exp(uniform(rng, math.log(low), math.log(high)))


def draw_noise(
    task: Task, exact: Shaped[Tensor, "b ..."], rng: torch.Generator
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"] | None]:
    """Draw sigma and gain of each image, relative to its exact measurements."""
    magnitude = exact.abs().flatten(1)
    size = magnitude.square().mean(1).sqrt().clamp_min(1e-6)
    sigma = size * torch.tensor([log_uniform(rng, *task.sigma) for _ in exact])
    if task.gain is None:
        return sigma, None
    return sigma, magnitude.mean(1).clamp_min(1e-6) * torch.tensor([log_uniform(rng, *task.gain) for _ in exact])


def _of_norm(operator: LinearPhysics, square: float) -> LinearPhysics:
    """Tell an operator its squared norm, or a close bound of it, which networks would else iterate for."""
    operator.sqnorm = square
    return operator


@lru_cache(maxsize=2 * _MATRICES)
def _orthonormal(n: int, number: int) -> Float[Tensor, "n n"]:
    """One of a few square matrices: any of their rows, in any order, are orthonormal."""
    return gaussian_matrix(n, n, torch.Generator().manual_seed(number))


@lru_cache(maxsize=2 * len(_ANGLES))
def _tomography(shape: Shape, angles: int) -> ParallelCT:
    return ParallelCT(shape, angles, normalize=True)


def _maps(coils: int, shape: Shape, rng: torch.Generator) -> Complex[Tensor, "coil y x"]:
    """Draw maps of a random array, of norm 1 in each pixel as estimated ones are."""
    maps = random_loops(coils, rng).maps(shape[1:], uniform(rng, -1, 1))
    return maps / torch.linalg.vector_norm(maps, dim=0).clamp_min(1e-12)


def _masks(batch: int, shape: Shape, rng: torch.Generator, acceleration: tuple[float, float]) -> Tensor:
    """Draw masks of one kind, ``(b, 1, y, x)``."""
    size, masks = shape[1:], []
    name = _MASKS[int(torch.randint(len(_MASKS), (), generator=rng))]
    for _ in range(batch):
        rate = log_uniform(rng, *acceleration)
        if name == "equispaced":
            rate = float(round(min(rate, 6.0)))
            centre = max(round(_CENTRE * size[1] / rate), 1)
        elif name == "random":
            rate = min(rate, 6.0)
            centre = max(round(_CENTRE * size[1] / rate), 1)
        else:
            centre = max(round((_CENTRE * size[0] * size[1] / rate) ** 0.5), 1)
        drawn = make_mask(name, size, rate, center=centre, generator=rng)
        masks.append(drawn.expand(size))
    return torch.stack(masks)[:, None]
