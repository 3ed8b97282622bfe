"""The forward passes of Galaxy-Deconv as they were published, errors included, for which its weights were trained.

They convolve without padding where three variables are split, clip data at 0, divide by the mean pixel, and see PSFs
that sum to 1/16, for those were averaged over 4x4 pixels. None of this is done to networks that are trained here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon.models.admm import Penalties, gaussian_update, three_variables
from recon.models.convolution import Denoise, Grid, Stamps, centred_transfer
from recon.physics.psf import PSFConvolution

PSF_SUM = 1 / 16


class SwappedGrid(Grid):
    r"""Deblurs with the two penalties swapped in the denominator: :math:`\rho_1 |\hat H|^2 + \rho_2`."""

    def deblur(self, Y: Tensor, rhs: Stamps, rho: Float[Tensor, "#b 1 1 1"] | float) -> Stamps:
        """Solve with the error of the letter's code; ``rho`` is the first penalty over the second."""
        return self.stamps((self.H.conj() * Y + self.spectrum(rhs)) / (rho * self.HtH + 1))


def unpadded(physics: PSFConvolution, y: Stamps, *, swapped: bool = False) -> Grid:
    """Return the convolution that wraps round the stamp."""
    shape = (int(y.shape[-2]), int(y.shape[-1]))
    kind = SwappedGrid if swapped else Grid
    return kind(centred_transfer(PSF_SUM * physics.psf.to(y.dtype), shape), shape, shape)


def mean_level(y: Stamps) -> Float[Tensor, "b 1 1 1"]:
    """Return the mean pixel, by which the published networks divide; never below a thousandth of the peak."""
    least = 1e-3 * y.abs().amax((1, 2, 3), keepdim=True)
    return torch.maximum(y.mean((1, 2, 3), keepdim=True), least.clamp_min(torch.finfo(y.dtype).tiny))


def published_three(
    y: Stamps,
    grid: Grid,
    alpha: Float[Tensor, "b 1 1 1"],
    rho1: Penalties,
    rho2: Penalties,
    denoise: Denoise,
    *,
    poisson: bool,
) -> Stamps:
    """Split three variables as the letter's code does."""
    y = y.clamp_min(0)
    Y = grid.spectrum(y / alpha)
    start = grid.stamps(grid.H.conj() * Y / (grid.HtH + 1 / alpha)).clamp(0, 1)

    def likelihood(vt: Stamps, rho: Float[Tensor, "b 1 1 1"]) -> Stamps:
        if not poisson:
            return gaussian_update(vt, y / alpha, 1.0, rho)
        t = rho * vt - alpha  # its sign before the root is wrong
        return (torch.sqrt(t * t + 4 * rho * y) - t) / (2 * rho)

    return alpha * three_variables(start, grid, rho1, rho2, denoise, likelihood)


def published_two(
    y: Stamps, physics: PSFConvolution, alpha: Float[Tensor, "b 1 1 1"], rho: Penalties, denoise: Denoise
) -> Stamps:
    """Split two variables as the code of 2024 does, whose denoiser sees rho x + u."""
    shape = (int(y.shape[-2]), int(y.shape[-1]))
    size = (2 * shape[0], 2 * shape[1])
    grid = Grid(centred_transfer(PSF_SUM * physics.psf.to(y.dtype), size), size, shape)
    Y = grid.spectrum(y.clamp_min(0))
    z, u = grid.deblur(Y, torch.zeros_like(y), 1 / alpha), torch.zeros_like(y)
    for n, column in enumerate(rho.unbind(1)):
        rho_n = column[:, None, None, None]
        x = grid.deblur(Y, rho_n * z - u, rho_n)
        z = denoise(rho_n * x + u, n)
        u = u + rho_n * (x - z)
    return z
