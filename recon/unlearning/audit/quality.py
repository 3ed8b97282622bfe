"""Is what is kept as good as the oracle's? PSNR, SSIM, NMSE, HFEN by volume [Xue 2024]."""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.metrics import evaluate
from recon.unlearning.audit.subjects import (
    JOINT,
    ORACLE,
    RETAIN_TEST,
    UNLEARNED,
    CannotError,
    Row,
    Subjects,
    by_volume,
    magnitude,
)

METRICS = ("psnr", "ssim", "nmse", "hfen")
_SMALLEST = 7  # the window of SSIM


def quality(subjects: Subjects) -> Row:
    """Compare all networks on the test volumes of what is kept."""
    figures, cannot = set_quality(subjects, RETAIN_TEST)
    for reference in (ORACLE, JOINT):
        try:
            figures[f"gap to {reference}"] = gap(figures["mean"], reference)
        except CannotError as error:
            cannot[f"gap to {reference}"] = str(error)
    return Row(figures, cannot)


def set_quality(subjects: Subjects, examples: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of every network on a set: mean over its volumes, each volume, and the mean loss.

    Volumes whose slices were scaled apart are put in one scale first.
    """
    mean: dict[str, dict[str, float]] = {
        model: {"loss": float(subjects.losses(model, examples).mean())} for model in subjects.present()
    }
    try:
        volumes = _volumes(subjects, examples)
    except CannotError as error:
        return {"mean": mean}, {f"PSNR, SSIM, NMSE, HFEN of the {examples} set": str(error)}
    for model in subjects.present():
        for metric in METRICS:
            mean[model][metric] = float(np.mean([volume[model][metric] for volume in volumes.values()]))
    return {"mean": mean, "volumes": volumes}, {}


def gap(mean: dict[str, dict[str, float]], reference: str) -> dict[str, float]:
    """Figures of the unlearned network less those of another.

    Raises
    ------
    CannotError
        The other was not given.
    """
    if reference not in mean:
        raise CannotError(f"the {reference} was not given")
    return {name: value - mean[reference][name] for name, value in mean[UNLEARNED].items()}


def _volumes(subjects: Subjects, examples: str) -> dict[str, dict[str, dict[str, float]]]:
    targets, items = subjects.targets(examples), subjects.examples(examples)
    if min(targets[0].shape[-2:]) < _SMALLEST:
        raise CannotError(f"images of {' x '.join(map(str, targets[0].shape[-2:]))} are too small for SSIM")
    scales = [float(getattr(item.content, "scale", 1.0)) for item in items]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, indices in by_volume(items).items():
        truth = np.stack([scales[i] * magnitude(targets[i]) for i in indices])
        found[name] = {}
        for model in subjects.present():
            images = subjects.images(model, examples)
            volume = np.stack([scales[i] * magnitude(images[i]) for i in indices])
            found[name][model] = evaluate(volume, truth, level=None)
    return found
