"""Unrolled plug-and-play ADMM for galaxy stamps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.models import registry
from recon.models.admm import gaussian_update, poisson_update, three_variables, two_variables
from recon.models.convolution import Denoise, Grid
from recon.models.galaxy_deconv import PSF_SUM, mean_level, published_three, published_two, unpadded
from recon.models.learned import LearnedReconstructor
from recon.models.penalties import PenaltyNet
from recon.models.recursion import Recursion
from recon.models.resunet import ResUNet
from recon.models.stamps import (
    Stamps,
    check_stamps,
    filled,
    noise_levels,
    relative_weights,
    scale,
    seen_pixels,
    with_flux_of,
)
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution
from recon.physics.sky_noise import SkyNoise

_LEAST_LEVEL = 1e-4  # of noise, relative to the galaxy's peak


@registry.register("galaxy-admm")
class GalaxyADMM(LearnedReconstructor):
    r"""Unrolled plug-and-play ADMM [1]_ that deconvolves galaxies and keeps their flux.

    Each iteration deblurs in closed form and denoises by a network that all iterations share; their penalties come from
    the PSF and the noise level. Networks work on stamps in units of the peak (`recon.models.stamps.scale`), data are
    never clipped, convolution is padded, and the result is scaled to the flux of the data.

    Parameters
    ----------
    iterations
        N.
    widths, blocks
        Of the denoiser, `recon.models.resunet.ResUNet`; (64, 128, 256, 512) and 2 as published.
    split
        2: z = x, which is exact for Gaussian noise of one level. 3: also v = Hx, which takes the weight of each pixel
        and Poisson noise into account. Masked pixels may be in either.
    likelihood
        ``gaussian``, or ``poisson`` (with split 3): photon noise of galaxy and sky, the sky and read noise those of the
        physics' `SkyNoise`, else of a sky as bright as the noise level says in units of photons.
    share_denoiser
        False: each iteration has its own.
    recursions
        Most times that each iteration is done in a row, with the same denoiser and penalties [2]_: all of them, but in
        training a number that is drawn. 1 as published.
    subnet
        False: the penalties are learned numbers, the same for all stamps.
    as_published
        Repeat the published code's forward pass with its errors (`recon.models.galaxy_deconv`), for its weights only.
    legacy_swap
        For published weights of the split in 3: penalties swapped in the deblurring.

    References
    ----------
    .. [1] Li, Alexander, Galaxy image deconvolution for weak gravitational lensing with unrolled plug-and-play ADMM,
       MNRAS Letters 522, 2023.
    .. [2] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(
        self,
        iterations: int = 8,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        *,
        split: int = 2,
        likelihood: str = "gaussian",
        share_denoiser: bool = True,
        recursions: int = 1,
        subnet: bool = True,
        as_published: bool = False,
        legacy_swap: bool = False,
    ) -> None:
        super().__init__()
        if iterations < 1 or split not in (2, 3) or likelihood not in ("gaussian", "poisson"):
            raise OptionError(
                "ADMM has an iteration at least, 2 or 3 variables, and a likelihood",
                found=f"{iterations}, {split}, {likelihood}",
                expected="1 or more, 2 or 3, gaussian or poisson",
            )
        if likelihood == "poisson" and split == 2:
            raise OptionError("the Poisson likelihood needs the split in three variables", cure="Set split to 3")
        if legacy_swap and not (as_published and split == 3):
            raise OptionError(
                "swapped penalties belong to published weights of the split in 3", cure="Set as_published and split 3"
            )
        if as_published and recursions != 1:
            raise OptionError("published weights have no recursions", found=recursions, expected=1)
        self.recursion = Recursion(iterations, recursions)
        self.iterations, self.split, self.likelihood = iterations, split, likelihood
        self.as_published, self.legacy_swap = as_published, legacy_swap
        count = iterations * (split - 1)
        if subnet:
            self.penalties = PenaltyNet(count)
        else:
            self.log_rho = nn.Parameter(torch.zeros(count))
        self.denoisers = nn.ModuleList(ResUNet(widths, blocks) for _ in range(1 if share_denoiser else iterations))

    def forward(
        self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution, recursions: Sequence[int] | None = None
    ) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve.

        Parameters
        ----------
        y
            Stamps, of any unit, the sky taken off.
        physics
            Their PSFs, and where known their noise and weights (see `recon.models.stamps.noise_levels`).
        recursions
            How often each iteration is done; None: drawn in training, else as often as it may be.

        Raises
        ------
        OptionError
            Other physics, recursions that do not fit the iterations.
        ShapeError, DataError
            Stamps that do not fit them; pixels that are not finite and not masked.
        """
        physics = check_stamps(y, physics)
        seen = seen_pixels(y, physics)
        if seen is not None:
            y = torch.where(seen, y, 0)
        if self.as_published:
            return self._published(y, physics)
        grid, sigma = Grid.of(physics, y), noise_levels(y, physics)
        start = filled(y, grid, seen)
        alpha = scale(start, grid, sigma)
        level = (sigma / alpha[:, 0, 0, 0]).clamp_min(_LEAST_LEVEL).log()
        order = [turn.block for turn in self.recursion.turns(recursions)]
        rho = [penalty[:, order] for penalty in self._rho(physics, level).chunk(self.split - 1, 1)]
        if self.split == 2:
            x = two_variables(start / alpha, grid, rho[0], self._denoise(order), seen)
        else:
            x = self._three(y / alpha, start / alpha, physics, grid, alpha, sigma, rho, order)
        return with_flux_of(y, alpha * x, grid, sigma, seen)

    def _three(
        self,
        y: Stamps,
        start: Stamps,
        physics: PSFConvolution,
        grid: Grid,
        alpha: Float[Tensor, "b 1 1 1"],
        sigma: Float[Tensor, " b"],
        rho: Sequence[Float[Tensor, "b n"]],
        order: Sequence[int],
    ) -> Stamps:
        weight = relative_weights(y, physics)
        sky = _sky(physics, sigma)[:, None, None, None] / alpha

        def likelihood(vt: Stamps, rho_n: Float[Tensor, "b 1 1 1"]) -> Stamps:
            if self.likelihood == "gaussian":
                return gaussian_update(vt, y, weight, rho_n)
            # Of galaxy and sky together, in units in which a photon's weight is 1: the penalties do not depend on it.
            v = poisson_update(vt + sky, (y + sky).clamp_min(0), 1.0, rho_n) - sky
            return torch.where(weight > 0, v, vt)

        rho1, rho2 = rho
        return three_variables(start, grid, rho1, rho2, self._denoise(order), likelihood)

    def _rho(self, physics: PSFConvolution, level: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        if hasattr(self, "log_rho"):
            return self.log_rho.exp().expand(len(level), -1)
        return self.penalties(physics.psf.to(level.dtype), level)

    def _denoise(self, order: Sequence[int]) -> Denoise:
        return lambda a, n: self.denoisers[order[n] % len(self.denoisers)](a)

    def _published(self, y: Stamps, physics: PSFConvolution) -> Stamps:
        alpha = mean_level(y)
        if hasattr(self, "log_rho"):
            rho = self._rho(physics, alpha[:, 0, 0, 0])
        else:
            rho = self.penalties(PSF_SUM * physics.psf.to(y.dtype), alpha[:, 0, 0, 0])
        if self.split == 2:
            return published_two(y, physics, alpha, rho, self._denoise(range(self.iterations)))
        grid = unpadded(physics, y, swapped=self.legacy_swap)
        rho1, rho2 = rho.chunk(2, 1)
        poisson = self.likelihood == "poisson"
        denoise = self._denoise(range(self.iterations))
        return published_three(y, grid, alpha, rho1, rho2, denoise, poisson=poisson)


def _sky(physics: PSFConvolution, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the level under the stamp that has the noise of sky and reading, were it made of photons."""
    if not isinstance(physics.noise_model, SkyNoise):
        return sigma.square()  # photons are the unit
    gain = torch.as_tensor(physics.noise_model.gain, dtype=sigma.dtype, device=sigma.device).flatten()
    return sigma.square() / gain  # Snyder et al., J Opt Soc Am A 10, 1993: read noise is as more sky
