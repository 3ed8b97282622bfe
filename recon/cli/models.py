"""``recon models [NAME]``."""

from __future__ import annotations

import argparse

from recon.cli.common import OUT, add_json, print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("name", nargs="?", help="describe this one")


def run(args: argparse.Namespace) -> int:
    """List the methods, or describe one."""
    from recon import models
    from recon.zoo import describe

    if args.name is not None:
        card = describe(args.name)
        if args.json:
            print_json(card)
        else:
            OUT.print(card["name"], style="bold")
            OUT.print(card["description"], markup=False, highlight=False)
        return 0
    cards = [describe(name) for name in models.registry]
    if args.json:
        print_json(cards)
    else:
        print_table("models", [{"name": card["name"], "what": card["summary"]} for card in cards])
    return 0
