"""Influence: a Newton step to where the weights would be without what is forgotten.

For a quadratic loss and the Hessian the step is retraining. Else it is an approximation, whose kinds are options: the
Hessian by conjugate gradients, the Fisher information layer by layer [Jia 2023, after Singh 2020] with the length that
the Hessian along it gives, or none, a gradient step only [Liu 2025]; all layers, or those on which the loss of what is
forgotten depends given the others [Mehta 2022]. With ``datamodel`` the weights do not make the step: what the
reconstructions would be after it is predicted to first order, by which influence functions are an attribution model,
and the network is trained to give that [Georgiev 2024].

References
----------
Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023; Singh, Alistarh, WoodFisher: Efficient
Second-Order Approximation for Neural Network Compression, NeurIPS 2020; Liu et al., Efficient Machine Unlearning via
Influence Approximation, arXiv 2507.23257; Mehta et al., Deep Unlearning via Randomized Conditionally Independent
Hessians, CVPR 2022; Georgiev et al., Attribute-to-Delete: Machine Unlearning via Datamodel Matching, ICLR 2025 (arXiv
2410.23232).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.physics.errors import OptionError
from recon.training.batches import TrainingBatch
from recon.unlearning.budget import Budget, descend
from recon.unlearning.curvature import fisher_solution, hessian_product, hessian_solution, length_along
from recon.unlearning.examples import Examples
from recon.unlearning.features import frozen, reconstructed, relative_square, taught
from recon.unlearning.gradients import Vector, at_most, mean_gradient, move, size, trainable
from recon.unlearning.independence import conditional_layers
from recon.unlearning.layers import layer
from recon.unlearning.registry import register
from recon.unlearning.repair import repaired, steps_of

CURVATURES = ("hessian", "fisher", "none")
_DRAWS = 50  # of noise, by which layers are chosen
_MOST, _NUMBERS = 128, 2**28  # examples whose gradients are kept at once, and numbers that they have together
_REACH = 1e-2  # of the weights, over their norm, by which the change of reconstructions is found


@register(
    "influence",
    search={
        "curvature": CURVATURES,
        "layers": ("all", "conditional"),
        "scale": (0.3, 1.0, 3.0, 10.0),
        "damping": (0.1, 1.0, 10.0),
        "datamodel": (False, True),
        "repair": (0.0, 0.3),
    },
)
def influence(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    curvature: str = "fisher",
    layers: str | Sequence[str] = "all",
    scale: float = 1.0,
    damping: float = 1.0,
    radius: float = 0.1,
    iterations: int = 10,
    datamodel: bool = False,
    repair: float = 0.0,
) -> Reconstructor:
    r"""Make the Newton step from the minimum over both sets to that over the retain set.

    .. math:: \theta \leftarrow \theta + s \frac{n_B}{n_A + n_B} (H_A + d I)^{-1} (\bar g_B - \bar g_A)

    of the mean gradients. For a network that is not at a minimum it is the effect of removing B alone, without that of
    training on.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods. Where a set has more examples than the steps before the repair would look at, fewer are
        drawn for gradients and curvature, so that the cost is that of those steps.
    curvature
        ``hessian``, ``fisher``, or ``none``: along the gradients, as far as Adam's first step would go.
    layers
        ``all``; ``conditional``; or a layer's name, or several.
    scale
        s: less than 1 where the retain set is a sample of what is kept in truth.
    damping
        d over the mean curvature (see `recon.unlearning.curvature`).
    radius
        Longest step, over the norm of the weights.
    iterations
        Of the conjugate gradients.
    datamodel
        Regress to predicted reconstructions in place of the step.
    repair
        Share of the steps, afterwards, on the retain set.

    Raises
    ------
    OptionError
        No such curvature or layer, or numbers out of range.
    """
    if curvature not in CURVATURES:
        raise OptionError("no such curvature", found=curvature, expected=", ".join(CURVATURES))
    if not (scale > 0 and radius > 0 and iterations > 0 and damping >= 0) or (curvature == "fisher" and damping == 0):
        raise OptionError(
            "scale, radius and iterations are positive, and so is the damping of Fisher information",
            found=f"{scale:g}, {radius:g}, {iterations}, {damping:g}",
        )
    last = steps_of(repair, budget)
    first = budget.steps - last
    weights = _weights(model, layers, forget, budget)
    matching = first // 2 if datamodel else 0
    step = _step(model, weights, forget, retain, budget, first - matching, curvature, scale, damping, iterations)
    longest = radius * size(weights)
    step = step * min(1.0, longest / max(float(step.norm()), torch.finfo(step.dtype).tiny))
    if datamodel:
        _match(model, weights, step, forget, retain, replace(budget, sharpness=0.0), matching)
    else:
        move(weights, step)
    return repaired(model, retain, budget, steps=last, done=first)


def _weights(model: Reconstructor, layers: str | Sequence[str], forget: Examples, budget: Budget) -> list[nn.Parameter]:
    if layers == "all":
        return list(trainable(model).values())
    if layers == "conditional":
        batch = next(forget.endless(budget.batch_size, budget.rng(0, 1)))
        layers = conditional_layers(model, batch, budget, draws=_DRAWS)
    names = [layers] if isinstance(layers, str) else list(layers)
    found = [p for name in names for p in layer(model, name).parameters() if p.requires_grad]
    if not found:
        raise OptionError("no weights to change", found=", ".join(names) or "no layer")
    return found


def _step(
    model: Reconstructor,
    weights: list[nn.Parameter],
    forget: Examples,
    retain: Examples,
    budget: Budget,
    steps: int,
    curvature: str,
    scale: float,
    damping: float,
    iterations: int,
) -> Vector:
    share = len(forget) / (len(forget) + len(retain))
    # Half of what the steps would look at goes to the gradients, half to the curvature.
    most = max(steps * budget.batch_size // 2, 1)
    kept = at_most(retain, most, budget.rng(5))
    of_forget = mean_gradient(model, weights, at_most(forget, most, budget.rng(4)), budget)
    vector = share * (of_forget - mean_gradient(model, weights, kept, budget))
    if curvature == "none":
        length = budget.lr * len(vector) ** 0.5
        return scale * length * vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)
    if curvature == "fisher":
        few = at_most(kept, min(most // 2, _MOST, _NUMBERS // len(vector)), budget.rng(6))
        found = fisher_solution(model, weights, few, budget, vector, damping=damping)
        fewer = at_most(few, most // 4, budget.rng(7))  # which are looked at twice
        return scale * length_along(model, weights, fewer, budget, found, vector) * found
    few = at_most(kept, max(most // (2 * iterations), 1), budget.rng(6))
    found, _ = hessian_solution(
        lambda v: hessian_product(model, weights, few, budget, v), vector, damping=damping, iterations=iterations
    )
    return scale * found


def _match(
    model: Reconstructor,
    weights: list[nn.Parameter],
    step: Vector,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    steps: int,
) -> None:
    """Train the network to give what the step would make of its reconstructions to first order, on both sets."""
    start = frozen(model)
    reach = _REACH * (size(weights) or 1.0) / max(float(step.norm()), torch.finfo(step.dtype).tiny)
    above, below = frozen(start), frozen(start)
    place = {id(p): i for i, p in enumerate(model.parameters())}
    for other, sign in ((above, reach), (below, -reach)):
        theirs = list(other.parameters())
        move([theirs[place[id(p)]] for p in weights], sign * step)
    batches = (forget.endless(budget.batch_size, budget.rng(0, 1)), retain.endless(budget.batch_size, budget.rng(0)))

    def predicted(batch: TrainingBatch) -> Float[Tensor, "b *image"]:
        change = taught(above, batch, budget.meter) - taught(below, batch, budget.meter)
        return taught(start, batch, budget.meter) + change / (2 * reach)

    def loss(_step: int, _rng: torch.Generator) -> Float[Tensor, ""]:
        parts = [
            relative_square(reconstructed(model, batch, budget.meter), predicted(batch)) for batch in map(next, batches)
        ]
        return torch.stack(parts).sum()

    descend(model, budget, loss, steps=steps)
