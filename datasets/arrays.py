"""Arrays of other programs turned into ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.physics.errors import MaskError


def as_mask(values: ndarray, path: Path) -> ndarray:
    """Return a mask of zeros and ones as bool, one along x alone with an axis of length 1 for y."""
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise MaskError("a mask that is not made of 0 and 1", file=path, found=f"dtype {values.dtype}")
    mask = values.astype(bool)
    return mask[None] if mask.ndim == 1 else mask
