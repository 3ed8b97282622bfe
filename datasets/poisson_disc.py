"""Variable-density Poisson-disc sampling, sized to the sample."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from recon.datasets.random import Number, Seed, as_generator
from recon.physics.errors import MaskError

_STEPS = 32  # radii are rounded to 1/32 of a sample, so that few distinct discs have to be made
_SURPLUS = 0.03  # the search stops when the pattern has at most so many samples too many
_VARIATION = 0.2  # radii vary at random by a fifth, else the steps between grid distances show as rings
_PACKING = 0.7  # samples of a random Poisson-disc pattern per squared radius [Lagae 2008, relative density 0.7]


def poisson_disc(
    shape: tuple[int, int],
    acceleration: Number,
    *,
    center: tuple[int, int] = (0, 0),
    crop_corner: bool = True,
    generator: Seed = 0,
) -> Bool[Tensor, "y x"]:
    """Sample at random, no two samples closer than a radius that grows linearly from the centre outwards.

    Grid points are visited in random order and taken where no earlier sample is near. The radius is
    ``1 + s rho``, varied by a fifth at random, with ``rho`` the distance from the calibration block in units of
    the half axes; ``s`` is searched until the pattern has the samples asked for, and the few that are then too
    many are dropped at random, which keeps the distances. Discs are ellipses for a matrix that is not square:
    its longer axis has the finer k-space steps.

    Parameters
    ----------
    shape
        (y, x), both phase-encoded.
    acceleration
        All grid points (corners included) over samples.
    center
        (y, x) of the calibration block that is sampled fully.
    crop_corner
        Leave out what lies outside the ellipse that touches the edges.
    generator
        Generator or seed.

    Raises
    ------
    MaskError
        The samples asked for do not fit: fewer than the calibration block or more than the ellipse holds.

    References
    ----------
    Bridson, Fast Poisson disk sampling in arbitrary dimensions, SIGGRAPH 2007; Lustig, Alley, Vasanawala,
    Donoho, Pauly, L1 SPIR-iT, ISMRM 2009 (the variable radius).
    """
    wanted = round(shape[0] * shape[1] / acceleration)
    block = _block(shape, center)
    rho = _distance(shape, center)
    inside = block | (_ellipse(shape) if crop_corner else np.ones(shape, bool))
    if not block.sum() <= wanted <= inside.sum():
        raise MaskError(
            f"no Poisson-disc mask of {shape} has {wanted} samples",
            found=f"acceleration {acceleration:g}, a calibration block of {int(block.sum())} samples",
            expected=f"{int(block.sum())} to {int(inside.sum())} samples",
            cure="Change the acceleration or take a smaller centre",
        )
    rng = as_generator(generator)
    order = torch.randperm(shape[0] * shape[1], generator=rng).numpy()
    candidates = order[(inside & ~block).ravel()[order]]
    vary = 1 + _VARIATION * (2 * torch.rand(shape, generator=rng).numpy() - 1)
    mask = _search(candidates, block, rho, vary, wanted)
    taken = candidates[mask.ravel()[candidates]]
    surplus = torch.randperm(len(taken), generator=rng).numpy()[: int(mask.sum()) - wanted]
    mask.ravel()[taken[surplus]] = False
    return torch.from_numpy(mask)


def _search(candidates: ndarray, block: ndarray, rho: ndarray, vary: ndarray, wanted: int) -> Bool[ndarray, "y x"]:
    """Find the slope whose pattern has ``wanted`` samples or a few more: false position on the count's logarithm."""
    best = block.copy()
    best.ravel()[candidates] = True
    low, high = (0.0, np.log(best.sum())), (4.0 * max(rho.shape), np.log(max(block.sum(), 1)))  # (slope, log count)
    goal = np.log(wanted * (1 + _SURPLUS / 2))
    slope = _packed_slope(rho.ravel()[candidates], block.shape, wanted - int(block.sum()))
    while best.sum() > wanted * (1 + _SURPLUS) and high[0] - low[0] > 0.5 / _STEPS:
        pattern = _throw(candidates, block, (1 + slope * rho) * vary)
        point = (slope, np.log(max(pattern.sum(), 1)))
        if pattern.sum() >= wanted:
            low, best = point, pattern
        else:
            high = point
        share = (low[1] - goal) / max(low[1] - high[1], 1e-9)
        slope = low[0] + np.clip(share, 0.1, 0.9) * (high[0] - low[0])
    return best


