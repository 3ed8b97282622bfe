"""``recon demo ct``, ``recon demo inpainting``, ``recon demo deblur``, and of all tasks ``recon demo tasks``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recon.cli.common import OUT, print_json, print_table, progress_bar

KINDS = ("ct", "inpainting", "deblur", "tasks")
"""What ``recon demo`` takes."""


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measure pictures, reconstruct them by every method that suits; print the table, write the page."""
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.demo_tasks import TASKS, run_task_demo

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        wanted = list(TASKS) if args.kind == "tasks" else [args.kind]
        outcome = run_task_demo(folder, wanted, seed=args.seed, progress=tell, overwrite=args.overwrite)
    if args.json:
        print_json(
            {
                "rows": [asdict(row) for row in outcome.rows],
                "left_out": outcome.left_out,
                "report": str(outcome.report),
                "seconds": outcome.seconds,
            }
        )
        return 0
    print_table(
        "Pictures from their measurements",
        [
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
    for name, why in outcome.left_out.items():
        OUT.print(f"left out: {name} ({why})", markup=False, highlight=False)
    OUT.print(f"report: {outcome.report}", markup=False, highlight=False)
    return 0
