"""Images as deepinv has them (real, two channels a set) and as the equations have them (complex)."""

from __future__ import annotations

from collections.abc import Iterable
from types import EllipsisType

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.physics.errors import ShapeError


def to_complex(x: Float[Tensor, "b channel *spatial"]) -> Complex[Tensor, "b set *spatial"]:
    """Complex image of ``2 * set`` real channels (re0, im0, re1, im1); no copy where `to_channels` made ``x``."""
    if x.shape[1] % 2:
        raise ShapeError("a complex image has an even number of channels", found=tuple(x.shape))
    parts = x.unflatten(1, (-1, 2)).movedim(2, -1)
    if parts.stride(-1) != 1 or any(stride % 2 for stride in parts.stride()[:-1]) or x.storage_offset() % 2:
        parts = parts.contiguous()
    return torch.view_as_complex(parts)


def to_channels(x: Complex[Tensor, "b set *spatial"]) -> Float[Tensor, "b channel *spatial"]:
    """``2 * set`` real channels of a complex image; a view where there is one set."""
    return torch.view_as_real(x.resolve_conj()).movedim(-1, 2).flatten(1, 2)


def last_axes(slices: Iterable[slice]) -> tuple[EllipsisType | slice, ...]:
    """Index the last axes of a tensor, one slice an axis."""
    return (..., *slices)
