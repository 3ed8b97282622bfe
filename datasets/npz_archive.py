"""The arrays of an ``.npz``, unpacked slice by slice and never larger than the archive allows."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import ForwardReader, LazySlices, check_size
from recon.datasets.limits import MAX_EXPANSION, check_claim
from recon.physics.errors import DTypeError, FileFormatError


@dataclass(frozen=True)
class ArrayHeader:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool
    offset: int


def read_array_header(file: BufferedIOBase, path: Path) -> ArrayHeader:
    """Read the header of the ``.npy`` format and stop where the data begin; only numbers and texts are taken."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, column_major, dtype = read(file)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise FileFormatError("not an array of NumPy", file=path, found=str(error)[:200]) from error
    if dtype.kind not in "biufcU" or dtype.fields is not None or dtype.itemsize == 0:
        raise DTypeError("an array that is not made of numbers", file=path, found=f"dtype {dtype}")
    return ArrayHeader(tuple(int(n) for n in shape), dtype, column_major, file.tell())


@dataclass(frozen=True, eq=False)
class Archive:
    """The members of an ``.npz`` that are arrays."""

    path: Path
    arrays: dict[str, ArrayHeader]

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Read the headers, and hold them against what is stored.

        Raises
        ------
        FileFormatError
            The archive is damaged, or a member claims another size than it has.
        """
        arrays = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        with archive.open(info) as member:
                            header = read_array_header(cast(BufferedIOBase, member), path)
                            _check_member(info, header, path)
                        arrays[info.filename.removesuffix(".npy")] = header
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted, or too new
            raise FileFormatError("the archive is damaged or truncated", file=path, found=str(error)) from error
        return cls(path, arrays)

    def listing(self) -> str:
        """Return the names and shapes, for messages."""
        return ", ".join(f"{name} {header.shape}" for name, header in list(self.arrays.items())[:20]) or "none"

    def slices(self, name: str, batch: int = 0) -> LazySlices:
        """Return an array whose slices are unpacked when asked for, with ``batch`` axes of length 1 put first."""
        header = self.arrays[name]
        shape = (1,) * batch + header.shape
        check_size(self.path, shape, header.dtype.itemsize)
        blocks = ForwardReader(partial(_open_member, self.path, name), header.offset)

        def read(index: int) -> ndarray:
            if not header.column_major:
                return blocks.block(index, shape[1:], header.dtype)
            whole = blocks.block(0, tuple(reversed(header.shape)), header.dtype).T  # its slices are not in one piece
            return np.ascontiguousarray(whole.reshape(shape)[index])

        return LazySlices(shape, header.dtype, read, self.path)

    def whole(self, name: str) -> ndarray:
        """Return an array as a whole."""
        return self.slices(name, 1)[0]

    def text(self, name: str) -> str | None:
        """Return an array that is one text; None where there is none."""
        if name not in self.arrays or self.arrays[name].dtype.kind != "U":
            return None
        return str(self.whole(name))


def _check_member(info: zipfile.ZipInfo, header: ArrayHeader, path: Path) -> None:
    wanted = math.prod(header.shape) * header.dtype.itemsize
    what = repr(info.filename.removesuffix(".npy"))
    if info.file_size - header.offset != wanted:
        raise FileFormatError(
            f"{what} does not have the size that it states",
            file=path,
            found=f"{info.file_size - header.offset} bytes",
            expected=f"{wanted} bytes for {header.shape}",
        )
    expansion = 1 if info.compress_type == zipfile.ZIP_STORED else MAX_EXPANSION
    check_claim((wanted or 1, 1), 1, stored=info.compress_size, path=path, what=what, expansion=expansion)


def _open_member(path: Path, name: str) -> BufferedIOBase:
    archive = zipfile.ZipFile(path)
    try:
        return cast(BufferedIOBase, archive.open(f"{name}.npy"))
    finally:
        archive.close()  # the member keeps the file open for itself
