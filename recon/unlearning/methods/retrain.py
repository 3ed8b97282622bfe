"""The oracle: training from new on what is kept."""

from __future__ import annotations

from deepinv.models import Reconstructor

from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.layers import fresh
from recon.unlearning.methods.finetune import finetune
from recon.unlearning.registry import register


@register("retrain", exact=True)
def retrain(model: Reconstructor, forget: Examples, retain: Examples, budget: Budget, /) -> Reconstructor:
    """Train from random weights on the retain set only: exact, and the most expensive."""
    return finetune(fresh(model, budget.rng(2).initial_seed() % 2**31), forget, retain, budget)
