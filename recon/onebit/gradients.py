"""Rounded values that pass on a gradient: the value is exact, the slope is that of something smooth."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_LARGEST = 127  # of 8-bit codes, so that they are symmetric
_TERNARY = 0.7  # of the mean modulus: weights below it become zero [Li 2016]


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


def signs(w: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return 1 where w >= 0, else -1."""
    return torch.where(w >= 0, 1, -1).to(w.dtype)


def straight_through_sign(w: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Sign whose gradient is that of w clipped to [-1, 1]: passed on where |w| <= 1, zero elsewhere [Hubara 2016]."""
    return _WithSlope.apply(w, signs(w), (w.abs() <= 1).to(w.dtype))


def tanh_sign(w: Float[Tensor, "*n"], beta: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """Sign whose gradient is that of tanh(beta w), which is the sign for large beta."""
    return _WithSlope.apply(w, signs(w), beta * (1 - torch.tanh(beta * w).square()))


def ternary(w: Float[Tensor, "*n"], threshold: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """Sign, and 0 where |w| <= threshold; the gradient is passed on where |w| <= 1."""
    return _WithSlope.apply(w, signs(w) * (w.abs() > threshold), (w.abs() <= 1).to(w.dtype))


def ternary_threshold(w: Float[Tensor, "*n"], kept: int) -> Float[Tensor, ""]:
    """Threshold of ternary weights of which ``kept`` may differ from zero [Li 2016, eq. 6]."""
    return _TERNARY * w.detach().abs().sum() / kept


def eight_bit(w: Float[Tensor, "*n"], scale: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    """Integers from -127 to 127 nearest to w / scale; the gradient is passed on within them [Esser 2020, eq. 1-3]."""
    ratio = w / scale
    value = ratio.detach().round().clamp(-_LARGEST, _LARGEST)
    return _WithSlope.apply(ratio, value, (ratio.detach().abs() <= _LARGEST).to(w.dtype))


def eight_bit_scale(w: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Scale by which the largest weight becomes 127."""
    return w.abs().amax() / _LARGEST
