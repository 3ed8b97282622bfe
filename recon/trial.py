"""Methods tried one after another on one problem, as the demos do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from recon.galaxies.result import StampResult
from recon.memory import PeakMemory
from recon.physics.errors import OptionError, ReconError
from recon.result import Result

Progress = Callable[[str, int, int], None]
"""Called with (what happens now, steps done, steps in all)."""

Made = TypeVar("Made", Result, StampResult)


def try_each(
    methods: Iterable[str],
    reconstruct: Callable[[str], Made],
    *,
    by_name: bool,
    tell: Progress,
    steps: int,
    first: int = 0,
) -> tuple[dict[str, Made], dict[str, str]]:
    """Reconstruct by every method, and note in the provenance by how many bytes the memory grew.

    Parameters
    ----------
    methods
        Their names.
    reconstruct
        From the name to the result.
    by_name
        Whether they were asked for by name: one that does not suit raises then, and else is left out.
    tell
        Told before each.
    steps, first
        Steps in all, and those done before the first of the methods.

    Returns
    -------
    results, left_out
        Results by name; why each of the others was left out.

    Raises
    ------
    OptionError
        None suits.
    ReconError
        What a method that was asked for by name says.
    """
    results: dict[str, Made] = {}
    left_out: dict[str, str] = {}
    for done, name in enumerate(methods, first):
        tell(name, done, steps)
        try:
            with PeakMemory() as memory:
                result = reconstruct(name)
        except ReconError as error:
            if by_name:
                raise
            left_out[name] = str(error)
        else:
            result.provenance["memory_growth_bytes"] = memory.bytes
            results[name] = result
    if not results:
        raise OptionError("no method suits the sample", found="; ".join(left_out.values()))
    return results, left_out


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""
