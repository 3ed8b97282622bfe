"""Does it come back? The error on what was forgotten while it is learned again from a few slices.

Also after the weights were quantised to 8 bits, and after fine-tuning on a third organ: both can bring back what was
hidden rather than removed [1]_ [2]_. The oracle goes through the same.

References
----------
.. [1] Zhang et al., Catastrophic failure of LLM unlearning via quantization, ICLR 2025.
.. [2] Fan et al., Towards LLM unlearning resilient to relearning attacks, arXiv 2502.05374.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from deepinv.models import Reconstructor

from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_TEST,
    JOINT,
    NO_ORACLE,
    ORACLE,
    SCRATCH,
    THIRD,
    UNLEARNED,
    CannotError,
    Row,
    Subjects,
    example_losses,
    spread,
)
from recon.unlearning.audit.training import trained

PLAIN, QUANTISED, ELSEWHERE = "as it is", "after 8 bits", "after a third organ"
_TEST = 12  # slices on which the error is told
_LEVELS = 127
_RELEARN, _ELSEWHERE = 1, 2  # purposes of training


def relearning(subjects: Subjects) -> Row:
    """Relearn with all networks as they are, and with the unlearned one and the oracle after the two treatments."""
    figures: dict[str, Any] = {"steps": [0, *subjects.effort.relearn_steps]}
    cannot: dict[str, str] = {}
    pair = subjects.present(UNLEARNED, ORACLE)
    for name, treatment, models in (
        (PLAIN, copy.deepcopy, [*pair, *subjects.present(JOINT, SCRATCH)]),
        (QUANTISED, quantised, pair),
        (ELSEWHERE, lambda model: _elsewhere(subjects, model), pair),
    ):
        try:
            curves = {
                model: subjects.remember(
                    model,
                    "relearning",
                    name,
                    make=partial(_treated_curve, subjects, treatment, model),
                )
                for model in models
            }
        except CannotError as error:
            cannot[name] = str(error)
            continue
        areas = {model: area_under(figures["steps"], curve) for model, curve in curves.items()}
        figures[name] = {"curves": curves, "area": areas}
        if ORACLE in areas:
            figures[name]["area over the oracle's"] = areas[UNLEARNED] / areas[ORACLE]
        else:
            cannot[f"area over the oracle's, {name}"] = NO_ORACLE
    if PLAIN not in figures:
        raise CannotError(cannot[PLAIN])
    return Row(figures, cannot)


def relearning_curve(subjects: Subjects, model: Reconstructor) -> list[float]:
    """Mean loss on test slices before relearning and after each number of steps."""
    learned_from = spread(subjects.examples(FORGET), subjects.effort.relearn_examples)
    test = spread(subjects.examples(FORGET_TEST), _TEST)
    found: list[float] = []

    def look(network: Reconstructor) -> None:
        found.append(float(example_losses(network, test, subjects.objective, subjects.seed).mean()))

    look(model.eval())
    steps = subjects.effort.relearn_steps
    trained(subjects, model, [learned_from], steps[-1], purpose=_RELEARN, looks=steps, look=look)
    return found


def _treated_curve(subjects: Subjects, treatment: Callable[[Reconstructor], Reconstructor], model: str) -> list[float]:
    return relearning_curve(subjects, treatment(subjects.models[model]))


def area_under(steps: Sequence[int], curve: Sequence[float]) -> float:
    """Mean of the error over the steps: trapezoids, over the number of steps."""
    pieces = pairwise(zip(steps, curve, strict=True))
    total = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pieces)
    return float(total / (steps[-1] - steps[0]))


@torch.no_grad()
def quantised(model: Reconstructor) -> Reconstructor:
    """Return a copy whose matrices and kernels have 255 levels, with a scale for each row; the rest is as it was."""
    own = copy.deepcopy(model)
    for weight in own.parameters():
        if weight.ndim >= 2:
            rows = weight.flatten(1)
            step = rows.abs().amax(1, keepdim=True) / _LEVELS
            rows = torch.where(step > 0, (rows / step.clamp_min(torch.finfo(rows.dtype).tiny)).round() * step, rows)
            weight.copy_(rows.view_as(weight))
    return own


def _elsewhere(subjects: Subjects, model: Reconstructor) -> Reconstructor:
    third = subjects.examples(THIRD)
    return trained(subjects, model, [third], subjects.effort.relearn_steps[-1], purpose=_ELSEWHERE)
