"""Fine-tuning on what is kept [Xue 2024]: what is forgotten is never looked at, and fades.

References
----------
Xue, Liu, McDonagh, Tsaftaris, Erase to Enhance: Data-Efficient Machine Unlearning in MRI Reconstruction, MIDL 2024.
"""

from __future__ import annotations

from deepinv.models import Reconstructor

from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.registry import register


@register("finetune", search={"rate": (0.3, 1.0, 3.0)})
def finetune(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    rate: float = 1.0,
) -> Reconstructor:
    """Fine-tune on the retain set only.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    rate
        Learning rate, over the budget's.
    """
    batches = retain.endless(budget.batch_size, budget.rng(0))
    return descend(model, budget, lambda _step, rng: budget.loss(model, next(batches), rng), lr=rate * budget.lr)
