"""The oracle: training from new on what is kept."""

from __future__ import annotations

from deepinv.models import Reconstructor

from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.layers import fresh
from recon.unlearning.registry import register


@register("retrain", exact=True)
def retrain(model: Reconstructor, forget: Examples, retain: Examples, budget: Budget, /) -> Reconstructor:
    """Train from random weights on the retain set only: exact, and the most expensive."""
    new = fresh(model, budget.rng(2).initial_seed() % 2**31)
    batches = retain.endless(budget.batch_size, budget.rng(0))
    return descend(new, budget, lambda _step, rng: budget.loss(new, next(batches), rng))
