"""Sampling masks: boolean torch tensors, True where sampled, DC at index ``n // 2``.

Masks of whole lines have the shape ``(1, x)`` (the lines run along y, as in fastMRI), all others ``(y, x)``.
Random ones draw from a `torch.Generator` or a seed. Masks combine with ``&``:
``make_mask("equispaced", ...) & make_mask("partial_fourier", ...)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from recon.datasets.mask_center import Center, center_block, center_lines, central, central_block
from recon.datasets.poisson_disc import poisson_disc
from recon.datasets.random import Number, Seed, as_generator
from recon.physics.errors import MaskError, OptionError, ShapeError

_GAUSSIAN_WIDTH = 0.2  # standard deviation of the density in units of the axis
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)
_SPIRAL_POWER = 1.5  # radius over turns: above 1, the centre is denser


def full(shape: tuple[int, int]) -> Bool[Tensor, "y x"]:
    """Sample everything."""
    return torch.ones(shape, dtype=torch.bool)


def random_lines(
    shape: tuple[int, int], acceleration: Number, *, center: Center = None, generator: Seed = 0
) -> Bool[Tensor, "1 x"]:
    """Sample the central lines, and each other line with the same probability: fastMRI's "random".

    The expected number of lines is ``x / acceleration``; a single draw varies, as fastMRI's does.

    Parameters
    ----------
    shape
        (y, x).
    acceleration
        All lines over the expected number of sampled ones.
    center
        Number of central lines, or their fraction; by default fastMRI's 0.32 / acceleration.
    generator
        Generator or seed.

    References
    ----------
    Zbontar et al., fastMRI: an open dataset and benchmarks for accelerated MRI, 2018, section 4.
    """
    n = shape[-1]
    lines = center_lines(n, center, acceleration)
    probability = (n / acceleration - lines) / max(n - lines, 1)
    mask = torch.rand(n, generator=as_generator(generator)) < probability
    return (mask | central(n, lines))[None]


def equispaced_lines(
    shape: tuple[int, int],
    acceleration: Number,
    *,
    center: Center = None,
    offset: int | None = None,
    generator: Seed = 0,
) -> Bool[Tensor, "1 x"]:
    """Sample every ``acceleration``-th line and the central ones: fastMRI's "equispaced", what GRAPPA needs.

    The central lines come on top, so that more than ``x / acceleration`` lines are sampled.

    Parameters
    ----------
    shape, center, generator
        As in `random_lines`.
    acceleration
        Whole number of lines from one to the next.
    offset
        First line, below ``acceleration``; drawn at random where it is not given.
    """
    step = round(acceleration)
    if step != acceleration:
        raise MaskError(
            "equispaced lines need a whole number as acceleration",
            found=f"{acceleration:g}",
            cure="Take a whole number, or the mask equispaced_fraction",
        )
    n = shape[-1]
    mask = central(n, center_lines(n, center, acceleration, on_top=True))
    mask[_offset(offset, step, generator) :: step] = True
    return mask[None]


def equispaced_fraction_lines(
    shape: tuple[int, int],
    acceleration: Number,
    *,
    center: Center = None,
    offset: int | None = None,
    generator: Seed = 0,
) -> Bool[Tensor, "1 x"]:
    """Sample the central lines and others at a step that makes the whole ``x / acceleration`` lines.

    FastMRI's "equispaced_fraction", with which its multi-coil test data were made: the step is widened to
    ``R (n_low - n) / (n_low R - n)`` to pay for the ``n_low`` central lines. It is not a whole number, so the
    rounded lines are not quite equispaced.

    Parameters
    ----------
    shape, acceleration, center, generator
        As in `random_lines`.
    offset
        First line, below the rounded step; drawn at random where it is not given.
    """
    n = shape[-1]
    lines = center_lines(n, center, acceleration)
    mask = central(n, lines)
    if lines * acceleration < n:
        step = acceleration * (lines - n) / (lines * acceleration - n)
        places = np.arange(_offset(offset, max(round(step), 1), generator), max(n - 1, 1), step)
        mask[torch.from_numpy(np.around(places).astype(np.int64))] = True
        if acceleration == 1:
            mask[:] = True  # fastMRI's range ends before the last line
    return mask[None]


def gaussian_lines(
    shape: tuple[int, int], acceleration: Number, *, center: Center = None, generator: Seed = 0
) -> Bool[Tensor, "1 x"]:
    """Sample the central lines, and others with a density that falls like a Gaussian; ``round(x / R)`` in all.

    Parameters are those of `random_lines`.
    """
    n = shape[-1]
    lines = center_lines(n, center, acceleration)
    distance = (torch.arange(n) - n // 2) / (_GAUSSIAN_WIDTH * n)
    return _draw(central(n, lines), -0.5 * distance**2, round(n / acceleration), generator)[None]


def gaussian(
    shape: tuple[int, int], acceleration: Number, *, center: Center = None, generator: Seed = 0
) -> Bool[Tensor, "y x"]:
    """Sample a central block, and points with a density that falls like a Gaussian; ``round(y x / R)`` in all.

    Parameters
    ----------
    shape, acceleration, generator
        As in `random_lines`, for points.
    center
        Side(s) of the block in samples, or their fraction of the axes; by default 24 or what a quarter of the
        samples makes, whichever is less.
    """
    block = central_block(shape, center_block(shape, center, acceleration))
    y, x = ((torch.arange(n) - n // 2) / (_GAUSSIAN_WIDTH * n) for n in shape)
    log_density = -0.5 * (y[:, None] ** 2 + x[None, :] ** 2)
    return _draw(block, log_density, round(block.numel() / acceleration), generator)


def poisson(
    shape: tuple[int, int], acceleration: Number, *, center: Center = None, generator: Seed = 0
) -> Bool[Tensor, "y x"]:
    """Variable-density Poisson-disc sampling within an ellipse, with a central block as in `gaussian`.

    See `recon.datasets.poisson_disc.poisson_disc`. Below an acceleration of 4/pi the ellipse is too small, and
    the corners are sampled too.
    """
    block = center_block(shape, center, acceleration)
    return poisson_disc(
        shape, acceleration, center=block, crop_corner=acceleration > 1.3, generator=as_generator(generator)
    )


def radial(
    shape: tuple[int, int], acceleration: Number, *, center: Center = 0, generator: Seed = 0
) -> Bool[Tensor, "y x"]:
    """Sample the grid points nearest to golden-angle spokes, as many spokes as come nearest to the acceleration.

    Parameters
    ----------
    shape, acceleration, generator
        As in `gaussian`; the generator turns the first spoke.
    center
        A block on top, as in `gaussian`; none by default.
    """
    block = central_block(shape, center_block(shape, center, acceleration))
    start = float(torch.rand((), generator=as_generator(generator))) * np.pi
    angles = start + _GOLDEN_ANGLE * np.arange(4 * max(shape))
    radius = np.linspace(-1, 1, 2 * max(shape) + 1)
    points, inside = _grid_points(shape, radius * np.sin(angles)[:, None], radius * np.cos(angles)[:, None])
    spoke = np.broadcast_to(np.arange(len(angles))[:, None], inside.shape)[inside]
    first = np.full(block.numel(), len(angles))  # the first spoke that meets each grid point
    np.minimum.at(first, points, spoke)
    first[block.numpy().ravel()] = -1
    counts = np.searchsorted(np.sort(first), np.arange(len(angles) + 1), side="left")  # with 0, 1, ... spokes
    n_spokes = _nearest(counts, block.numel() / acceleration, "radial")
    return torch.from_numpy((first < n_spokes).reshape(shape))


def spiral(
    shape: tuple[int, int], acceleration: Number, *, center: Center = 0, generator: Seed = 0
) -> Bool[Tensor, "y x"]:
    """Sample the grid points nearest to one spiral, denser in the centre, of as many turns as the samples make.

    Parameters are those of `radial`.
    """
    block = central_block(shape, center_block(shape, center, acceleration))
    start = float(torch.rand((), generator=as_generator(generator))) * 2 * np.pi

    def sample(turns: Number) -> ndarray:
        t = np.linspace(0, 1, 2 + int(2 * np.pi * turns * max(shape)))  # at most half a sample apart at the edge
        angle = start + 2 * np.pi * turns * t
        radius = t**_SPIRAL_POWER
        mask = block.numpy().ravel().copy()
        mask[_grid_points(shape, radius * np.sin(angle), radius * np.cos(angle))[0]] = True
        return mask

    turns = np.geomspace(0.5, 1.5 * max(shape), 128)
    low, high = 0, len(turns) - 1
    wanted = block.numel() / acceleration
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sample(turns[middle]).sum() < wanted else (low, middle)
    fine = np.linspace(turns[low], turns[high], 17)
    masks = [sample(n) for n in fine]
    return torch.from_numpy(masks[_nearest(np.array([m.sum() for m in masks]), wanted, "spiral")].reshape(shape))


def partial_fourier(shape: tuple[int, int], acceleration: Number) -> Bool[Tensor, "1 x"]:
    """Sample the last ``round(x / acceleration)`` lines, which must reach beyond the centre.

    Parameters
    ----------
    shape
        (y, x).
    acceleration
        Inverse of the partial Fourier factor: 4/3 for 6/8; below 2.
    """
    n = shape[-1]
    lines = round(n / acceleration)
    if lines <= (n + 1) // 2 and lines < n:
        raise MaskError(
            "partial Fourier must sample more than half of the lines",
            found=f"acceleration {acceleration:g}",
            expected="an acceleration below 2 (6/8: 1.333)",
        )
    return (torch.arange(n) >= n - lines)[None]


MASKS: dict[str, Callable[..., Tensor]] = {
    "full": full,
    "random": random_lines,
    "equispaced": equispaced_lines,
    "equispaced_fraction": equispaced_fraction_lines,
    "gaussian_lines": gaussian_lines,
    "gaussian": gaussian,
    "poisson": poisson,
    "radial": radial,
    "spiral": spiral,
    "partial_fourier": partial_fourier,
}
"""The masks by name."""


def make_mask(
    name: str,
    shape: Sequence[int],
    acceleration: Number = 1.0,
    *,
    center: Center = None,
    offset: int | None = None,
    generator: Seed = 0,
) -> Bool[Tensor, "#y x"]:
    """Make a mask by name (`MASKS` lists them; ``-`` counts as ``_``).

    Parameters
    ----------
    name
        One of `MASKS`.
    shape
        (y, x).
    acceleration
        At least 1; ignored by ``full``.
    center
        Size of the fully sampled centre, for masks that have one: a number of lines or samples, a fraction of
        the axis, or (y, x); None for the mask's default.
    offset
        First line of equispaced masks; None draws one.
    generator
        Generator or seed.

    Raises
    ------
    OptionError
        No mask of this name, or one that has no such option.
    MaskError
        A mask that cannot be: acceleration below 1, a centre larger than the samples allow.
    """
    name = name.replace("-", "_")
    if name not in MASKS:
        raise OptionError(f"no mask is called {name!r}", expected=f"one of {', '.join(MASKS)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ShapeError("a mask needs two axes", found=tuple(shape), expected="(y, x)")
    if not (np.isfinite(acceleration) and acceleration >= 1):
        raise MaskError("no mask has this acceleration", found=acceleration, expected="a number of 1 or more")
    accepted = inspect.signature(MASKS[name]).parameters
    given = {"center": center, "offset": offset}
    for option, value in given.items():
        if value is not None and option not in accepted:
            raise OptionError(f"the mask {name} has no {option}", found=value, cure=f"Leave {option} out")
    options: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if "generator" in accepted:
        options["generator"] = generator
    rate = () if name == "full" else (acceleration,)
    return MASKS[name]((int(shape[0]), int(shape[1])), *rate, **options)


def _offset(offset: int | None, step: int, generator: Seed) -> int:
    if offset is None:
        return int(torch.randint(step, (), generator=as_generator(generator)))
    if not 0 <= offset < step:
        raise MaskError("an offset beyond the first step", found=offset, expected=f"0 to {step - 1}")
    return offset


def _draw(
    center: Bool[Tensor, "*s"], log_density: Float[Tensor, "*s"], wanted: int, generator: Seed
) -> Bool[Tensor, "*s"]:
    """Add samples to the centre until there are ``wanted``: without replacement, by Gumbel's top k."""
    uniform = torch.rand(center.shape, generator=as_generator(generator), dtype=torch.float64)
    keys = log_density - torch.log(-torch.log(uniform))
    keys[center] = torch.inf
    mask = center.clone().flatten()
    mask[keys.flatten().topk(max(wanted, int(center.sum()))).indices] = True
    return mask.reshape(center.shape)


def _grid_points(
    shape: tuple[int, int], y: Float[ndarray, "*s"], x: Float[ndarray, "*s"]
) -> tuple[Int[ndarray, " n"], Bool[ndarray, "*s"]]:
    """Flat indices of the grid points nearest to (y, x) in -1 to 1, and which of them lie on the grid."""
    row = np.around(shape[0] // 2 + y * shape[0] / 2).astype(np.int64)
    column = np.around(shape[1] // 2 + x * shape[1] / 2).astype(np.int64)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    return (row * shape[1] + column)[inside], inside


def _nearest(counts: ndarray, wanted: Number, name: str) -> int:
    """Index of the count that comes nearest to ``wanted``; `MaskError` where none comes within a tenth."""
    best = int(np.argmin(abs(counts - wanted)))
    if counts[best] < 0.9 * wanted - 1:
        raise MaskError(
            f"a {name} mask cannot have so many samples",
            found=round(wanted),
            expected=f"at most {int(counts.max())} (its corners stay empty)",
            cure="Take an acceleration above 1.3",
        )
    return best
