"""Which layers a loss depends on, given other layers: a coefficient of conditional dependence, and its greedy choice.

The coefficient of [1]_ is 0 for independence and 1 where one is a function of the others; it needs only ranks and
nearest neighbours. [2]_ chooses by it what of a network is worth a Newton step: the inputs are shaken at random, and
the layers are kept without which the others do not tell the loss.

References
----------
.. [1] Azadkia, Chatterjee, A simple measure of conditional dependence, Annals of Statistics 49, 2021, section 2 and 4.
.. [2] Mehta, Pal, Singh, Ravi, Deep unlearning via randomized conditionally independent Hessians, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float, Int
from torch import Tensor, nn

from recon.training.batches import TrainingBatch
from recon.unlearning.budget import Budget
from recon.unlearning.layers import captured, weighted_layers

_SHAKE = 0.1  # standard deviation of what is added to the inputs, in their root mean squares, as published


def dependence(y: Float[Tensor, " n"], z: Float[Tensor, "n p"], given: Float[Tensor, "n q"] | None = None) -> float:
    """Measure how far a value depends on others, given further ones [Azadkia 2021, eq. 4.1 and 4.2].

    Parameters
    ----------
    y
        The value.
    z
        The others.
    given
        What is known already.
    """
    rank = _ranks(y)
    n = len(y)
    if given is None:
        above = n + 1 - rank
        least = torch.minimum(rank, rank[_nearest(z)])
        return float((n * least - above.square()).sum() / (above * (n - above)).sum())
    known = torch.minimum(rank, rank[_nearest(given)])
    least = torch.minimum(rank, rank[_nearest(torch.cat((given, z), dim=1))])
    left = float((rank - known).sum())
    return float((least - known).sum()) / left if left else 0.0


def chosen(y: Float[Tensor, " n"], features: Mapping[str, Float[Tensor, "n _"]]) -> list[str]:
    """Choose features one after the other while the value depends on a further one given those chosen [FOCI].

    Parameters
    ----------
    y
        The value.
    features
        By name; the first is always chosen.
    """
    names: list[str] = []
    while len(names) < len(features):
        given = torch.cat([features[name] for name in names], dim=1) if names else None
        found = {name: dependence(y, z, given) for name, z in features.items() if name not in names}
        best = max(found, key=lambda name: found[name])
        if names and found[best] <= 0:
            break
        names.append(best)
    return names


@torch.no_grad()
def conditional_layers(model: Reconstructor, batch: TrainingBatch, budget: Budget, *, draws: int) -> list[str]:
    """Choose the layers on which the loss of a batch depends when its measurements are shaken.

    A layer is seen by the means of its channels over the batch and over space, divided by their deviations; whole
    layers are chosen [ours], not their single channels. Layers whose weights are used by others than themselves are not
    seen, nor chosen.

    Parameters
    ----------
    model
        In evaluation mode afterwards.
    batch
        Of what is forgotten.
    budget
        Its objective is the loss, its seed that of the noise.
    draws
        How often the measurements are shaken.
    """
    model.eval()
    layers = weighted_layers(model)
    rng = budget.rng(8)
    losses: list[float] = []
    means: dict[str, list[Tensor]] = {name: [] for name in layers}
    with captured(model, list(layers)) as found:
        for _ in range(draws):
            losses.append(float(budget.loss(model, _shaken(batch, rng), budget.rng(8, 0))))
            for name, outputs in found.items():
                if outputs:
                    means[name].append(torch.stack([_channel_means(layers[name], v) for v in outputs]).mean(0))
                outputs.clear()
    features = {name: _standardised(torch.stack(rows).double().cpu()) for name, rows in means.items() if rows}
    return chosen(torch.tensor(losses, dtype=torch.float64), features)


def _shaken(batch: TrainingBatch, rng: torch.Generator) -> TrainingBatch:
    y = batch.y
    noise = torch.randn(y.shape, generator=rng, dtype=y.dtype).to(y.device)
    measured = y != 0  # what a mask leaves out stays 0
    rms = (y.abs().square().sum() / measured.sum().clamp_min(1)).sqrt()
    return cast("TrainingBatch", replace(cast("Any", batch), y=y + _SHAKE * rms * noise * measured))


def _channel_means(layer: nn.Module, output: Tensor) -> Float[Tensor, " c"]:
    """Average over all but the channels, which are last of linear layers."""
    channels = output.movedim(-1, 0) if isinstance(layer, nn.Linear) else output.movedim(1, 0)
    return channels.flatten(1).mean(1)


def _standardised(x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    deviation = x.std(0, correction=0)
    return (x - x.mean(0)) / torch.where(deviation > 0, deviation, 1)


def _ranks(y: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    rank = torch.empty(len(y), dtype=torch.int64)
    rank[y.argsort()] = torch.arange(1, len(y) + 1)
    return rank


def _nearest(x: Float[Tensor, "n p"]) -> Int[Tensor, " n"]:
    """Return the index of each row's nearest other row."""
    return torch.cdist(x, x).fill_diagonal_(float("inf")).argmin(1)
