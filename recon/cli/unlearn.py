"""``recon unlearn --model NAME --forget DIR --retain DIR --out FILE``."""

from __future__ import annotations

import argparse
import ast
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.cli.common import (
    ERR,
    INTERRUPTED,
    OUT,
    add_json,
    check_weights,
    command_line,
    numbers,
    print_json,
    print_pairs,
    print_table,
    progress_bar,
    termination_as_interrupt,
)
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from recon.unlearning.examples import Examples
    from recon.unlearning.run import Unlearned
    from recon.unlearning.sources import Reading

_NOT_FORGOTTEN = 1  # exit status
_SETS = ("forget", "retain", "forget_test", "retain_test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("--model", required=True, help="a name from `recon models`, or a file of weights")
    files: dict[str, Any] = {"nargs": "+", "type": Path, "metavar": "FILE_OR_DIR"}
    parser.add_argument("--forget", required=True, help="training data to be forgotten: k-space or volumes", **files)
    parser.add_argument("--retain", help="training data to be kept, all or a part", **files)
    parser.add_argument("--forget-test", help="data like the first that were not trained on", **files)
    parser.add_argument("--retain-test", help="data like the second that were not trained on", **files)
    parser.add_argument("--out", required=True, type=Path, help="NAME.safetensors; a card, NAME.json, goes beside it")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what the audit found as HTML")
    parser.add_argument("--oracle", help="a network that was trained without what is forgotten, if there is one")
    parser.add_argument("--method", default="auto", help="default: chosen by the budget and the data")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="of the method; may be given several times",
    )
    parser.add_argument("--loss", default="auto", help="supervised or self-supervised (default: by the data)")
    parser.add_argument("--steps", type=int, help="of gradient descent at most (default: 100)")
    parser.add_argument("--batch-size", type=int, help="examples a step (default: 4)")
    parser.add_argument("--lr", type=float, help="highest learning rate (default: 3e-4)")
    parser.add_argument("--sharpness", type=float, help="radius of sharpness-aware steps, as 0.01 (default: none)")
    parser.add_argument("--outliers", type=float, default=0.0, help="share of the forget set that follows the rest")
    parser.add_argument(
        "--drift", type=float, help="what all requests together may add to the loss on what is kept (default: 0.1)"
    )
    parser.add_argument("--audit", default="quick", help="quick, full or none (default: quick)")
    parser.add_argument("--slices", type=numbers, help="forget only these slices of each file, as 0,3,5-9")
    parser.add_argument("--most", type=int, help="slices of a file at most, evenly spread")
    parser.add_argument("--matrix", type=int, nargs=2, metavar=("Y", "X"), help="crop full data and volumes to this")
    parser.add_argument("--mask", nargs="+", help="masks by which full data and volumes are undersampled")
    parser.add_argument("--acceleration", nargs="+", type=float, help="of these masks")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--device", help="where to compute (default: the accelerator if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Unlearn; after an interruption the same command goes on."""
    state = _check_outputs(args)
    with progress_bar(quiet=args.json) as bar, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        task = bar.add_task("loading", total=None)
        try:
            with termination_as_interrupt():
                result = _unlearned(
                    args, state, lambda what, n, of: bar.update(task, description=what, completed=n, total=of)
                )
        except KeyboardInterrupt:
            kept = f"; the same command goes on where it was, by what is in {state}" if state.exists() else ""
            ERR.print(f"recon: interrupted{kept}", markup=False, highlight=False, soft_wrap=True)
            return INTERRUPTED
    card = replace(result.card, command=_command(args))
    card = replace(result, card=card).save(args.out, overwrite=args.overwrite)
    if args.report is not None and result.audit is not None:
        result.audit.report(args.report, overwrite=args.overwrite)
    shutil.rmtree(state, ignore_errors=True)
    told = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    request = result.card.requests[-1]
    facts: dict[str, Any] = {
        "output": str(args.out),
        "outcome": result.verdict.outcome,
        "failed": ", ".join(result.verdict.failed) or None,
        "method": request["method"],
        "requests so far": len(result.card.requests),
        "loss on what is forgotten, over before": request["forget loss"],
        "loss on what is kept, over before": request["retain loss"],
        "drift over all requests": request["drift"],
        "examples seen": request["cost"]["samples"] + request["cost"]["forward"],
        "seconds": round(request["cost"]["seconds"], 1),
    }
    if args.json:
        print_json(
            {
                **facts,
                "failed": result.verdict.failed,
                "notes": result.notes,
                "warnings": told,
                "audit": None if result.audit is None else result.audit.as_dict(),
                "card": asdict(card),
            }
        )
    else:
        _show(result, facts, told)
    return 0 if result.forgotten or args.audit == "none" else _NOT_FORGOTTEN


def _check_outputs(args: argparse.Namespace) -> Path:
    """Meet outputs that cannot be, before any work is done; return the folder of the state."""
    from recon.datasets.atomic import check_target

    if Path(args.model).exists() and args.out.exists() and args.out.samefile(args.model):
        raise OptionError("the original is kept, and is not written over", file=args.out, cure="Choose another --out")
    check_weights(args.out, overwrite=args.overwrite)
    if args.report is not None:
        check_target(args.report, overwrite=args.overwrite)
        if args.audit == "none":
            raise OptionError("there is no report without an audit", cure="Leave out --report, or --audit none")
    return args.out.with_suffix(".unlearning")


def _unlearned(args: argparse.Namespace, state: Path, progress: Any) -> Unlearned:
    from recon.unlearning.budget import Budget
    from recon.unlearning.run import unlearn

    how = _reading(args)
    given = {
        name: getattr(args, name)
        for name in ("steps", "batch_size", "lr", "sharpness")
        if getattr(args, name) is not None
    }
    drift = {} if args.drift is None else {"drift": args.drift}
    sets: dict[str, Any] = {name: getattr(args, name) for name in _SETS}
    if args.slices is not None:
        sets["forget"], sets["retain"] = _some_slices(sets["forget"], sets["retain"], tuple(args.slices), how)
    return unlearn(
        args.model,
        **sets,
        method=args.method,
        options=dict(args.option),
        budget=Budget(**given),
        loss=args.loss,
        outliers=args.outliers,
        oracle=args.oracle,
        audit=args.audit,
        how=how,
        state=state,
        seed=args.seed,
        progress=progress,
        **drift,
    )


def _reading(args: argparse.Namespace) -> Reading:
    from recon.prepare import Preparation
    from recon.training.data.simulated import Acquisition
    from recon.training.data.slices import Sampling
    from recon.unlearning.sources import Reading

    sampling, acquisition = Sampling(), Acquisition()
    if args.mask is not None:
        sampling = replace(sampling, masks=tuple(args.mask))
        acquisition = replace(acquisition, masks=dict.fromkeys(args.mask, 1.0))
    if args.acceleration is not None:
        between = (min(args.acceleration), max(args.acceleration))
        sampling = replace(sampling, accelerations=tuple(args.acceleration))
        acquisition = replace(acquisition, acceleration=between, line_acceleration=between)
    return Reading(
        sampling=sampling,
        acquisition=acquisition,
        matrix=None if args.matrix is None else (args.matrix[0], args.matrix[1]),
        most=args.most,
        seed=args.seed,
        device=Preparation(device=args.device).resolved_device(),
    )


def _some_slices(
    forget: list[Path], retain: list[Path] | None, slices: tuple[int, ...], how: Reading
) -> tuple[Examples, Examples | None]:
    """Return these slices, and what is kept without them: their files may be among what is kept."""
    from recon.unlearning.sources import examples_of

    gone = examples_of(forget, how=replace(how, slices=slices))
    if retain is None:
        return gone, None
    kept = examples_of(retain, how=how)
    return gone, kept.subset([i for i, item in enumerate(kept) if item.digest not in gone.digests])


def _show(result: Unlearned, facts: dict[str, Any], told: list[str]) -> None:
    print_pairs("unlearned", facts.items())
    if result.verdict.checks:
        rows = [
            {"figure": c.name, "value": c.value, "wanted": c.bar, "": "" if c.passed else "FAILED"}
            for c in result.verdict.checks
        ]
        print_table("audit", rows)
    if result.audit is not None and result.audit.cannot:
        OUT.print(f"{len(result.audit.cannot)} figures cannot be given; the card says why", highlight=False)
    last = f"{result.verdict.outcome}: {result.verdict.why}"
    for note in result.notes:
        if note in told or note == last:
            continue
        OUT.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for warning in told:
        ERR.print(f"recon: warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    if not result.forgotten:
        ERR.print(f"recon: {last}", markup=False, highlight=False, soft_wrap=True)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _command(args: argparse.Namespace) -> str:
    return command_line(
        args,
        option=[word for name, value in args.option for word in ("--option", f"{name}={value}")],
        slices=[] if args.slices is None else ["--slices", ",".join(map(str, args.slices))],
    )
