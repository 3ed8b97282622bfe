"""Single layer unlearning gradient (SLUG): one gradient, one layer, one step [Cai 2025].

References
----------
Cai, Tan, Asif, Targeted Unlearning with Single Layer Unlearning Gradient, ICML 2025.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from deepinv.models import Reconstructor
from torch import Tensor, nn

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import at_most, matrices, mean_gradient, mean_loss, parted
from recon.unlearning.layers import restored
from recon.unlearning.registry import register
from recon.unlearning.repair import repaired, steps_of

_FIRST = 0.1  # step that the search starts with, over the norm of the layer's weights
_JUDGED = 4  # batches of each set that a step is judged by


@dataclass(frozen=True)
class Candidate:
    """A layer as `slug` sees it.

    Parameters
    ----------
    name
        Of its weights.
    importance
        Norm of the forget set's gradient, over that of the weights.
    alignment
        Absolute cosine of the angle between the gradients of both sets.
    """

    name: str
    importance: float
    alignment: float


@register("slug", search={"bound": (1.05, 1.1, 1.25, 1.5, 2.0), "repair": (0.0, 0.3, 0.8)})
def slug(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    bound: float = 1.25,
    layer: str | None = None,
    trials: int = 10,
    repair: float = 0.0,
) -> Reconstructor:
    r"""Change one layer by one step along the forget set's gradient, the layer chosen by importance and alignment.

    Of the layers that no other surpasses in importance for the forget set, :math:`\|g_B\| / \|\theta\|`, and in how
    little its gradient is aligned to the retain set's, :math:`|\cos(g_A, g_B)|`, each is tried: the size of its step is
    searched for by bisection, so that the forget set's loss comes to the bound. The one that then harms the retain set
    least is kept.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods. Where a set has more examples than the steps before the repair would look at, so many are
        drawn.
    bound
        Loss of the forget set that the step leads to, over that at the start.
    layer
        Name of a layer's weights, in place of the choice.
    trials
        Sizes of the step that are tried, of each layer.
    repair
        Share of the steps, afterwards, on the retain set.

    Raises
    ------
    OptionError
        No such layer, or one that the loss does not depend on; a bound that is not above 1, or no trials.
    """
    weights = matrices(model)
    if not bound > 1 or trials < 1:
        raise OptionError("a bound above 1 and some trials", found=f"{bound:g}, {trials}")
    if layer is not None and layer not in weights:
        raise OptionError("no such layer", found=layer, expected=f"one of {', '.join(weights)}")
    last = steps_of(repair, budget)
    most = max(budget.steps - last, 1) * budget.batch_size
    forget, kept = at_most(forget, most, budget.rng(4)), at_most(retain, most, budget.rng(5))
    of_forget, of_retain = (
        dict(
            zip(
                weights,
                parted(mean_gradient(model, list(weights.values()), part, budget), list(weights.values())),
                strict=True,
            )
        )
        for part in (forget, kept)
    )
    judged = _JUDGED * budget.batch_size
    judges = at_most(forget, judged, budget.rng(6)), at_most(kept, judged, budget.rng(7))
    found = candidates(weights, of_forget, of_retain)
    names = [c.name for c in found if c.name == layer] if layer is not None else [c.name for c in front(found)]
    if not names:
        raise OptionError("the loss of the forget set does not depend on the layer", found=layer or "any of them")
    tried = [(*_searched(model, weights[name], of_forget[name], judges, budget, bound, trials), name) for name in names]
    # Those that come to the bound, before those that do not.
    _short, _harm, step, name = min(tried)
    with torch.no_grad():
        weights[name].add_(step * of_forget[name])
    return repaired(model, retain, budget, steps=last, done=budget.steps - last)


def candidates(
    weights: dict[str, nn.Parameter], of_forget: dict[str, Tensor], of_retain: dict[str, Tensor]
) -> list[Candidate]:
    """Measure each layer whose weights the forget set has a gradient of."""
    found = []
    for name, p in weights.items():
        a, b = of_retain[name].flatten(), of_forget[name].flatten()
        if b.norm() > 0 and p.norm() > 0:
            cosine = a @ b / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)
            found.append(Candidate(name, float(b.norm() / p.detach().norm()), abs(float(cosine))))
    return found


def front(found: list[Candidate]) -> list[Candidate]:
    """Return the layers than which no other is both more important and less aligned."""
    return [
        one
        for one in found
        if not any(other.importance > one.importance and other.alignment < one.alignment for other in found)
    ]


@torch.no_grad()
def _searched(
    model: Reconstructor,
    weight: nn.Parameter,
    gradient: Tensor,
    judges: tuple[Examples, Examples],
    budget: Budget,
    bound: float,
    trials: int,
) -> tuple[float, float, float]:
    """Return how far short of the bound a layer's best step is, what it does to the retain set's loss, and the step."""
    forget, kept = judges
    highest = bound * mean_loss(model, forget, budget)
    step, low, high = _FIRST * float(weight.norm() / gradient.norm()), 0.0, float("inf")
    with restored([weight]) as (start,):
        for _ in range(trials):
            weight.copy_(start + step * gradient)
            if mean_loss(model, forget, budget) < highest:
                low, step = step, 2 * step if high == float("inf") else (step + high) / 2
            else:
                high, step = step, (low + step) / 2
        best = high if high < float("inf") else low
        weight.copy_(start + best * gradient)
        harm = mean_loss(model, kept, budget)
        return float(high == float("inf")), harm if math.isfinite(harm) else float("inf"), best
