"""Gradient ascent on what is forgotten, bounded, with and without a repair on what is kept [Xue 2024].

Left alone, ascent ruins a network. Here it is bounded: it leads to where the loss of what is forgotten is a factor
above that of the start, and back where it went further. A constraint [ours, after Scrub It Out] holds the
reconstructions of what is kept to those of the start, with no need of their truth.

References
----------
Xue, Liu, McDonagh, Tsaftaris, Erase to Enhance: Data-Efficient Machine Unlearning in MRI Reconstruction, MIDL 2024;
Chu et al., Scrub It Out! Erasing Sensitive Memorization in Code Language Models via Machine Unlearning, arXiv
2509.13755.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, StepLoss
from recon.unlearning.examples import Examples
from recon.unlearning.features import frozen, reconstructed, relative_square, taught
from recon.unlearning.gradients import at_most, mean_loss
from recon.unlearning.registry import register
from recon.unlearning.repair import forgotten_and_repaired

_BOUNDS = (1.05, 1.1, 1.25, 1.5, 2.0)


@register("gradient_ascent", search={"bound": _BOUNDS, "rate": (0.1, 0.3, 1.0)}, needs_retain=False)
def gradient_ascent(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    bound: float = 1.25,
    rate: float = 0.3,
    hold: float = 0.0,
) -> Reconstructor:
    """Ascend the loss of the forget set, up to a bound.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods; the retain set is needed where it is held to.
    bound
        Loss of the forget set to stop at, over that at the start.
    rate
        Learning rate, over the budget's.
    hold
        Weight of the constraint: energy of the change of the reconstructions of the retain set, over theirs.

    Raises
    ------
    OptionError
        A bound below 1, or a negative weight.
    """
    loss = _ascent(model, forget, retain, budget, bound, hold)
    return forgotten_and_repaired(model, retain, budget, loss, repair=0.0, together=False, rate=rate)


@register(
    "ga_finetune",
    search={
        "bound": _BOUNDS,
        "rate": (0.3, 1.0),
        "hold": (0.0, 3.0),
        "repair": (0.3, 0.6, 0.8),
        "together": (False, True),
    },
)
def ga_finetune(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    bound: float = 1.25,
    rate: float = 0.3,
    hold: float = 0.0,
    repair: float = 0.6,
    together: bool = False,
) -> Reconstructor:
    """Ascend the loss of the forget set, up to a bound, and repair on the retain set.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    bound, rate, hold
        As of `gradient_ascent`; the repair has the budget's learning rate.
    repair
        Share of the steps that repair.
    together
        Whether the steps that ascend also descend on the retain set, as published.
    """
    loss = _ascent(model, forget, retain, budget, bound, hold)
    return forgotten_and_repaired(model, retain, budget, loss, repair=repair, together=together, rate=rate)


def _ascent(
    model: Reconstructor, forget: Examples, retain: Examples, budget: Budget, bound: float, hold: float
) -> StepLoss:
    """Return a loss whose descent brings that of the forget set to its bound."""
    if not (bound >= 1 and hold >= 0):
        raise OptionError("ascent has a bound of at least 1 and a weight not below 0", found=f"{bound:g}, {hold:g}")
    seen = at_most(forget, budget.steps * budget.batch_size, budget.rng(4))
    highest = bound * mean_loss(model, seen, budget)
    batches = forget.endless(budget.batch_size, budget.rng(0, 1))
    kept = retain.endless(budget.batch_size, budget.rng(0)) if hold else None
    original = frozen(model) if hold else None

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        value = (highest - budget.loss(model, next(batches), rng)).abs()
        if kept is None or original is None:
            return value
        batch = next(kept)
        wanted = taught(original, batch, budget.meter)
        return value + hold * relative_square(reconstructed(model, batch, budget.meter), wanted)

    return loss
