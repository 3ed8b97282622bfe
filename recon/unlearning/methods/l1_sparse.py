"""Fine-tuning with a penalty of the weights' absolute values, or after pruning: sparse networks forget [Jia 2023].

References
----------
Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import matrices
from recon.unlearning.registry import register


@register(
    "l1_sparse",
    search={
        "strength": (0.0, 0.01, 0.1, 1.0),
        "decay": (True, False),
        "prune": (0.0, 0.3, 0.6),
        "rate": (0.3, 1.0, 3.0),
    },
)
def l1_sparse(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    strength: float = 0.1,
    decay: bool = True,
    prune: float = 0.0,
    rate: float = 1.0,
) -> Reconstructor:
    r"""Fine-tune on the retain set with an L1 penalty of the weights, after pruning where asked.

    .. math:: L(\theta) + \gamma_t \|\theta\|_1 / \|\theta_0\|_1

    [Jia 2023, eq. 3], the norm over that at the start [ours], so that one strength serves networks of any size. Only
    matrices and kernels are penalised and pruned, not offsets, step sizes or thresholds.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    strength
        :math:`\gamma_0`.
    decay
        Lower the strength to 0 in a straight line, as published.
    prune
        Share of the weights, the smallest of all layers together, that are set to 0 first and stay there.
    rate
        Learning rate, over the budget's.

    Raises
    ------
    OptionError
        A negative strength, or a share that is not from 0 to below 1.
    """
    if not (strength >= 0 and 0 <= prune < 1):
        raise OptionError("no such strength or share", found=f"{strength:g}, {prune:g}", expected="0 or more, below 1")
    weights = list(matrices(model).values())
    pruned = _prune(weights, prune)
    batches = retain.endless(budget.batch_size, budget.rng(0))
    norm = sum(float(p.detach().abs().sum()) for p in weights) or 1.0

    def loss(step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        left = 1 - step / budget.steps if decay else 1.0
        penalty = torch.stack([p.abs().sum() for p in weights]).sum() / norm
        return budget.loss(model, next(batches), rng) + strength * left * penalty

    def stay(_weights: list[nn.Parameter]) -> None:
        for p, gone in zip(weights, pruned, strict=True):
            if p.grad is not None:
                p.grad[gone] = 0

    return descend(model, budget, loss, lr=rate * budget.lr, project=stay if prune else None)


@torch.no_grad()
def _prune(weights: list[nn.Parameter], share: float) -> list[Tensor]:
    """Set the smallest weights to 0, and say which; those of the same size as the last one of them go too."""
    sizes = torch.cat([p.abs().flatten() for p in weights])
    count = round(share * len(sizes))
    least = sizes.kthvalue(count).values if count else sizes.new_tensor(-1.0)
    gone = [p.abs() <= least for p in weights]
    for p, which in zip(weights, gone, strict=True):
        p[which] = 0
    return gone
