"""One number, never without its parts: how much of the gap between the joint network and the oracle was closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon.unlearning.audit.subjects import FORGET_TEST, JOINT, NO_ORACLE, ORACLE, UNLEARNED

# Gaps between the joint network and the oracle below which a share of them means nothing.
_ALIKE = {"quality": 0.02, "hallucination": 1e-6, "CKA": 1e-3, "membership": 0.01}


def score(rows: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    r"""Return the parts, :math:`1 - |u - o| / |j - o|`, and their mean; second, which cannot be given, and why.

    A part is 1 where the unlearned network's figure is the oracle's, 0 where it is as far off as the joint network's,
    and below 0 where it is farther. In the mean it counts -1 at least.
    """
    parts: dict[str, float] = {}
    cannot: dict[str, str] = {}
    for name, (row, figures) in _PARTS.items():
        if row not in rows:
            continue
        try:
            unlearned, joint, oracle = figures(rows[row])
        except KeyError as error:
            cannot[f"gap closed, {name}"] = NO_ORACLE if "oracle" in str(error) else f"{error.args[0]} is not known"
            continue
        gap = abs(joint - oracle)
        if not gap > _ALIKE[name]:
            cannot[f"gap closed, {name}"] = "the joint network and the oracle are alike in it"
        else:
            parts[name] = 1 - abs(unlearned - oracle) / gap
    if not parts:
        return {"parts": {}}, cannot
    return {"gap closed": sum(max(part, -1.0) for part in parts.values()) / len(parts), "parts": parts}, cannot


def _three(figures: Mapping[str, float]) -> tuple[float, float, float]:
    """Figures of the unlearned network, the joint one and the oracle."""
    return figures[UNLEARNED], figures[JOINT], figures[ORACLE]


_PARTS: dict[str, tuple[str, Any]] = {
    "quality": ("quality", lambda row: _three({name: found["psnr"] for name, found in row["mean"].items()})),
    "hallucination": ("hallucination", lambda row: _three(row["null-space energy"])),
    "CKA": (
        "cka",
        lambda row: (
            row[FORGET_TEST]["mean"][f"to {ORACLE}"],
            row[FORGET_TEST]["mean"][f"{JOINT} to {ORACLE}"],
            1.0,
        ),
    ),
    "membership": (
        "membership",
        lambda row: _three({name: row[name]["auc"] for name in (UNLEARNED, JOINT, ORACLE) if name in row}),
    ),
}
