r"""Distance-based unlearning via centroid kinematics [Cotogni 2023]: features move to the nearest wrong centroid.

.. math:: \lambda\, \mathrm{mean}_B (1 - \cos(f_\theta(y) - o, c_{\mathrm{nearest}} - o)) + L_A(\theta)

Reconstruction has no classes. Centroids are of what is kept: its mean, where it is one organ, or several that k-means
finds in it. Angles are seen from o, half way between the means of what is kept and what is forgotten at first: from 0,
as published, features that are all positive after an activation are in nearly one direction whatever the organ is.

References
----------
Cotogni et al., DUCK: Distance-based Unlearning via Centroid Kinematics, arXiv 2312.02052.
"""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn.functional import normalize

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples
from recon.unlearning.features import feature_layer, features, pooled
from recon.unlearning.gradients import at_most
from recon.unlearning.registry import register

_MOST = 200  # examples that centroids are of


@register(
    "duck",
    search={"weight": (0.03, 0.1, 0.3, 1.0), "centroids": (1, 4), "layer": ("deepest", "last"), "rate": (1.0, 3.0)},
)
def duck(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    weight: float = 0.1,
    centroids: int = 1,
    layer: str = "deepest",
    rate: float = 1.0,
) -> Reconstructor:
    """Move the features of what is forgotten to the nearest centroid of what is kept, while fine-tuning on that.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    weight
        Of forgetting.
    centroids
        Of what is kept, at most as many as there are examples.
    layer
        Whose features, averaged over space; see `recon.unlearning.features.feature_layer`.
    rate
        Learning rate, over the budget's.

    Raises
    ------
    OptionError
        A layer that there is not, no centroids.
    """
    if centroids < 1:
        raise OptionError("there is at least one centroid", found=centroids)
    name = feature_layer(model, forget.batch([0]), layer, budget.meter)
    points = centroids_of(model, retain, name, centroids, budget)
    origin = (points.mean(0) + centroids_of(model, forget, name, 1, budget)[0]) / 2
    kept = retain.endless(budget.batch_size, budget.rng(0))
    gone = forget.endless(budget.batch_size, budget.rng(3))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        b = next(gone)
        found = pooled(features(model, b.y, b.physics(), name, budget.meter))
        apart = cosine_distances(found - origin, points - origin)
        return budget.loss(model, next(kept), rng) + weight * apart.amin(1).mean()

    return descend(model, budget, loss, lr=rate * budget.lr)


def cosine_distances(x: Float[Tensor, "n d"], points: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """1 - cosine of the angle between each vector and each point."""
    return 1 - normalize(x, dim=1) @ normalize(points, dim=1).T


@torch.no_grad()
def centroids_of(
    model: Reconstructor, examples: Examples, name: str, count: int, budget: Budget
) -> Float[Tensor, "k channel"]:
    """Return the centroids of the features of examples, at most 200, drawn by the budget's seed."""
    batches = at_most(examples, _MOST, budget.rng(4)).batches(budget.batch_size)
    found = torch.cat([pooled(features(model, b.y, b.physics(), name, budget.meter)) for b in batches])
    if count == 1:
        return found.mean(0, keepdim=True)
    seed = budget.rng(5).initial_seed() % 2**32
    points, _ = kmeans2(found.double().cpu().numpy(), min(count, len(found)), minit="++", seed=seed)
    return torch.from_numpy(points).to(found)
