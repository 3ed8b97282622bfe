"""Dataclasses of tensors, one row an example."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound="TensorBatch")


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorBatch:
    """What batches share: as many rows as measurements, and all tensors on one device."""

    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self: Batch, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: x.to(device) for name, x in values.items() if isinstance(x, Tensor)})
