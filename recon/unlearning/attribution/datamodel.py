r"""How well scores predict what retraining on parts of the training set gives: the linear datamodelling score.

A part S of the examples, drawn at random, is predicted to give the figure :math:`-\sum_{m \in S} \tau(m)` but for a
constant. The score of a query is Spearman's rank correlation of predictions with figures of networks that were really
trained on the parts [1]_.

References
----------
.. [1] Park, Georgiev, Ilyas, Leclerc, Madry, TRAK: attributing model behavior at scale, ICML 2023, definition 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from recon.metrics import bootstrap_interval
from recon.physics.errors import OptionError, ShapeError


@dataclass(frozen=True)
class DatamodellingScore:
    """The score, the interval of its mean over queries (95 %; NaN for one query), and each query's."""

    mean: float
    low: float
    high: float
    queries: tuple[float, ...]


def draw_subsets(
    examples: int, subsets: int, rng: torch.Generator, *, share: float = 0.5
) -> Bool[Tensor, "subset example"]:
    """Draw parts of a training set, each of the same share of it.

    Raises
    ------
    OptionError
        A share that leaves nothing in, or nothing out.
    """
    inside = round(share * examples)
    if not 0 < inside < examples or subsets < 1:
        raise OptionError(
            "a part of the training set leaves something in and something out",
            found=f"{subsets} parts of {inside} of {examples} examples",
        )
    chosen = torch.zeros(subsets, examples, dtype=torch.bool)
    for row in chosen:
        row[torch.randperm(examples, generator=rng)[:inside]] = True
    return chosen


def datamodelling_score(
    scores: Float[Tensor, "query example"],
    subsets: Bool[Tensor, "..."],
    measured: Float[Tensor, "..."],
    *,
    seed: int = 0,
) -> DatamodellingScore:
    """Compare scores with figures of networks that were trained on parts.

    Parameters
    ----------
    scores
        Predicted change of a query's figure if an example is left out.
    subsets, measured
        The parts, ``(subset, example)``, and the figures of networks trained on them, ``(subset, query)``.
    seed
        Of the interval.

    Raises
    ------
    ShapeError
        They do not belong together, or there are fewer than 3 parts.
    """
    count, examples = subsets.shape
    if scores.shape[1] != examples or measured.shape != (count, len(scores)) or count < 3:
        raise ShapeError(
            "scores, parts and figures do not fit",
            found=f"{tuple(scores.shape)}, {tuple(subsets.shape)}, {tuple(measured.shape)}",
            expected="(queries, examples), (parts, examples), (parts, queries); 3 parts or more",
        )
    predicted = -(subsets.to(scores.dtype) @ scores.T)
    each = tuple(
        _rank_correlation(predicted[:, i].cpu().numpy(), measured[:, i].cpu().numpy()) for i in range(len(scores))
    )
    low, high = bootstrap_interval(each, seed=seed) if len(each) > 1 else (float("nan"), float("nan"))
    return DatamodellingScore(float(np.mean(each)), low, high, each)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where either says nothing."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
