"""Centred orthonormal Fourier transforms and the phases that stand for their shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex
from torch import Tensor


def fft_centred(x: Complex[Tensor, "..."], dim: Sequence[int]) -> Complex[Tensor, "..."]:
    """Orthonormal FFT over ``dim`` with the origin at index ``n // 2`` on both sides."""
    dim = tuple(dim)
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)


def ifft_centred(x: Complex[Tensor, "..."], dim: Sequence[int]) -> Complex[Tensor, "..."]:
    """Inverse (and adjoint) of `fft_centred`."""
    dim = tuple(dim)
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)


def centring_phases(
    spatial: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None
) -> tuple[Complex[Tensor, "*spatial"], Complex[Tensor, "*spatial"]]:
    r"""Phases that make a plain FFT a centred one, for odd sizes too.

    With :math:`c = \lfloor n/2 \rfloor` on each axis, expanding :math:`-(k-c)(m-c)` gives

    .. math:: F_c x = \varphi_k \, F(\varphi_m x), \quad
        \varphi_m = e^{2\pi i c m / n}, \quad \varphi_k = e^{2\pi i c (k - c) / n}.

    Returns
    -------
    tuple
        :math:`\varphi_m` and :math:`\varphi_k`, of shape ``spatial``, computed in double precision.
    """
    axes_m, axes_k = [], []
    for n in spatial:
        c, index = n // 2, torch.arange(n, device=device)
        # The remainder is taken in integers: the angle stays exact however large n is.
        axes_m.append(torch.remainder(c * index, n).double() / n)
        axes_k.append(torch.remainder(c * (index - c), n).double() / n)
    return _phase(axes_m).to(dtype), _phase(axes_k).to(dtype)


def _phase(turns: list[Tensor]) -> Tensor:
    total = turns[0]
    for axis in turns[1:]:
        total = total[..., None] + axis
    angle = 2 * math.pi * torch.remainder(total, 1)
    return torch.polar(torch.ones_like(angle), angle)
