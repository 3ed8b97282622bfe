"""Noise of measurements: deepinv's models by what is known of them, and the photons of CT."""

from __future__ import annotations

import math

import torch
from deepinv.physics.noise import GaussianNoise, NoiseModel, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import DataError, OptionError


def noise_model(
    sigma: float | None = None, gain: float | None = None, generator: torch.Generator | None = None
) -> NoiseModel:
    r"""Return the model of :math:`y = \gamma\,\mathrm{Poisson}(Ax / \gamma) + \sigma n`, by the parts that are given.

    Raises
    ------
    OptionError
        ``sigma`` or ``gain`` is not positive.
    """
    for name, value in (("sigma", sigma), ("gain", gain)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise OptionError(f"the noise's {name} is positive", found=value, cure="Leave it out where there is none")
    if gain is None:
        return ZeroNoise() if sigma is None else GaussianNoise(sigma, rng=generator)
    if sigma is None:
        return PoissonNoise(gain, clip_positive=True, rng=generator)
    return PoissonGaussianNoise(gain, sigma, clip_positive=True, rng=generator)


class CountNoise(NoiseModel):
    """Noise of line integrals that were made of photon counts; a child says how it is drawn.

    Parameters
    ----------
    photons
        :math:`N_0`: on each detector cell and view where nothing is in the beam.
    rng
        Generator of the noise, on the device of the data; None: torch's own.

    Raises
    ------
    OptionError
        A number of photons that is not positive.
    """

    photons: Tensor

    def __init__(self, photons: float, rng: torch.Generator | None = None) -> None:
        super().__init__(rng=rng)
        self.register_buffer("photons", torch.tensor(_checked_photons(photons)))

    def _photons_for(self, x: Tensor, photons: float | None, seed: int | None) -> Tensor:
        """Replace the number of photons where one is given, start the generator anew where a seed is."""
        if photons is not None:
            self.photons = torch.tensor(_checked_photons(photons), device=x.device)
        self.rng_manual_seed(seed)
        return self.photons.to(x.device, x.dtype)


class PhotonNoise(CountNoise):
    r"""Photon counts of CT and their logarithm, :math:`y = -\log(\mathrm{Poisson}(N_0 e^{-Ax}) / N_0)`.

    deepinv's `LogPoissonNoise` but for rays behind which no photon arrives: they count as half a photon here, which
    keeps them finite. For the parameters see `CountNoise`.
    """

    def forward(self, x: Tensor, photons: float | None = None, seed: int | None = None, **_others: object) -> Tensor:
        """Draw counts of line integrals ``x``, and take their logarithm."""
        number = self._photons_for(x, photons, seed)
        return line_integrals(torch.poisson(number * torch.exp(-x), generator=self.rng), number)


class PostLogNoise(CountNoise):
    r"""Gaussian noise of the variance that photon counts have after the logarithm, :math:`e^{Ax} / N_0`.

    The usual model for methods that need a differentiable or weighted least-squares data term; true for many photons.
    For the parameters see `CountNoise`.
    """

    def forward(self, x: Tensor, photons: float | None = None, seed: int | None = None, **_others: object) -> Tensor:
        """Add the noise to line integrals ``x``."""
        number = self._photons_for(x, photons, seed)
        return x + post_log_variance(x, number).sqrt() * self.randn_like(x)


def line_integrals(counts: Float[Tensor, "..."], photons: float | Tensor) -> Float[Tensor, "..."]:
    """Turn photon counts into line integrals; fewer than half a photon counts as half.

    Raises
    ------
    DataError
        Counts below 0.
    """
    if not counts.is_meta and bool((counts < 0).any()):
        raise DataError("photon counts below 0", found=float(counts.min()), cure="Subtract less background")
    return -torch.log(counts.clamp_min(0.5) / photons)


def post_log_variance(y: Float[Tensor, "..."], photons: float | Tensor) -> Float[Tensor, "..."]:
    """Variance of a line integral ``y`` made from Poisson counts: one over the expected count."""
    return torch.exp(y) / photons


WATER = 0.0193
"""Attenuation of water in 1/mm at 70 keV, the mean energy of a 120 kV beam (NIST XCOM)."""


def attenuation_of(hounsfield: Float[Tensor, "..."], water: float = WATER) -> Float[Tensor, "..."]:
    """Turn Hounsfield units into attenuation (1/mm for the default); what is thinner than vacuum becomes 0."""
    return (water * (1 + hounsfield / 1000)).clamp_min(0)


def hounsfield_of(attenuation: Float[Tensor, "..."], water: float = WATER) -> Float[Tensor, "..."]:
    """Turn attenuation into Hounsfield units."""
    return 1000 * (attenuation / water - 1)


def _checked_photons(photons: float) -> float:
    if not (photons > 0 and math.isfinite(photons)):
        raise OptionError("the number of photons is positive", found=photons)
    return float(photons)
