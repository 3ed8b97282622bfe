"""Phases that methods share: steps that forget, and steps on what is kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, StepLoss, descend
from recon.unlearning.examples import Examples


def steps_of(share: float, budget: Budget) -> int:
    """Return how many steps a share of the budget is.

    Raises
    ------
    OptionError
        Not a share.
    """
    if not 0 <= share <= 1:
        raise OptionError("a share of the steps is from 0 to 1", found=share)
    return round(share * budget.steps)


def repaired(
    model: Reconstructor, retain: Examples, budget: Budget, *, steps: int, done: int = 0, rate: float = 1.0
) -> Reconstructor:
    """Fine-tune on what is kept, and tell that what came before is done.

    Parameters
    ----------
    model
        Changed in place.
    retain, budget
        What is kept; batch size, learning rate, sharpness.
    steps, done
        Of this phase, and before it.
    rate
        Learning rate, over the budget's.
    """
    if budget.progress is not None:
        budget.progress(done, budget.steps)
    if not steps:
        return model.eval()
    batches = retain.endless(budget.batch_size, budget.rng(0))
    return descend(
        model,
        budget,
        lambda _step, rng: budget.loss(model, next(batches), rng),
        steps=steps,
        lr=rate * budget.lr,
        done=done,
    )


def forgotten_and_repaired(
    model: Reconstructor,
    retain: Examples,
    budget: Budget,
    forgetting: StepLoss,
    *,
    repair: float,
    together: bool,
    rate: float,
) -> Reconstructor:
    """Descend on a loss that forgets, and on what is kept.

    Parameters
    ----------
    model
        Changed in place.
    retain, budget
        As of all methods.
    forgetting
        Loss of the steps that forget.
    repair
        Share of the steps that come afterwards and are on what is kept.
    together
        Whether the steps that forget are on what is kept too.
    rate
        Learning rate of the steps that forget, over the budget's.
    """
    last = steps_of(repair, budget)
    batches = retain.endless(budget.batch_size, budget.rng(0, 2)) if together else None

    def loss(step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        value = forgetting(step, rng)
        return value if batches is None else value + budget.loss(model, next(batches), rng)

    # Looking for the worst weights nearby is against relearning: for steps that repair, not for those that do harm.
    first = budget.steps - last
    descend(model, replace(budget, sharpness=0.0), loss, steps=first, lr=rate * budget.lr)
    return repaired(model, retain, budget, steps=last, done=first)
