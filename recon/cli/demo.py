"""``recon demo [DIR]``, ``recon demo galaxy [DIR]``, ``recon demo cs [DIR]``, and of other tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from recon.cli.common import OUT, add_json, print_json, print_table, progress_bar
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from recon.demo import DemoOutcome
    from recon.demo_compressed import CompressedDemo
    from recon.demo_tasks import TaskDemo
    from recon.galaxies.demo import GalaxyDemo


class How(TypedDict):
    """What every demo takes."""

    seed: int
    overwrite: bool
    progress: Callable[[str, int, int], None]


@dataclass(frozen=True)
class Shown:
    """What is printed of a demo: all of it as JSON, or a table and where the files are."""

    outcome: DemoOutcome | CompressedDemo | GalaxyDemo | TaskDemo
    title: str
    table: list[dict[str, object]]
    files: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument(
        "kind",
        nargs="?",
        metavar="KIND",
        help="mri (default), galaxy, cs, ct, inpainting, deblur or tasks (all of its kind)",
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="where the files go (default: recon-demo)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")


def run(args: argparse.Namespace) -> int:
    """Reconstruct a sample by every method that is ready; print the table, write figures and report."""
    kind, folder = _kind_and_folder(args)
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        shown = _DEMOS[kind](folder, {"seed": args.seed, "overwrite": args.overwrite, "progress": tell})
    if args.json:
        print_json(asdict(shown.outcome))
        return 0
    print_table(shown.title, shown.table)
    for name, why in shown.outcome.left_out.items():
        OUT.print(f"left out: {name} ({why})", markup=False, highlight=False)
    OUT.print(shown.files, markup=False, highlight=False, soft_wrap=True)  # so that paths stay whole
    return 0


def _kind_and_folder(args: argparse.Namespace) -> tuple[str, Path]:
    """Tell ``recon demo DIR`` from ``recon demo KIND [DIR]``."""
    default = Path("recon-demo")
    if args.kind in _DEMOS:
        return args.kind, args.folder or default
    if args.folder is not None:
        raise OptionError("there is no such demo", found=args.kind, expected=", ".join(_DEMOS))
    return "mri", default if args.kind is None else Path(args.kind)


def _mri(folder: Path, how: How) -> Shown:
    from recon.demo import run_demo

    outcome = run_demo(folder, **how)
    return Shown(
        outcome,
        title="A brain from 12.4 % of its k-space, 8 coils, really acquired so",
        files=f"report: {outcome.report}",
        table=[
            {
                "method": row.method,
                "hold-out error": row.hold_out_error,
                "residual / noise": row.data_residual,
                "seconds": round(row.seconds, 2),
                "memory, MB": round(row.memory_bytes / 2**20, 0),  # which takes NaN
            }
            for row in outcome.rows
        ],
    )


def _galaxy(folder: Path, how: How) -> Shown:
    from recon.galaxies.demo import NUMBER, run_galaxy_demo

    outcome = run_galaxy_demo(folder, **how)
    return Shown(
        outcome,
        title=f"{NUMBER} simulated galaxies as LSST sees them, medians",
        files=f"pictures: {', '.join(map(str, outcome.figures))}",
        table=[
            {
                "method": row.method,
                "shear error": row.shear_error,
                "flux error": row.flux_error,
                "size error": row.size_error,
                "chi2": row.chi2,
                "without shape": row.unmeasured,
                "seconds": round(row.seconds, 2),
            }
            for row in outcome.rows
        ],
    )


def _compressed(folder: Path, how: How) -> Shown:
    from recon.demo_compressed import run_compressed_demo

    outcome = run_compressed_demo(folder, **how)
    return Shown(
        outcome,
        title="A picture from a quarter as many measurements as pixels",
        files=f"report: {outcome.report}",
        table=[
            {
                "method": row.method,
                "PSNR, dB": row.psnr,
                "SSIM": row.ssim,
                "misfit": row.misfit,
                "seconds": round(row.seconds, 2),
                "memory, MB": round(row.memory_bytes / 2**20, 0),  # which takes NaN
            }
            for row in outcome.rows
        ],
    )


def _tasks(tasks: list[str] | None, folder: Path, how: How) -> Shown:
    from recon.demo_tasks import run_task_demo

    outcome = run_task_demo(folder, tasks, **how)
    return Shown(
        outcome,
        title="Pictures from their measurements",
        files=f"report: {outcome.report}",
        table=[
            {
                "task": row.task,
                "method": row.method,
                "PSNR, dB": row.psnr,
                "SSIM": row.ssim,
                "seconds": round(row.seconds, 2),
            }
            for row in outcome.rows
        ],
    )


_DEMOS: Mapping[str, Callable[[Path, How], Shown]] = {
    "mri": _mri,
    "galaxy": _galaxy,
    "cs": _compressed,
    **{task: partial(_tasks, [task]) for task in ("ct", "inpainting", "deblur")},
    "tasks": partial(_tasks, None),
}
"""By what ``recon demo`` takes."""
