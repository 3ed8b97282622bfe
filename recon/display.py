"""How values become greys and colours: one window for all pictures that stand side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import uniform_filter

_SMOOTHING = 5  # pixels


def highest(images: Sequence[Float[ndarray, "..."]], *, percentile: float = 99.5) -> float:
    """Return the highest percentile of any of ``images``; 1 where nothing is finite and positive."""
    tops = [np.percentile(values, percentile) for image in images if (values := image[np.isfinite(image)]).size]
    return max((float(top) for top in tops if top > 0), default=1.0)


def common_window(images: Sequence[Float[ndarray, "..."]], *, percentile: float = 99.0) -> float:
    """Return the value shown as white in every one of ``images`` (black is 0).

    It is the median over the images of each one's percentile, so that one method that went astray
    does not blacken the others; 1 where nothing is finite and positive.
    """
    tops = [np.percentile(values, percentile) for image in images if (values := image[np.isfinite(image)]).size]
    top = float(np.median(tops)) if tops else 0.0
    return top if top > 0 else highest(images, percentile=percentile)


def smoothed(deviation: Float[ndarray, "*slice y x"]) -> Float[ndarray, "*slice y x"]:
    """Return the root mean square over 5 x 5 pixels: a standard deviation of a few draws is too grainy to read."""
    axes = (deviation.ndim - 2, deviation.ndim - 1)
    variance = uniform_filter(np.square(deviation, dtype=np.float64), size=_SMOOTHING, axes=axes, mode="nearest")
    return np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def choose_slices(n: int, limit: int, *, preferred: Sequence[int] = ()) -> list[int]:
    """Return at most ``limit`` of ``n`` slices in order, spread evenly.

    ``preferred`` ones, the most important first, take up to half of the places.
    """
    if n <= limit:
        return list(range(n))
    chosen = set(list(dict.fromkeys(preferred))[: max(1, limit // 2)])
    return sorted(chosen | set(_spread(list(range(n)), limit - len(chosen))))


def _spread(items: list[int], count: int) -> list[int]:
    """Return ``count`` of ``items``, each from the middle of an equal share of them."""
    if len(items) <= count:
        return items
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def detail_box(image: Float[ndarray, "y x"], *, fraction: float = 0.34) -> tuple[int, int, int]:
    """Return (top, left, size) of the square with the most fine detail in the middle of the frame.

    Detail is the gradient, clipped so that bright edges (skull, fat) do not decide, summed over the square.
    """
    finite = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
    size = max(1, round(min(finite.shape) * fraction))
    if min(finite.shape) < 8:
        return 0, 0, size
    energy = np.hypot(*np.gradient(finite))
    if energy.any():
        energy = np.minimum(energy, np.percentile(energy[energy > 0], 75))
    table = np.pad(energy, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = table[size:, size:] - table[:-size, size:] - table[size:, :-size] + table[:-size, :-size]
    # Squares whose corner lies in the middle third of the possible places.
    low, high = (n // 3 for n in sums.shape), (n - n // 3 for n in sums.shape)
    (top, left), (bottom, right) = low, high
    inner = sums[top:bottom, left:right]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    return top + int(row), left + int(column), size
