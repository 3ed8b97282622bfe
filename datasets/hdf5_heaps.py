"""A check of HDF5's local heaps, in whose list of free blocks the library runs in circles where a file is damaged.

It allocates at each turn, until the memory is gone. See "Local Heaps" (III.D) in the HDF5 file format
specification, version 3.0.
"""

from __future__ import annotations

from pathlib import Path

from recon.physics.errors import FileFormatError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""With which every HDF5 file starts, at a multiple of 512 bytes; here, since this module does without h5py."""

_REACH = 1 << 16  # heaps hold the names in a group: they are made with it, before the data
_END = 1  # in place of an offset: no further free block


def check_heaps(path: Path) -> None:
    """Raise `FileFormatError` where a local heap at the start of the file has a circular list of free blocks."""
    with path.open("rb") as file:
        start = file.read(_REACH)
        base = start.find(SIGNATURE)
        if base < 0:
            return
        at = start.find(b"HEAP\0")
        while 0 <= at <= len(start) - 32:
            size, free, address = (int.from_bytes(start[at + k : at + k + 8], "little") for k in (8, 16, 24))
            if size <= _REACH:
                file.seek(min(base + address, 2**62))
                if _is_circular(file.read(size), free):
                    raise FileFormatError(
                        "the HDF5 file is damaged: free space of a group that leads back to itself",
                        file=path,
                        cure="Copy it again from where it came",
                    )
            at = start.find(b"HEAP\0", at + 4)


def _is_circular(block: bytes, free: int) -> bool:
    seen = set()
    while free != _END and free + 16 <= len(block):
        if free in seen:
            return True
        seen.add(free)
        free = int.from_bytes(block[free : free + 8], "little")
    return False
