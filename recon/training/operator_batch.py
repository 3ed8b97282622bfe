"""Batches of what one operator measured, the same object for all of them: it keeps its norm."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.datasets.tensors import TensorBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class OperatorBatch(TensorBatch):
    """Images and their measurements by one operator.

    Parameters
    ----------
    y
        Measurements, ``(b, ...)``.
    target
        The images.
    operator
        What measured them.
    sigma
        Standard deviation of the noise.
    names
        Where each image is from, for messages.
    """

    y: Tensor
    target: Float[Tensor, "b 1 y x"]
    operator: LinearPhysics
    sigma: Float[Tensor, " b"]
    names: tuple[str, ...]

    def physics(self) -> LinearPhysics:
        """Return the operator."""
        return self.operator

    def to(self, device: torch.device | str) -> OperatorBatch:
        """Copy to a device, with an operator of its own where it moves."""
        moved = super().to(device)
        if moved.y.device == self.y.device:
            return moved
        return replace(moved, operator=deepcopy(self.operator).to(moved.y.device))
