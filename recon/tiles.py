"""Large images piece by piece, where the operator only looks around each pixel: overlapping tiles, blended exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from deepinv.models import Reconstructor
from deepinv.physics import Blur as DeepinvBlur
from deepinv.physics import Denoising as DeepinvDenoising
from deepinv.physics import Downsampling, LinearPhysics
from deepinv.physics import Inpainting as DeepinvInpainting
from jaxtyping import Float
from torch import Tensor

from recon.physics import Blur, Denoising, Inpainting, SuperResolution
from recon.physics.errors import OptionError, ShapeError

TILE, OVERLAP = 512, 64
LARGE = 1024
"""Side of an image from which on a network sees it in tiles: its features would take gigabytes."""


@dataclass(frozen=True)
class Span:
    """A stretch of an axis that one tile reconstructs.

    Parameters
    ----------
    start, stop
        In pixels of the image.
    weight
        ``(stop - start,)``: of this tile; those of all tiles sum to 1 at each pixel.
    """

    start: int
    stop: int
    weight: Float[Tensor, "n"]


def is_local(physics: LinearPhysics) -> bool:
    """Whether an operator can be cut into tiles: denoising, inpainting, blur without a border, super-resolution."""
    if isinstance(physics, DeepinvBlur):
        return physics.padding == "valid"
    if isinstance(physics, Downsampling):
        return physics.filter is None or isinstance(physics, SuperResolution)
    return isinstance(physics, DeepinvDenoising | DeepinvInpainting)


@torch.no_grad()
def reconstruct_tiled(
    model: Reconstructor,
    y: Float[Tensor, "b ..."],
    physics: LinearPhysics,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Float[Tensor, "b c y x"]:
    """Reconstruct a large image in overlapping tiles.

    No more than a tile, the measurements and the image are in memory at a time. In the outer quarter of an overlap a
    tile counts nothing, since it saw nothing beyond; then it fades in. A model that does the same everywhere gives
    what it gives on the whole image.

    Parameters
    ----------
    model
        Any reconstructor.
    y, physics
        Measurements and their operator, one that `is_local`.
    tile, overlap
        In pixels of the image.

    Raises
    ------
    OptionError, ShapeError
        An operator that is not local, tiles not larger than their overlap, or smaller than the kernel.
    """
    if not is_local(physics):
        raise OptionError("this operator cannot be cut into tiles", found=type(physics).__name__)
    if not 0 < 2 * overlap <= tile:
        raise OptionError("tiles are at least twice as large as their overlap", found=f"{tile} and {overlap}")
    if physics.img_size is None or isinstance(physics, DeepinvDenoising | DeepinvBlur):
        h, w = physics.filter.shape[-2:] if isinstance(physics, DeepinvBlur) else (1, 1)
        size = (y.shape[-2] + h - 1, y.shape[-1] + w - 1)
    else:
        size = (physics.img_size[-2], physics.img_size[-1])
    multiple = physics.factor if isinstance(physics, Downsampling) else 1
    image: Tensor | None = None
    for rows in spans(size[0], tile, overlap, multiple):
        for columns in spans(size[1], tile, overlap, multiple):
            y_part, physics_part = cut(y, physics, rows, columns)
            x = model(y_part, physics_part)
            if x.shape[-2:] != (rows.stop - rows.start, columns.stop - columns.start):
                raise ShapeError("the model changed the size of a tile", found=tuple(x.shape))
            weight = (rows.weight[:, None] * columns.weight).to(x.device, x.dtype)
            image = x.new_zeros(*x.shape[:2], *size) if image is None else image
            image[..., rows.start : rows.stop, columns.start : columns.stop] += weight * x
    assert image is not None
    return image


def spans(n: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Cover an axis of ``n`` pixels by stretches of about ``tile`` that start at multiples of ``multiple``."""
    tile -= tile % multiple
    if n <= tile:
        return [Span(0, n, torch.ones(n, dtype=torch.float64))]
    step = max(multiple, (tile - overlap) - (tile - overlap) % multiple)
    last = n - tile - (n - tile) % multiple
    starts = [*range(0, last, step), last]
    stops = [start + tile for start in starts[:-1]] + [n]
    raw = []
    for start, stop in zip(starts, stops, strict=True):
        place = torch.arange(start, stop, dtype=torch.float64) + 0.5
        low = (place - start - overlap / 4) if start > 0 else torch.full_like(place, torch.inf)
        high = (stop - place - overlap / 4) if stop < n else torch.full_like(place, torch.inf)
        raw.append((torch.minimum(low, high) / (overlap / 2)).clamp(0, 1))
    total = torch.zeros(n, dtype=torch.float64)
    for start, stop, weight in zip(starts, stops, raw, strict=True):
        total[start:stop] += weight
    return [Span(a, b, weight / total[a:b]) for a, b, weight in zip(starts, stops, raw, strict=True)]


def cut(y: Tensor, physics: LinearPhysics, rows: Span, columns: Span) -> tuple[Tensor, LinearPhysics]:
    """Return the measurements that belong to a piece of the image, and their operator."""
    box = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    side = (rows.stop - rows.start, columns.stop - columns.start)
    noise = physics.noise_model
    if isinstance(physics, DeepinvBlur):
        h, w = physics.filter.shape[-2:]
        if h > side[0] or w > side[1]:
            raise OptionError("tiles smaller than the blur kernel", found=side, expected=f"more than {(h, w)}")
        y = y[..., rows.start : rows.stop - h + 1, columns.start : columns.stop - w + 1]
        return y, Blur(physics.filter, (y.shape[1], *side), noise_model=noise)
    if isinstance(physics, Downsampling):
        q = physics.factor
        y = y[..., rows.start // q : -(-rows.stop // q), columns.start // q : -(-columns.stop // q)]
        # what lies beyond a tile is another tile's, which no border says well: it hardly counts
        return y, SuperResolution(q, (y.shape[1], *side), physics.filter, padding="replicate", noise_model=noise)
    y = y[..., box[0], box[1]]
    if isinstance(physics, DeepinvInpainting):
        mask = physics.mask.expand(*physics.mask.shape[:2], *physics.img_size[-2:])[..., box[0], box[1]]
        if not bool(mask.any()):
            raise OptionError("a tile without a measured pixel", found=f"{side} at {(rows.start, columns.start)}")
        return y, Inpainting(mask, (y.shape[1], *side), noise_model=noise)
    return y, Denoising(noise)
