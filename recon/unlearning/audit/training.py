"""A few steps of training inside an audit; the network that is given is not changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.unlearning.audit.subjects import Subjects
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples

_BATCH = 4


def trained(
    subjects: Subjects,
    model: Reconstructor,
    examples: Sequence[Examples],
    steps: int,
    *,
    purpose: int,
    looks: Sequence[int] = (),
    look: Callable[[Reconstructor], None] = lambda _: None,
) -> Reconstructor:
    """Return a copy that was trained; a step sees a batch of each set, and sets count alike.

    Parameters
    ----------
    subjects
        Their objective, learning rate and seed.
    model
        Where it begins.
    examples
        Sets that a step draws from.
    steps
        Of gradient descent.
    purpose
        Number of this training: another one draws other batches.
    looks, look
        Called with the network after these steps.
    """
    own = copy.deepcopy(model).requires_grad_(True)

    def progress(done: int, _of: int) -> None:
        if done in looks:
            own.eval()
            look(own)
            own.train()

    budget = Budget(
        steps=steps,
        batch_size=_BATCH,
        lr=subjects.effort.lr,
        objective=subjects.objective,
        seed=subjects.seed + 1000 * purpose,
        progress=progress,
    )
    batches = [part.endless(_BATCH, budget.rng(0, i)) for i, part in enumerate(examples)]

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        return torch.stack([budget.loss(own, next(part), rng) for part in batches]).mean()

    return descend(own, budget, loss)
