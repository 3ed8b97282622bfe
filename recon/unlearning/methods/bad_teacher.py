r"""Competent and bad teacher [Chundawat 2023]: as a random network on what is forgotten, as the old one on the rest.

For images the divergence of the teachers' distributions becomes the relative squared difference of their images.

References
----------
Chundawat et al., Can Bad Teaching Induce Forgetting? AAAI 2023; BadT in Goel et al., Corrective Machine Unlearning,
TMLR 2024.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.features import frozen, reconstructed, relative_square, taught
from recon.unlearning.layers import fresh
from recon.unlearning.registry import register


@register("bad_teacher", search={"weight": (0.01, 0.1, 1.0), "rate": (0.3, 1.0, 3.0)})
def bad_teacher(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    weight: float = 0.1,
    rate: float = 1.0,
) -> Reconstructor:
    """Distil from a random network on what is forgotten, and from the network as it was on what is kept.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods; targets are never looked at.
    weight
        Of the bad teacher.
    rate
        Learning rate, over the budget's.
    """
    good = frozen(model)
    bad = frozen(fresh(model, budget.rng(2).initial_seed() % 2**31))
    kept = retain.endless(budget.batch_size, budget.rng(0))
    gone = forget.endless(budget.batch_size, budget.rng(3))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        a, b = next(kept), next(gone)
        stay, go = taught(good, a, budget.meter), taught(bad, b, budget.meter)
        keeping = relative_square(reconstructed(model, a, budget.meter), stay)
        return keeping + weight * relative_square(reconstructed(model, b, budget.meter), go)

    return descend(model, budget, loss, lr=rate * budget.lr)
