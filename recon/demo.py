"""The main job on the built-in sample: every method that is ready, its figures, pictures and a report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recon.datasets.atomic import atomic_path
from recon.figures import save_comparison, save_sampling, save_trust
from recon.models import registry, takes
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.pipeline import reconstruct
from recon.report import write_report
from recon.result import Result
from recon.sample import sample_scan
from recon.slices import Trust
from recon.trial import Progress, silent, try_each
from recon.zoo import ready

BUDGET = Trust(slices=1, replicas=4, hold_out=True)
"""What a demo can afford on two cores; `recon reconstruct` spends more on the noise map."""
_SLOW = "slow on k-space; l1-wavelet is faster"
_SAMPLER = "many passes of a network a slice"
_UNLESS_ASKED_FOR = {
    "diffusion-diffpir": _SAMPLER,
    "diffusion-dps": _SAMPLER,
    "diffusion-tfg": _SAMPLER,
    "fista": _SLOW,
    "iht": _SLOW,
    "ista": _SLOW,
    "minimum-norm": "without regularisation, which so few samples need; cg-sense has it",
}
"""Methods that run only when they are named, and why."""
_FIGURES = ("comparison.png", "trust.png", "sampling.png")


@dataclass(frozen=True)
class DemoRow:
    """One line of the demo's table; NaN where a figure does not exist for the method.

    Parameters
    ----------
    method
        Name of the model.
    hold_out_error
        Relative error of left-out samples predicted by the method.
    data_residual
        Misfit in units of the expected noise.
    seconds
        Wall time of the method itself, without preparation, hold-out and noise map.
    memory_bytes
        Peak growth of the process's memory while the method ran, preparation and trust included.
    """

    method: str
    hold_out_error: float
    data_residual: float
    seconds: float
    memory_bytes: float


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo made: rows (lowest hold-out error first), methods that were left out and why, files."""

    rows: list[DemoRow]
    left_out: dict[str, str]
    report: Path
    figures: list[Path]
    seconds: float


def run_demo(
    folder: str | Path,
    methods: Sequence[str] | None = None,
    *,
    trust: Trust = BUDGET,
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> DemoOutcome:
    """Reconstruct the built-in sample with every method and write figures and ``report.html`` into ``folder``.

    Parameters
    ----------
    folder
        Where the files go; it is made where it does not exist.
    methods
        Names of models; None: all for k-space that are ready to be used. A method that does not suit the sample, or is
        slow on it, is left out, with the reason, unless it was asked for by name.
    trust
        What is spent on hold-out error and noise map.
    seed
        Seed of all random choices.
    progress
        Called with (what happens now, steps done, steps in all).
    overwrite
        Replace files of an earlier run.

    Raises
    ------
    OptionError
        A method that does not exist.
    OutputError
        A file exists and ``overwrite`` is false, or the folder cannot be written.
    """
    start = time.perf_counter()
    folder = Path(folder)
    names = [name for name in ready() if takes(name, MultiCoilMRI)] if methods is None else list(methods)
    unasked = {} if methods is not None else {name: why for name, why in _UNLESS_ASKED_FOR.items() if name in names}
    names = [name for name in names if name not in unasked]
    if not names:
        raise OptionError("the demo needs at least one method", cure=f"Choose among {', '.join(registry)}")
    tell, steps = progress or silent, len(names) + 1
    # Around all of the work: a folder that cannot be written shows before it, and the files come all or none.
    with atomic_path(folder / "report.html", overwrite=overwrite, companions=_FIGURES) as report:
        scan = sample_scan()
        results, left_out = try_each(
            names,
            lambda name: reconstruct(scan, model=name, trust=trust, seed=seed),
            by_name=methods is not None,
            tell=tell,
            steps=steps,
        )
        tell("figures and report", len(names), steps)
        rows = sorted((_row(name, result) for name, result in results.items()), key=_rank)
        ordered = {row.method: results[row.method] for row in rows}
        save_comparison(ordered, report.with_name("comparison.png"))
        save_trust(ordered, report.with_name("trust.png"))
        save_sampling(ordered[rows[0].method], report.with_name("sampling.png"))
        write_report(ordered, report, title="A brain from 12 % of its k-space")
    tell("done", steps, steps)
    figures = [folder / name for name in _FIGURES]
    return DemoOutcome(rows, left_out | unasked, folder / "report.html", figures, time.perf_counter() - start)


def _row(name: str, result: Result) -> DemoRow:
    figures = result.summary()
    return DemoRow(
        method=name,
        hold_out_error=figures.get("hold_out_error", math.nan),
        data_residual=figures.get("data_residual", math.nan),
        seconds=float(result.provenance["seconds"]["model"]),
        memory_bytes=float(result.provenance["memory_growth_bytes"]),
    )


def _rank(row: DemoRow) -> tuple[bool, float]:
    """Order by hold-out error; methods that have none come last."""
    return math.isnan(row.hold_out_error), row.hold_out_error


__all__ = ["BUDGET", "DemoOutcome", "DemoRow", "run_demo"]
