"""A weight made of few levels: latent real numbers in, one-bit, ternary or 8-bit weights out."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recon.onebit.gradients import (
    eight_bit,
    eight_bit_scale,
    signs,
    straight_through_sign,
    tanh_sign,
    ternary,
    ternary_threshold,
)
from recon.physics.errors import OptionError

Levels = Literal["one-bit", "ternary", "8-bit", "full"]
Gradient = Literal["straight-through", "tanh"]


class Scale(nn.Module):
    r"""Lambda: the least-squares one when quantisation begins, times a learned factor.

    The factor is learned as its logarithm, so that lambda stays positive and moves in proportion to itself.
    """

    start: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor(1.0))
        self.log_factor = nn.Parameter(torch.tensor(0.0))

    def forward(self) -> Float[Tensor, ""]:
        """Return lambda."""
        return self.start * self.log_factor.exp()

    @torch.no_grad()
    def restart(self, value: Float[Tensor, ""]) -> None:
        """Begin at a value."""
        self.start.copy_(value)
        self.log_factor.zero_()


class Quantiser(nn.Module):
    r"""Parametrization of a matrix or kernel for `torch.nn.utils.parametrize`.

    .. math:: W = \lambda \, S \circ B, \qquad B = \mathrm{sign}(W_r) \in \{-1, 1\}

    with latent real weights :math:`W_r`, structural zeros S that are known before training, and a scale that other
    matrices may share. Ternary and 8-bit weights have other integers for B; ``full`` keeps the masked real numbers.

    Parameters
    ----------
    scale
        Lambda.
    mask
        S: True where a weight may differ from zero; None: everywhere.
    blocks
        Number of blocks on the diagonal that the mask keeps.
    levels, gradient
        Of B.

    Attributes
    ----------
    active
        Buffer; False: the masked real weights are used, which is the first stage of training.
    beta
        Buffer; slope of the gradient of ``tanh``.
    """

    mask: Tensor | None
    active: Bool[Tensor, ""]
    beta: Float[Tensor, ""]

    def __init__(
        self,
        scale: Scale,
        mask: Bool[Tensor, "*shape"] | None = None,
        *,
        blocks: int = 1,
        levels: Levels = "one-bit",
        gradient: Gradient = "straight-through",
    ) -> None:
        super().__init__()
        self.scale, self.blocks, self.levels, self.gradient = scale, blocks, levels, gradient
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("active", torch.tensor(True))
        self.register_buffer("beta", torch.tensor(1.0))

    def forward(self, latent: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the weights."""
        real = self.masked(latent)
        if self.levels == "full":
            return real
        quantised = self.scale().to(latent.dtype) * self.codes(latent)
        return torch.where(self.active, quantised, real)  # no branch, so that no device has to wait for an answer

    def right_inverse(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return latent weights for weights that are assigned; a copy, for PyTorch takes its storage."""
        return weight.clone()

    def codes(self, latent: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return S o B, the integers that are stored."""
        real = self.masked(latent)
        if self.levels == "ternary":
            return ternary(real, ternary_threshold(real, self.kept(latent)))
        if self.levels == "8-bit":
            return eight_bit(real, self.scale().to(latent.dtype))
        if self.levels == "full":
            raise OptionError("weights of full precision have no codes")
        b = tanh_sign(latent, self.beta) if self.gradient == "tanh" else straight_through_sign(latent)
        return self.masked(b)

    def masked(self, w: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return w with the structural zeros."""
        return w if self.mask is None else torch.where(self.mask, w, 0)

    def kept(self, latent: Float[Tensor, "*shape"]) -> int:
        """Count the links that are no structural zeros."""
        return latent.numel() if self.mask is None else int(self.mask.sum())


@torch.no_grad()
def least_squares_scale(latents: list[Float[Tensor, "..."]], quantisers: list[Quantiser]) -> Float[Tensor, ""]:
    r"""Scale that the quantised weights start from.

    That of the least :math:`\sum \| W_r - \lambda S \circ B \|_F^2`, which for one-bit weights is the mean of
    :math:`|W_r|` over all links; for 8 bits that by which the largest weight is the largest integer. In float64,
    so that weights which are of one modulus already keep it exactly.
    """
    if quantisers[0].levels == "8-bit":
        return torch.stack(
            [eight_bit_scale(q.masked(w).double()) for w, q in zip(latents, quantisers, strict=True)]
        ).amax()
    products, squares = [], []
    for latent, quantiser in zip(latents, quantisers, strict=True):
        real = quantiser.masked(latent).double()
        one_bit = quantiser.levels == "one-bit"
        b = quantiser.masked(signs(real)) if one_bit else ternary(real, ternary_threshold(real, quantiser.kept(latent)))
        products.append((real * b).sum())
        squares.append(b.square().sum())
    return torch.stack(products).sum() / torch.stack(squares).sum()
