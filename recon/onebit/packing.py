"""Integers of few levels as bytes: 8 signs, 5 ternary digits or 1 eight-bit number a byte."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

_DIGITS = 5  # 3^5 = 243 fit into a byte
_POWERS = 3 ** np.arange(_DIGITS)


def packed_bytes(count: int, levels: str) -> int:
    """Bytes that so many codes take."""
    return {"one-bit": -(-count // 8), "ternary": -(-count // _DIGITS), "8-bit": count, "full": 4 * count}[levels]


def pack(codes: Int8[Tensor, " n"], levels: str) -> UInt8[Tensor, " bytes"]:
    """Return the bytes of codes -1 and 1 (``one-bit``), -1, 0 and 1 (``ternary``) or -127 to 127 (``8-bit``)."""
    values = codes.cpu().numpy()
    if levels == "one-bit":
        return torch.from_numpy(np.packbits(values > 0, bitorder="little"))
    if levels == "ternary":
        digits = np.zeros((packed_bytes(len(values), levels), _DIGITS), dtype=np.int64)
        digits.reshape(-1)[: len(values)] = values + 1
        return torch.from_numpy((digits @ _POWERS).astype(np.uint8))
    return torch.from_numpy(values.view(np.uint8).copy())


def unpack(packed: UInt8[Tensor, " bytes"], count: int, levels: str) -> Float[Tensor, " n"]:
    """Return the codes that `pack` was given, as float32."""
    values = packed.cpu().numpy()
    if levels == "one-bit":
        codes = np.unpackbits(values, count=count, bitorder="little").astype(np.float32) * 2 - 1
    elif levels == "ternary":
        codes = (values[:, None] // _POWERS % 3).reshape(-1)[:count].astype(np.float32) - 1
    else:
        codes = values.view(np.int8).astype(np.float32)
    return torch.from_numpy(codes)
