"""Which method fits the budget and the data there are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.registry import Method, methods

_FEW = 20  # steps, below which there is no time to go up and come back


@dataclass(frozen=True)
class Choice:
    """A method, its options where they are not its own defaults, and why it was chosen."""

    method: Method
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)


def choose(
    name: str, options: Mapping[str, Any], budget: Budget, *, retain: bool, truth: bool, without: str = ""
) -> Choice:
    """Take the method that is asked for, or find one.

    Parameters
    ----------
    name, options
        As users give them; ``auto`` lets the budget and the data decide.
    budget
        Its steps.
    retain, truth
        Whether there is a retain set; whether all examples have ground truth.
    without
        An example that has none, for the message.

    Raises
    ------
    OptionError
        No such method or option; a method that needs a retain set, or ground truth, that is not there.
    """
    choice = _automatic(budget, retain=retain) if name == "auto" else Choice(methods[name], "asked for")
    method = choice.method
    if method.needs_retain and not retain:
        able = ", ".join(other for other in methods if not methods[other].needs_retain)
        raise OptionError(f"{method.name} needs a retain set, and there is none", cure=f"Take one of: {able}")
    if method.needs_truth and not truth:
        raise OptionError(
            f"{method.name} needs ground truth, and not all examples have it",
            found=without or None,
            cure="Take another method, or examples made of fully sampled data",
        )
    known = {
        p.name
        for p in inspect.signature(method.function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    if unknown := sorted(set(options) - known):
        raise OptionError(
            f"{method.name} has no option {unknown[0]!r}", expected=f"some of {', '.join(sorted(known)) or 'none'}"
        )
    return Choice(method, choice.why, {**choice.options, **options})


def _automatic(budget: Budget, *, retain: bool) -> Choice:
    if not retain:
        why = "there is no retain set, so that it goes up on what is forgotten, not far, and nothing is repaired"
        return Choice(methods["gradient_ascent"], why, {"bound": 1.1})
    if budget.steps < _FEW:
        why = f"{budget.steps} steps are too few to ascend and repair: weights are dampened at once, then repaired"
        return Choice(methods["ssd"], why, {"repair": 0.8})
    return Choice(methods["ga_finetune"], "there are a retain set, and steps to forget and to repair")
