"""What the module, its losses and its callbacks ask of a batch, whatever it was measured by."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import DataError


@runtime_checkable
class TrainingBatch(Protocol):
    """Measurements with their operator and, where known, what a network should make of them."""

    @property
    def y(self) -> Tensor:
        """Measurements."""
        ...

    @property
    def sigma(self) -> Float[Tensor, " b"]:
        """Level of their noise, NaN where unknown."""
        ...

    @property
    def target(self) -> Float[Tensor, "b channel y x"] | None:
        """What the network should give."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Where each example is from, for messages."""
        ...

    def physics(self) -> LinearPhysics:
        """Make the operator."""
        ...

    def to(self, device: torch.device | str) -> TrainingBatch:
        """Copy to a device."""
        ...

    def __len__(self) -> int:
        """Count the examples."""
        ...


def target_of(batch: TrainingBatch) -> Float[Tensor, "b channel y x"]:
    """Return the target.

    Raises
    ------
    DataError
        There is none.
    """
    if batch.target is None:
        raise DataError("this loss compares with a target, and an example has none", found=", ".join(batch.names))
    return batch.target
