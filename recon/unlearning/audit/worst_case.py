"""In the worst case? The part of what is to be forgotten that is hardest to forget, chosen in two levels [1]_.

Below, weights of the examples are given, and the joint network is made to forget by a few sign steps up their weighted
loss and down that of what is kept; signs do not move with the weights, so no derivative goes through them. Above, the
weights go to the examples whose loss grew least, under the constraints that they are between 0 and 1 and add up to the
size of the subset. The unlearned network is then judged on the examples of most weight.

References
----------
.. [1] Fan et al., Challenging forgets: unveiling the worst-case forget sets in machine unlearning, ECCV 2024, eq. 3-9.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.unlearning.audit.membership import attack
from recon.unlearning.audit.subjects import (
    FORGET,
    JOINT,
    NO_ORACLE,
    ORACLE,
    RETAIN,
    UNLEARNED,
    CannotError,
    Row,
    Subjects,
    example_losses,
    spread,
)
from recon.unlearning.examples import Examples

_MOST = 24  # candidates
_SHARE, _FEWEST = 4, 4  # one of so many is chosen, and so many at least
_ROUNDS, _STEPS, _KEPT = 3, 3, 4
_REACH = 0.003  # of a sign step, over a tensor's mean magnitude
_RATE = 0.5  # of the upper level, over the spread of the losses
_PULL = 0.1  # of the weights towards 0: the upper level is strictly convex


def worst_case(subjects: Subjects) -> Row:
    """Choose the subset by the joint network, and judge all networks on it."""
    candidates = spread(subjects.examples(FORGET), _MOST)
    size = min(max(len(candidates) // _SHARE, _FEWEST), len(candidates))
    if size == len(candidates):
        raise CannotError(f"of {len(candidates)} examples to forget no subset is chosen")
    weights = subjects.remember("", "hardest", make=lambda: hardest(subjects, candidates, size))
    chosen = candidates.subset(sorted(weights.topk(size).indices.tolist()))
    losses = {
        name: example_losses(subjects.models[name], chosen, subjects.objective, subjects.seed)
        for name in subjects.present()
    }
    figures: dict[str, Any] = {
        "examples": list(chosen.names),
        "loss": {name: float(found.mean()) for name, found in losses.items()},
    }
    cannot: dict[str, str] = {}
    if ORACLE in losses:
        better = 20 * (losses[ORACLE] / losses[UNLEARNED]).log10()
        figures["better than the oracle, dB"] = float(better.mean())
        figures["most better than the oracle, dB"] = float(better.max())
    else:
        cannot["better than the oracle"] = NO_ORACLE
    try:
        figures["membership"] = {
            name: attack((-found).tolist(), (-subjects.losses(name, subjects.non_members)).tolist())
            for name, found in losses.items()
        }
    except CannotError as error:
        cannot["membership"] = str(error)
    return Row(figures, cannot)


def hardest(subjects: Subjects, candidates: Examples, size: int) -> Float[Tensor, " n"]:
    """Weights of the examples: between 0 and 1, near 1 for those that are hardest to forget."""
    joint = subjects.model(JOINT)
    before = example_losses(joint, candidates, subjects.objective, subjects.seed)
    weights = torch.full_like(before, size / len(candidates))
    for turn in range(_ROUNDS):
        after = example_losses(
            _forgotten(subjects, joint, candidates, weights, turn), candidates, subjects.objective, subjects.seed
        )
        growth = (after / before).log()
        gradient = (growth - growth.mean()) / growth.std().clamp_min(1e-12) + _PULL * weights
        weights = capped_simplex(weights - _RATE * gradient, size)
    return weights


def capped_simplex(x: Float[Tensor, " n"], total: float) -> Float[Tensor, " n"]:
    """Nearest point whose entries are between 0 and 1 and add up to the total: a shift found by bisection."""
    low, high = x.min() - 1, x.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (x - middle).clamp(0, 1).sum() > total else (low, middle)
    return (x - (low + high) / 2).clamp(0, 1)


def _forgotten(
    subjects: Subjects, joint: Reconstructor, examples: Examples, weights: Float[Tensor, " n"], turn: int
) -> Reconstructor:
    """Forget by a few sign steps; the network is a copy."""
    model = copy.deepcopy(joint).requires_grad_(True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    kept = None if RETAIN not in subjects.sets else subjects.examples(RETAIN)
    for step in range(_STEPS):
        rng = child_generator(subjects.seed, 15, turn, step)
        model.zero_grad(set_to_none=True)
        for i, weight in enumerate((weights / weights.sum()).tolist()):
            if weight > 0:
                (-weight * subjects.objective(model, examples.batch([i]), rng)).backward()
        if kept is not None:
            for i in torch.randperm(len(kept), generator=rng)[:_KEPT].tolist():
                (subjects.objective(model, kept.batch([i]), rng) / min(_KEPT, len(kept))).backward()
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p.sub_(_REACH * p.abs().mean() * p.grad.sign())
    return model.eval()
