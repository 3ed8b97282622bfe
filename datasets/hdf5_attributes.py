"""Attributes of variable length in HDF5 files, found in the object header itself.

The library believes the length that stands in a damaged file (see `recon.datasets.hdf5_records`), so these texts
are read from the messages of a version 1 object header (HDF5 File Format Specification, IV.A.1.a and IV.A.2.m),
which is what h5py writes.
"""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np

from recon.datasets.hdf5_records import REFERENCE, Heap
from recon.physics.errors import FileFormatError

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_MAX_BLOCKS, _MAX_BLOCK = 16, 1 << 16
_VARIABLE_TEXT = (9, 1)  # class of the type, and kind of variable length


def text_attributes(group: h5py.Group, path: Path) -> dict[str, str]:
    """Return the attributes that are one text of variable length; those that cannot be found are left out."""
    address = int(h5py.h5o.get_info(group.id).addr)
    found: dict[str, str] = {}
    with path.open("rb") as file:
        heap = Heap(file, path.stat().st_size, path)
        file.seek(address)
        head = file.read(16)
        if len(head) < 16 or head[0] != 1:
            return found
        blocks = [(address + 16, struct.unpack_from("<I", head, 8)[0])]
        for position, length in blocks:  # grows while it is walked
            if length > _MAX_BLOCK or position > heap.size:
                break
            file.seek(position)
            for kind, body in _messages(file.read(length)):
                if kind == _CONTINUATION and len(body) >= 16 and len(blocks) < _MAX_BLOCKS:
                    blocks.append(struct.unpack_from("<QQ", body))
                elif kind == _ATTRIBUTE and (entry := _attribute(body)):
                    name, reference = entry
                    try:
                        found[name] = heap.read(reference, 1).decode("utf-8", errors="replace")
                    except FileFormatError:
                        continue
    return found


def _messages(block: bytes) -> list[tuple[int, bytes]]:
    messages, position = [], 0
    while position + 8 <= len(block):
        kind, size = struct.unpack_from("<HH", block, position)
        messages.append((kind, block[position + 8 : position + 8 + size]))
        position += 8 + size
    return messages


def _attribute(body: bytes) -> tuple[str, np.void] | None:
    """Return name and reference of an attribute message that holds one text of variable length."""
    if len(body) < 9 or body[0] not in (1, 3):
        return None
    sizes = struct.unpack_from("<HHH", body, 2)
    position, parts = (8, []) if body[0] == 1 else (9, [])
    for size in sizes:
        parts.append(body[position : position + size])
        position += (size + 7) // 8 * 8 if body[0] == 1 else size
    name, kind, space = parts
    if len(kind) < 2 or (kind[0] & 0x0F, kind[1] & 0x0F) != _VARIABLE_TEXT or len(space) < 2 or space[1] != 0:
        return None
    if position + REFERENCE.itemsize > len(body):
        return None
    return name.split(b"\0")[0].decode("utf-8", errors="replace"), np.frombuffer(body, REFERENCE, 1, position)[0]
