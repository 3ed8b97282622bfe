"""Slices, or parts of stamps, shared among processes; each goes into a spool, from where all are put together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from recon.datasets import Scan
from recon.datasets import open as open_file
from recon.pipeline import only_scan
from recon.prepare import Preparation
from recon.scan_plan import Plan
from recon.slices import Trust
from recon.spool import Spool


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file and how it is to be reconstructed; small, so that it travels to the workers.

    The fields are those of `recon.reconstruct` and `recon.datasets.open`.
    """

    path: Path
    spool: Path
    model: str
    how: Preparation
    slices: tuple[int, ...] | None
    trust: Trust
    seed: int
    format: str | None
    variable: str | None

    def open(self) -> Scan:
        """Open the file; what is no raw k-space raises `DataError`."""
        return only_scan(open_file(self.path, format=self.format, variable=self.variable), self.path)

    def plan(self, scan: Scan) -> Plan:
        """Return what is to be done to ``scan``."""
        return Plan(scan, self.model, self.how, self.slices, self.trust, self.seed)

    def open_plan(self) -> Plan:
        """Open the file and return what is to be done to it."""
        return self.plan(self.open())


@runtime_checkable
class Parts(Protocol):
    """Work on one file in independent parts: `recon.scan_plan.Plan`, `recon.galaxies.plan.StampPlan`."""

    @property
    def wanted(self) -> Sequence[int]:
        """Numbers of the parts."""
        ...

    @property
    def group(self) -> int:
        """How many neighbours had better be done by one process."""
        ...

    def key(self) -> dict[str, Any]:
        """Return what a finished part depends on."""
        ...

    def begin(self, store: Spool) -> None:
        """Do what comes before all parts."""
        ...

    def run_stored(self, store: Spool, index: int) -> object:
        """Do a part, unless it is in the store."""
        ...


@runtime_checkable
class FileJob(Protocol):
    """One file and how it is to be worked on; small, comparable, and made of what can travel to a process."""

    @property
    def spool(self) -> Path:
        """Folder for finished parts."""
        ...

    def open_plan(self) -> Parts:
        """Open the file and return what is to be done to it."""
        ...


def fill_spool(pool: ProcessPoolExecutor, job: FileJob, plan: Parts, progress: Callable[[int, int], None]) -> None:
    """Let the workers do the parts of a job into its spool; the first error is raised.

    Where a worker was killed (by the system, short of memory), what is not done is left for the caller, with a warning.
    """
    key = plan.key()
    plan.begin(Spool(job.spool, key))  # before the workers could race for it
    total = len(plan.wanted)
    chunks = [tuple(plan.wanted[start : start + plan.group]) for start in range(0, total, plan.group)]
    if len(chunks) == 1:  # one group would keep one worker busy
        chunks = [(index,) for index in plan.wanted]
    futures: list[Future[None]] = []
    done = 0
    try:
        futures += (pool.submit(_work, job, key, chunk) for chunk in chunks)
        for future, chunk in zip(futures, chunks, strict=True):
            future.result()
            done += len(chunk)
            progress(done, total)
    except BrokenProcessPool:
        warnings.warn("a worker process was killed; this process goes on alone", RuntimeWarning, stacklevel=2)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


_held: tuple[FileJob, Parts] | None = None


def _work(job: FileJob, key: dict[str, Any], indices: tuple[int, ...]) -> None:
    """Do some parts in a worker, which keeps the file open for its next chunk."""
    global _held  # noqa: PLW0603 - one job at a time lives in a worker
    if _held is None or _held[0] != job:
        _held = (job, job.open_plan())
    plan = _held[1]
    store = Spool(job.spool, key)
    for index in indices:
        plan.run_stored(store, index)
