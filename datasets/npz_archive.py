"""The arrays of an ``.npz``, unpacked slice by slice and never larger than the archive allows."""

from __future__ import annotations

import math
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import LazySlices, check_size
from recon.datasets.limits import MAX_EXPANSION, check_claim
from recon.physics.errors import DTypeError, FileFormatError


@dataclass(frozen=True)
class ArrayHeader:
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool


def read_array_header(file: IO[bytes], path: Path) -> ArrayHeader:
    """Read the header of the ``.npy`` format and stop where the data begin; only numbers and texts are taken."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, column_major, dtype = read(file)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise FileFormatError("not an array of NumPy", file=path, found=str(error)[:200]) from error
    if dtype.kind not in "biufcU" or dtype.fields is not None or dtype.itemsize == 0:
        raise DTypeError("an array that is not made of numbers", file=path, found=f"dtype {dtype}")
    return ArrayHeader(tuple(int(n) for n in shape), dtype, column_major)


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
                            header = read_array_header(member, path)
                            _check_member(info, header, member.tell(), path)
                        arrays[info.filename.removesuffix(".npy")] = header
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
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
        member = _Member(self.path, f"{name}.npy", header, shape)
        return LazySlices(shape, header.dtype, member.read, self.path)

    def whole(self, name: str) -> ndarray:
        """Return an array as a whole."""
        return self.slices(name, 1)[0]

    def text(self, name: str) -> str | None:
        """Return an array that is one text; None where there is none."""
        if name not in self.arrays or self.arrays[name].dtype.kind != "U":
            return None
        return str(self.whole(name))


def _check_member(info: zipfile.ZipInfo, header: ArrayHeader, start: int, path: Path) -> None:
    wanted = math.prod(header.shape) * header.dtype.itemsize
    what = repr(info.filename.removesuffix(".npy"))
    if info.file_size - start != wanted:
        raise FileFormatError(
            f"{what} does not have the size that it states",
            file=path,
            found=f"{info.file_size - start} bytes",
            expected=f"{wanted} bytes for {header.shape}",
        )
    expansion = 1 if info.compress_type == zipfile.ZIP_STORED else MAX_EXPANSION
    check_claim((wanted or 1, 1), 1, stored=info.compress_size, path=path, what=what, expansion=expansion)


class _Member:
    """One array of an archive, unpacked forwards; going back starts at its beginning again."""

    def __init__(self, path: Path, name: str, header: ArrayHeader, shape: tuple[int, ...]) -> None:
        self._path, self._name, self._header, self._shape = path, name, header, shape
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._start = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("_path", "_name", "_header", "_shape")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def read(self, index: int) -> ndarray:
        """Unpack one slice."""
        if not self._header.column_major:
            return self._unpack(index, self._shape[1:])
        whole = self._unpack(0, tuple(reversed(self._shape)) if self._shape[0] > 1 else self._shape[:0:-1])
        return np.ascontiguousarray(whole.T[index] if self._shape[0] > 1 else whole.T)

    def _unpack(self, index: int, shape: tuple[int, ...]) -> ndarray:
        out = np.empty(shape, self._header.dtype)
        with self._lock:
            if self._stream is None:
                self._stream = zipfile.ZipFile(self._path).open(self._name)  # noqa: SIM115 - kept for the next slice
                read_array_header(self._stream, self._path)
                self._start = self._stream.tell()
            self._stream.seek(self._start + index * out.nbytes)
            view = memoryview(out.reshape(-1).view(np.uint8))
            while view:
                n = self._stream.readinto(view)  # type: ignore[attr-defined]
                if not n:
                    raise EOFError(f"{self._name} ends early")
                view = view[n:]
        return out
