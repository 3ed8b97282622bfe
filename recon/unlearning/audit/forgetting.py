"""Is it forgotten, and not broken? The error on what was forgotten against networks that never saw it."""

from __future__ import annotations

from typing import Any

from recon.display import choose_slices
from recon.unlearning.audit.quality import gap, set_quality
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_ORACLE,
    FORGET_TEST,
    JOINT,
    NO_ORACLE,
    ORACLE,
    RETAIN_TEST,
    SCRATCH,
    UNLEARNED,
    CannotError,
    Picture,
    Row,
    Subjects,
    magnitude,
)

_PICTURES = 2


def forgetting(subjects: Subjects) -> Row:
    """Compare all networks on what is forgotten, on test volumes and on those that were trained on.

    ``gap to oracle``: better than the oracle is under-forgotten, worse is over-forgotten; both count.
    """
    figures: dict[str, Any] = {}
    cannot: dict[str, str] = {}
    for name in (FORGET_TEST, FORGET):
        try:
            found, missing = set_quality(subjects, name)
        except CannotError as error:
            cannot[name] = str(error)
            continue
        cannot |= missing
        for reference in (ORACLE, FORGET_ORACLE, SCRATCH, JOINT):
            try:
                found[f"gap to {reference}"] = gap(found["mean"], reference)
            except CannotError as error:
                cannot[f"gap to {reference}"] = str(error)
        figures[name] = found
    try:
        figures["adaptive unlearning score"] = adaptive_score(subjects, figures)
    except CannotError as error:
        cannot["adaptive unlearning score"] = str(error)
    return Row(figures, cannot, _pictures(subjects))


def _pictures(subjects: Subjects) -> list[Picture]:
    """Show the middle slices of the test set."""
    try:
        targets = subjects.targets(FORGET_TEST)
    except CannotError:
        return []
    chosen = choose_slices(len(targets), _PICTURES)
    return [
        Picture(
            "forgotten",
            subjects.examples(FORGET_TEST)[i].name,
            {
                "truth": magnitude(targets[i]),
                **{name: magnitude(subjects.images(name, FORGET_TEST)[i]) for name in subjects.present()},
            },
        )
        for i in chosen
    ]


def adaptive_score(subjects: Subjects, figures: dict[str, Any]) -> float:
    r"""Score of DUCK with the SSIM for accuracy, and the oracle's in place of 0 on what is forgotten.

    .. math:: \frac{1 - (s_A^\text{joint} - s_A)}{1 + |s_B - s_B^\text{oracle}|}

    References
    ----------
    Cotogni et al., DUCK: distance-based unlearning via centroid kinematics, arXiv 2312.02052, section 4.
    """
    forgotten = figures.get(FORGET_TEST, {}).get("mean", {})
    kept = set_quality(subjects, RETAIN_TEST)[0]["mean"]
    if "ssim" not in forgotten.get(UNLEARNED, {}) or "ssim" not in kept[UNLEARNED]:
        raise CannotError("it needs the SSIM on test examples of both sets")
    if ORACLE not in forgotten:
        raise CannotError(NO_ORACLE)
    lost = kept[JOINT]["ssim"] - kept[UNLEARNED]["ssim"]
    return float((1 - lost) / (1 + abs(forgotten[UNLEARNED]["ssim"] - forgotten[ORACLE]["ssim"])))
