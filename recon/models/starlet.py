"""Deconvolution with sparse starlets."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.models.convolution import Grid, Stamps
from recon.models.stamps import check_stamps, noise_levels, relative_weights, scale, seen_pixels, with_flux_of
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution
from recon.starlets import Starlets

_TOGETHER = 8  # stamps whose planes fit into the caches of a core


@registry.register("starlet")
class Starlet(Reconstructor):
    r"""Sparse deconvolution, :math:`\min_{x} \tfrac12 \|W^{1/2}(Hx - y)\|^2 + \sum_j \lambda_j |(\Psi x)_j|_1` [1]_.

    :math:`\Psi` are starlets (`recon.starlets`), W the weights of the pixels. The threshold of a plane is ``kappa``
    standard deviations of what noise gives there in :math:`\Psi H^T n`; the last plane is free. Strong coefficients are
    penalised less in a second pass [2]_. Primal-dual splitting [3]_; the result is scaled to the flux of the data.

    Parameters
    ----------
    kappa
        Thresholds, in standard deviations.
    iterations
        Of each pass.
    passes
        1: no reweighting.
    positive
        Look for images without negative pixels only.

    References
    ----------
    .. [1] Farrens et al., Space variant deconvolution of galaxy survey images, A&A 601, 2017.
    .. [2] Candès, Wakin, Boyd, Enhancing sparsity by reweighted l1 minimization, J Fourier Anal Appl 14, 2008.
    .. [3] Condat, A primal-dual splitting method, J Optim Theory Appl 158, 2013, algorithm 3.1.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(self, kappa: float = 3.0, *, iterations: int = 40, passes: int = 2, positive: bool = False) -> None:
        super().__init__()
        if kappa < 0 or min(iterations, passes) < 1:
            raise OptionError("thresholds are not negative, and there is an iteration", found=f"{kappa}, {iterations}")
        self.kappa, self.iterations, self.passes, self.positive = kappa, iterations, passes, positive

    @torch.no_grad()
    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve; parameters and errors as those of `recon.models.wiener.Wiener`."""
        physics = check_stamps(y, physics)
        grid, seen = Grid.of(physics, y), seen_pixels(y, physics)
        if seen is not None:
            y = torch.where(seen, y, 0)
        sigma = noise_levels(y, physics)
        alpha = scale(y, grid, sigma)
        weight = relative_weights(y, physics)
        starlets = Starlets(grid.grid, dtype=y.dtype, device=y.device)
        noise = (sigma[:, None] / alpha[:, 0, 0] * _noise_gains(starlets, grid))[..., None, None]
        noise[:, -1] = 0
        x = torch.empty_like(y)
        for first in range(0, len(y), _TOGETHER):
            rows = slice(first, first + _TOGETHER)
            x[rows] = self._sparse((y / alpha)[rows], weight[rows], grid.part(rows), starlets, self.kappa * noise[rows])
        return with_flux_of(y, alpha * x, grid, sigma, seen)

    def _sparse(self, y: Stamps, weight: Stamps, grid: Grid, starlets: Starlets, threshold: Tensor) -> Stamps:
        x, reweighted = y, threshold
        for _ in range(self.passes):
            x = self._solve(y, x, weight, grid, starlets, reweighted)
            size = starlets.analysis(grid.spectrum(grid.adjoint(grid.A(x)))).abs()
            reweighted = threshold / (1 + size / threshold.clamp_min(torch.finfo(y.dtype).tiny))
        return x

    def _solve(self, y: Stamps, x: Stamps, weight: Stamps, grid: Grid, starlets: Starlets, threshold: Tensor) -> Stamps:
        # of each stamp, so that what else is in the batch changes nothing
        lipschitz = weight.amax((1, 2, 3), keepdim=True) * grid.HtH.amax((1, 2, 3), keepdim=True)
        tau = 1 / lipschitz.clamp_min(torch.finfo(y.dtype).tiny)
        eta = 0.5 / (tau * starlets.norm() ** 2)  # 1 / tau - eta |Psi|^2 = 1 / (2 tau), half the Lipschitz constant
        u = torch.zeros_like(threshold.expand(-1, -1, *grid.grid))
        for _ in range(self.iterations):
            descent = grid.adjoint(weight * (grid.A(x) - y)) + grid.stamps(starlets.adjoint(u))
            moved = x - tau * descent
            if self.positive:
                moved = moved.clamp_min(0)
            u = u + eta * starlets.analysis(grid.spectrum(2 * moved - x))
            u = torch.maximum(torch.minimum(u, threshold), -threshold)
            x = moved
        return x


def _noise_gains(starlets: Starlets, grid: Grid) -> Float[Tensor, "b plane"]:
    """Return the standard deviation of each plane of H'n for noise n of 1: the norm of an impulse response."""
    power = starlets.filters.square() * grid.HtH
    return torch.fft.irfft2(power, s=grid.grid)[..., 0, 0].clamp_min(0).sqrt()
