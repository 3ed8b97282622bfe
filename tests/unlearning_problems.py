"""A linear network on a small regression, where what unlearning should give is known in closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import as_generator
from recon.datasets.tensors import TensorBatch
from recon.physics.matrix import MatrixOperator
from recon.training.batches import TrainingBatch
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples, Item
from recon.unlearning.objectives import Objective
from recon.unlearning.registry import methods

A, B = slice(0, 3), slice(3, 5)
"""Entries of measurements that, where two sets have none in common (`only`), are of what is kept and of the rest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearBatch(TensorBatch):
    """Measurements that are the image itself, and targets that are a linear map of it."""

    y: Float[Tensor, "b n"]
    target: Float[Tensor, "b 1 1 m"]
    sigma: Float[Tensor, " b"]
    names: tuple[str, ...]

    def physics(self) -> LinearPhysics:
        """Return the identity."""
        return MatrixOperator(torch.eye(self.y.shape[1], dtype=self.y.dtype))


class LinearNetwork(Reconstructor):
    """``x = W y``, or with hidden layers ``x = W_2 W_1 y``."""

    def __init__(self, n: int, m: int, hidden: int | None = None) -> None:
        super().__init__()
        sides = [n, m] if hidden is None else [n, hidden, m]
        self.layers = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sides)))

    def forward(self, y: Float[Tensor, "b n"], physics: LinearPhysics) -> Float[Tensor, "b 1 1 m"]:
        """Predict."""
        return self.layers(y)[:, None, None]


class Ridge:
    """Half the mean square error, and half the penalty of the weights: an `Objective` of closed-form minimum."""

    needs_truth = True

    def __init__(self, penalty: float = 1e-2) -> None:
        self.penalty = penalty

    def __call__(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss: a mean over the batch."""
        assert batch.target is not None
        error = (model(batch.y, batch.physics()) - batch.target).square().flatten(1).sum(1).mean()
        return 0.5 * error + 0.5 * self.penalty * sum(p.square().sum() for p in model.parameters())


def linear_examples(count: int, n: int = 5, m: int = 3, *, seed: int = 0, noise: float = 0.1) -> Examples:
    """Examples of a random linear map of its own for each seed."""
    rng = as_generator(seed)
    w = torch.randn(m, n, generator=rng, dtype=torch.float64)
    y = torch.randn(count, n, generator=rng, dtype=torch.float64)
    x = y @ w.T + noise * torch.randn(count, m, generator=rng, dtype=torch.float64)
    items = [
        Item(content=(y[i], x[i], f"set {seed}, example {i}"), name=f"set {seed}, example {i}", origin=f"set{seed}",
             digest=f"{seed}-{i}", group=(n,))
        for i in range(count)
    ]  # fmt: skip
    return Examples(items, collate=_collate)


def inputs(examples: Examples) -> Float[Tensor, "b n"]:
    """Measurements of all examples."""
    return torch.stack([item.content[0] for item in examples])


def targets(examples: Examples) -> Float[Tensor, "b m"]:
    """Targets of all examples."""
    return torch.stack([item.content[1] for item in examples])


def with_inputs(examples: Examples, change: Callable[[Tensor, int], Tensor]) -> Examples:
    """The same examples, the measurements of each changed, given its number."""
    items = [replace(item, content=(change(item.content[0], i), *item.content[1:])) for i, item in enumerate(examples)]
    return Examples(items, collate=examples._collate)


def only(examples: Examples, kept: slice) -> Examples:
    """The same examples, their measurements zero but for some entries."""
    mask = torch.zeros_like(examples[0].content[0])
    mask[kept] = 1
    return with_inputs(examples, lambda y, _: mask * y)


def ridge_solution(examples: Examples, penalty: float = 1e-2) -> Float[Tensor, "m n"]:
    """Minimum of `Ridge` over all examples."""
    y, x = inputs(examples), targets(examples)
    gram = y.T @ y / len(y) + penalty * torch.eye(y.shape[1], dtype=y.dtype)
    return torch.linalg.solve(gram, y.T @ x / len(y)).T


def fitted(examples: Examples, penalty: float = 1e-2) -> LinearNetwork:
    """The network with the weights of `ridge_solution`."""
    weights = ridge_solution(examples, penalty)
    model = LinearNetwork(weights.shape[1], weights.shape[0]).double()
    with torch.no_grad():
        model.layers[0].weight.copy_(weights)
    return model


def hidden(seed: int = 0) -> LinearNetwork:
    """A network with a hidden layer, of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LinearNetwork(5, 3, hidden=4).double()


def weight(model: LinearNetwork) -> Tensor:
    """The weights of the first layer."""
    return model.layers[0].weight.detach()


def whole(count: int, **options: object) -> Budget:
    """A budget whose batches are whole sets, of quadratic losses."""
    return Budget(**{"batch_size": count, "objective": Ridge(), "clip": 1e6, **options})


def budget(steps: int = 300, lr: float = 0.03, objective: Objective | None = None, **more: object) -> Budget:
    """A budget to converge with, of a dozen examples at once."""
    return whole(12, steps=steps, lr=lr, objective=objective or Ridge(), **more)


def run(name: str, model: Reconstructor, forget: Examples, retain: Examples, budget: Budget, **options: object):
    """Let a method work on a copy of a network."""
    return methods[name].function(copy.deepcopy(model), forget, retain, budget, **options)


def _collate(contents: Sequence[tuple[Tensor, Tensor, str]]) -> LinearBatch:
    y, x, names = zip(*contents, strict=True)
    return LinearBatch(
        y=torch.stack(y), target=torch.stack(x)[:, None, None], sigma=torch.full((len(y),), torch.nan), names=names
    )
