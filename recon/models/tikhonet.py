"""Tikhonet: a Tikhonov filter, then a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.models import registry
from recon.models.convolution import Grid, Stamps, centred_transfer
from recon.models.galaxy_deconv import mean_level, unpadded
from recon.models.learned import LearnedReconstructor
from recon.models.stamps import check_stamps, filled, noise_levels, scale, seen_pixels, with_flux_of
from recon.models.xdense_unet import XDenseUNet
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution

FILTERS = ("laplacian", "identity")
_START = -3.0  # logarithm of lambda


@registry.register("tikhonet")
class Tikhonet(LearnedReconstructor):
    r"""Tikhonov deconvolution followed by a densely connected U-Net [1]_.

    .. math:: x = D\left( (H^T H + \lambda L^T L)^{-1} H^T y \right)

    with :math:`\lambda` learned. The network sees stamps in units of the peak, and the result is scaled to the flux of
    the data, as in `recon.models.galaxy_admm`.

    Parameters
    ----------
    width, growth, layers
        Of the network, `recon.models.xdense_unet.XDenseUNet`; the defaults are the published ones.
    filter
        L: ``laplacian`` or ``identity``.
    as_published
        Repeat the forward pass of Galaxy-Deconv with its errors (`recon.models.galaxy_deconv`), for its weights only.

    References
    ----------
    .. [1] Sureau, Lechat, Starck, Deep learning for a space-variant deconvolution in galaxy surveys, A&A 641, 2020.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(
        self,
        width: int = 32,
        growth: int = 12,
        layers: Sequence[int] = (4, 5, 6, 7),
        *,
        filter: str = "laplacian",  # noqa: A002 - as in the paper
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if filter not in FILTERS:
            raise OptionError("no such Tikhonov filter", found=filter, expected=f"one of {', '.join(FILTERS)}")
        self.filter, self.as_published = filter, as_published
        self.log_lambda = nn.Parameter(torch.tensor(_START))
        self.network = XDenseUNet(width, growth, layers)

    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve; parameters and errors as those of `recon.models.galaxy_admm.GalaxyADMM`."""
        physics = check_stamps(y, physics)
        seen = seen_pixels(y, physics)
        if seen is not None:
            y = torch.where(seen, y, 0)
        if self.as_published:
            alpha = mean_level(y)
            return alpha * self.network(self.tikhonov(y.clamp_min(0) / alpha, unpadded(physics, y)))
        grid, sigma = Grid.of(physics, y), noise_levels(y, physics)
        data = filled(y, grid, seen)
        alpha = scale(data, grid, sigma)
        x = self.network(self.tikhonov(data / alpha, grid))
        return with_flux_of(y, alpha * x, grid, sigma, seen)

    def tikhonov(self, y: Stamps, grid: Grid) -> Stamps:
        """Filter stamps."""
        penalty = self.log_lambda.exp()
        if self.filter == "laplacian":
            penalty = penalty * _laplacian(grid.grid, y).abs().square()
        return grid.stamps(grid.H.conj() * grid.spectrum(y) / (grid.HtH + penalty))


def _laplacian(grid: tuple[int, int], like: Tensor) -> Tensor:
    kernel = like.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return centred_transfer(kernel[None, None], grid)
