"""Texts and tables with values of variable length in HDF5 files, read past the library, which crashes on damaged ones.

HDF5 stores such a value as a reference (length, address of a "global heap collection", number of the object in
it); the library believes all three (also where it only reads the columns beside it), and a flipped bit ends in
gigabytes or in a segmentation fault. Here the library says where the records lie; what is in them is held against
the file first. The layouts are those of the HDF5 File Format Specification, III.E and IV.A.2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from recon.physics.errors import FileFormatError

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_OBJECT = struct.Struct("<HHIQ")
_COLLECTION = struct.Struct("<4sB3xQ")
_CURE = "Copy it again from where it came"
_REPACK = "Rewrite it with h5repack -f NONE -l CHUNK=64"


@dataclass(eq=False)
class Heap:
    """The global heap of an open file.

    Parameters
    ----------
    file, size, path
        The file, its size in bytes, and its name for messages.
    """

    file: BinaryIO
    size: int
    path: Path
    _known: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def read(self, reference: np.void, itemsize: int) -> bytes:
        """Return what a reference points to; raises `FileFormatError` where that cannot be."""
        length = int(reference["length"]) * itemsize
        if not length:
            return b""
        objects = self._objects(int(reference["address"]))
        position, size = objects.get(int(reference["index"]), (0, -1))
        if length > size:
            raise FileFormatError(
                "a value is longer than what the file holds of it",
                file=self.path,
                found=f"{max(size, 0)} bytes",
                expected=length,
                cure=_CURE,
            )
        self.file.seek(position)
        return self.file.read(length)

    def _objects(self, address: int) -> dict[int, tuple[int, int]]:
        """Return {number: (position, size)} of the objects of one collection."""
        if address in self._known:
            return self._known[address]
        head = b""
        if address < self.size:
            self.file.seek(address)
            head = self.file.read(_COLLECTION.size)
        signature, version, size = _COLLECTION.unpack(head) if len(head) == _COLLECTION.size else (b"", 0, 0)
        if signature != b"GCOL" or version != 1 or address + size > self.size:
            raise FileFormatError(
                "no values where a reference points to", file=self.path, found=f"byte {address}", cure=_CURE
            )
        found: dict[int, tuple[int, int]] = {}
        position, end = address + _COLLECTION.size, address + size
        while position + _OBJECT.size <= end:
            self.file.seek(position)
            index, _, _, length = _OBJECT.unpack(self.file.read(_OBJECT.size))
            position += _OBJECT.size
            if index == 0 or position + length > end:  # 0: the free rest
                break
            found[index] = position, length
            position += (length + 7) // 8 * 8
        self._known = {address: found}  # neighbours share a collection; more would only fill memory
        return found


def read_values(dataset: h5py.Dataset, rows: np.ndarray, path: Path, member: str | None = None) -> Iterator[np.ndarray]:
    """Yield the values of variable length at some rows of a dataset.

    Parameters
    ----------
    dataset
        One axis, or a scalar; of variable length itself, or a compound.
    rows
        Which, in any order.
    path
        The file.
    member
        The member of the compound.

    Yields
    ------
    Arrays of the stored type; text as bytes (uint8).
    """
    kind, size, offset = _member(dataset, path, member)
    is_text = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
    if not is_text and not isinstance(kind, h5py.h5t.TypeVlenID):
        raise FileFormatError(f"{dataset.name} does not hold values of variable length", file=path)
    dtype = np.dtype(np.uint8) if is_text else kind.get_super().dtype
    if dtype.kind not in "iuf":
        raise FileFormatError(f"{dataset.name} does not hold numbers", file=path, found=dtype)
    with path.open("rb") as file:
        heap = Heap(file, path.stat().st_size, path)
        blocks = _blocks(dataset, rows, size, heap)
        first, count, block = 0, 0, b""
        for row in rows:
            if not first <= row < first + count:
                first, count, block = next(blocks)
            start = (int(row) - first) * size + offset
            if start + REFERENCE.itemsize > len(block):
                raise FileFormatError("the records are shorter than their type", file=path, cure=_CURE)
            reference = np.frombuffer(block, REFERENCE, 1, start)[0]
            yield np.frombuffer(heap.read(reference, dtype.itemsize), dtype)


def read_column(dataset: h5py.Dataset, member: str, wanted: np.dtype, path: Path) -> np.ndarray:
    """Read one member, itself a compound without values of variable length, of all records of a table.

    Parameters
    ----------
    dataset
        One axis, of a compound type.
    member
        The member.
    wanted
        The fields that are read, found in the file by their names; numbers are converted, the others left.
    path
        The file.

    Returns
    -------
    One element a record.
    """
    kind, size, offset = _member(dataset, path, member)
    stored = kind.dtype
    if stored.hasobject or offset + stored.itemsize > size:
        raise FileFormatError(f"{member!r} is not made of numbers", file=path, cure=_CURE)
    _check_fields(stored, wanted, path)
    out = np.empty(dataset.shape[0], wanted)
    with path.open("rb") as file:
        heap = Heap(file, path.stat().st_size, path)
        for first, count, block in _blocks(dataset, np.arange(len(out)), size, heap):
            if count * size > len(block):
                raise FileFormatError("the records are shorter than their type", file=path, cure=_CURE)
            _copy_fields(np.ndarray((count,), stored, block, offset, (size,)), out[first : first + count])
    return out


def _check_fields(stored: np.dtype, wanted: np.dtype, path: Path) -> None:
    for name in wanted.names or ():
        kind, have = wanted[name], stored[name] if name in (stored.names or ()) else None
        if have is not None and kind.names and have.names:
            _check_fields(have, kind, path)
        elif have is None or have.shape != kind.shape or have.base.kind not in "iuf" or kind.names:
            raise FileFormatError(f"the records have no usable field {name!r}", file=path, found=have, expected=kind)


def _copy_fields(stored: np.ndarray, out: np.ndarray) -> None:
    for name in out.dtype.names or ():
        if out.dtype[name].names:
            _copy_fields(stored[name], out[name])
        else:
            with np.errstate(invalid="ignore"):
                out[name] = stored[name]


def _member(dataset: h5py.Dataset, path: Path, member: str | None) -> tuple[h5py.h5t.TypeID, int, int]:
    """Return the type of a member (or of the whole), the size of a record and where the member is in it."""
    if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise FileFormatError("addresses that do not have 64 bits", file=path, cure=_REPACK)
    kind = dataset.id.get_type()
    if member is None:
        return kind, REFERENCE.itemsize, 0
    if not isinstance(kind, h5py.h5t.TypeCompoundID):
        raise FileFormatError(f"{dataset.name} is no table", file=path)
    number = kind.get_member_index(member.encode())
    return kind.get_member_type(number), kind.get_size(), kind.get_member_offset(number)


def _blocks(dataset: h5py.Dataset, rows: np.ndarray, size: int, heap: Heap) -> Iterator[tuple[int, int, bytes]]:
    """Yield (first row, number of rows, their bytes) of the parts of the dataset in which ``rows`` are."""
    layout = dataset.id.get_create_plist().get_layout()
    total = int(np.prod(dataset.shape))
    if layout == h5py.h5d.CONTIGUOUS:
        start, length = dataset.id.get_offset(), max(1, (1 << 20) // size)
        if start is None:
            raise FileFormatError(f"{dataset.name} was never written", file=heap.path)
    elif layout == h5py.h5d.CHUNKED:
        start, length = None, int(dataset.chunks[0])
    else:
        raise FileFormatError(f"{dataset.name} has a layout that is not read", file=heap.path, cure=_REPACK)
    previous = -1
    for row in rows:
        number = int(row) // length
        if number == previous:
            continue
        previous, first = number, number * length
        count = min(length, total - first)
        if start is None:
            yield first, count, _chunk(dataset, first, length * size, heap)
        else:
            heap.file.seek(start + first * size)
            yield first, count, heap.file.read(count * size)


def _chunk(dataset: h5py.Dataset, first: int, size: int, heap: Heap) -> bytes:
    """Read one chunk and undo its filters."""
    info = dataset.id.get_chunk_info_by_coord((first,))
    if info.byte_offset is None or info.byte_offset + info.size > heap.size or info.size < 1:
        raise FileFormatError("a part of the table is not in the file", file=heap.path, cure=_CURE)
    heap.file.seek(info.byte_offset)
    data = heap.file.read(info.size)
    plist = dataset.id.get_create_plist()
    for i in reversed(range(plist.get_nfilters())):
        if info.filter_mask >> i & 1:
            continue
        code, _, values, _ = plist.get_filter(i)
        if code == h5py.h5z.FILTER_DEFLATE:
            data = zlib.decompressobj().decompress(data, size)
        elif code == h5py.h5z.FILTER_SHUFFLE and values and values[0] and len(data) % values[0] == 0:
            data = np.frombuffer(data, np.uint8).reshape(values[0], -1).T.tobytes()
        else:
            raise FileFormatError("a table compressed in an unknown way", file=heap.path, cure=_REPACK)
    return data
