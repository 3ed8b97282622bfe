r"""Adapt, then unlearn [Tiwary 2023]: weights that know what is forgotten best are a place to keep away from.

First copies are adapted to B, held to the old weights where A needs them (elastic weight consolidation), to
:math:`\theta_1, \theta_2, \dots`. Then

.. math:: L_A(\theta) + \gamma\, r(d), \quad d = \mathrm{mean}_i \|\theta - \theta_i\|^2 / \|\theta_0 - \theta_i\|^2

with r(d) = exp(-d), 1 / d or -d.

References
----------
Tiwary et al., Adapt then Unlearn: Exploring Parameter Space Semantics for Unlearning in Generative Adversarial
Networks, TMLR 2025; Kirkpatrick et al., PNAS 2017, eq. 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import batch_gradient
from recon.unlearning.layers import flat
from recon.unlearning.registry import register

_REPULSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda d: torch.exp(-d),
    "inverse": lambda d: 1 / d.clamp_min(torch.finfo(d.dtype).tiny),
    "negative": lambda d: -d,
}
_LOOKS = 8  # batches that the Fisher information is of


@register(
    "adapt_then_unlearn",
    search={"gamma": (0.01, 0.1, 1.0), "repulsion": ("exp", "inverse"), "elastic": (0.0, 10.0), "rate": (1.0, 3.0)},
)
def adapt_then_unlearn(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    gamma: float = 0.1,
    repulsion: str = "exp",
    share: float = 0.3,
    copies: int = 1,
    elastic: float = 0.0,
    rate: float = 1.0,
) -> Reconstructor:
    """Adapt copies to what is forgotten, then train on what is kept with a repulsion from their weights.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    gamma
        Weight of the repulsion.
    repulsion
        Its form; the published EL2, IL2 and NL2. ``negative`` has no bound: the learning rate is what holds it.
    share
        Of the steps that all adaptations take together.
    copies
        That are adapted, each with random numbers of its own.
    elastic
        Weight of the elastic penalty of adaptation; its unit is the largest Fisher information of a weight.
    rate
        Learning rate, over the budget's.

    Raises
    ------
    OptionError
        No such repulsion, or a share or number of copies that leaves a phase without a step.
    """
    if repulsion not in _REPULSIONS:
        raise OptionError("no such repulsion", found=repulsion, expected=", ".join(_REPULSIONS))
    each = round(share * budget.steps / max(copies, 1))
    if copies < 1 or each < 1 or each * copies >= budget.steps:
        raise OptionError(
            "steps are shared between adaptation and unlearning, at least one each",
            found=f"share {share:g}, copies {copies}, steps {budget.steps}",
        )
    points = [adapted(model, forget, retain, budget, each, elastic, i, rate * budget.lr) for i in range(copies)]
    return repelled(model, points, retain, budget, gamma, repulsion, each * copies, rate * budget.lr)


def adapted(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    steps: int,
    elastic: float,
    number: int,
    lr: float,
) -> Float[Tensor, " p"]:
    """Return the weights of copy ``number``, adapted to the forget set in so many steps."""
    own = copy.deepcopy(model)
    gone = forget.endless(budget.batch_size, budget.rng(3, number))
    start = flat(own.parameters()).detach().clone()
    importance = _fisher(own, retain, budget) if elastic else torch.zeros_like(start)

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        value = budget.loss(own, next(gone), rng)
        if elastic:
            moved = flat(own.parameters()) - start
            value = value + 0.5 * elastic * (importance * moved.square()).sum()
        return value

    descend(own, budget, loss, steps=steps, lr=lr, done=number * steps)
    return flat(own.parameters()).detach()


def repelled(
    model: Reconstructor,
    points: Sequence[Float[Tensor, " p"]],
    retain: Examples,
    budget: Budget,
    gamma: float,
    repulsion: str,
    done: int,
    lr: float,
) -> Reconstructor:
    """Train on the retain set in the steps that are left, away from points in the space of weights."""
    kept = retain.endless(budget.batch_size, budget.rng(0))
    start = flat(model.parameters()).detach().clone()
    tiny = torch.finfo(start.dtype).tiny
    units = [(start - point).square().sum().clamp_min(tiny) for point in points]
    shape = _REPULSIONS[repulsion]

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        weights = flat(model.parameters())
        apart = [(weights - point).square().sum() / unit for point, unit in zip(points, units, strict=True)]
        return budget.loss(model, next(kept), rng) + gamma * shape(torch.stack(apart).mean())

    return descend(model, budget, loss, steps=budget.steps - done, lr=lr, done=done)


def _fisher(model: Reconstructor, retain: Examples, budget: Budget) -> Float[Tensor, " p"]:
    """Mean squared derivatives of batches' losses, the largest 1."""
    model.eval()
    total = torch.zeros_like(flat(model.parameters()).detach())
    batches = retain.endless(budget.batch_size, budget.rng(4))
    weights: list[nn.Parameter] = list(model.parameters())
    for i, batch in zip(range(_LOOKS), batches, strict=False):
        total += batch_gradient(model, weights, batch, budget, budget.rng(4, i))[1].square() / _LOOKS
    return total / total.amax().clamp_min(torch.finfo(total.dtype).tiny)
