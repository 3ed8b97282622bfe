r"""One-point contraction [Jung 2025]: features of what is forgotten shrink to one point, from which nothing comes back.

.. math:: L_A(\theta) + \lambda\, \mathrm{mean}_B \|f_\theta(y) - p\| / \|f_0(y) - p\|

with p = 0 as published. Features after a normalisation without learned scale cannot become 0; then the mean of the
features that are kept is a point that can be neared, or the contraction is of the image, as published for logits.

References
----------
Jung et al., OPC: One-Point-Contraction Unlearning Toward Deep Feature Forgetting, arXiv 2507.07754.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.features import feature_layer, features, frozen, pooled
from recon.unlearning.registry import register

_POINTS = ("origin", "retain")
_LOOKS = 8  # batches of the retain set whose mean is a point


@register(
    "opc",
    search={
        "weight": (0.03, 0.1, 0.3, 1.0),
        "layer": ("last", "deepest", "output"),
        "point": _POINTS,
        "rate": (1.0, 3.0),
    },
)
def opc(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    weight: float = 0.3,
    layer: str = "last",
    point: str = "origin",
    rate: float = 1.0,
) -> Reconstructor:
    """Contract the features of what is forgotten to one point, while fine-tuning on what is kept.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    weight
        Of the contraction.
    layer
        Whose features; see `recon.unlearning.features.feature_layer`.
    point
        ``origin``, or ``retain``: in each channel the mean of the features of what is kept, as they are at first.
    rate
        Learning rate, over the budget's.

    Raises
    ------
    OptionError
        A layer or a point that there is not.
    """
    if point not in _POINTS:
        raise OptionError("no such point", found=point, expected=", ".join(_POINTS))
    teacher = frozen(model)
    name = feature_layer(model, forget.batch([0]), layer, budget.meter)
    centre = _centre(teacher, retain, name, budget) if point == "retain" else None
    kept = retain.endless(budget.batch_size, budget.rng(0))
    gone = forget.endless(budget.batch_size, budget.rng(3))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        b = next(gone)
        physics = b.physics()
        with torch.no_grad():
            at_first = distances(features(teacher, b.y, physics, name, budget.meter), centre)
        now = distances(features(model, b.y, physics, name, budget.meter), centre)
        tiny = torch.finfo(now.dtype).tiny
        return budget.loss(model, next(kept), rng) + weight * (now / at_first.clamp_min(tiny)).mean()

    return descend(model, budget, loss, lr=rate * budget.lr)


def distances(values: Sequence[Tensor], centre: Float[Tensor, " channel"] | None) -> Float[Tensor, " n"]:
    """Norm of each example's features from a point, which is the same all over space; root mean square over runs."""
    parts = []
    for v in values:
        shift = 0 if centre is None else centre.reshape(1, -1, *(1,) * (v.ndim - 2))
        parts.append((v - shift).flatten(1).square().sum(1))
    tiny = torch.finfo(parts[0].dtype).tiny
    return torch.stack(parts).mean(0).clamp_min(tiny).sqrt()


@torch.no_grad()
def _centre(teacher: Reconstructor, retain: Examples, name: str, budget: Budget) -> Float[Tensor, " channel"]:
    batches = retain.endless(budget.batch_size, budget.rng(4))
    found = [
        pooled(features(teacher, batch.y, batch.physics(), name, budget.meter))
        for batch, _ in zip(batches, range(min(_LOOKS, -(-len(retain) // budget.batch_size))), strict=False)
    ]
    return torch.cat(found).mean(0)
