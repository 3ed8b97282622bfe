r"""Unlearning from logit difference [Ji 2024]: an assistant remembers B and forgets A; what it knows is subtracted.

A classifier's uniform answer is here the image that nothing has been learned for, :math:`x_0 = A^H y`; what a network
adds to it is its residual. The assistant is trained to the loss of B, and to add nothing on A; then

.. math:: x = f(y) - w\,(g(y) - x_0)

which is f on A, and the more of what only B teaches is gone from B the larger w is. Where :math:`A^H y` is no image of
the network's kind, :math:`x_0 = 0`.

References
----------
Ji et al., Reversing the Forget-Retain Objectives: An Efficient LLM Unlearning Framework from Logit Difference, NeurIPS
2024.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.finetuning.low_rank import add_adapters, merge_adapters
from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.features import frozen, reconstructed, relative_square, taught
from recon.unlearning.registry import register


class Difference(Reconstructor):
    """A network less a share of what its assistant adds to the image that nothing has been learned for.

    Parameters
    ----------
    model, assistant
        The networks.
    weight
        Share of the assistant's residual that is subtracted.
    """

    def __init__(self, model: Reconstructor, assistant: Reconstructor, weight: float) -> None:
        super().__init__()
        self.model, self.assistant, self.weight = model, assistant, weight

    def forward(self, y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b channel y x"]:
        """Reconstruct."""
        x = self.model(y, physics)
        return x - self.weight * (self.assistant(y, physics) - unlearned_image(y, physics, x))


@register("logit_difference", search={"weight": (0.1, 0.3, 1.0), "uniform": (1.0, 5.0), "rate": (1.0, 3.0)})
def logit_difference(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    weight: float = 0.3,
    uniform: float = 5.0,
    share: float = 0.5,
    rank: int | None = None,
    rate: float = 1.0,
) -> Reconstructor:
    """Subtract the residual of an assistant that remembers what is forgotten and forgets what is kept.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    weight
        Share of the assistant's residual that is subtracted.
    uniform
        Weight, in the assistant's training, of adding nothing on what is kept.
    share
        Of the steps that the assistant is trained; in the others the difference is distilled into the network. 1: the
        pair is returned as it is, a network of two that has no file of weights.
    rank
        Train low-rank adapters of the assistant only, as published; None: all its weights.
    rate
        Learning rate, over the budget's.

    Raises
    ------
    OptionError
        A share that leaves the assistant without a step.
    """
    steps = round(share * budget.steps)
    if not 0 < steps <= budget.steps:
        raise OptionError("the assistant has a share of the steps, at least one", found=f"{share:g}")
    pair = Difference(
        frozen(model), trained_assistant(model, forget, retain, budget, steps, uniform, rank, rate), weight
    )
    if steps == budget.steps:
        return pair.eval()
    kept = retain.endless(budget.batch_size, budget.rng(6))
    gone = forget.endless(budget.batch_size, budget.rng(7))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        total = []
        for batch in (next(kept), next(gone)):
            wanted = taught(pair, batch, budget.meter)
            total.append(relative_square(reconstructed(model, batch, budget.meter), wanted))
        return torch.stack(total).sum()

    return descend(model, budget, loss, steps=budget.steps - steps, lr=rate * budget.lr, done=steps)


def trained_assistant(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    steps: int,
    uniform: float,
    rank: int | None,
    rate: float,
) -> Reconstructor:
    """Return a copy that is trained to the forget set and to add nothing on the retain set, and no longer is."""
    assistant, teacher = frozen(model).requires_grad_(True), frozen(model)
    if rank is not None:
        add_adapters(assistant, rank, seed=budget.rng(8).initial_seed() % 2**31)
    kept = retain.endless(budget.batch_size, budget.rng(0))
    gone = forget.endless(budget.batch_size, budget.rng(3))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        a = next(kept)
        x = taught(teacher, a, budget.meter)
        with torch.no_grad():
            nothing = unlearned_image(a.y, a.physics(), x)
        added = reconstructed(assistant, a, budget.meter) - nothing
        # in units of what the network adds: relative_square(0, r) = 1
        forgetting = relative_square(added + x - nothing, x - nothing)
        return budget.loss(assistant, next(gone), rng) + uniform * forgetting

    descend(assistant, budget, loss, steps=steps, lr=rate * budget.lr)
    merge_adapters(assistant)
    return assistant.eval().requires_grad_(False)


def unlearned_image(y: Tensor, physics: LinearPhysics, like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Return the adjoint image, or zeros where it is not of the shape of the network's image."""
    image = physics.A_adjoint(y)
    return image if image.shape == like.shape and image.is_complex() == like.is_complex() else torch.zeros_like(like)
