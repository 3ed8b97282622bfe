"""Arrays of other programs: turned into ours, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.physics.errors import DataError, MaskError

LEVELS = ("uint8", "uint16")
"""Of what numbers pictures are made."""


def levels_of(pixels: ndarray) -> str | None:
    """Return which of `LEVELS` an image is made of; None: other numbers."""
    return pixels.dtype.name if pixels.dtype.name in LEVELS else None


def check_finite(values: ndarray, what: str, path: str | Path | None, cure: str | None = None) -> None:
    """Raise `DataError` where a value is NaN or infinite: "``what`` that are not finite", and how many."""
    is_complex = values.dtype.kind == "c" and values.flags.c_contiguous
    finite = np.isfinite(values.view(values.real.dtype) if is_complex else values)  # twice as fast
    if not finite.all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(
            f"{what} that are not finite", file=path, found=f"{bad} of {values.size} NaN or infinite", cure=cure
        )


def as_mask(values: ndarray, path: Path) -> ndarray:
    """Return a mask of zeros and ones as bool, one along x alone with an axis of length 1 for y."""
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise MaskError("a mask that is not made of 0 and 1", file=path, found=f"dtype {values.dtype}")
    mask = values.astype(bool)
    return mask[None] if mask.ndim == 1 else mask
