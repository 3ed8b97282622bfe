"""Iterative thresholding: what ISTA, FISTA and IHT, plain and unfolded, have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.sparse_problem import Penalty, SparseProblem, Sparsity, check_options, sparse_problem

DEFAULT: Mapping[Penalty, float] = {"l1": 0.01, "l0": 0.05}
"""Strength of a penalty where none is given, ``relative``: hard thresholds need to be higher to find a good minimum."""


class State(NamedTuple):
    """Where an iteration is."""

    x: Float[Tensor, "b *image"]  # the image
    z: Float[Tensor, "b *image"]  # where the next step starts


class IterativeThresholding(Reconstructor):
    r"""Steps down the gradient of :math:`\tfrac12 \|Ax - y\|^2`, each followed by a threshold.

    Parameters
    ----------
    iterations
        T.
    regularisation, relative, sparsity
        As in `recon.sparse_problem.sparse_problem`; relative None: that of `DEFAULT`.

    Attributes
    ----------
    penalty, momentum
        l1 or l0; with FISTA's momentum or without. Those of the method.
    depth
        Iterations that are done: T, or fewer for an early image or for training layer by layer.

    Raises
    ------
    OptionError
        No iteration, a strength that is not positive, a sparsity that does not exist.
    """

    penalty: Penalty = "l1"
    momentum = False

    def __init__(
        self, iterations: int, *, regularisation: float | None, relative: float | None, sparsity: Sparsity
    ) -> None:
        super().__init__()
        if relative is None:
            relative = DEFAULT[self.penalty]
        check_options(iterations=iterations, regularisation=regularisation, relative=relative, sparsity=sparsity)
        self.iterations = self.depth = iterations
        self.regularisation = regularisation
        self.relative, self.sparsity = relative, sparsity

    @abstractmethod
    def schedule(self) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"] | None]:
        """Step sizes over 1 / ||A||^2, and thresholds over those that these ask for."""

    def problem(self, y: Tensor, physics: LinearPhysics) -> SparseProblem:
        """Pose what is minimised."""
        return sparse_problem(
            y,
            physics,
            self.penalty,
            regularisation=self.regularisation,
            relative=self.relative,
            sparsity=self.sparsity,
        )

    def start(self, problem: SparseProblem) -> State:
        """Start from zero."""
        x = torch.zeros_like(problem.backprojection)
        return State(x, x)

    def advance(self, problem: SparseProblem, state: State, first: int, last: int) -> Iterator[State]:
        """Go on from iteration ``first``, before which ``state`` is, to before ``last``; yield the state after each."""
        sizes, thresholds = self.schedule()
        for k in range(first, last):
            x = problem.step(state.z, sizes[k], 1.0 if thresholds is None else thresholds[k])
            z = x + momenta(self.iterations)[k] * (x - state.x) if self.momentum else x
            state = State(x, z)
            yield state

    def trajectory(self, problem: SparseProblem) -> Iterator[Float[Tensor, "b *image"]]:
        """Yield the image of each iteration."""
        for state in self.advance(problem, self.start(problem), 0, self.depth):
            yield state.x

    def forward(self, y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b *image"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements, of any unit; where they are complex, so is the image, as pairs of channels.
        physics
            Any linear operator.

        Raises
        ------
        ShapeError, DataError
            Measurements that do not fit the operator, or are not finite.
        """
        for x in self.trajectory(self.problem(y, physics)):  # noqa: B007 - only the last one is wanted
            pass
        return x


@lru_cache(maxsize=8)
def momenta(iterations: int) -> tuple[float, ...]:
    """Return FISTA's weight of the last change after each iteration [Beck, Teboulle 2009, eq. 4.2 and 4.3]."""
    t, weights = 1.0, []
    for _ in range(iterations):
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        weights.append((t - 1) / t_next)
        t = t_next
    return tuple(weights)
