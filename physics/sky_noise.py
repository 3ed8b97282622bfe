"""Photon noise of the object and of the sky behind it, and read noise."""

from __future__ import annotations

import torch
from deepinv.physics.noise import PoissonGaussianNoise
from jaxtyping import Float
from torch import Tensor


class SkyNoise(PoissonGaussianNoise):
    r"""Poisson noise of object and sky, read noise, and the known sky taken off again.

    .. math:: y = \gamma\, \mathrm{Poisson}\big((x + b)/\gamma\big) + N(0, \sigma^2) - b

    Parameters
    ----------
    gain
        :math:`\gamma`, units of the image a photo-electron, ``(b,)`` or a number: the *inverse* of the gain that
        cameras state in electrons a unit.
    sky
        :math:`b`, sky level in units of the image a pixel, ``(b,)`` or a number.
    sigma
        Read noise in units of the image, ``(b,)`` or a number.
    rng
        Where the random numbers come from.
    """

    sky: Tensor
    gain: Tensor
    sigma: Tensor

    def __init__(
        self,
        gain: float | Tensor = 1.0,
        sky: float | Tensor = 0.0,
        sigma: float | Tensor = 0.0,
        rng: torch.Generator | None = None,
    ) -> None:
        # Light below zero is a rounding error of the FFTs: it gives no photons.
        super().__init__(gain=gain, sigma=sigma, clip_positive=True, rng=rng)
        self.register_buffer("sky", self._float_to_tensor(sky).to(self.gain.device))

    def forward(
        self,
        x: Float[Tensor, "b *rest"],
        gain: float | Tensor | None = None,
        sigma: float | Tensor | None = None,
        sky: float | Tensor | None = None,
        seed: int | None = None,
    ) -> Float[Tensor, "b *rest"]:
        """Add noise to sky-free images; the parameters given here replace those held, as in deepinv."""
        self.update_parameters(sky=sky)
        self.to(x.device)
        b = self._of_pixels(self.sky, x)
        return super().forward(x + b, gain=gain, sigma=sigma, seed=seed).to(x.dtype) - b

    def variance(self, x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        r"""Return the variance :math:`\gamma (x + b)_+ + \sigma^2` of each pixel of the clean image ``x``."""
        lit = (x + self._of_pixels(self.sky, x)).clamp_min(0)
        return self._of_pixels(self.gain, x) * lit + self._of_pixels(self.sigma, x) ** 2

    @staticmethod
    def _of_pixels(value: Tensor, x: Tensor) -> Tensor:
        return value[(...,) + (None,) * (x.dim() - 1)].to(x.dtype)
