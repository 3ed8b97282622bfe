"""The core of what is forgotten, without outliers [Patil 2025]: forgetting these would cost the most elsewhere.

Outliers are found by an isolation forest of the network's features of each example. All of the set counts as forgotten,
and is audited: outliers follow the core.

References
----------
Patil et al., UPCORE: Utility-Preserving Coreset Selection for Balanced Unlearning, arXiv 2502.15082; Liu, Ting and
Zhou, Isolation Forest, ICDM 2008.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Float

from recon.physics.errors import OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.features import feature_layer, features, pooled

_TREES, _SAMPLE = 100, 256  # as in both papers
_EULER = 0.5772156649015329


def core_set(
    model: Reconstructor, forget: Examples, budget: Budget, *, outliers: float = 0.1, layer: str = "deepest"
) -> Examples:
    """Return what is to be forgotten without its outliers, in the same order.

    Parameters
    ----------
    model
        As it is before unlearning.
    forget
        All of it.
    budget
        Batch size, seed; counts the passes.
    outliers
        Share that is left out.
    layer
        Whose features, averaged over space; see `recon.unlearning.features.feature_layer`.

    Raises
    ------
    OptionError
        A share that leaves nothing, no such layer.
    """
    count = round(outliers * len(forget))
    if not 0 <= outliers < 1 or count >= len(forget):
        raise OptionError("outliers are a share of the examples, below 1", found=outliers)
    with torch.no_grad():
        name = feature_layer(model, forget.batch([0]), layer, budget.meter)
        rows = [pooled(features(model, batch.y, batch.physics(), name, budget.meter))[0] for batch in forget.batches(1)]
    scores = isolation(torch.stack(rows).double().cpu().numpy(), seed=budget.rng(10).initial_seed())
    core = np.sort(np.argsort(scores, kind="stable")[: len(forget) - count])
    return forget.subset(core.tolist())


def isolation(
    points: Float[np.ndarray, "n d"], *, trees: int = _TREES, sample: int = _SAMPLE, seed: int = 0
) -> Float[np.ndarray, " n"]:
    r"""Return how soon random cuts isolate each point, :math:`2^{-E[h] / c}`: near 1 for outliers.

    Parameters
    ----------
    points
        One a row.
    trees
        In the forest.
    sample
        Points that each tree is grown of, at most.
    seed
        Of all random choices.
    """
    rng = np.random.default_rng(seed)
    size = min(sample, len(points))
    depth = math.ceil(math.log2(max(size, 2)))
    lengths = np.zeros(len(points))
    for _ in range(trees):
        grown = points[rng.choice(len(points), size, replace=False)]
        _follow(points, np.arange(len(points)), grown, 0, depth, lengths, rng)
    return 2.0 ** (-lengths / trees / max(mean_length(size), 1e-12))


def mean_length(count: int) -> float:
    """Return the mean length of an unsuccessful search in a binary tree of so many points [Liu 2008, eq. 1]."""
    if count < 2:
        return 0.0
    return 2 * (math.log(count - 1) + _EULER) - 2 * (count - 1) / count if count > 2 else 1.0


def _follow(
    points: Float[np.ndarray, "n d"],
    here: np.ndarray,
    grown: Float[np.ndarray, "m d"],
    level: int,
    depth: int,
    lengths: Float[np.ndarray, " n"],
    rng: np.random.Generator,
) -> None:
    """Grow a tree of some points, and add to all points' lengths those of their paths through it."""
    low, high = grown.min(0, initial=np.inf), grown.max(0, initial=-np.inf)
    wide = np.flatnonzero(high > low)
    if level == depth or len(grown) < 2 or not len(wide):
        lengths[here] += level + mean_length(len(grown))
        return
    axis = rng.choice(wide)
    cut = rng.uniform(low[axis], high[axis])
    left, below = points[here, axis] < cut, grown[:, axis] < cut
    _follow(points, here[left], grown[below], level + 1, depth, lengths, rng)
    _follow(points, here[~left], grown[~below], level + 1, depth, lengths, rng)
