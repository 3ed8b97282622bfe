"""Arrays that stay on disk and are read several slices at a time: `LazyBlocks`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.datasets.scan import SliceArray
from recon.physics.errors import FileFormatError, ReconError


@dataclass(frozen=True, eq=False)
class LazyBlocks:
    """A `SliceArray` made of a function that reads neighbouring slices at once.

    Parameters
    ----------
    shape
        Shape of the whole, the slice axis first.
    dtype
        What the slices are made of.
    read
        From ``start, stop`` to an array ``(stop - start, *shape[1:])``.
    path
        The file, for messages; None for arrays in memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], ndarray]
    path: Path | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def block(self, start: int, stop: int) -> ndarray:
        """Read slices ``start`` to ``stop``; what goes wrong there is a `FileFormatError` that names them."""
        what = f"slice {start}" if stop == start + 1 else f"slices {start} to {stop - 1}"
        try:
            data = np.asarray(self.read(start, stop))
        except ReconError:
            raise
        except Exception as error:
            raise FileFormatError(
                f"{what} cannot be read", file=self.path, found=f"{type(error).__name__}: {error}"
            ) from error
        expected = (stop - start, *self.shape[1:])
        if data.shape != expected:
            raise FileFormatError(
                f"{what} of another shape than the file says", file=self.path, found=data.shape, expected=expected
            )
        return data

    def __getitem__(self, index: int) -> ndarray:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        index %= len(self)
        return self.block(index, index + 1)[0]

    def __iter__(self) -> Iterator[ndarray]:
        return (self[index] for index in range(len(self)))


def take(array: SliceArray, start: int, stop: int) -> ndarray:
    """Read slices ``start`` to ``stop`` of any `SliceArray`, in one go where it can."""
    if isinstance(array, LazyBlocks):
        return array.block(start, stop)
    if isinstance(array, np.ndarray):
        return array[start:stop]
    return np.stack([np.asarray(array[index]) for index in range(start, stop)])
