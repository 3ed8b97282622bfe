"""Slices shared among processes; each finished slice goes into a spool, from where it is put together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recon.datasets import Scan
from recon.datasets import open as open_file
from recon.pipeline import Plan, only_scan, run_stored
from recon.prepare import Preparation
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


def fill_spool(pool: ProcessPoolExecutor, job: Job, plan: Plan, progress: Callable[[int, int], None]) -> None:
    """Let the workers reconstruct the slices of a job into its spool; the first error is raised."""
    store = Spool(job.spool, plan.key())
    store.make()  # before the workers could race for it
    plan.decide(store)
    total = len(plan.wanted)
    chunks = [tuple(plan.wanted[start : start + plan.GROUP]) for start in range(0, total, plan.GROUP)]
    if len(chunks) == 1:  # one group would keep one worker busy
        chunks = [(index,) for index in plan.wanted]
    futures = [pool.submit(_work, job, chunk) for chunk in chunks]
    done = 0
    try:
        for future, chunk in zip(futures, chunks, strict=True):
            future.result()
            done += len(chunk)
            progress(done, total)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


_held: tuple[Job, Plan] | None = None


def _work(job: Job, indices: tuple[int, ...]) -> None:
    """Reconstruct some slices in a worker, which keeps the scan open for its next chunk."""
    global _held  # noqa: PLW0603 - one job at a time lives in a worker
    if _held is None or _held[0] != job:
        _held = (job, job.plan(job.open()))
    plan = _held[1]
    store = Spool(job.spool, plan.key())
    for index in indices:
        run_stored(plan, store, index)
