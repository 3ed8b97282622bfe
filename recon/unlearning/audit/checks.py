"""The bars that an unlearned network has to pass, and which it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recon.unlearning.audit.relearning import PLAIN, QUANTISED
from recon.unlearning.audit.subjects import FORGET_TEST, JOINT, NO_ORACLE, ORACLE, UNLEARNED, CannotError


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The bars.

    Parameters
    ----------
    retain_psnr, retain_ssim
        What may be missing to the oracle on what is kept (dB for the first).
    hallucination
        Share of the joint network's excess of null-space energy that is gone.
    forget_better, forget_worse
        By how much the network may be better, and worse, than the oracle on what was forgotten, dB.
    membership
        Distance of the area under the ROC to the oracle's.
    relearning
        By what share the area under the relearning curve may be below the oracle's.
    cost
        Share of the oracle's samples and seconds.
    """

    retain_psnr: float = 0.1
    retain_ssim: float = 0.002
    hallucination: float = 0.9
    forget_better: float = 0.2
    forget_worse: float = 0.5
    membership: float = 0.03
    relearning: float = 0.1
    cost: float = 0.1


@dataclass(frozen=True)
class Check:
    """A bar: its name, what was found, what was wanted, and whether it was met."""

    name: str
    value: float
    bar: str
    passed: bool


Figures = Mapping[str, Any]
_Outcome = tuple[float, str, bool]


def check_all(rows: Mapping[str, Figures], bars: Thresholds) -> tuple[list[Check], dict[str, str]]:
    """Hold the figures of the rows against the bars; second, the bars that cannot be judged, and why.

    Bars of rows that were not run are left out of both.
    """
    checks, cannot = [], {}
    for name, (row, judge) in _BARS.items():
        if row not in rows:
            continue
        try:
            value, bar, passed = judge(rows[row], bars)
        except CannotError as error:
            cannot[name] = str(error)
            continue
        except _NotAskedError:
            continue
        if math.isfinite(value):
            checks.append(Check(name, value, bar, passed))
        else:
            cannot[name] = "the figure is not finite"
    return checks, cannot


def _quality(metric: str, bar: str, unit: str) -> Callable[[Figures, Thresholds], _Outcome]:
    def judge(row: Figures, bars: Thresholds) -> _Outcome:
        value, most = _found(row, "gap to oracle", metric), getattr(bars, bar)
        return value, f"at least -{most:g}{unit}", value >= -most

    return judge


def _to_joint(row: Figures, bars: Thresholds) -> _Outcome:
    _without_oracle(ORACLE in row.get("mean", {}))
    value = _found(row, f"gap to {JOINT}", "psnr")
    return value, f"at least -{bars.retain_psnr:g} dB", value >= -bars.retain_psnr


def _to_chance(row: Figures, bars: Thresholds) -> _Outcome:
    """Within the bar, or two standard errors where the examples are too few to tell."""
    _without_oracle(ORACLE in row)
    value, most = row["distance to chance"], max(bars.membership, 2 * row[UNLEARNED]["error"])
    return value, f"at most {most:.2g}", value <= most


def _without_oracle(there_is_one: bool) -> None:
    if there_is_one:
        raise _NotAskedError


class _NotAskedError(Exception):
    """A bar that stands in for another one, which can be judged."""


def _hallucination(row: Figures, bars: Thresholds) -> _Outcome:
    if "share of the excess gone" not in row:
        why = "the joint model makes up no more than the oracle" if ORACLE in row["null-space energy"] else NO_ORACLE
        raise CannotError(why)
    value = row["share of the excess gone"]
    return value, f"at least {bars.hallucination:g}", value >= bars.hallucination


def _forget_side(row: Figures, bars: Thresholds) -> _Outcome:
    value = _found(row, FORGET_TEST, "gap to oracle", "psnr")
    return (
        value,
        f"from -{bars.forget_worse:g} to {bars.forget_better:g} dB",
        -bars.forget_worse <= value <= bars.forget_better,
    )


def _membership(row: Figures, bars: Thresholds) -> _Outcome:
    value = _found(row, "distance to oracle")
    return value, f"at most {bars.membership:g}", value <= bars.membership


def _cka(row: Figures, _bars: Thresholds) -> _Outcome:
    groups = _found(row, FORGET_TEST, "groups")
    if f"to {ORACLE}" not in groups:
        raise CannotError(NO_ORACLE)
    pairs = [(groups[f"to {ORACLE}"][g], groups[f"to {JOINT}"][g]) for g in groups[f"to {ORACLE}"]]
    return _share_nearer([(1 - oracle, 1 - joint) for oracle, joint in pairs])


def _probe(row: Figures, _bars: Thresholds) -> _Outcome:
    accuracy = row["balanced accuracy"]
    if ORACLE not in accuracy:
        raise CannotError(NO_ORACLE)
    own = accuracy[UNLEARNED]
    return _share_nearer([(abs(own[g] - accuracy[ORACLE][g]), abs(own[g] - accuracy[JOINT][g])) for g in own])


def _share_nearer(distances: list[tuple[float, float]]) -> _Outcome:
    """Share of the groups of layers that are no farther from the oracle than from the joint network."""
    known = [(oracle, joint) for oracle, joint in distances if math.isfinite(oracle) and math.isfinite(joint)]
    nearer = sum(oracle <= joint for oracle, joint in known)
    value = nearer / len(known) if known else math.nan
    return value, f"nearer to the oracle in all {len(known)} groups of layers", nearer == len(known)


def _relearning(treatment: str) -> Callable[[Figures, Thresholds], _Outcome]:
    def judge(row: Figures, bars: Thresholds) -> _Outcome:
        value = _found(row, treatment, "area over the oracle's")
        return value, f"at least {1 - bars.relearning:g}", value >= 1 - bars.relearning

    return judge


def _cost(what: str) -> Callable[[Figures, Thresholds], _Outcome]:
    def judge(row: Figures, bars: Thresholds) -> _Outcome:
        if what not in row.get("share", {}):
            raise CannotError("what the oracle cost was not given")
        value = row["share"][what]
        return value, f"at most {bars.cost:g}", value <= bars.cost

    return judge


_BARS: dict[str, tuple[str, Callable[[Figures, Thresholds], _Outcome]]] = {
    "retain PSNR": ("quality", _quality("psnr", "retain_psnr", " dB")),
    "retain SSIM": ("quality", _quality("ssim", "retain_ssim", "")),
    "retain PSNR, to the joint network": ("quality", _to_joint),
    "hallucination": ("hallucination", _hallucination),
    "forget side": ("forgetting", _forget_side),
    "membership": ("membership", _membership),
    "membership, to chance": ("shadow", _to_chance),
    "CKA": ("cka", _cka),
    "probe": ("probe", _probe),
    "relearning": ("relearning", _relearning(PLAIN)),
    "relearning after 8 bits": ("relearning", _relearning(QUANTISED)),
    "samples": ("price", _cost("samples")),
    "seconds": ("price", _cost("seconds")),
}


FORGETTING = frozenset({"forget side", "membership", "membership, to chance", "CKA", "probe", "relearning"})
"""Bars that tell whether something was forgotten; the others tell what it cost and what else it did."""


def _found(row: Figures, *path: str) -> Any:
    for key in path:
        if key not in row:
            raise CannotError(NO_ORACLE if "oracle" in key else f"there is no figure of the {key}")
        row = row[key]
    return row
