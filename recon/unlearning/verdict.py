"""May it be called forgotten? The audit's bars, and those that can be judged without an oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepinv.models import Reconstructor

from recon.unlearning.audit.checks import Check
from recon.unlearning.audit.result import Audit
from recon.unlearning.audit.subjects import JOINT, ORACLE, UNLEARNED, example_losses
from recon.unlearning.examples import Examples
from recon.unlearning.objectives import Objective

FORGOTTEN, NOT_FORGOTTEN, NOT_SHOWN = "forgotten", "NOT FORGOTTEN", "NOT SHOWN TO BE FORGOTTEN"

PRICE = ("samples", "seconds")
"""Bars that say nothing of forgetting."""
_CHANCE = "membership, to chance"
_EVIDENCE = ("forget side", "membership", _CHANCE, "CKA", "probe", "relearning", "relearning after 8 bits")
_RETAIN = 1.05  # loss on what is kept, over the joint network's
_ROSE = 1.01  # loss on what is forgotten, over the joint network's and the factor of what is kept
_TINY = 1e-12
_MEMBERSHIP, _CLEAR = 0.03, 2.0  # distance of the area to chance, and the same in standard errors
_UNSURE = 0.1  # standard error of the area from which on it shows nothing


@dataclass(frozen=True)
class Verdict:
    """What may be said.

    Parameters
    ----------
    outcome
        ``forgotten``; ``NOT FORGOTTEN``: a bar was missed; ``NOT SHOWN TO BE FORGOTTEN``: none was, but nothing that
        could be judged compares the network with one that never saw what is forgotten.
    checks
        All bars that were judged, but for the cost.
    why
        Of an outcome that is not ``forgotten``.
    """

    outcome: str
    checks: tuple[Check, ...]
    why: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the bars that were missed."""
        return tuple(check.name for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Losses:
    """Mean losses before and after, on what is forgotten and on what is kept; NaN where there are no examples."""

    forget_before: float
    forget_after: float
    retain_before: float
    retain_after: float

    @property
    def forget(self) -> float:
        """How many times as large the loss on what is forgotten became."""
        return factor(self.forget_before, self.forget_after)

    @property
    def retain(self) -> float:
        """How many times as large the loss on what is kept became."""
        return factor(self.retain_before, self.retain_after)


def mean_loss(model: Reconstructor, examples: Examples | None, objective: Objective, seed: int) -> float:
    """Mean loss over a set; NaN where there is none."""
    if examples is None or not len(examples):
        return math.nan
    return float(example_losses(model, examples, objective, seed).mean())


def judge(audit: Audit | None, losses: Losses, *, drift: float, most: float) -> Verdict:
    """Judge by the audit, by losses, and by the drift over all requests.

    Where the audit has an oracle its bars say whether enough is forgotten and enough kept. Where it has none: the loss
    on what is kept rose by 5 % at most; that on what is forgotten by 1 % more than that; and membership inference does
    not tell what was forgotten from other examples of its kind (area within 0.03 of a half, or two standard errors).

    Parameters
    ----------
    audit
        None: nothing is said of forgetting.
    losses
        Before and after.
    drift, most
        Logarithm of the factor by which all requests together changed the loss on what is kept; and its bar.
    """
    checks = [] if audit is None else [check for check in audit.checks if check.name not in PRICE]
    named = {check.name for check in checks}
    kept = not math.isnan(losses.retain_before)
    if kept and not any(name.startswith("retain") for name in named):
        checks.append(Check("retain loss", losses.retain, f"at most {_RETAIN:g} of before", losses.retain <= _RETAIN))
    if "forget side" not in named:
        gained = losses.forget / losses.retain if kept else losses.forget
        bar = f"at least {_ROSE:g} of before, and of the factor of what is kept"
        checks.append(Check("forget loss", gained, bar, gained >= _ROSE))
    if audit is not None and not any(name.startswith("membership") for name in named):
        checks += _chance(audit.figures.get("membership", {}))
    if kept:
        checks.append(
            Check("drift", math.expm1(drift), f"at most {most:g} over all requests", math.expm1(drift) <= most)
        )
    return _outcome(checks)


def _outcome(checks: Sequence[Check]) -> Verdict:
    failed = [check for check in checks if not check.passed]
    if failed:
        why = "; ".join(f"{check.name} is {check.value:.4g}, to be {check.bar}" for check in failed)
        return Verdict(NOT_FORGOTTEN, tuple(checks), why)
    if not any(check.name in _EVIDENCE for check in checks):
        why = "nothing compares it with a network that never saw what is forgotten, or with examples that it never saw"
        return Verdict(NOT_SHOWN, tuple(checks), why)
    return Verdict(FORGOTTEN, tuple(checks))


def _chance(row: Mapping[str, Any]) -> list[Check]:
    """Hold membership inference against chance; what few examples leave open is left out."""
    found = row.get(UNLEARNED)
    if found is None or ORACLE in row or not found["error"] <= _UNSURE:
        return []
    bar = max(_MEMBERSHIP, _CLEAR * found["error"])
    away = abs(found["auc"] - 0.5)
    return [Check(_CHANCE, away, f"an area within {bar:.2g} of a half", away <= bar)]


def unknown_members(audit: Audit) -> bool:
    """Tell whether nothing could be said of whether the joint network knew what was to be forgotten."""
    return JOINT not in audit.figures.get("membership", {})


def factor(before: float, after: float) -> float:
    """Return how many times as large a loss became."""
    return max(after, _TINY) / max(before, _TINY)
