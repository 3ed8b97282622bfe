"""Values of variable length in HDF5 files, read past the library, which crashes on damaged ones.

HDF5 stores such a value as a reference (length, address of a "global heap collection", number of the object in
it); the library believes all three, and a flipped bit ends in gigabytes or in a segmentation fault. Here each is
held against the file first. The layouts are those of the HDF5 File Format Specification, III.E and IV.A.2.
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

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
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
    kind, size, offset = _layout(dataset, path, member)
    is_text = isinstance(kind, h5py.h5t.TypeStringID)
    dtype = np.dtype(np.uint8) if is_text else kind.get_super().dtype
    with path.open("rb") as file:
        heap = Heap(file, path.stat().st_size, path)
        for record in _records(dataset, rows, size, heap):
            if offset + _REFERENCE.itemsize > len(record):
                raise FileFormatError("the records are shorter than their type", file=path, cure=_CURE)
            reference = np.frombuffer(record, _REFERENCE, 1, offset)[0]
            yield np.frombuffer(heap.read(reference, dtype.itemsize), dtype)


def _layout(dataset: h5py.Dataset, path: Path, member: str | None) -> tuple[h5py.h5t.TypeID, int, int]:
    """Return the type of the value, and the size of a record and where the reference is in it."""
    if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise FileFormatError("addresses that do not have 64 bits", file=path, cure=_REPACK)
    kind, size, offset = dataset.id.get_type(), _REFERENCE.itemsize, 0
    if member is not None:
        if not isinstance(kind, h5py.h5t.TypeCompoundID):
            raise FileFormatError(f"{dataset.name} is no table", file=path)
        number = kind.get_member_index(member.encode())
        size, offset = kind.get_size(), kind.get_member_offset(number)
        kind = kind.get_member_type(number)
    is_text = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
    if not is_text and not isinstance(kind, h5py.h5t.TypeVlenID):
        raise FileFormatError(f"{dataset.name} does not hold values of variable length", file=path)
    return kind, size, offset


def _records(dataset: h5py.Dataset, rows: np.ndarray, size: int, heap: Heap) -> Iterator[bytes]:
    """Yield the stored bytes of each row."""
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CONTIGUOUS:
        start = dataset.id.get_offset()
        if start is None:
            raise FileFormatError(f"{dataset.name} was never written", file=heap.path)
        for row in rows:
            heap.file.seek(start + int(row) * size)
            yield heap.file.read(size)
        return
    if layout != h5py.h5d.CHUNKED:
        raise FileFormatError(f"{dataset.name} has a layout that is not read", file=heap.path, cure=_REPACK)
    length = int(dataset.chunks[0])
    number, chunk = -1, b""
    for row in rows:
        if row // length != number:
            number = int(row) // length
            chunk = _chunk(dataset, number * length, length * size, heap)
        start = (int(row) - number * length) * size
        yield chunk[start : start + size]


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
