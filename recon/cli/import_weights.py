"""``recon import-weights FILE --model NAME --out FILE``."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from recon.cli.common import ERR, OUT, add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="of DIRECT, fastMRI, deepinv, Galaxy-Deconv, ISTA-Net ...: .pt"
    )
    parser.add_argument(
        "--model",
        required=True,
        help="ours: recurrentvarnet, unet, varnet, drunet-pnp, galaxy-admm, ...",
    )
    parser.add_argument("--out", type=Path, required=True, help="NAME.safetensors; a card, NAME.json, goes beside it")
    parser.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model that the weights do not tell, such as initialiser=kspace",
    )
    parser.add_argument(
        "--with",
        dest="beside",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.mat",
        help="matrices that belong to the weights: ISTA-Net's Initialization_Matrix_*.mat, or phi_*.mat with blocks",
    )
    parser.add_argument("--licence", default="", help="of the weights, for the card")
    parser.add_argument("--half", action="store_true", help="store 16 bits a number")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Convert."""
    from recon.cards import Card
    from recon.checkpoint import save_checkpoint, sha256
    from recon.foreign.reading import import_weights

    model, notes = import_weights(args.file, args.model, dict(args.set), args.beside)
    words = ["recon", "import-weights", str(args.file), "--model", args.model, "--out", str(args.out)]
    words += [word for file in args.beside for word in ("--with", str(file))]
    words += [word for name, value in args.set for word in ("--set", f"{name}={value}")]
    card = Card(
        summary=f"converted from {args.file.name}, sha256 {sha256(args.file)[:12]}...",
        licence=args.licence,
        command=shlex.join(words),
    )
    card = save_checkpoint(args.out, model, card, half=args.half, overwrite=args.overwrite)
    if args.json:
        print_json({"output": str(args.out), "notes": notes, "card": card.as_dict()})
        return 0
    for note in notes:
        ERR.print(f"note: {note}", highlight=False)
    OUT.print(f"{args.out}: {card.model}, {card.parameters:,} parameters", highlight=False, soft_wrap=True)
    return 0


def _assignment(text: str) -> tuple[str, Any]:
    """Parse ``name=value``; for argparse."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return name, value
