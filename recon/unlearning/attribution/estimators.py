r"""Estimates of how a query's figure would change if one training example had been left out.

All scores have one sign and unit: the predicted change of the figure. Where less is better, as for an error, an example
with a positive score helps, for without it the figure would rise, and one with a negative score harms.

- TracIn [1]_: :math:`\frac1N \sum_k \eta_k K_k \, \nabla f(\theta_k) \cdot \nabla L_m(\theta_k)`, over checkpoints
  that stand for K steps each;
- influence functions [2]_: :math:`\frac1N \nabla f^T (H + \lambda I)^{-1} \nabla L_m`;
- SOURCE [3]_ (eq. 24): training in segments of K steps of one curvature H and one gradient each,
  :math:`\frac1N \nabla f^T \sum_l \Big(\prod_{l'>l} e^{-\eta K H_{l'}}\Big) (I - e^{-\eta K H_l}) H_l^{-1} \nabla L_m`.

With Adam, a step is :math:`-\eta P g`, P one over the root of the mean square of the batches' gradients. In units
:math:`P^{1/2}` of the weights it is plain descent [3]_ (appendix D), so that H becomes :math:`P^{1/2} H P^{1/2}`.

References
----------
.. [1] Pruthi, Liu, Kale, Sundararajan, Estimating training data influence by tracing gradient descent, NeurIPS 2020.
.. [2] Koh, Liang, Understanding black-box predictions via influence functions, ICML 2017.
.. [3] Bae, Lin, Lorraine, Grosse, Training data attribution via approximate unrolled differentiation, NeurIPS 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.physics.errors import OptionError
from recon.unlearning.attribution.blocks import Blocks, Layout, scaled
from recon.unlearning.attribution.curvature import Curvature, Told
from recon.unlearning.examples import Examples
from recon.unlearning.layers import flat
from recon.unlearning.objectives import Objective

Optimiser = Literal["adam", "sgd"]
Scores = Float[Tensor, "query example"]

_DAMPING = 0.1  # of the mean eigenvalue of a block, as is usual with EK-FAC
_TINY = 1e-12  # gradients that never move the weights


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of training.

    Parameters
    ----------
    models
        The network as it was at one or several times in it.
    steps, lr
        Steps of descent, and their mean learning rate.
    """

    models: tuple[Reconstructor, ...]
    steps: int
    lr: float

    def __post_init__(self) -> None:
        if not self.models or self.steps < 1 or not (self.lr > 0 and math.isfinite(self.lr)):
            raise OptionError(
                "a segment has a network, steps and a learning rate",
                found=f"{len(self.models)} networks, {self.steps} steps, lr {self.lr:g}",
            )


@dataclass(frozen=True, eq=False)
class Problem:
    """What is asked.

    Parameters
    ----------
    train, objective
        What the network was trained on, and by.
    query, figure
        Examples, and what is asked about them.
    seed
        Of the objectives' random choices.
    tell
        Called after each look at an example.
    """

    train: Examples
    objective: Objective
    query: Examples
    figure: Objective
    seed: int = 0
    tell: Told = lambda: None

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.query):
            raise OptionError(
                "training examples and queries are needed", found=f"{len(self.train)} and {len(self.query)}"
            )

    def asked(self, model: Reconstructor) -> list[Blocks]:
        """Gradients of the queries' figures."""
        layout, found = Layout(model), []
        for i in range(len(self.query)):
            rng = child_generator(self.seed, 2, i)
            found.append(layout.gradient(model, self.figure(model, self.query.batch([i]), rng)))
            self.tell()
        return found

    def trained(self, model: Reconstructor, use: Callable[[int, Blocks], None]) -> None:
        """Hand over the gradients of the training examples one by one; no more than one is kept."""
        layout = Layout(model)
        for i in range(len(self.train)):
            rng = child_generator(self.seed, 3, i)
            use(i, layout.gradient(model, self.objective(model, self.train.batch([i]), rng)))
            self.tell()

    def products(self, model: Reconstructor, vectors: Sequence[Blocks]) -> Scores:
        """Return the products of vectors with the gradients of all training examples, over their number."""
        rows = torch.stack([flat(vector.values()) for vector in vectors])
        found = rows.new_empty(len(vectors), len(self.train))

        def multiply(i: int, gradient: Blocks) -> None:
            found[:, i] = rows @ flat(gradient.values())

        self.trained(model, multiply)
        return found / len(self.train)


