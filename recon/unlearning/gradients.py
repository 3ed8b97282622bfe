"""Gradients of the weights over sets of examples, as vectors; and the losses of sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.physics.errors import DataError, OptionError
from recon.training.batches import TrainingBatch
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.layers import flat

Vector = Float[Tensor, " weights"]
_PURPOSE = 3  # of the random numbers here: the same of a batch whenever it is looked at


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that may be changed, by their names."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return those weights that are matrices or kernels, without offsets and step sizes; where none is, all."""
    weights = trainable(model)
    return {name: p for name, p in weights.items() if p.ndim > 1} or weights


def at_most(examples: Examples, most: int, rng: torch.Generator) -> Examples:
    """Return all examples or, where there are more than ``most``, so many of them chosen at random.

    Raises
    ------
    OptionError
        There are none.
    """
    if not len(examples):
        raise OptionError("an empty set of examples")
    if len(examples) <= most:
        return examples
    return examples.subset(torch.randperm(len(examples), generator=rng)[: max(most, 1)].tolist())


def batch_gradient(
    model: Reconstructor, weights: list[nn.Parameter], batch: TrainingBatch, budget: Budget, rng: torch.Generator
) -> tuple[float, Vector]:
    """Return the loss of a batch and its gradient; weights that the loss does not depend on have 0.

    Raises
    ------
    DataError
        A loss that is not finite.
    """
    with torch.enable_grad():
        loss = budget.loss(model, batch, rng)
        if not torch.isfinite(loss):
            raise DataError("the loss is not finite", file=batch.names[0], found=float(loss.detach()))
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return float(loss.detach()), flat(found)


def mean_gradient(model: Reconstructor, weights: list[nn.Parameter], examples: Examples, budget: Budget) -> Vector:
    """Return the gradient of the mean loss of a set, the same whenever it is asked for at the same weights."""
    model.eval()
    total = torch.zeros(sum(p.numel() for p in weights), dtype=weights[0].dtype, device=weights[0].device)
    for i, batch in enumerate(examples.batches(budget.batch_size)):
        total += len(batch) * batch_gradient(model, weights, batch, budget, budget.rng(_PURPOSE, i))[1]
    return total / len(examples)


def example_gradients(
    model: Reconstructor, weights: list[nn.Parameter], examples: Examples, budget: Budget
) -> Iterator[Vector]:
    """Yield the gradient of each example's own loss."""
    model.eval()
    for i, batch in enumerate(examples.batches(1)):
        yield batch_gradient(model, weights, batch, budget, budget.rng(_PURPOSE, i))[1]


@torch.no_grad()
def mean_loss(model: Reconstructor, examples: Examples, budget: Budget) -> float:
    """Return the mean loss of a set, the same whenever it is asked for at the same weights."""
    model.eval()
    total = 0.0
    for i, batch in enumerate(examples.batches(budget.batch_size)):
        total += len(batch) * float(budget.loss(model, batch, budget.rng(_PURPOSE, i)))
    return total / len(examples)


def parted(vector: Vector, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """Cut a vector into the shapes of the weights."""
    parts = vector.split([p.numel() for p in weights])
    return [part.view_as(p) for part, p in zip(parts, weights, strict=True)]


@torch.no_grad()
def move(weights: list[nn.Parameter], vector: Vector) -> None:
    """Add a vector to the weights."""
    for p, part in zip(weights, parted(vector, weights), strict=True):
        p.add_(part)


@torch.no_grad()
def size(weights: list[nn.Parameter]) -> float:
    """Return the norm of the weights."""
    return float(torch.stack([p.norm() for p in weights]).norm())
