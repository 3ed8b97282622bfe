"""``recon finetune --model NAME --data FILE_OR_DIR --out FILE``."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from recon.cli.common import (
    ERR,
    INTERRUPTED,
    OUT,
    add_json,
    check_weights,
    command_line,
    print_json,
    print_pairs,
    progress_bar,
    termination_as_interrupt,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("--model", required=True, help="a name from `recon models`, or a file of weights")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE_OR_DIR",
        help="raw measurements: k-space, compressed measurements, galaxy stamps",
    )
    parser.add_argument("--out", required=True, type=Path, help="NAME.safetensors; a card, NAME.json, goes beside it")
    parser.add_argument(
        "--loss",
        default="auto",
        help="ssdu sure unsure sure-poisson sure-poisson-gaussian r2r mc, or of unfolded networks objective "
        "objective-all-layers (default: chosen by the data)",
    )
    parser.add_argument(
        "--null-space", default="auto", help="equivariant, multi-operator or none (default: chosen by the data)"
    )
    parser.add_argument("--null-weight", type=float, help="weight of that term (default: 0.1)")
    parser.add_argument("--rank", type=int, help="train low-rank adapters of this rank only (default: all weights)")
    parser.add_argument("--steps", type=int, help="at most (default: 200)")
    parser.add_argument("--lr", type=float, help="highest learning rate (default: 2e-4)")
    parser.add_argument("--optimiser", choices=("adam", "muon"), help="default: adam")
    parser.add_argument("--accumulate", type=int, help="measurements a step (default: 1)")
    parser.add_argument("--every", type=int, help="steps between looks at the held-out error (default: 10)")
    parser.add_argument("--patience", type=int, help="looks without a better one until it stops (default: 6)")
    parser.add_argument("--most", type=int, help="measurements at most, evenly spread (default: 1000)")
    parser.add_argument("--psf", type=Path, metavar="FILE", help="PSFs of galaxy stamps, one each or one for all")
    parser.add_argument("--coils", type=int, help="compress k-space to this many virtual coils")
    parser.add_argument("--maps", type=int, choices=(1, 2), help="sets of coil maps (default: as the data need)")
    parser.add_argument("--whiten", choices=("auto", "corners", "none"), default="auto", help="noise pre-whitening")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--device", help="where to compute (default: the accelerator if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Fine-tune; the best weights so far are written after Ctrl-C and a termination signal too."""
    check_weights(args.out, overwrite=args.overwrite)
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("loading", total=None)
        from recon.finetuning.loop import Descent
        from recon.finetuning.run import finetune
        from recon.prepare import Preparation

        def tell(step: int, steps: int, before: float, best: float) -> None:
            bar.update(task, description=f"held-out error {before:.4g}, best {best:.4g}", completed=step, total=steps)

        given = {
            name: getattr(args, name)
            for name in ("steps", "lr", "optimiser", "accumulate", "every", "patience")
            if getattr(args, name) is not None
        }
        others = {name: getattr(args, name) for name in ("null_weight", "most") if getattr(args, name) is not None}
        with termination_as_interrupt():
            tuned = finetune(
                args.model,
                list(args.data),
                loss=args.loss,
                null_space=args.null_space,
                rank=args.rank,
                descent=Descent(**given),
                psf=args.psf,
                how=Preparation(coils=args.coils, whiten=args.whiten, map_sets=args.maps, device=args.device),
                seed=args.seed,
                progress=tell,
                **others,
            )
    command = command_line(args, data=["--data", *map(str, args.data)])
    card = replace(tuned.card, command=command) if tuned.improved else tuned.card
    card = replace(tuned, card=card).save(args.out, overwrite=args.overwrite)
    facts: dict[str, Any] = {
        "output": str(args.out),
        "held-out error before": tuned.course.before,
        "held-out error after": tuned.course.after,
        "steps": tuned.course.step,
        "stopped": tuned.course.stop,
        "improved": tuned.improved,
    }
    if args.json:
        print_json({**facts, "notes": tuned.notes, "history": tuned.course.history, "card": asdict(card)})
    else:
        gained = 1 - tuned.course.after / tuned.course.before if tuned.course.before else math.nan
        print_pairs("fine-tuned", [*facts.items(), ("change", f"{-gained:+.1%}")])
        for note in tuned.notes:
            OUT.print(f"note: {note}", markup=False, highlight=False)
    if tuned.course.stop == "interrupted":
        ERR.print("recon: interrupted; the best weights so far were written", markup=False, highlight=False)
        return INTERRUPTED
    return 0
