"""Arrays that stay on disk, read one slice (`LazySlices`) or several (`LazyBlocks`) at a time; checks before that."""

from __future__ import annotations

import math
import operator
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.datasets.scan import SliceArray
from recon.physics.errors import FileFormatError, ReconError


@dataclass(frozen=True, eq=False)
class LazyArray(ABC):
    """A `SliceArray` made of a function.

    Parameters
    ----------
    shape
        Shape of the whole, the slice axis first.
    dtype
        What the slices are made of.
    read
        Gives the data, of the slices that a child asks for.
    path
        The file, for messages; None for arrays that no file holds.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[..., ndarray]
    path: Path | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> ndarray:
        """Read one slice; what goes wrong there is a `FileFormatError` that names it."""
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        return self._slice(index % len(self))

    def __iter__(self) -> Iterator[ndarray]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def _slice(self, index: int) -> ndarray:
        """Read one slice that there is."""

    def _checked(self, what: str, arguments: tuple[int, ...], shape: tuple[int, ...]) -> ndarray:
        """Read what must have a shape."""
        try:
            data = np.asarray(self.read(*arguments))
        except ReconError:
            raise
        except Exception as error:
            raise FileFormatError(
                f"{what} cannot be read", file=self.path, found=f"{type(error).__name__}: {error}"
            ) from error
        if data.shape != shape:
            raise FileFormatError(
                f"{what} of another shape than the file says", file=self.path, found=data.shape, expected=shape
            )
        return data


class LazySlices(LazyArray):
    """Reads one slice at a time: ``read`` makes of its number an array of shape ``shape[1:]``."""

    def _slice(self, index: int) -> ndarray:
        return self._checked(f"slice {index}", (index,), self.shape[1:])


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


def check_size(path: Path, shape: tuple[int, ...], itemsize: int, present: int | None = None) -> None:
    """Check an array's declared shape before anything of its size is allocated.

    Parameters
    ----------
    path
        The file, for messages.
    shape
        The declared shape, the slice axis first: one slice must fit into memory.
    itemsize
        Bytes of one element.
    present
        Bytes that the file really holds for the array, where that is known.

    Raises
    ------
    FileFormatError
        An axis without extent, fewer bytes than the shape needs, or a slice larger than the memory.
    """
    if min(shape, default=0) < 1:
        raise FileFormatError("the file holds an empty array", file=path, found=f"shape {shape}")
    wanted = math.prod(shape) * itemsize
    if present is not None and present < wanted:
        raise FileFormatError(
            "the file is truncated", file=path, found=f"{present} bytes", expected=f"{wanted} bytes for {shape}"
        )
    check_memory(path, math.prod(shape[1:]) * itemsize)


def check_memory(path: Path, wanted: int) -> None:
    """Raise `FileFormatError` where ``wanted`` bytes at once are more than this machine has."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return
    if wanted > memory:
        raise FileFormatError(
            "one slice asks for more memory than there is",
            file=path,
            found=f"{wanted / 2**30:.1f} GiB",
            expected=f"at most {memory / 2**30:.1f} GiB",
        )


def mapped_slices(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0, *, column_major: bool = False
) -> LazySlices:
    """Slices of an uncompressed array in a file.

    The file is mapped for each read and let go again, so that no more than one slice stays in memory. The
    size must have been checked (`check_size`).
    """
    block = math.prod(shape[1:]) * dtype.itemsize

    def read(index: int) -> ndarray:
        if column_major:
            return np.array(np.memmap(path, dtype, "r", offset, shape, order="F")[index], order="C")
        return np.array(np.memmap(path, dtype, "r", offset + index * block, shape[1:]))

    return LazySlices(shape, dtype, read, path)


class ForwardReader:
    """Reads blocks of equal size out of a compressed stream, which runs forwards; going back starts it again.

    The stream stays open between two reads. A forked process opens its own.

    Parameters
    ----------
    open_stream
        Opens the stream.
    offset
        Where in the stream the first block begins.
    """

    def __init__(self, open_stream: Callable[[], BufferedIOBase], offset: int) -> None:
        self._open_stream, self._offset = open_stream, offset
        self._lock = threading.Lock()
        self._stream: BufferedIOBase | None = None
        self._process = 0

    def block(self, index: int, shape: tuple[int, ...], dtype: np.dtype) -> ndarray:
        """Read one block in C order."""
        out = np.empty(shape, dtype)
        view = out.reshape(-1).view(np.uint8).data
        with self._lock:
            if self._stream is None or self._process != os.getpid():
                self._stream, self._process = self._open_stream(), os.getpid()
            self._stream.seek(self._offset + index * out.nbytes)
            while view:
                count = self._stream.readinto(view)
                if not count:
                    raise EOFError("the compressed data end early")
                view = view[count:]
        return out
