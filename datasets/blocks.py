"""Arrays that stay on disk and are read several slices at a time: `LazyBlocks`."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import LazyArray
from recon.datasets.scan import SliceArray


class LazyBlocks(LazyArray):
    """Reads neighbouring slices at once: ``read`` makes of ``start, stop`` an array ``(stop - start, *shape[1:])``."""

    def block(self, start: int, stop: int) -> ndarray:
        """Read slices ``start`` to ``stop``; what goes wrong there is a `FileFormatError` that names them."""
        what = f"slice {start}" if stop == start + 1 else f"slices {start} to {stop - 1}"
        return self._checked(what, (start, stop), (stop - start, *self.shape[1:]))

    def _slice(self, index: int) -> ndarray:
        return self.block(index, index + 1)[0]


def take(array: SliceArray, start: int, stop: int) -> ndarray:
    """Read slices ``start`` to ``stop`` of any `SliceArray`, in one go where it can."""
    if isinstance(array, LazyBlocks):
        return array.block(start, stop)
    if isinstance(array, ndarray):
        return array[start:stop]
    return np.stack([np.asarray(array[index]) for index in range(start, stop)])
