"""``recon models [NAME]``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from recon.cli.common import OUT, add_json, print_json, print_pairs, print_table, text_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("name", nargs="?", help="describe this one: a name, or a file of weights")


def run(args: argparse.Namespace) -> int:
    """List the methods and the weights that come with the package, or describe one."""
    from recon import models
    from recon.cards import shipped
    from recon.zoo import describe

    if args.name is not None:
        card = describe(args.name)
        if args.json:
            print_json(card)
        else:
            OUT.print(card["name"], style="bold")
            OUT.print(card["description"], markup=False, highlight=False)
            if "card" in card:
                print_pairs("weights", ((name, _shown(value)) for name, value in card["card"].items() if value))
        return 0
    cards = [describe(name) for name in dict.fromkeys([*models.registry, *shipped()])]
    if args.json:
        print_json(cards)
    else:
        print_table("models", [{"name": card["name"], "what": card["summary"]} for card in cards])
    return 0


def _shown(value: object) -> object:
    """Write an entry of a card in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        numbers = len(value) == 2 and all(isinstance(item, int | float) for item in value)
        return (" to " if numbers else ", ").join(text_of(item) for item in value)
    return text_of(value)
