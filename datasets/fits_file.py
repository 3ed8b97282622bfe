"""What is where in a FITS file, and its arrays as blocks that stay on disk; plain, gzip and tile-compressed."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import ForwardReader, LazyBlocks, check_memory, check_size
from recon.datasets.limits import check_claim
from recon.physics.errors import FileFormatError, ShapeError

GZIP = b"\x1f\x8b"
MAGIC = b"SIMPLE  ="
_BLOCK = 2880
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_UNSIGNED = {("i2", 2.0**15): "u2", ("i4", 2.0**31): "u4", ("i8", 2.0**63): "u8", ("u1", -128.0): "i1"}
_MAX_HEADER = 1 << 22
_MAX_AXES = 9


@dataclass(frozen=True, eq=False)
class HDU:
    """A header with the place of its data.

    Parameters
    ----------
    path, packed
        The file, and whether gzip has to undo it first.
    index
        Number in the file, from 0.
    header
        An `astropy.io.fits.Header`.
    offset, size
        Where its data begin, and their bytes without the filling.
    """

    path: Path
    packed: bool
    index: int
    header: Any
    offset: int
    size: int

    @property
    def name(self) -> str:
        """EXTNAME, in capitals."""
        return str(self.header.get("EXTNAME", "")).strip().upper()

    @property
    def kind(self) -> str:
        """``image``, ``tiles`` (an image compressed in a table), ``table`` or ``none``."""
        extension = "IMAGE" if self.index == 0 else str(self.header.get("XTENSION", "")).strip()
        if extension in ("BINTABLE", "TABLE"):
            return "tiles" if self.header.get("ZIMAGE") else "table"
        return "image" if extension == "IMAGE" and self.size else "none"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image as numpy has it, without axes of length 1 in front of the last two."""
        prefix = "Z" if self.kind == "tiles" else ""
        axes = [int(self.header[f"{prefix}NAXIS{k}"]) for k in range(int(self.header[f"{prefix}NAXIS"]), 0, -1)]
        while len(axes) > 2 and axes[0] == 1:
            axes.pop(0)
        if len(axes) > 3:
            axes = [axes[0], *[n for n in axes[1:-2] if n != 1], *axes[-2:]]
        return tuple(axes)

    @cached_property
    def stored_dtype(self) -> np.dtype:
        """What is on disk."""
        bits = self.header["ZBITPIX" if self.kind == "tiles" else "BITPIX"]
        if bits not in _DTYPES:
            raise FileFormatError(
                "the FITS header is damaged", file=self.path, found=f"BITPIX {bits}", expected="8, 16, 32, 64, -32, -64"
            )
        return np.dtype(_DTYPES[bits])

    @cached_property
    def scaling(self) -> tuple[float, float]:
        """BSCALE and BZERO."""
        return float(self.header.get("BSCALE", 1)), float(self.header.get("BZERO", 0))

    @cached_property
    def dtype(self) -> np.dtype:
        """Of the values: unsigned numbers, scales and blanks undone, in this machine's byte order."""
        stored = self.stored_dtype.newbyteorder("=")
        scale, zero = self.scaling
        if stored.kind == "f" and (scale, zero) == (1, 0):
            return stored
        if "BLANK" not in self.header and scale == 1:
            unsigned = _UNSIGNED.get((stored.str[1:], zero))
            if zero == 0 or unsigned:
                return np.dtype(unsigned or stored)
        return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)

    def values(self, raw: ndarray) -> ndarray:
        """Turn what is stored into values."""
        scale, zero = self.scaling
        stored = raw.dtype.newbyteorder("=")
        if self.dtype.kind in "iu" and zero:  # the sign bit turns; floats have no room for all of 32 bits
            bits = raw.astype(stored).view(f"u{stored.itemsize}")
            return (bits ^ bits.dtype.type(1 << (8 * stored.itemsize - 1))).view(self.dtype)
        out = raw.astype(self.dtype)
        if (scale, zero) != (1, 0):
            out = out * self.dtype.type(scale) + self.dtype.type(zero) if self.dtype.kind == "f" else out
        if "BLANK" in self.header and stored.kind in "iu":
            out[raw == int(self.header["BLANK"])] = np.nan
        return out

    def blocks(self, axes: int = 3) -> LazyBlocks:
        """Return the image as ``(slice, ...)`` of ``axes`` axes, read from disk when asked.

        Raises
        ------
        ShapeError
            The image has more axes.
        FileFormatError
            It is larger than its file or the memory for a slice.
        """
        shape = (1,) * (axes - len(self.shape)) + self.shape
        if len(shape) != axes or min(shape) < 1:
            raise ShapeError(
                "an image of a shape that cannot be used", file=self.path, found=self.shape, expected=f"{axes} axes"
            )
        item = self.stored_dtype.itemsize
        if self.kind == "tiles":
            check_claim(shape, item, stored=self.size, path=self.path, what=f"extension {self.index}", expansion=20000)
            return LazyBlocks(shape, self._tiles_dtype(), partial(self._read_tiles, shape), self.path)
        if self.packed:
            stored = self.path.stat().st_size
            check_claim(shape, item, stored=stored, path=self.path, what=f"extension {self.index}")
            reader = ForwardReader(partial(open_stream, self.path, True), self.offset)
            return LazyBlocks(shape, self.dtype, partial(self._read_packed, reader, shape), self.path)
        check_size(self.path, shape, item, self.path.stat().st_size - self.offset)
        return LazyBlocks(shape, self.dtype, partial(self._read_mapped, shape), self.path)

    def _read_mapped(self, shape: tuple[int, ...], start: int, stop: int) -> ndarray:
        block = math.prod(shape[1:]) * self.stored_dtype.itemsize
        place = self.offset + start * block
        return self.values(np.memmap(self.path, self.stored_dtype, "r", place, (stop - start, *shape[1:])))

    def _read_packed(self, reader: ForwardReader, shape: tuple[int, ...], start: int, stop: int) -> ndarray:
        raw = [reader.block(index, shape[1:], self.stored_dtype) for index in range(start, stop)]
        return self.values(np.stack(raw))

    def _tiles_dtype(self) -> np.dtype:
        return self.dtype if self.scaling == (1, 0) or self.dtype.kind in "iu" else np.dtype(np.float64)

    def _read_tiles(self, shape: tuple[int, ...], start: int, stop: int) -> ndarray:
        section = _opened(self.path, os.getpid())[self.index].section
        lead = len(section.shape) - len(self.shape)
        part = section[(0,) * lead + ((slice(start, stop),) if len(self.shape) == len(shape) else ())]
        return np.asarray(part).reshape(stop - start, *shape[1:]).astype(self._tiles_dtype())

    def flat(self) -> Callable[[int, int], ndarray]:
        """Return a function that reads pixels ``start`` to ``stop`` of one axis; only gzip is read whole."""
        if len(self.shape) != 1:
            raise ShapeError("not an image of one axis", file=self.path, found=self.shape, expected="(pixel,)")
        if self.kind == "tiles":
            return self.blocks(1).block
        if self.packed:
            whole = self.blocks(2)
            check_memory(self.path, math.prod(self.shape) * whole.dtype.itemsize)
            pixels = whole[0]
            return lambda start, stop: pixels[start:stop]
        check_size(self.path, self.shape, self.stored_dtype.itemsize, self.path.stat().st_size - self.offset)
        return partial(self._read_mapped, self.shape)

    def window(self) -> Callable[[slice, slice], ndarray]:
        """Return a function that reads rows and columns of a two-dimensional image; only gzip is read whole."""
        if len(self.shape) != 2:
            raise ShapeError(
                "not one image", file=self.path, found=self.shape, expected="(y, x)", cure="Name a file with one image"
            )
        if self.packed or self.kind == "tiles":
            whole = self.blocks()
            check_memory(self.path, math.prod(self.shape) * whole.dtype.itemsize)
            image = whole[0]
            return lambda rows, columns: image[rows, columns]
        check_size(self.path, (1, *self.shape), self.stored_dtype.itemsize, self.path.stat().st_size - self.offset)

        def read(rows: slice, columns: slice) -> ndarray:
            mapped = np.memmap(self.path, self.stored_dtype, "r", self.offset, self.shape)
            return self.values(mapped[rows, columns])

        return read

    def table(self) -> ndarray:
        """Read a table whole, as a structured array."""
        from astropy.io import fits

        check_memory(self.path, self.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(fits.getdata(self.path, self.index))


def open_stream(path: Path, packed: bool) -> BufferedIOBase:
    """Open a file, through gzip where it is packed."""
    return gzip.open(path, "rb") if packed else path.open("rb")


_open_files: dict[tuple[Path, int], Any] = {}


def _opened(path: Path, process: int) -> Any:
    """Return the file as astropy opens it, the last one kept: every tile would open it again otherwise."""
    from astropy.io import fits

    key = (path, process)
    if key not in _open_files:
        _open_files.clear()
        _open_files[key] = fits.open(path, memmap=True)
    return _open_files[key]


def scan(path: Path) -> list[HDU]:
    """Read the headers of a FITS file, and hold what they claim against its size.

    Raises
    ------
    FileFormatError
        Not FITS, a damaged header, a truncated file.
    """
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    present = None if packed else path.stat().st_size
    found: list[HDU] = []
    place = 0
    with open_stream(path, packed) as stream:
        while True:
            try:
                stream.seek(place)
                if stream.tell() < place and packed:
                    raise EOFError
                header = _read_header(stream, path, first=not found)
            except (EOFError, gzip.BadGzipFile) as error:
                raise FileFormatError(
                    "the file is truncated", file=path, found="compressed data that end early"
                ) from error
            if header is None:
                break
            offset = stream.tell()
            size = _data_size(header, path)
            found.append(HDU(path, packed, len(found), header, offset, size))
            if present is not None and offset + size > present:
                raise FileFormatError(
                    "the file is truncated", file=path, found=f"{present} bytes", expected=f"{offset + size} bytes"
                )
            place = offset + -(-size // _BLOCK) * _BLOCK
            if present is not None and place >= present:
                break
    return found


def _read_header(stream: BufferedIOBase, path: Path, *, first: bool) -> Any:
    from astropy.io import fits

    text = b""
    while True:
        block = stream.read(_BLOCK)
        if not text and not (block.startswith(MAGIC) if first else block.startswith(b"XTENSION")):
            if first:
                raise FileFormatError("not a FITS file", file=path, expected="SIMPLE in its first line")
            return None  # the end, or what some archives fill up with
        if len(block) < _BLOCK:
            raise FileFormatError("the file is truncated", file=path, found="a header that ends early")
        text += block
        if any(block[i : i + 80].rstrip() == b"END" for i in range(0, _BLOCK, 80)):
            break
        if len(text) > _MAX_HEADER:
            raise FileFormatError("the FITS header is damaged", file=path, found="no END")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = fits.Header.fromstring(text.decode("latin-1"))
        for card in header.cards:
            _ = card.value  # parsed here, where what is odd can be told
    return header


def _data_size(header: Any, path: Path) -> int:
    axes = int(header.get("NAXIS", 0))
    if not 0 <= axes <= _MAX_AXES:
        raise FileFormatError("the FITS header is damaged", file=path, found=f"NAXIS {axes}")
    lengths = [int(header.get(f"NAXIS{k}", -1)) for k in range(1, axes + 1)]
    bits, groups, extra = int(header.get("BITPIX", 8)), int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
    if min(lengths, default=0) < 0 or groups < 0 or extra < 0:
        raise FileFormatError("the FITS header is damaged", file=path, found=f"NAXIS {axes}, axes {lengths}")
    return abs(bits) // 8 * groups * (extra + math.prod(lengths)) if axes else 0
