"""``recon demo cs [DIR]``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recon.cli.common import OUT, print_json, print_table, progress_bar


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measure a picture, reconstruct it by every method that is ready; print the table, write figure and report."""
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.demo_compressed import run_compressed_demo

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        outcome = run_compressed_demo(folder, seed=args.seed, progress=tell, overwrite=args.overwrite)
    if args.json:
        print_json(
            {
                "rows": [asdict(row) for row in outcome.rows],
                "left_out": outcome.left_out,
                "report": str(outcome.report),
                "figures": [str(path) for path in outcome.figures],
                "seconds": outcome.seconds,
            }
        )
        return 0
    print_table(
        "A picture from a quarter as many measurements as pixels",
        [
            {
                "method": row.method,
                "PSNR, dB": row.psnr,
                "SSIM": row.ssim,
                "misfit": row.misfit,
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
