"""Which samples of k-space can be left out, to be predicted from the others."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from recon.calibration import calibration_region
from recon.datasets.random import Number

_CENTER = 24  # side of the protected centre where everything around it is sampled too
_FEWEST_UNITS = 2  # lines, or samples, that are left out at least


def choose_left_out(
    mask: Bool[Tensor, "b 1 *spatial"], fraction: Number, folds: int, rng: torch.Generator
) -> list[Bool[Tensor, "b 1 *spatial"]]:
    """Choose the samples that each fold leaves out, the same axes and shape as the mask.

    The fully sampled centre stays, since coil maps come from it. Of a mask of lines whole lines are left out, for
    single samples would be given away by their neighbours.

    Parameters
    ----------
    mask
        True where sampled.
    fraction
        Share of the samples or lines outside the centre that each fold leaves out; at least two.
    folds
        Their number; no sample is in two of them.
    rng
        Of the choice.

    Returns
    -------
    list of Tensor
        Nothing is left out where there is hardly anything outside the centre.
    """
    chosen = [torch.zeros_like(mask) for _ in range(folds)]
    for b in range(mask.shape[0]):
        units = _units(mask[b, 0])
        candidates = (units & ~_center(units)).flatten().nonzero()[:, 0]
        order = torch.randperm(len(candidates), generator=rng).to(candidates.device)
        size = max(round(fraction * len(candidates)), _FEWEST_UNITS)
        if len(candidates) < 2 * size:
            continue  # hardly anything outside the centre
        for fold in range(folds):
            part = torch.zeros(units.numel(), dtype=torch.bool, device=mask.device)
            part[candidates[order[fold * size : (fold + 1) * size]]] = True
            chosen[fold][b, 0] = mask[b, 0] & part.reshape(units.shape)
    return chosen


def is_of_lines(mask: Bool[Tensor, "*spatial"]) -> bool:
    """Whether what is left out as a whole is a line, not a sample."""
    return _units(mask).shape != mask.shape


def _units(mask: Bool[Tensor, "*spatial"]) -> Bool[Tensor, "*units"]:
    """Shrink the axes along which lines run to length 1: what is left out as a whole is one element."""
    lines = [axis for axis in range(mask.ndim) if torch.equal(mask, mask.narrow(axis, 0, 1).expand_as(mask))]
    if len(lines) == mask.ndim:
        return mask  # everything is sampled: no lines
    for axis in lines:
        mask = mask.narrow(axis, 0, 1)
    return mask


def _center(mask: Bool[Tensor, "*spatial"]) -> Bool[Tensor, "*spatial"]:
    """Mark the calibration block; its core only, where it makes most of what is sampled."""
    size = calibration_region(mask)
    if 2 * math.prod(size) > int(mask.sum()):
        size = calibration_region(mask, tuple(min(_CENTER, max(n // 4, 1)) for n in mask.shape))
    block = torch.zeros_like(mask)
    block[tuple(slice(n // 2 - s // 2, n // 2 - s // 2 + s) for n, s in zip(mask.shape, size, strict=True))] = True
    return block
