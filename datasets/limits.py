"""Sizes that a file may claim: whatever a header says is held against the file before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from recon.datasets.lazy import check_memory
from recon.physics.errors import FileFormatError, ShapeError

MAX_EXPANSION = 1100
"""Deflate, the strongest filter in use, gives at most 1032 bytes for one."""
FREE_BYTES = 1 << 26
"""An array below this size is never refused: a small file may hold little but fill values."""


def check_claim(
    shape: Sequence[int],
    itemsize: int,
    *,
    stored: int,
    path: Path,
    what: str,
    expansion: int = MAX_EXPANSION,
    free: int = FREE_BYTES,
) -> None:
    """Refuse an array that its file cannot hold (compressed, or undersampled) or whose slices no memory holds.

    Parameters
    ----------
    shape
        What the header claims, the slice axis first.
    itemsize
        Bytes an element takes in memory.
    stored
        Bytes that the file has for it.
    path, what
        The file and the name of the array, for the message.
    expansion
        How many bytes in memory one byte in the file may become.
    free
        A claim of up to so many bytes passes.

    Raises
    ------
    ShapeError
        An axis of length zero.
    FileFormatError
        The file is too small for the claim, or the memory for a slice.
    """
    shape = tuple(int(n) for n in shape)
    if not shape or min(shape) < 1:
        raise ShapeError(f"{what} is empty", file=path, found=f"shape {shape}")
    size = prod(shape) * itemsize
    if size > max(free, expansion * stored):
        raise FileFormatError(
            f"{what} is larger than the file can hold",
            file=path,
            found=f"shape {shape} ({size} bytes) from {stored} stored bytes",
            cure="The file is damaged or was cut short: copy it again",
        )
    check_memory(path, prod(shape[1:]) * itemsize)
