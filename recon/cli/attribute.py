"""``recon attribute --model FILE --query FILE --train DIR [--out FILE.html]``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.cli.common import OUT, add_json, numbers, print_table, progress_bar
from recon.cli.reports import check_report, print_findings, print_output, write_report
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from recon.unlearning.sources import Reading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("--model", required=True, help="a name from `recon models`, or a file of weights")
    parser.add_argument(
        "--query", required=True, nargs="+", type=Path, metavar="FILE", help="scans or volumes that are asked about"
    )
    parser.add_argument(
        "--train", required=True, nargs="+", type=Path, metavar="DIR", help="what the network was trained on"
    )
    parser.add_argument("--out", type=Path, help="write a page with pictures, FILE.html, or all scores, FILE.json")
    parser.add_argument("--top", type=int, default=10, help="slices that are listed on either side (default: 10)")
    parser.add_argument(
        "--method",
        choices=("auto", "source", "influence", "tracin"),
        default="auto",
        help="default: source where steps and learning rate are given, else influence",
    )
    parser.add_argument(
        "--figure",
        choices=("auto", "hallucination", "error", "loss"),
        default="auto",
        help="what of the query is explained (default: hallucination, of data without truth the loss)",
    )
    parser.add_argument("--slices", type=numbers, help="slices of the queries, as 0,3,5-9 (default: all)")
    parser.add_argument("--most", type=int, help="training slices of a file at most, evenly spread (default: all)")
    parser.add_argument(
        "--checkpoints", nargs="+", type=Path, default=[], metavar="FILE", help="earlier weights, first to last"
    )
    parser.add_argument("--steps", type=int, help="steps of the training")
    parser.add_argument(
        "--lr", type=float, nargs="+", help="mean learning rate, or one for the steps of each checkpoint and the last"
    )
    parser.add_argument("--optimiser", choices=("adam", "sgd"), default="adam", help="of the training (default: adam)")
    parser.add_argument("--batch-size", type=int, default=1, help="of the training (default: 1)")
    parser.add_argument(
        "--acceleration", type=float, default=4.0, help="by which full data are undersampled (default: 4)"
    )
    parser.add_argument("--matrix", type=int, nargs=2, metavar=("Y", "X"), help="crop or fill full data to this size")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Print the slices that most harm and help."""
    check_report(args.out, overwrite=args.overwrite)
    if args.top < 1:
        raise OptionError("at least one slice is listed", found=args.top)
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from dataclasses import replace

        from recon.unlearning.attribution.run import attribute
        from recon.unlearning.sources import examples_of
        from recon.zoo import load_model

        def tell(done: int, total: int) -> None:
            bar.update(task, description="looking at slices", completed=done, total=total)

        how = _reading(args)
        found = attribute(
            load_model(args.model).to(args.device),
            examples_of(args.query, how=replace(how, slices=None if args.slices is None else tuple(args.slices))),
            examples_of(args.train, how=replace(how, most=args.most)),
            method=args.method,
            figure=args.figure,
            checkpoints=[load_model(path).to(args.device) for path in args.checkpoints],
            steps=args.steps,
            lr=None if args.lr is None else (args.lr[0] if len(args.lr) == 1 else args.lr),
            optimiser=args.optimiser,
            batch_size=args.batch_size,
            seed=args.seed,
            progress=tell,
        )
    write_report(found, args.out, overwrite=args.overwrite)
    if args.json:
        print_findings(found, args.out)
        return 0
    mean = sum(found.values) / len(found.values)
    OUT.print(
        f"{found.figure} {mean:.4g} of {len(found.query)} queries; by {found.method}, {len(found.train)} training "
        f"slices, {found.seconds:.0f} s",
        highlight=False,
    )
    for title, chosen in (("harm most", found.harmful(args.top)), ("help most", found.helpful(args.top))):
        rows: list[dict[str, Any]] = [
            {"slice": found.train[i].name, f"{found.figure} without it": f"{float(found.mean[i]):+.3%}"} for i in chosen
        ]
        if rows:
            print_table(title, rows)
        else:
            OUT.print(f"{title}: none")
    if len(found.files) > 1:
        column = f"{found.figure} without it"
        print_table("files", [{"file": name, column: f"{value:+.2%}"} for name, value in found.files.items()])
    print_output(args.out)
    return 0


def _reading(args: argparse.Namespace) -> Reading:
    from dataclasses import replace

    from recon.training.data.slices import Sampling
    from recon.unlearning.sources import Reading

    both = (args.acceleration, args.acceleration)
    how = Reading(seed=args.seed, device=args.device, matrix=None if args.matrix is None else tuple(args.matrix))
    return replace(
        how,
        sampling=Sampling(accelerations=(args.acceleration,)),
        acquisition=replace(how.acquisition, acceleration=both, line_acceleration=both),
    )
