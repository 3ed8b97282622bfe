"""The window in which an image is shown."""

from __future__ import annotations

import numpy as np

from recon.datasets.scan import SliceArray

_MAX_VALUES = 1 << 22


def display_top(pixels: SliceArray, percentile: float = 99.9) -> float:
    """Return the value to be shown white: a percentile of the finite magnitudes of all slices, 1 where all are 0.

    Of large volumes evenly spaced pixels are taken, so that the memory stays bounded.
    """
    stride = max(1, int(np.prod(pixels.shape, dtype=np.int64)) // _MAX_VALUES)
    values = [np.abs(np.asarray(pixels[k])).ravel()[k % stride :: stride] for k in range(pixels.shape[0])]
    magnitude = np.concatenate(values).astype(np.float64)
    magnitude = magnitude[np.isfinite(magnitude)]
    top = float(np.percentile(magnitude, percentile)) if magnitude.size else 0.0
    return top or float(magnitude.max(initial=0.0)) or 1.0
