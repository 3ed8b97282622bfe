"""What the verbs share: input lists, number lists, tables, progress, JSON."""

from __future__ import annotations

import argparse
import glob
import math
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from recon.json_text import json_text
from recon.physics.errors import CheckpointError, FileFormatError

OUT, ERR = Console(), Console(stderr=True)
INTERRUPTED = 130
"""Exit status after Ctrl-C or a termination signal."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Let the verb print JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def expand(inputs: Sequence[str]) -> list[tuple[Path, bool]]:
    """Return the files meant by files, folders and patterns, and whether each was named by the user himself.

    A folder gives the files in it (a BART pair once); hidden files are left out.

    Raises
    ------
    FileFormatError
        A pattern that matches nothing, an empty folder.
    """
    from recon.datasets.folders import is_companion

    found: dict[Path, bool] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            inside = [p for p in inside if not is_companion(p)]
            if not inside:
                raise FileFormatError("the folder holds no file", file=path)
            for file in inside:
                found.setdefault(file, False)
        elif glob.has_magic(text) and not path.exists():
            matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 - absolute patterns too
            if not matches:
                raise FileFormatError("no file fits the pattern", file=text)
            for file in matches:
                found.setdefault(file, True)
        else:
            found[path] = True
    return list(found.items())


def numbers(text: str) -> list[int]:
    """Parse ``0,3,5-9`` into a list of numbers; for argparse."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            chosen += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,3,5-9") from None
    if not chosen:
        raise argparse.ArgumentTypeError(f"{text!r} names no number")
    return chosen


def print_json(value: object) -> None:
    """Print JSON; values that are not finite become null."""
    print(json_text(value))


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys as a table; numbers to 4 digits."""
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text_of(value) for value in row.values()))
    OUT.print(table)


def text_of(value: object) -> str:
    """Return a value as a person would write it: 4 significant digits, a dash for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def progress_bar(*, quiet: bool) -> Progress:
    """Return a progress bar on standard error with the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=ERR,
        disable=quiet,
        transient=True,
    )


def print_pairs(title: str, pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, text_of(value))
    OUT.print(table)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, by which job schedulers end what takes too long, do what Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_weights(path: Path, *, overwrite: bool) -> None:
    """Meet weights that cannot be written, or their card, before any work is done.

    Raises
    ------
    CheckpointError
        Another ending.
    OutputError
        One of both exists, or cannot be written.
    """
    from recon.checkpoint import ENDING
    from recon.datasets.atomic import check_target

    if path.suffix != ENDING:
        raise CheckpointError("weights are saved under another ending", file=path, expected=ENDING)
    for output in (path, path.with_suffix(".json")):
        check_target(output, overwrite=overwrite)


def command_line(args: argparse.Namespace, **spelt: Sequence[str]) -> str:
    """Return the command that these arguments are given by, but for ``--json`` and ``--overwrite``.

    Parameters
    ----------
    args
        As parsed.
    spelt
        Words of the arguments that are not written as ``--name VALUE...``; they come first.
    """
    words = ["recon", args.verb, *(word for group in spelt.values() for word in group)]
    for name, value in vars(args).items():
        if name not in ("verb", "json", "overwrite", *spelt) and value is not None:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
