"""Was good knowledge restored? Labels are corrupted and unlearned; the network should be as it was before [1]_.

The joint network is the clean one. It is trained for a while on what is to be forgotten with the targets of other
slices; then the method that is audited is asked to forget these. What it should return to is the clean network, on
both organs.

References
----------
.. [1] Rezaei et al., RESTOR: knowledge recovery in machine unlearning, TMLR 2025, section 3.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from deepinv.models import Reconstructor

from recon.datasets.random import child_generator
from recon.training.batches import TrainingBatch
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_TEST,
    JOINT,
    RETAIN,
    RETAIN_TEST,
    CannotError,
    Row,
    Subjects,
    example_losses,
)
from recon.unlearning.audit.training import trained
from recon.unlearning.examples import Examples

_CORRUPTING = 3  # purpose of the training
_NOTICEABLE = 0.01  # change of the loss, relative, below which corruption did nothing


def restoration(subjects: Subjects) -> Row:
    """Corrupt, unlearn, and compare with the clean network: 1 is fully restored, 0 as corrupted, below 0 worse."""
    if subjects.method is None:
        raise CannotError("the method that unlearned was not given, so it cannot be tried on corrupted labels")
    if not getattr(subjects.objective, "needs_truth", True):
        raise CannotError("training without targets has no labels that could be corrupted")
    subjects.targets(FORGET)
    bad = corrupted(subjects.examples(FORGET), subjects.seed)
    clean, kept = subjects.model(JOINT), subjects.examples(RETAIN)
    broken = trained(subjects, clean, [bad], subjects.effort.train_steps, purpose=_CORRUPTING)
    restored = subjects.method(copy.deepcopy(broken), bad, kept)
    figures: dict[str, Any] = {}
    cannot: dict[str, str] = {}
    for name in (FORGET_TEST, RETAIN_TEST):
        try:
            losses = [_loss(subjects, model, name) for model in (clean, broken, restored)]
        except CannotError as error:
            cannot[name] = str(error)
            continue
        figures[name] = dict(zip(("clean", "corrupted", "restored"), losses, strict=True))
        harm = losses[1] - losses[0]
        if abs(harm) < _NOTICEABLE * losses[0]:
            cannot[f"share restored, {name}"] = "the corrupted labels changed the loss by less than 1 %"
        else:
            figures[name]["share restored"] = 1 - abs(losses[2] - losses[0]) / abs(harm)
    return Row(figures, cannot)


def corrupted(examples: Examples, seed: int) -> Examples:
    """Give each example the target of another one of its group; those that are alone in theirs are left out.

    Raises
    ------
    CannotError
        All are alone.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, item in enumerate(examples):
        groups.setdefault(item.group, []).append(i)
    items = []
    for number, members in enumerate(groups.values()):
        order = torch.randperm(len(members), generator=child_generator(seed, 16, number)).tolist()
        for place, at in enumerate(order):
            if len(members) > 1:
                own, other = examples[members[at]], examples[members[order[place - 1]]]
                items.append(dataclasses.replace(own, content=(own.content, other.content)))
    if not items:
        raise CannotError("there is one example to forget, so its target cannot be another's")

    def collate(contents: Sequence[Any]) -> TrainingBatch:
        own, other = zip(*contents, strict=True)
        batch: Any = examples.batch_of(own)
        return cast(TrainingBatch, dataclasses.replace(batch, target=examples.batch_of(other).target))

    return Examples(items, collate=collate, files=examples.files)


def _loss(subjects: Subjects, model: Reconstructor, name: str) -> float:
    return float(example_losses(model, subjects.examples(name), subjects.objective, subjects.seed).mean())
