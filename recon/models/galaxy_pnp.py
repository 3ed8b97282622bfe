"""Plug-and-play ADMM with a fixed denoiser for galaxy stamps."""

from __future__ import annotations

import torch
from deepinv.models import Denoiser, Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.models.admm import two_variables
from recon.models.convolution import Grid, Stamps
from recon.models.stamps import check_stamps, filled, noise_levels, scale, seen_pixels, with_flux_of
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution
from recon.proximal import TVProx
from recon.starlets import Starlets

DENOISERS = ("starlet", "tv")
_FIRST, _LAST = 1.0, 0.1  # penalties


@registry.register("galaxy-pnp")
class GalaxyPnP(Reconstructor):
    r"""Plug-and-play ADMM [1]_ with a denoiser that knows no PSF.

    Iteration n denoises by the level :math:`\kappa \sigma \|h\| / \rho_n`, the noise of the deblurring gradient
    over its penalty, which falls from 1 to 0.1; the result is scaled to the flux of the data.

    Parameters
    ----------
    denoiser
        ``starlet``: soft thresholds of wavelet planes; ``tv``: total variation; or any deepinv
        `Denoiser` of one channel, ``denoiser(x, sigma)``, of stamps in units of their peak.
    kappa
        Strength, relative to the level.
    iterations
        Of ADMM.

    References
    ----------
    .. [1] Venkatakrishnan, Bouman, Wohlberg, Plug-and-play priors for model based reconstruction, GlobalSIP 2013.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(self, denoiser: str | Denoiser = "starlet", *, kappa: float = 1.0, iterations: int = 20) -> None:
        super().__init__()
        if kappa < 0 or iterations < 1:
            raise OptionError("a strength is not negative, and there is an iteration", found=f"{kappa}, {iterations}")
        if isinstance(denoiser, str) and denoiser not in DENOISERS:
            raise OptionError("no such denoiser", found=denoiser, expected=f"one of {', '.join(DENOISERS)}")
        self.denoiser, self.kappa, self.iterations = denoiser, kappa, iterations

    @torch.no_grad()
    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve; parameters and errors as those of `recon.models.wiener.Wiener`."""
        physics = check_stamps(y, physics)
        grid, seen = Grid.of(physics, y), seen_pixels(y, physics)
        data, sigma = filled(y, grid, seen), noise_levels(y, physics)
        alpha = scale(data, grid, sigma)
        rho = _FIRST * (_LAST / _FIRST) ** torch.linspace(0, 1, self.iterations, dtype=y.dtype, device=y.device)
        level = self.kappa * sigma / alpha[:, 0, 0, 0] * grid.power().sqrt()
        starlets = Starlets(grid.shape, dtype=y.dtype, device=y.device)
        tv = TVProx(level[:, None, None, None])  # goes on where its last call stopped

        def denoise(a: Stamps, n: int) -> Stamps:
            strength = level / rho[n]
            if self.denoiser == "starlet":
                return soft_starlets(a, starlets, strength)
            column = strength[:, None, None, None]
            if not isinstance(self.denoiser, str):
                return self.denoiser(a, column)
            tv.weight = column
            return tv(a)

        x = two_variables(data / alpha, grid, rho.expand(len(y), -1), denoise, seen)
        return with_flux_of(data if seen is None else torch.where(seen, y, 0), alpha * x, grid, sigma, seen)


def soft_starlets(x: Stamps, starlets: Starlets, sigma: Float[Tensor, " b"]) -> Stamps:
    """Shrink the wavelet planes of stamps by three standard deviations of white noise of level sigma in each."""
    planes = starlets.analysis(torch.fft.rfft2(x))
    gains = torch.fft.irfft2(starlets.filters.square(), s=starlets.grid)[..., 0, 0].sqrt()
    gains = torch.cat((gains[:-1], torch.zeros_like(gains[-1:])))  # the last smoothing holds the flux
    threshold = 3 * sigma[:, None, None, None] * gains[:, None, None]
    return (planes - planes.clamp(-threshold, threshold)).sum(1, keepdim=True)
