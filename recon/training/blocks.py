"""What a network for block compressed sensing is trained on: batches of images, or of single blocks, of one matrix."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets.tensors import TensorBatch
from recon.physics import BlockCompressedSensing


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockBatch(TensorBatch):
    """Images measured without noise by one operator, which knows its norm already."""

    y: Float[Tensor, "b 1 m rows columns"]
    target: Float[Tensor, "b 1 y x"]
    operator: BlockCompressedSensing
    sigma: Float[Tensor, " b"]
    names: tuple[str, ...]

    def physics(self) -> BlockCompressedSensing:
        """Return the operator."""
        return self.operator

    def to(self, device: torch.device | str) -> BlockBatch:
        """Copy to a device; the operator only where it is on another."""
        moved = super().to(device)
        if self.operator.matrix.device == moved.y.device:
            return moved
        return replace(moved, operator=deepcopy(self.operator).to(device))


def measured_blocks(
    target: Float[Tensor, "b 1 y x"], operator: BlockCompressedSensing, names: tuple[str, ...]
) -> BlockBatch:
    """Measure images."""
    sigma = target.new_zeros(len(target))
    return BlockBatch(y=operator.A(target), target=target, operator=operator, sigma=sigma, names=names)
