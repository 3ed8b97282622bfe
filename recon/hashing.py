"""Tensors as bytes, for checksums."""

from __future__ import annotations

import torch
from torch import Tensor


def tensor_bytes(x: Tensor) -> bytes:
    """Return the values of a tensor of any shape and type, in its order, wherever and however it is stored."""
    plain = x.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()
