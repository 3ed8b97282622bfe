"""A linear network on a small regression, where what unlearning should give is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from recon.unlearning.examples import Examples, Item


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


def ridge_solution(examples: Examples, penalty: float = 1e-2) -> Float[Tensor, "m n"]:
    """Minimum of `Ridge` over all examples."""
    y = torch.stack([item.content[0] for item in examples])
    x = torch.stack([item.content[1] for item in examples])
    gram = y.T @ y / len(y) + penalty * torch.eye(y.shape[1], dtype=y.dtype)
    return torch.linalg.solve(gram, y.T @ x / len(y)).T


def fitted(examples: Examples, penalty: float = 1e-2) -> LinearNetwork:
    """The network with the weights of `ridge_solution`."""
    weights = ridge_solution(examples, penalty)
    model = LinearNetwork(weights.shape[1], weights.shape[0]).double()
    with torch.no_grad():
        model.layers[0].weight.copy_(weights)
    return model


def _collate(contents: Sequence[tuple[Tensor, Tensor, str]]) -> LinearBatch:
    y, x, names = zip(*contents, strict=True)
    return LinearBatch(
        y=torch.stack(y), target=torch.stack(x)[:, None, None], sigma=torch.full((len(y),), torch.nan), names=names
    )
