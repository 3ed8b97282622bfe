"""``recon demo galaxy [DIR]``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recon.cli.common import OUT, print_json, print_table, progress_bar


def run(args: argparse.Namespace, folder: Path) -> int:
    """Simulate galaxies, deblur them by every method that is ready; print the table, write figures."""
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.galaxies.demo import NUMBER, run_galaxy_demo

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        outcome = run_galaxy_demo(folder, seed=args.seed, progress=tell, overwrite=args.overwrite)
    if args.json:
        print_json(
            {
                "rows": [asdict(row) for row in outcome.rows],
                "left_out": outcome.left_out,
                "figures": [str(path) for path in outcome.figures],
                "seconds": outcome.seconds,
            }
        )
        return 0
    print_table(
        f"{NUMBER} simulated galaxies as LSST sees them, medians",
        [
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
    for name, why in outcome.left_out.items():
        OUT.print(f"left out: {name} ({why})", markup=False, highlight=False)
    OUT.print(f"pictures: {', '.join(map(str, outcome.figures))}", markup=False, highlight=False)
    return 0
