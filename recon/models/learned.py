"""The base of models with trained weights."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from recon.cards import Card


class LearnedReconstructor(Reconstructor):
    """A reconstructor that needs training, and that remembers what it was built with.

    Attributes
    ----------
    arguments
        What the constructor was given, defaults filled in: with the weights, all that is needed to build it again.
    card
        Of the weights, where they were loaded with one.
    own_losses
        Names of the losses that only the network itself can tell, as the objective that it unfolds: see `with_losses`.
    """

    learned = True
    arguments: dict[str, Any]
    card: Card | None = None
    own_losses: tuple[str, ...] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> LearnedReconstructor:
        """Keep the arguments before the constructor runs; copies get theirs with the rest of their state."""
        self = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        self.__dict__["arguments"] = dict(list(bound.arguments.items())[1:])
        return self

    def with_losses(
        self, y: Tensor, physics: LinearPhysics, names: Sequence[str]
    ) -> tuple[Float[Tensor, "b *image"], dict[str, Float[Tensor, ""]]]:
        """Reconstruct, and return the mean over the batch of those of ``own_losses`` that are asked for."""
        assert not names, f"{type(self).__name__} has no loss of its own"
        return self(y, physics), {}
