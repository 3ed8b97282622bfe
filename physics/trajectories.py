"""Sampling trajectories in cycles per field of view, within +-n/2, the axes ordered as the image's (y, x)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError

GOLDEN_ANGLE = math.pi * 2 / (1 + math.sqrt(5))  # 111.246 degrees [Winkelmann 2007]


def radial(
    shape: Sequence[int], spokes: int, samples: int | None = None, *, golden: bool = False
) -> Float[Tensor, "sample 2"]:
    """Spokes through the centre, turned by pi / ``spokes`` or by the golden angle [Winkelmann 2007].

    Parameters
    ----------
    shape
        (y, x) of the image.
    spokes
        Number of spokes; pi / 2 * n sample the circle fully.
    samples
        Samples on a spoke; by default twice the longer side, the readout oversampling that scanners give for nothing
        and that density compensation needs near the centre.
    golden
        Golden-angle order, in which any number of successive spokes cover the circle evenly.

    Returns
    -------
    Tensor
        Spoke after spoke, float64; sample ``samples // 2`` of each is the centre.
    """
    samples = 2 * max(shape) if samples is None else samples
    _check(shape, spokes=spokes, samples=samples)
    angle = torch.arange(spokes, dtype=torch.float64) * (GOLDEN_ANGLE if golden else math.pi / spokes)
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    direction = torch.stack((torch.sin(angle), torch.cos(angle)), -1)
    size = torch.tensor(tuple(shape), dtype=torch.float64)
    return (radius[None, :, None] * direction[:, None, :] * size).reshape(-1, 2)


def spiral(
    shape: Sequence[int], interleaves: int, samples: int, *, turns: float | None = None
) -> Float[Tensor, "sample 2"]:
    """Archimedean spirals from the centre to the edge, interleaved by turning, samples evenly spaced in arc length.

    Parameters
    ----------
    shape
        (y, x) of the image.
    interleaves
        Number of spirals.
    samples
        Samples on a spiral.
    turns
        Turns of a spiral; by default as many as put neighbouring arms one cycle per field of view apart.

    Returns
    -------
    Tensor
        Spiral after spiral, float64.
    """
    _check(shape, interleaves=interleaves, samples=samples)
    if turns is None:
        turns = max(shape) / (2 * interleaves)
    # Arc length of radius = angle: (a sqrt(1 + a^2) + asinh(a)) / 2. It is convex, so Newton's method from above
    # (sqrt(2 length)) comes down to the angle without fail.
    end = torch.tensor(2 * math.pi * turns, dtype=torch.float64)
    length = _arc_length(end) * torch.arange(samples, dtype=torch.float64) / samples
    along = torch.sqrt(2 * length)
    for _ in range(20):
        along = along - (_arc_length(along) - length) / torch.sqrt(1 + along**2)
    fraction = along / end
    start = 2 * math.pi * torch.arange(interleaves, dtype=torch.float64) / interleaves
    angle = along[None] + start[:, None]
    size = torch.tensor(tuple(shape), dtype=torch.float64)
    return (0.5 * fraction[None, :, None] * torch.stack((torch.sin(angle), torch.cos(angle)), -1) * size).reshape(-1, 2)


def _arc_length(angle: Tensor) -> Tensor:
    return (angle * torch.sqrt(1 + angle**2) + torch.asinh(angle)) / 2


def _check(shape: Sequence[int], **counts: int) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise OptionError("a planar trajectory needs an image of two axes", found=tuple(shape))
    for name, count in counts.items():
        if count < 1:
            raise OptionError(f"{name} must be at least 1", found=count)
