"""The fully sampled centre of a mask: its size where users give one or none, and its place."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import MaskError, OptionError

Center = Number | tuple[int, int] | None
"""A number of lines or samples, a fraction of the axis, (y, x), or None for the mask's default."""

_FASTMRI_CENTER = 0.32  # centre fraction times acceleration: 0.08 at 4, 0.04 at 8 [Zbontar 2018]
_BLOCK_SIDE = 24  # side of the calibration block where the samples allow it
_BLOCK_SHARE = 0.25  # the most that the block takes of the samples when its size is not given


def center_lines(n: int, center: Center, acceleration: Number, *, on_top: bool = False) -> int:
    """Return the number of central lines of ``n``.

    Parameters
    ----------
    n
        All lines.
    center
        Their number, or their fraction; None: fastMRI's 0.32 / acceleration.
    acceleration
        All lines over the sampled ones.
    on_top
        The other lines are sampled whatever the centre takes.

    Raises
    ------
    OptionError
        Two sizes.
    MaskError
        More than the lines that may be sampled.
    """
    if isinstance(center, tuple):
        raise OptionError("a mask of lines has one size of centre", found=center, expected="one number")
    lines = round(n * _FASTMRI_CENTER / acceleration) if center is None else _size(n, center)
    most = n if on_top else max(round(n / acceleration), 1)
    if lines > most:
        raise MaskError(
            "the centre is larger than the mask",
            found=f"{lines} central lines, {most} in all at acceleration {acceleration:g}",
            cure="Take a smaller centre or a lower acceleration",
        )
    return lines


def center_block(shape: tuple[int, int], center: Center, acceleration: Number) -> tuple[int, int]:
    """Return the sides (y, x) of the central block of a ``shape``.

    Parameters
    ----------
    shape
        (y, x).
    center
        Side(s) in samples, or their fraction of the axes; None: 24, or what a quarter of the samples makes.
    acceleration
        All points over the sampled ones.

    Raises
    ------
    MaskError
        A block of more than all the samples.
    """
    budget = round(shape[0] * shape[1] / acceleration)
    if center is None:
        side = min(_BLOCK_SIDE, int((_BLOCK_SHARE * budget) ** 0.5))
        return min(side, shape[0]), min(side, shape[1])
    sizes = center if isinstance(center, tuple) else (center, center)
    block = (_size(shape[0], sizes[0]), _size(shape[1], sizes[1]))
    if block[0] * block[1] > budget:
        raise MaskError(
            "the centre is larger than the mask",
            found=f"a block of {block[0]} x {block[1]}, {budget} samples in all at acceleration {acceleration:g}",
            cure="Take a smaller centre or a lower acceleration",
        )
    return block


def central(n: int, size: int) -> Bool[Tensor, " n"]:
    """Mark the ``size`` central ones of ``n``, placed as fastMRI places them."""
    start = (n - size + 1) // 2
    mask = torch.zeros(n, dtype=torch.bool)
    mask[start : start + size] = True
    return mask


def central_block(shape: tuple[int, int], size: tuple[int, int]) -> Bool[Tensor, "y x"]:
    """Mark the central block of a size."""
    return central(shape[0], size[0])[:, None] & central(shape[1], size[1])[None, :]


def _size(n: int, center: Number) -> int:
    size = round(n * center) if isinstance(center, float) else center
    if not 0 <= size <= n or (isinstance(center, float) and center > 1):
        raise MaskError(
            "a centre that the matrix does not have",
            found=center,
            expected=f"a whole number up to {n}, or a fraction up to 1",
        )
    return size