@runtime_checkable
class Fit(Protocol):
    """Finds the curvature of a stretch of training, in units of the weights."""

    def __call__(self, models: Sequence[Reconstructor], scale: Blocks | None) -> Curvature:
        """Return it."""
        ...


def tracin(problem: Problem, segments: Sequence[Segment]) -> Scores:
    """Sum up the products of gradients along the training."""
    parts = [
        (segment.steps * segment.lr / len(segment.models)) * problem.products(model, problem.asked(model))
        for segment in segments
        for model in segment.models
    ]
    return torch.stack(parts).sum(0)


def influence(problem: Problem, model: Reconstructor, curvature: Curvature, *, damping: float = _DAMPING) -> Scores:
    """Take one step of Newton towards the network that has not seen an example.

    Parameters
    ----------
    problem, model
        What is asked of which network.
    curvature
        At its weights.
    damping
        Added to the eigenvalues of a block: this times their mean.
    """

    def inverse(s: Tensor) -> Tensor:
        raised = s + damping * s.mean()
        return torch.where(raised != 0, 1 / raised, 0)  # a layer that no output depends on

    return problem.products(model, [curvature.apply(inverse, vector) for vector in problem.asked(model)])


def source(
    problem: Problem,
    segments: Sequence[Segment],
    fit: Fit,
    *,
    optimiser: Optimiser = "adam",
    batch_size: int = 1,
) -> Scores:
    """Differentiate through the whole training, approximately.

    Parameters
    ----------
    problem
        What is asked.
    segments
        The training, first to last; the last network of the last segment is the one that is asked about.
    fit
        Finds curvatures.
    optimiser
        By which the network was trained.
    batch_size
        Examples a step, for the noise of the gradients that Adam saw.
    """
    vectors = problem.asked(segments[-1].models[-1])
    scores: list[Scores] = []
    for segment in reversed(segments):
        scale = adam_units(problem, segment.models, batch_size) if optimiser == "adam" else None
        curvature, reach = fit(segment.models, scale), segment.lr * segment.steps

        def reached(s: Tensor, reach: float = reach) -> Tensor:
            exponent = reach * s
            small = exponent.abs() < _TINY
            return reach * torch.where(small, 1.0, -torch.expm1(-exponent) / torch.where(small, 1.0, exponent))

        def kept(s: Tensor, reach: float = reach) -> Tensor:
            return torch.exp(-reach * s)

        own = [scaled(vector, scale) for vector in vectors]
        moved = [scaled(curvature.apply(reached, vector), scale) for vector in own]
        parts = [problem.products(model, moved) for model in segment.models]
        scores.append(torch.stack(parts).mean(0))
        vectors = [scaled(curvature.apply(kept, vector), scale, -1.0) for vector in own]
    return torch.stack(scores).sum(0)


def adam_units(problem: Problem, models: Sequence[Reconstructor], batch_size: int) -> Blocks:
    """Return the root of what Adam multiplies gradients by: one over the fourth root of the batches' mean square.

    That is the square of the mean gradient and the variance of an example's over the batch size. Weights that no
    example moves get the unit 1.
    """
    count = len(problem.train)
    square: Blocks = {}
    for model in models:
        first: Blocks = {}
        second: Blocks = {}

        def add(_i: int, gradient: Blocks, first: Blocks = first, second: Blocks = second) -> None:
            for name, x in gradient.items():
                first[name] = first.get(name, 0) + x / count
                second[name] = second.get(name, 0) + x.square() / count

        problem.trained(model, add)
        for name, mean in first.items():
            spread = (second[name] - mean.square()).clamp_min(0) / min(batch_size, count)
            square[name] = square.get(name, 0) + (mean.square() + spread) / len(models)
    return {name: torch.where(x > _TINY**2, x, 1.0) ** -0.25 for name, x in square.items()}
