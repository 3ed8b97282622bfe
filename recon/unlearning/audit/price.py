"""What it cost, as a part of what the oracle cost."""

from __future__ import annotations

from recon.unlearning.audit.subjects import CannotError, Row, Subjects
from recon.unlearning.budget import Meter


def price(subjects: Subjects) -> Row:
    """Compare samples seen, with derivatives or without, and wall time with the oracle's."""
    if subjects.cost is None:
        raise CannotError("what unlearning cost was not given")
    figures: dict[str, object] = {"unlearning": _spent(subjects.cost)}
    if subjects.oracle_cost is None:
        return Row(figures, {"share of the oracle's cost": "what the oracle cost was not given"})
    oracle = _spent(subjects.oracle_cost)
    share = {name: spent / oracle[name] for name, spent in _spent(subjects.cost).items() if oracle[name] > 0}
    missing = {f"share of {name}": "the oracle's was not counted" for name in oracle if name not in share}
    return Row({**figures, "oracle": oracle, "share": share}, missing)


def _spent(meter: Meter) -> dict[str, float]:
    return {"samples": float(meter.samples + meter.forward), "seconds": meter.seconds}
