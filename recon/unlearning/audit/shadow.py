"""Membership inference with shadow models, in the manner of LiRA [1]_ offline.

Each shadow model is trained on what is kept and on half of what was forgotten. For each example, the models that did
not see it say what its loss is where it was no member: a slice that is hard for everybody no longer passes for one
that was not trained on. The score is how far below that the logarithm of the attacked network's loss lies; with one
variance for all examples, which [1]_ advises where shadow models are few, that orders them as the likelihood ratio
does. Test examples are never trained on: they are scored by half of the models, so that both kinds have as many.

Halves are of whole volumes where the others are of volumes of their own: a network that saw the neighbouring slice is
no judge of what not having seen the volume means.

References
----------
.. [1] Carlini et al., Membership inference attacks from first principles, IEEE S&P 2022, algorithm 1 and section VI.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Bool, Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.unlearning.audit.membership import attack, distance_row
from recon.unlearning.audit.subjects import (
    FORGET,
    JOINT,
    ORACLE,
    RETAIN,
    UNLEARNED,
    CannotError,
    Row,
    Subjects,
    by_volume,
    example_losses,
)
from recon.unlearning.audit.training import trained
from recon.unlearning.examples import Examples
from recon.unlearning.layers import fresh

_SHADOW = 10  # purpose of the first one's training


def shadow_membership(subjects: Subjects) -> Row:
    """Attack every network with the same shadow models; these begin as the oracle, or else with random weights."""
    levels = subjects.remember("", "shadow levels", make=lambda: shadow_levels(subjects))
    figures = {}
    for name in subjects.present():
        scores = [
            (level - subjects.losses(name, part).log()).tolist()
            for level, part in zip(levels, (FORGET, subjects.non_members), strict=True)
        ]
        figures[name] = attack(*scores)
    row = distance_row(figures)
    row.figures["shadow models"] = subjects.effort.shadows
    row.figures["distance to chance"] = abs(figures[UNLEARNED]["auc"] - 0.5)
    return row


def shadow_levels(subjects: Subjects) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Train the shadow models; return the logarithmic loss to be expected of each example that was not trained on.

    Raises
    ------
    CannotError
        There is one example to forget.
    """
    members, others = subjects.examples(FORGET), subjects.examples(subjects.non_members)
    if len(members) < 2:
        raise CannotError("there is one example to forget, which has no halves")
    count = subjects.effort.shadows
    apart_by_volume = not {item.origin for item in members} & {item.origin for item in others}
    seen = halves(members, count, subjects.seed, volumes=apart_by_volume)
    inside, outside = [], []
    for i in range(count):
        model = _shadow(subjects, members.subset(seen[i].nonzero().flatten().tolist()), i)
        inside.append(_log_losses(subjects, model, members))
        outside.append(_log_losses(subjects, model, others))
    apart = torch.zeros(count, len(others), dtype=torch.bool)
    apart[::2] = True  # as if half of the models had seen them
    return unseen_level(torch.stack(inside), seen), unseen_level(torch.stack(outside), apart)


def halves(examples: Examples, count: int, seed: int, *, volumes: bool) -> Bool[Tensor, "shadow n"]:
    """Say which shadow model sees which example, or volume if there are several: half of all, complements in pairs."""
    files = list(by_volume(examples).values()) if volumes else []
    units = files if len(files) > 1 else [[i] for i in range(len(examples))]
    seen = torch.zeros(count, len(examples), dtype=torch.bool)
    for i in range(count):
        if i % 2:
            seen[i] = ~seen[i - 1]
            continue
        order = torch.randperm(len(units), generator=child_generator(seed, 14, i)).tolist()
        for unit in order[: len(units) // 2]:
            seen[i, units[unit]] = True
    return seen


def unseen_level(losses: Float[Tensor, "shadow n"], seen: Bool[Tensor, "shadow n"]) -> Float[Tensor, " n"]:
    """Mean of each example's logarithmic loss over the models that did not see it."""
    unseen = (~seen).to(losses)
    return (losses * unseen).sum(0) / unseen.sum(0)


def _log_losses(subjects: Subjects, model: Reconstructor, examples: Examples) -> Float[Tensor, " n"]:
    return example_losses(model, examples, subjects.objective, subjects.seed).log()


def _shadow(subjects: Subjects, half: Examples, i: int) -> Reconstructor:
    start = subjects.models.get(ORACLE) or fresh(subjects.models[JOINT], subjects.seed + i)
    sets = [half] if RETAIN not in subjects.sets else [half, subjects.examples(RETAIN)]
    return trained(subjects, start, sets, subjects.effort.train_steps, purpose=_SHADOW + i)
