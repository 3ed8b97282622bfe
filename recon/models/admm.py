r"""ADMM for deconvolution with a prior that is a denoiser, in two and in three variables.

The denoiser may be any ``denoise(a, n)`` of a stamp and the number of the iteration, a network or a proximal map: all
else is closed form. Penalties may change from one iteration to the next.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from recon.models.convolution import Denoise, Grid, Stamps
from recon.models.stamps import Seen

Penalties = Float[Tensor, "b n"]
Likelihood = Callable[[Stamps, Float[Tensor, "b 1 1 1"]], Stamps]


def two_variables(y: Stamps, grid: Grid, rho: Penalties, denoise: Denoise, seen: Seen | None = None) -> Stamps:
    r"""Iterate ADMM for :math:`\tfrac12\|Hx - y\|^2 + g(z)` with z = x, and return z.

    .. math::

        x &= (H^T H + \rho)^{-1} (H^T y + \rho z - u) \\
        z &= D(x + u/\rho) \\
        u &= u + \rho\,(x - z)

    The multiplier u is not scaled, so that it holds where :math:`\rho` changes. Masked pixels of y are those of Hz, as
    in expectation maximisation.

    Parameters
    ----------
    y
        Data; also where z starts.
    grid
        H.
    rho
        Of each iteration.
    denoise
        D.
    seen
        Pixels that are not masked.
    """
    z, u, Y = y, torch.zeros_like(y), grid.spectrum(y)
    for n, rho_n in enumerate(_columns(rho)):
        if seen is not None:
            Y = grid.spectrum(torch.where(seen, y, grid.A(z)))
        x = grid.deblur(Y, rho_n * z - u, rho_n)
        z = denoise(x + u / rho_n, n)
        u = u + rho_n * (x - z)
    return z


def three_variables(
    x: Stamps, grid: Grid, rho1: Penalties, rho2: Penalties, denoise: Denoise, likelihood: Likelihood
) -> Stamps:
    r"""Iterate ADMM for :math:`L(v) + g(z)` with v = Hx and z = x, and return x [Li, Alexander 2023, fig. 1].

    .. math::

        v &= \arg\min L(v) + \tfrac{\rho_2}{2}\|v - (Hx + u_2)\|^2 \\
        z &= D(x + u_1) \\
        x &= (\rho_1 + \rho_2 H^T H)^{-1} (\rho_1 (z - u_1) + \rho_2 H^T (v - u_2)) \\
        u_1 &= u_1 + x - z, \quad u_2 = u_2 + Hx - v

    Parameters
    ----------
    x
        Start.
    grid
        H.
    rho1, rho2
        Of each iteration.
    denoise
        D.
    likelihood
        The v-update, from (Hx + u2, rho2).
    """
    u1, u2 = torch.zeros_like(x), torch.zeros_like(x)
    blurred = grid.A(x)
    for n, (r1, r2) in enumerate(zip(_columns(rho1), _columns(rho2), strict=True)):
        v = likelihood(blurred + u2, r2)
        z = denoise(x + u1, n)
        x = grid.deblur(grid.spectrum(v - u2), r1 / r2 * (z - u1), r1 / r2)
        blurred = grid.A(x)
        u1 = u1 + x - z
        u2 = u2 + blurred - v
    return x


def gaussian_update(vt: Tensor, y: Tensor, weight: Tensor | float, rho: Tensor | float) -> Tensor:
    r"""Minimise :math:`\tfrac{w}{2}(v - y)^2 + \tfrac{\rho}{2}(v - \tilde v)^2`; w = 0 masks."""
    return (rho * vt + weight * y) / (rho + weight)


def poisson_update(vt: Tensor, y: Tensor, alpha: Tensor | float, rho: Tensor | float) -> Tensor:
    r"""Minimise :math:`\alpha v - y \log v + \tfrac{\rho}{2}(v - \tilde v)^2` over v > 0, for counts y of 0 or more."""
    t = rho * vt - alpha
    root = torch.sqrt(t * t + 4 * rho * y + torch.finfo(y.dtype).tiny)  # with a derivative at 0 too
    # Where t is far below 0 the sum of the two would cancel.
    return torch.where(t > 0, (t + root) / (2 * rho), 2 * y / (root - t).clamp_min(torch.finfo(y.dtype).tiny))


def _columns(rho: Penalties) -> list[Float[Tensor, "b 1 1 1"]]:
    return [column[:, None, None, None] for column in rho.unbind(1)]
