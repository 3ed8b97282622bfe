"""``recon demo [DIR]``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recon.cli.common import OUT, add_json, print_json, print_table, progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("recon-demo"), help="where the files go")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")


def run(args: argparse.Namespace) -> int:
    """Reconstruct the built-in sample by every method; print the table, write figures and report."""
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.demo import run_demo

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        outcome = run_demo(args.folder, seed=args.seed, progress=tell, overwrite=args.overwrite)
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
