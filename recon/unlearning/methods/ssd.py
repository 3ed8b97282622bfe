"""Selective synaptic dampening: weights that matter to what is forgotten, not to what is kept, shrink [Foster 2024].

References
----------
Foster, Schoepf, Brintrup, Fast Machine Unlearning without Retraining through Selective Synaptic Dampening, AAAI 2024.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from torch import nn

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import Vector, at_most, example_gradients, parted, trainable
from recon.unlearning.registry import register
from recon.unlearning.repair import repaired, steps_of


@register("ssd", search={"selection": (1.0, 3.0, 10.0, 30.0), "dampening": (0.1, 0.5, 1.0), "repair": (0.0, 0.3, 0.8)})
def ssd(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    selection: float = 10.0,
    dampening: float = 1.0,
    repair: float = 0.0,
) -> Reconstructor:
    r"""Dampen weights whose Fisher information on the forget set is large against that on the retain set.

    .. math:: \theta_i \leftarrow \min(\lambda F^A_i / F^B_i, 1)\, \theta_i \quad\text{where}\quad F^B_i > \alpha F^A_i

    [Foster 2024, eq. 5-7], F the mean square of the examples' gradients. No training, but for a repair.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods. Where a set has more examples than the steps before the repair would look at, so many are
        drawn.
    selection, dampening
        :math:`\alpha, \lambda`.
    repair
        Share of the steps, afterwards, on the retain set.

    Raises
    ------
    OptionError
        Factors that are not positive.
    """
    if not (selection > 0 and dampening > 0):
        raise OptionError("selection and dampening are positive", found=f"{selection:g}, {dampening:g}")
    last = steps_of(repair, budget)
    most = max(budget.steps - last, 1) * budget.batch_size
    weights = list(trainable(model).values())
    of_forget = fisher(model, weights, at_most(forget, most, budget.rng(4)), budget)
    of_retain = fisher(model, weights, at_most(retain, most, budget.rng(5)), budget)
    factor = torch.where(
        of_forget > selection * of_retain,
        (dampening * of_retain / of_forget.clamp_min(torch.finfo(of_forget.dtype).tiny)).clamp_max(1),
        1.0,
    )
    with torch.no_grad():
        for p, part in zip(weights, parted(factor, weights), strict=True):
            p.mul_(part)
    return repaired(model, retain, budget, steps=last, done=budget.steps - last)


def fisher(model: Reconstructor, weights: list[nn.Parameter], examples: Examples, budget: Budget) -> Vector:
    """Return the diagonal of the empirical Fisher information: the mean square of the examples' gradients."""
    total = torch.zeros(sum(p.numel() for p in weights), dtype=weights[0].dtype, device=weights[0].device)
    for gradient in example_gradients(model, weights, examples, budget):
        total += gradient.square()
    return total / len(examples)
