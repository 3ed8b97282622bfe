"""What unfolded iterations are trained on: sparse images, their projections by one matrix, and batches of such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets.tensors import TensorBatch
from recon.physics.matrix import MatrixOperator


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseExample:
    """One image and its measurements.

    Parameters
    ----------
    y
        ``(m,)``.
    target
        ``(1, y, x)``.
    name
        For messages.
    """

    y: Float[Tensor, " m"]
    target: Float[Tensor, "1 y x"]
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseBatch(TensorBatch):
    """Measurements by one operator."""

    y: Float[Tensor, "b m"]
    target: Float[Tensor, "b 1 y x"]
    sigma: Float[Tensor, " b"]
    names: tuple[str, ...]
    operator: MatrixOperator

    def physics(self) -> MatrixOperator:
        """Return the operator, the same object each time: it keeps its norm."""
        return self.operator

    def to(self, device: torch.device | str) -> SparseBatch:
        """Copy to a device, the operator too."""
        moved = super().to(device)
        if self.operator.matrix.device == moved.y.device:
            return moved
        return replace(moved, operator=self.operator.clone().to(device))


def collate_sparse(examples: Sequence[SparseExample], operator: MatrixOperator, sigma: float) -> SparseBatch:
    """Make a batch."""
    y = torch.stack([example.y for example in examples])
    return SparseBatch(
        y=y,
        target=torch.stack([example.target for example in examples]),
        sigma=torch.full((len(examples),), sigma, dtype=y.dtype),
        names=tuple(example.name for example in examples),
        operator=operator,
    )
