"""Unlearning by orthogonalization (UNO): ascent on what is forgotten, across the gradient of what is kept.

The steps are plain, not Adam's, whose scaling of each weight would undo the right angle. They have the length that
Adam's have, the learning rate in each weight in root mean square, which falls like Adam's.

References
----------
Mandal, Gottwald, UNO: Unlearning via Orthogonalization in Generative Models, arXiv 2506.04712.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from deepinv.models import Reconstructor

from recon.physics.errors import OptionError
from recon.training.schedule import Schedule
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import Vector, at_most, batch_gradient, mean_loss, move, trainable
from recon.unlearning.journal import active
from recon.unlearning.registry import register
from recon.unlearning.repair import repaired, steps_of

_PARALLEL = 1e-5  # what is left of a vector, over it, where it is taken to lie in the span of others
_LAST = 0.05


@register(
    "uno",
    search={
        "bound": (1.05, 1.1, 1.25, 1.5, 2.0),
        "rate": (0.3, 1.0),
        "memory": (1, 8),
        "alternating": (False, True),
        "repair": (0.0, 0.3, 0.6),
    },
)
def uno(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    bound: float = 1.25,
    rate: float = 1.0,
    memory: int = 1,
    alternating: bool = False,
    repair: float = 0.3,
) -> Reconstructor:
    r"""Ascend the loss of the forget set at a right angle to the retain set's gradient, which stays to first order.

    .. math:: \theta \leftarrow \theta + \eta\, d / \|d\|, \quad d = g_B - \frac{g_B \cdot g_A}{\|g_A\|^2} g_A

    Beyond the bound the step is the other way. At an exact minimum of the loss over both sets their gradients are
    opposite, and nothing is left of the step but what batches differ by.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    bound
        Loss of the forget set to stop at, over that at the start.
    rate
        Learning rate, over the budget's.
    memory
        Number of the latest gradients of the retain set, of a batch each, to all of which a step is at a right angle; 1
        is the formula above.
    alternating
        Let every second step descend on the retain set, at a right angle to the forget set's gradient.
    repair
        Share of the steps, afterwards, on the retain set.

    Raises
    ------
    OptionError
        A bound below 1, or a memory of no gradient.
    """
    if not bound >= 1 or memory < 1:
        raise OptionError("a bound of at least 1, a memory of 1 or more", found=f"{bound:g}, {memory}")
    last = steps_of(repair, budget)
    first = budget.steps - last
    weights = list(trainable(model).values())
    highest = bound * mean_loss(model, at_most(forget, budget.steps * budget.batch_size, budget.rng(4)), budget)
    forgotten = forget.endless(budget.batch_size, budget.rng(0, 1))
    kept = retain.endless(budget.batch_size, budget.rng(0, 2))
    length = rate * budget.lr * sum(p.numel() for p in weights) ** 0.5
    factor = Schedule("cosine", 0, max(first, 1), _LAST)
    latest, journal = _Latest(memory, weights[0].device), active() if first else None
    start = 0 if journal is None else journal.begin(weights, (latest,))
    for step in range(start, first):
        loss, of_forget = batch_gradient(model, weights, next(forgotten), budget, budget.rng(1, step))
        of_retain = batch_gradient(model, weights, next(kept), budget, budget.rng(1, step))[1]
        latest.gradients.append(of_retain)
        if alternating and step % 2:
            direction = -across(of_retain, [of_forget])
        else:
            direction = (1 if loss < highest else -1) * across(of_forget, latest.gradients)
        move(weights, length * factor(step) * direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny))
        if journal is not None:
            journal.step(step + 1, last=step + 1 == first, weights=weights, stateful=(latest,))
        if budget.progress is not None:
            budget.progress(step + 1, budget.steps)
    return repaired(model, retain, budget, steps=last, done=first)


class _Latest:
    """The latest gradients, as a state that an interrupted run goes on from."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.gradients: deque[Vector] = deque(maxlen=count)
        self.device = device

    def state_dict(self) -> dict[str, list[Vector]]:
        return {"gradients": [g.cpu() for g in self.gradients]}

    def load_state_dict(self, state: dict[str, list[Vector]]) -> None:
        self.gradients.extend(g.to(self.device) for g in state["gradients"])


def across(vector: Vector, others: Iterable[Vector]) -> Vector:
    """Return the part of a vector at a right angle to others; 0 where hardly any is left."""
    basis: list[Vector] = []
    for other in others:
        rest = _without(other, basis)
        if rest.norm() > _PARALLEL * other.norm():
            basis.append(rest / rest.norm())
    part = _without(vector, basis)
    return part if part.norm() > _PARALLEL * vector.norm() else torch.zeros_like(part)


def _without(vector: Vector, basis: list[Vector]) -> Vector:
    for _ in range(2):  # once more, for what rounding left
        for unit in basis:
            vector = vector - (vector @ unit) * unit
    return vector
