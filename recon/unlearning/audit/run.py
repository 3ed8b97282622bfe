"""`recon.audit`: all rows of the audit, the bars, the score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepinv.models import Reconstructor

from recon.physics.errors import DataError, OptionError
from recon.unlearning.audit.checks import Thresholds, check_all
from recon.unlearning.audit.features import cka, probe
from recon.unlearning.audit.forgetting import forgetting
from recon.unlearning.audit.hallucination import hallucination
from recon.unlearning.audit.leak import leak
from recon.unlearning.audit.membership import known_members, membership
from recon.unlearning.audit.price import price
from recon.unlearning.audit.quality import quality
from recon.unlearning.audit.relearning import relearning
from recon.unlearning.audit.restoration import restoration
from recon.unlearning.audit.result import Audit
from recon.unlearning.audit.score import score
from recon.unlearning.audit.shadow import shadow_membership
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_ORACLE,
    FORGET_TEST,
    JOINT,
    NON_MEMBERS,
    ORACLE,
    RETAIN,
    RETAIN_TEST,
    SCRATCH,
    THIRD,
    CannotError,
    Effort,
    Picture,
    Row,
    Subjects,
    Unlearn,
)
from recon.unlearning.audit.worst_case import worst_case
from recon.unlearning.budget import Meter, Progress
from recon.unlearning.examples import Examples, check_disjoint
from recon.unlearning.objectives import Objective, Supervised

_CHEAP: dict[str, Callable[[Subjects], Row]] = {
    "quality": quality,
    "hallucination": hallucination,
    "forgetting": forgetting,
    "cka": cka,
    "probe": probe,
    "membership": membership,
    "price": price,
}
_COSTLY: dict[str, Callable[[Subjects], Row]] = {
    "shadow": shadow_membership,
    "worst case": worst_case,
    "leak": leak,
    "relearning": relearning,
    "restoration": restoration,
}
CHEAP = tuple(_CHEAP)
"""Rows that only look at what the networks make of the examples."""
ROWS = (*_CHEAP, *_COSTLY)
"""These, and those that train or reconstruct again and again."""


class Auditor:
    """Audits one unlearned network after another against the same others and the same examples.

    What is found about the joint network, the oracle and the others, shadow models and the worst subset among it, is
    found once. Parameters are those of `audit`.
    """

    def __init__(
        self,
        joint: Reconstructor,
        oracle: Reconstructor | None = None,
        *,
        forget: Examples,
        retain: Examples | None = None,
        forget_test: Examples | None = None,
        retain_test: Examples | None = None,
        non_members: Examples | None = None,
        third: Examples | None = None,
        forget_oracle: Reconstructor | None = None,
        scratch: Reconstructor | None = None,
        oracle_cost: Meter | None = None,
        thresholds: Thresholds | None = None,
        objective: Objective | None = None,
        effort: Effort | None = None,
        seed: int = 0,
    ) -> None:
        sets = {
            FORGET: forget,
            RETAIN: retain,
            FORGET_TEST: forget_test,
            RETAIN_TEST: retain_test,
            NON_MEMBERS: non_members,
            THIRD: third,
        }
        _check_sets(sets)
        networks = {JOINT: joint, ORACLE: oracle, FORGET_ORACLE: forget_oracle, SCRATCH: scratch}
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self._subjects = Subjects(
            models={name: copy.deepcopy(network).eval() for name, network in networks.items() if network is not None},
            sets={name: found for name, found in sets.items() if found is not None and len(found)},
            objective=Supervised() if objective is None else objective,
            seed=seed,
            effort=Effort() if effort is None else effort,
            oracle_cost=oracle_cost,
        )

    def audit(
        self,
        model: Reconstructor,
        *,
        method: Unlearn | None = None,
        cost: Meter | None = None,
        rows: Sequence[str] = ROWS,
        progress: Progress | None = None,
    ) -> Audit:
        """Audit a network; see `audit`."""
        unknown = [row for row in rows if row not in ROWS]
        if unknown or not rows:
            raise OptionError("no such row of the audit", found=", ".join(unknown) or "none", expected=", ".join(ROWS))
        subjects = self._subjects.about(copy.deepcopy(model).eval(), method, cost)
        figures: dict[str, Any] = {}
        cannot: dict[str, str] = {}
        pictures: list[Picture] = []
        for done, name in enumerate(rows):
            if progress is not None:
                progress(done, len(rows))
            try:
                row = (_CHEAP | _COSTLY)[name](subjects)
            except CannotError as error:
                cannot[name] = str(error)
                continue
            figures[name] = row.figures
            cannot |= {f"{name}: {figure}": why for figure, why in row.cannot.items()}
            pictures += row.pictures
        if progress is not None:
            progress(len(rows), len(rows))
        checks, unjudged = check_all(figures, self.thresholds)
        total, missing = score(figures)
        return Audit(
            figures=figures,
            cannot=cannot | {f"bar: {name}": why for name, why in unjudged.items()} | missing,
            checks=tuple(checks),
            score=total,
            notes=tuple(_notes(figures)),
            settings={
                "rows": list(rows),
                "seed": subjects.seed,
                "networks": list(subjects.models),
                "examples": {name: len(found) for name, found in subjects.sets.items()},
                "forgotten files": dict(subjects.sets[FORGET].files),
            },
            pictures=tuple(pictures),
        )


def audit(
    model: Reconstructor,
    joint: Reconstructor,
    oracle: Reconstructor | None = None,
    *,
    forget: Examples,
    retain: Examples | None = None,
    forget_test: Examples | None = None,
    retain_test: Examples | None = None,
    non_members: Examples | None = None,
    third: Examples | None = None,
    forget_oracle: Reconstructor | None = None,
    scratch: Reconstructor | None = None,
    method: Unlearn | None = None,
    cost: Meter | None = None,
    oracle_cost: Meter | None = None,
    rows: Sequence[str] = ROWS,
    thresholds: Thresholds | None = None,
    objective: Objective | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Say whether a network forgot, whether the rest of it is whole, and how one can tell.

    Parameters
    ----------
    model, joint, oracle
        The unlearned network; the one that it was; one that was trained without what is forgotten. None of them is
        changed. Without an oracle ``cannot`` says which figures are missing.
    forget, retain
        Training examples that were forgotten and kept.
    forget_test, retain_test
        Examples of the same kinds that no network was trained on, whole volumes at best.
    non_members
        Examples that are like those to be forgotten in all but that no network was trained on them, such as planes
        that were left out of the same volumes: the sharpest test of membership. By default the test examples.
    third
        Examples of another organ, for relearning after fine-tuning on it.
    forget_oracle, scratch
        Trained on nothing but what is forgotten; trained from random weights for the budget of unlearning.
    method
        What unlearned: ``method(network, forget, retain)`` returns another network. For the row ``restoration``.
    cost, oracle_cost
        What unlearning and training the oracle took.
    rows
        Names from `ROWS`; those of `CHEAP` take seconds.
    thresholds
        The bars; by default those of `Thresholds`.
    objective
        Loss of an example; supervised by default.
    effort
        Of the costly rows.
    seed
        Of all random choices.
    progress
        Told the rows done, and those there are.

    Raises
    ------
    OptionError
        An unknown row; nothing to forget.
    DataError
        Training sets that overlap, or test examples that are among those trained on.
    """
    auditor = Auditor(
        joint,
        oracle,
        forget=forget,
        retain=retain,
        forget_test=forget_test,
        retain_test=retain_test,
        non_members=non_members,
        third=third,
        forget_oracle=forget_oracle,
        scratch=scratch,
        oracle_cost=oracle_cost,
        thresholds=thresholds,
        objective=objective,
        effort=effort,
        seed=seed,
    )
    return auditor.audit(model, method=method, cost=cost, rows=rows, progress=progress)


def _check_sets(sets: Mapping[str, Examples | None]) -> None:
    forget = sets[FORGET]
    assert forget is not None
    retain = sets[RETAIN]
    check_disjoint(forget, Examples([]) if retain is None else retain)
    for test in (FORGET_TEST, RETAIN_TEST, NON_MEMBERS):
        for trained in (FORGET, RETAIN):
            found, seen = sets[test], sets[trained]
            if found is not None and seen is not None and (shared := found.digests & seen.digests):
                name = next(item.name for item in found if item.digest in shared)
                raise DataError(
                    f"the {test} set holds examples of the {trained} set",
                    found=f"{len(shared)}, as {name}",
                    cure="Test on examples that were not trained on",
                )


def _notes(figures: Mapping[str, Any]) -> list[str]:
    notes = []
    if "membership" in figures and not known_members(figures["membership"]):
        notes.append(
            "The joint network's losses do not show that the forget set was part of its training "
            f"(area {figures['membership'][JOINT]['auc']:.2f}); it may not have been, or left no trace"
        )
    return notes
