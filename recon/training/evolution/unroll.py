"""Computations that evolution strategies go through a truncation at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from recon.models.thresholding import IterativeThresholding, State
from recon.physics.errors import OptionError
from recon.sparse_problem import SparseProblem


@runtime_checkable
class Unroll(Protocol):
    """A long computation, cut into truncations, each with a loss."""

    @property
    def truncations(self) -> int:
        """How many there are, from one start to the next."""
        ...

    def start(self) -> Any:
        """Return the first state, made of tensors, of all particles; it may be of another problem each time."""
        ...

    def advance(self, parameters: Mapping[str, Tensor], state: Any, index: int) -> tuple[Float[Tensor, ""], Any]:
        """Do truncation ``index`` with these parameters: its loss and the next state; ``state`` stays as it is."""
        ...


Loss = Callable[[SparseProblem, Tensor], Float[Tensor, ""]]


class ThresholdingUnroll:
    """An unfolded iteration (`recon.models.unfolded_ista`), whose loss is that of the images after each truncation.

    Parameters
    ----------
    network
        With its parameters; those that a strategy perturbs are named as in ``network.named_parameters()``.
    problem
        Makes the next batch's problem.
    truncations
        Parts that the iterations are done in.
    loss
        Of the problem and an image. The unroll's loss is its mean over the ends of truncations.

    Raises
    ------
    OptionError
        Truncations that the iterations cannot be shared out among.
    """

    def __init__(
        self, network: IterativeThresholding, problem: Callable[[], SparseProblem], *, truncations: int, loss: Loss
    ) -> None:
        if truncations < 1 or network.depth % truncations:
            raise OptionError(
                "truncations are all of one length", found=truncations, expected=f"a divisor of {network.depth}"
            )
        self.truncations, self.length = truncations, network.depth // truncations
        self._problem, self._loss = problem, loss
        self._piece = _Piece(network)

    def start(self) -> State:
        """Take the next problem, and start from zero."""
        self._posed = self._problem()
        return self._piece.network.start(self._posed)

    def advance(self, parameters: Mapping[str, Tensor], state: State, index: int) -> tuple[Float[Tensor, ""], State]:
        """Do the iterations of a truncation."""
        inside = {f"network.{name}": value for name, value in parameters.items()}
        first = index * self.length
        state = functional_call(self._piece, inside, (self._posed, state, first, first + self.length))
        return self._loss(self._posed, state.x) / self.truncations, state


class _Piece(nn.Module):
    """Some of a network's iterations as a module, which is what torch can call with other parameters."""

    def __init__(self, network: IterativeThresholding) -> None:
        super().__init__()
        self.network = network

    def forward(self, problem: SparseProblem, state: State, first: int, last: int) -> State:
        for after in self.network.advance(problem, state, first, last):
            state = after
        return state
