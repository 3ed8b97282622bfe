"""What a network's examples are judged by: with ground truth, or by measurements alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.finetuning.losses import ssdu
from recon.finetuning.measurements import Measurement
from recon.training.batches import TrainingBatch
from recon.training.losses import WeightedLoss


@runtime_checkable
class Objective(Protocol):
    """Mean loss of a batch; less is better."""

    needs_truth: bool

    def __call__(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss."""
        ...


class Supervised:
    """A weighted sum of losses against the targets.

    Parameters
    ----------
    weights
        As in training; by default the halves of complex and magnitude error by which the shipped network was trained.
    """

    needs_truth = True

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.loss = WeightedLoss({"l2": 0.5, "magnitude_l2": 0.5} if weights is None else weights)

    def __call__(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return the loss."""
        return self.loss(model(batch.y, batch.physics()), batch)[0]


class SelfSupervised:
    """Predict a random part of the measurements from the others [Yaman 2020]; targets are never looked at."""

    needs_truth = False

    def __call__(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss."""
        return ssdu(model, Measurement(y=batch.y, physics=batch.physics()), rng)[0]
