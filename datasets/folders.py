"""Folders that are one input: the files of a format among others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

_HEAD = 4096


def matching_files(folder: Path, is_ours: Callable[[bytes], bool]) -> Iterator[Path]:
    """Yield the files whose first bytes pass ``is_ours``, in the order of their names, 2 before 10."""
    for path in sorted(folder.iterdir(), key=lambda path: natural_order(path.name)):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                if is_ours(file.read(_HEAD)):
                    yield path


def count_others(folder: Path, ours: list[Path]) -> int:
    """Return how many visible files of a folder are not among ``ours``."""
    return sum(path.is_file() and not path.name.startswith(".") for path in folder.iterdir()) - len(ours)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers within names by their value."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def is_companion(path: Path) -> bool:
    """Tell whether a file is the header of a BART pair, which is one input under the name of its data."""
    return path.suffix == ".hdr" and path.with_suffix(".cfl").exists()
