"""``recon audit-data DIR DIR... [--acceleration 4 8] [--minutes 15] [--out FILE.html]``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.cli.common import ERR, INTERRUPTED, OUT, add_json, print_table, progress_bar
from recon.cli.reports import check_report, print_findings, print_output, write_report
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from recon.unlearning.sharing import DataAudit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DIR",
        help="a folder for each organ, of scans or volumes; NAME=DIR gives it another name than the folder's. Files in "
        "one folder inside it are one subject",
    )
    parser.add_argument("--acceleration", nargs="+", type=float, default=[4.0, 8.0], help="of the scans (default: 4 8)")
    parser.add_argument("--minutes", type=float, default=15.0, help="what it may take in all (default: 15)")
    parser.add_argument("--steps", type=int, help="steps of each training (default: what the time allows)")
    parser.add_argument("--network", choices=("unet", "varnet"), default="unet", help="small network (default: unet)")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind (default: 2)")
    parser.add_argument("--slices", type=int, default=80, help="training slices of an organ at most (default: 80)")
    parser.add_argument("--matrix", type=int, default=96, help="side of the images (default: 96)")
    parser.add_argument("--out", type=Path, help="write a page with heat maps, FILE.html, or figures, FILE.json")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Print the sharing matrix; what is finished is written after Ctrl-C too."""
    check_report(args.out, overwrite=args.overwrite)
    organs = _named(args.data)
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("reading", total=None)
        from recon.unlearning.data_audit import audit_data
        from recon.unlearning.sharing import Plan
        from recon.unlearning.sources import Reading

        def tell(step: int, steps: int) -> None:
            bar.update(task, description="training", completed=step, total=steps)

        plan = Plan(
            accelerations=tuple(args.acceleration),
            seconds=60 * args.minutes,
            steps=args.steps,
            network=args.network,
            seeds=args.seeds,
            train=args.slices,
            matrix=(args.matrix, args.matrix),
            seed=args.seed,
        )
        audit = audit_data(organs, plan=plan, how=Reading(device=args.device), progress=tell)
    write_report(audit, args.out, overwrite=args.overwrite)
    if args.json:
        print_findings(audit, args.out)
    else:
        _tell(audit, args.out)
    if not audit.complete:
        ERR.print("recon: interrupted; this is what was finished", markup=False, highlight=False)
        return INTERRUPTED
    return 0


def _named(data: list[str]) -> dict[str, Path]:
    organs: dict[str, Path] = {}
    for text in data:
        name, sign, path = text.partition("=")
        folder = Path(path if sign and not Path(text).exists() else text)
        name = name if sign and folder != Path(text) else folder.resolve().name
        if not folder.exists():
            raise OptionError("there is no such folder", found=str(folder))
        if name in organs:
            raise OptionError("two organs of one name", found=name, cure="Name them: NAME=DIR")
        organs[name] = folder
    return organs


def _tell(audit: DataAudit, out: Path | None) -> None:
    found = {(s.acceleration, s.tested, s.beside): s for s in audit.sharing}
    for acceleration in audit.plan.accelerations:
        rows: list[dict[str, Any]] = []
        for tested in audit.organs:
            alone = audit.psnr.get((acceleration, tested, tested))
            row: dict[str, Any] = {"tested": tested, "alone, dB": None if alone is None else f"{alone:.2f}"}
            for beside in audit.organs:
                entry = found.get((acceleration, tested, beside))
                mark = "" if entry is None or entry.verdict == "no clear difference" else f" {entry.verdict}"
                row[f"with {beside}"] = None if entry is None else f"{entry.gain:+.2f}{mark}"
            rows.append(row)
        print_table(f"gain in dB at {acceleration:g}x, {audit.plan.steps} steps, {audit.plan.seeds} seeds", rows)
    for line in audit.advice or ["no pair of organs helps or harms clearly"]:
        OUT.print(line, markup=False, highlight=False)
    for note in audit.notes:
        OUT.print(f"note: {note}", markup=False, highlight=False)
    print_output(out)
