"""Unlearning that goes on where it was interrupted.

A method is run again from its start, on the network that came in; what takes long is not. Each descent is numbered, and
leaves its weights, its optimiser and how far each endless sequence of batches was gone through. On the next run a
descent that was finished gives its weights at once, one that was not goes on from its last step, and the sequences are
moved on without any batch being made: the result is that of a run without interruption, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recon.datasets.atomic import atomic_path

_EVERY = 20.0  # seconds between two states that are written
_active: ContextVar[Journal | None] = ContextVar("journal", default=None)


def active() -> Journal | None:
    """Return the journal that is kept at the moment, if any."""
    return _active.get()


@dataclass
class Cursor:
    """How many batches of an endless sequence were taken, and how many are to be passed over."""

    taken: int = 0
    skip: int = 0

    def passes(self) -> bool:
        """Count a batch, and tell whether it is passed over."""
        self.taken += 1
        passed = self.skip > 0
        self.skip -= passed
        return passed


@dataclass(eq=False)
class Journal:
    """Where the states of a method's descents are kept, a file each.

    Parameters
    ----------
    folder
        Is made where it is missing.
    meter
        A `recon.unlearning.budget.Meter`, which goes on from what was spent before the interruption.
    """

    folder: Path
    meter: Any
    _descents: int = 0
    _cursors: list[Cursor] = field(default_factory=list)
    _goal: list[int] = field(default_factory=list)
    _start: float = 0.0
    _last: float = 0.0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep it for what is done in a block."""
        self._descents, self._cursors, self._goal = 0, [], []
        self._start = self._last = time.perf_counter()
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)

    def cursor(self) -> Cursor:
        """Give an endless sequence the next number."""
        number = len(self._cursors)
        self._cursors.append(Cursor(skip=self._goal[number] if number < len(self._goal) else 0))
        return self._cursors[-1]

    def begin(self, weights: Sequence[nn.Parameter], stateful: Sequence[Any]) -> int:
        """Give a descent the next number, bring it to where it was, and return the steps that are done.

        Parameters
        ----------
        weights
            Changed in place.
        stateful
            Optimiser and schedule.
        """
        self._descents += 1
        if not self._file.exists():
            return 0
        state = torch.load(self._file, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for p, kept in zip(weights, state["weights"], strict=True):
                p.copy_(kept)
        for one, kept in zip(stateful, state["stateful"], strict=True):
            one.load_state_dict(kept)
        for name, value in state["meter"].items():
            setattr(self.meter, name, value)
        self._goal = state["cursors"]
        for cursor, goal in zip(self._cursors, self._goal, strict=False):
            cursor.skip = max(goal - cursor.taken, 0)
        return int(state["steps"])

    def step(self, done: int, *, last: bool, weights: Sequence[nn.Parameter], stateful: Sequence[Any]) -> None:
        """Write the state after a step: from time to time, and after the last.

        Raises
        ------
        OutputError
            The disk is full, the folder read-only.
        """
        now = time.perf_counter()
        if not last and now - self._last < _EVERY:
            return
        spent = asdict(self.meter)
        state = {
            "steps": done,
            "weights": [p.detach().cpu() for p in weights],
            "stateful": [one.state_dict() for one in stateful],
            "cursors": [cursor.taken for cursor in self._cursors],
            "meter": spent | {"seconds": spent["seconds"] + now - self._start},
        }
        with atomic_path(self._file, overwrite=True) as temporary:
            torch.save(state, temporary)
        self._last = now

    @property
    def _file(self) -> Path:
        return self.folder / f"descent-{self._descents}.pt"
