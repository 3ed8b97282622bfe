"""``recon demo [DIR]``, ``recon demo galaxy [DIR]``, ``recon demo cs [DIR]``, and of other tasks."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recon.cli import demo_compressed, demo_galaxy, demo_tasks
from recon.cli.common import OUT, add_json, print_json, print_table, progress_bar
from recon.physics.errors import OptionError


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
    runs = {"mri": _run_mri, "galaxy": demo_galaxy.run, "cs": demo_compressed.run}
    return runs.get(kind, demo_tasks.run)(args, folder)


def _kind_and_folder(args: argparse.Namespace) -> tuple[str, Path]:
    """Tell ``recon demo DIR`` from ``recon demo KIND [DIR]``."""
    default = Path("recon-demo")
    if args.kind in ("mri", "galaxy", "cs", *demo_tasks.KINDS):
        return args.kind, args.folder or default
    if args.folder is not None:
        raise OptionError(
            "there is no such demo", found=args.kind, expected=f"mri, galaxy, cs, {', '.join(demo_tasks.KINDS)}"
        )
    return "mri", default if args.kind is None else Path(args.kind)


def _run_mri(args: argparse.Namespace, folder: Path) -> int:
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.demo import run_demo

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        outcome = run_demo(folder, seed=args.seed, progress=tell, overwrite=args.overwrite)
    rows = [asdict(row) for row in outcome.rows]
    if args.json:
        print_json(
            {
                "rows": rows,
                "left_out": outcome.left_out,
                "report": str(outcome.report),
                "figures": [str(path) for path in outcome.figures],
                "seconds": outcome.seconds,
            }
        )
        return 0
    print_table(
        "A brain from 12.4 % of its k-space, 8 coils, really acquired so",
        [
            {
                "method": row.method,
                "hold-out error": row.hold_out_error,
                "residual / noise": row.data_residual,
                "seconds": round(row.seconds, 2),
                "memory, MB": round(row.memory_bytes / 2**20),
            }
            for row in outcome.rows
        ],
    )
    for name, why in outcome.left_out.items():
        OUT.print(f"left out: {name} ({why})", markup=False, highlight=False)
    OUT.print(f"report: {outcome.report}", markup=False, highlight=False)
    return 0
