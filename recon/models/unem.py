"""Unrolled expectation maximisation for galaxy stamps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from recon.models import registry
from recon.models.convolution import Grid, Stamps
from recon.models.learned import LearnedReconstructor
from recon.models.richardson_lucy import lift, quotient, sensitivity, start
from recon.models.stamps import check_stamps, filled, noise_levels, scale, seen_pixels, with_flux_of
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution

_LEAST_LEVEL = 1e-4


@registry.register("unem")
class UNEM(LearnedReconstructor):
    r"""Richardson-Lucy unrolled as generalised EM whose hyper-parameters are learned, after UNEM [1]_.

    Richardson-Lucy is EM for Poisson data. Iteration n has a step :math:`s_n`, the weight :math:`\lambda_n` of a prior
    that takes neighbours to be alike, and a temperature :math:`T_n` of the E-step [1, 2]_:

    .. math:: x \leftarrow x \left(
        \frac{H^T (\frac{y + c}{Hx})^{1/T_n}}{H^T 1 + \lambda_n \frac{x - \bar x}{x + \bar x}} \right)^{s_n}

    with c as in `RichardsonLucy`, here a part of x until the end, and the mean :math:`\bar x` of four neighbours. Each
    of the three depends on the noise level relative to the galaxy, as learned, so that faint galaxies are in effect
    stopped early.

    Parameters
    ----------
    iterations
        N. The model has 6 N weights.

    References
    ----------
    .. [1] Zhou et al., UNEM: unrolled generalized EM for transductive few-shot learning, CVPR 2025.
    .. [2] Green, Bayesian reconstructions from emission tomography data using a modified EM algorithm, IEEE TMI 1990
       (one step late).
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(self, iterations: int = 10) -> None:
        super().__init__()
        if iterations < 1:
            raise OptionError("EM has at least one iteration", found=iterations)
        # Of step, prior and temperature: the value, and how it changes with the logarithm of the level.
        self.value = nn.Parameter(torch.tensor([[0.0, -3.0, 0.0]]).repeat(iterations, 1))
        self.slope = nn.Parameter(torch.zeros(iterations, 3))

    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve; parameters and errors as those of `recon.models.galaxy_admm.GalaxyADMM`."""
        physics = check_stamps(y, physics)
        seen = seen_pixels(y, physics)
        data = y if seen is None else torch.where(seen, y, 0)
        grid, sigma = Grid.of(physics, y), noise_levels(y, physics)
        alpha = scale(filled(y, grid, seen), grid, sigma)
        level = (sigma / alpha[:, 0, 0, 0]).clamp_min(_LEAST_LEVEL).log()
        lifted, c = lift(data / alpha, pedestal=True)
        x = start(lifted, c, grid, seen) + c
        share = sensitivity(y, grid, seen)
        for value, slope in zip(self.value, self.slope, strict=True):
            step, weight, temperature = (value + slope * level[:, None]).unbind(1)
            ratio = quotient(lifted, grid.A(x - c) + c, seen).clamp_min(1e-6)
            tempered = ratio ** _column(torch.exp(-temperature))
            if seen is not None:
                tempered = tempered * seen
            expected = grid.adjoint(tempered).clamp_min(1e-6)
            rough = (x - (mean := _neighbours(x))) / (x + mean + 1e-6)
            # Below the sensitivity, so that the denominator stays positive.
            prior = 0.9 * share * _column(torch.sigmoid(weight)) * rough
            x = x * (expected / (share + prior)) ** _column(torch.exp(step).clamp_max(3))
        return with_flux_of(data, alpha * (x - c), grid, sigma, seen)


def _neighbours(x: Stamps) -> Stamps:
    """Return the mean of the four neighbours."""
    p = pad(x, (1, 1, 1, 1), mode="replicate")
    return (p[..., 1:-1, :-2] + p[..., 1:-1, 2:] + p[..., :-2, 1:-1] + p[..., 2:, 1:-1]) / 4


def _column(x: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    return x[:, None, None, None]
