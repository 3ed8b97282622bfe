"""Can anyone tell what was in the training? Membership inference by the loss of each slice [Yeom 2018].

Members are what was forgotten; the others are examples that are like them in all but that they were not trained on, or
else test examples of the same organ. The score is minus the loss. Where the two are of different volumes they differ by
themselves, so the figure that counts is the distance to the oracle's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from recon.unlearning.audit.subjects import FORGET, JOINT, NO_ORACLE, ORACLE, UNLEARNED, Row, Subjects

_FALSE = 0.01  # rate of false positives at which the true ones are told [Carlini 2022]
_CLEAR = 2.0  # standard errors above chance at which the joint network is said to know its members


def membership(subjects: Subjects) -> Row:
    """Attack every network."""
    figures = {
        name: attack((-subjects.losses(name, FORGET)).tolist(), (-subjects.losses(name, subjects.non_members)).tolist())
        for name in subjects.present()
    }
    row = distance_row(figures)
    row.figures["others"] = subjects.non_members
    return row


def distance_row(figures: dict[str, Any]) -> Row:
    """Add the distance of the unlearned network's area to the oracle's."""
    if ORACLE not in figures:
        return Row(figures, {"distance to oracle": NO_ORACLE})
    gap = abs(figures[UNLEARNED]["auc"] - figures[ORACLE]["auc"])
    return Row({**figures, "distance to oracle": gap})


def attack(members: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """Figures of an attack by a score that is high for members.

    Returns
    -------
    dict
        ``auc``; ``tpr``: true positives at 1 % of false ones (at none, where there are fewer than 100 others);
        ``error``, the standard error of the area [Hanley, McNeil 1982]; ``roc``; the numbers of both.
    """
    false, true = roc(members, others)
    auc = area(members, others)
    return {
        "auc": auc,
        "tpr": float(true[false <= _FALSE].max()),
        "error": _standard_error(auc, len(members), len(others)),
        "roc": [[float(a), float(b)] for a, b in zip(false, true, strict=True)],
        "members": len(members),
        "others": len(others),
    }


def area(members: Sequence[float], others: Sequence[float]) -> float:
    """Area under the ROC: how often a member scores above another; ties count half."""
    ranks = rankdata([*members, *others])
    n = len(members)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(others)))


def roc(members: Sequence[float], others: Sequence[float]) -> tuple[Float[ndarray, " k"], Float[ndarray, " k"]]:
    """Rates of false and of true positives as the threshold falls, from (0, 0) to (1, 1)."""
    thresholds = np.unique([*members, *others])[::-1]
    inside, outside = (np.sort(np.asarray(part, dtype=np.float64)) for part in (members, others))

    def above(values: Float[ndarray, " n"]) -> Float[ndarray, " k"]:
        return 1 - np.searchsorted(values, thresholds, side="left") / len(values)

    return np.concatenate([[0.0], above(outside)]), np.concatenate([[0.0], above(inside)])


def known_members(figures: dict[str, Any]) -> bool:
    """Tell whether the joint network's loss gives its members away beyond chance."""
    joint = figures[JOINT]
    return bool(joint["auc"] > 0.5 + _CLEAR * joint["error"])


def _standard_error(auc: float, n: int, m: int) -> float:
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n - 1) * (q1 - auc**2) + (m - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (n * m))