def _packed_slope(rho: ndarray, shape: tuple[int, ...], wanted: int) -> float:
    """Slope at which discs of the usual random packing would give ``wanted`` samples."""
    aspect = min(shape) / max(shape)
    low, high = 0.0, 4.0 * max(shape)
    for _ in range(30):
        slope = (low + high) / 2
        expected = np.minimum(1, _PACKING / (aspect * (1 + slope * rho) ** 2)).sum()
        low, high = (slope, high) if expected > wanted else (low, slope)
    return low


def _throw(candidates: ndarray, block: ndarray, radius: Float[ndarray, "y x"]) -> Bool[ndarray, "y x"]:
    """Visit the candidates in order; take each that no disc covers yet, and lay a disc of its radius round it."""
    ny, nx = block.shape
    scale_y, scale_x = ny / max(ny, nx), nx / max(ny, nx)
    reach = np.ceil(radius * _STEPS).astype(int)
    keys = reach.ravel()[candidates].tolist()
    pad_y, pad_x = (int(reach.max() / _STEPS * s) + 1 for s in (scale_y, scale_x))
    width = nx + 2 * pad_x
    flat = bytearray((ny + 2 * pad_y) * width)  # looked up sample by sample: faster than an array
    covered = np.frombuffer(flat, np.uint8).reshape(-1, width)
    discs: dict[int, tuple[int, int, ndarray]] = {}
    mask = block.copy()
    rows, columns = np.divmod(candidates, nx)
    places = ((rows + pad_y) * width + columns + pad_x).tolist()
    taken = []
    for place, key, y, x in zip(places, keys, rows.tolist(), columns.tolist(), strict=True):
        if flat[place]:
            continue
        if key not in discs:
            discs[key] = _disc(key / _STEPS, scale_y, scale_x)
        half_y, half_x, disc = discs[key]
        top, left = y + pad_y - half_y, x + pad_x - half_x
        covered[top : top + 2 * half_y + 1, left : left + 2 * half_x + 1] |= disc
        taken.append(y * nx + x)
    mask.ravel()[taken] = True
    return mask


def _disc(radius: Number, scale_y: Number, scale_x: Number) -> tuple[int, int, ndarray]:
    half_y, half_x = int(radius * scale_y), int(radius * scale_x)
    y = np.arange(-half_y, half_y + 1)[:, None] / scale_y
    x = np.arange(-half_x, half_x + 1)[None, :] / scale_x
    return half_y, half_x, (y**2 + x**2 < radius**2).astype(np.uint8)


def _block(shape: tuple[int, int], center: tuple[int, int]) -> Bool[ndarray, "y x"]:
    block = np.zeros(shape, bool)
    start = [(n - c + 1) // 2 for n, c in zip(shape, center, strict=True)]
    block[start[0] : start[0] + center[0], start[1] : start[1] + center[1]] = True
    return block


def _distance(shape: tuple[int, int], center: tuple[int, int]) -> Float[ndarray, "y x"]:
    """Distance from the block in units of the half axes left beside it."""
    axes = [
        np.maximum(abs(np.arange(n) - n // 2) - c / 2, 0) / max((n - c) / 2, 1)
        for n, c in zip(shape, center, strict=True)
    ]
    return np.hypot(axes[0][:, None], axes[1][None, :])


def _ellipse(shape: tuple[int, int]) -> Bool[ndarray, "y x"]:
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    return y[:, None] ** 2 + x[None, :] ** 2 <= 1
