"""Posterior means of diffusion models that any linear operator guides: the models of `recon.guidance`."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.guidance.denoisers import DenoiserLike, network_of
from recon.guidance.problems import LEAST, check_linear, levels_or_guess
from recon.guidance.sampling import Method, method_of, posterior
from recon.models import registry
from recon.physics.errors import OptionError


class Guided(Reconstructor):
    """The mean of posterior samples, and their spread.

    Parameters
    ----------
    denoiser
        What is known of the images: see `recon.guidance.denoisers.ImageDenoiser`.
    method
        With its numbers; None: the defaults.
    samples, seed
        As of `recon.guidance.sample`.

    Attributes
    ----------
    spread
        Standard deviation of the magnitude over the samples of the last call, ``(b, y, x)``.
    """

    weights_of = "diffusion-denoiser"
    name = "tfg"

    def __init__(
        self, denoiser: DenoiserLike, method: Method | None = None, *, samples: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        if samples < 1:
            raise OptionError("there is a sample at least", found=samples)
        self.denoiser, self.samples, self.seed = network_of(denoiser), samples, seed
        self.method = method_of(self.name) if method is None else method
        self.card = getattr(self.denoiser, "card", None)
        self.spread: Tensor | None = None
        self.details: dict[str, float] = {}

    @torch.no_grad()
    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator; where neither its noise model nor the data tell a noise level, 1 % of the image's magnitude
            is taken.

        Raises
        ------
        ReconError
            As `recon.guidance.sample`.
        """
        check_linear(y, physics)
        levels = levels_or_guess(y, physics)
        found = posterior(
            y, physics, self.denoiser, self.method, levels, samples=self.samples, least=LEAST, seed=self.seed
        )
        self.spread = found.magnitude_spread if self.samples > 1 else None
        self.details = {"samples": float(self.samples)}
        return found.mean


@registry.register("diffusion-tfg")
class DiffusionTFG(Guided):
    """Posterior samples by training-free guidance of a diffusion denoiser, for any linear operator [Ye et al. 2024].

    The image is the mean of the samples; the uncertainty is their standard deviation. See `recon.guidance.TFG`.

    Parameters
    ----------
    denoiser, method, samples, seed
        As of `Guided`.
    """


@registry.register("diffusion-dps")
class DiffusionDPS(Guided):
    """Posterior samples by diffusion posterior sampling, for any linear operator [Chung et al. 2023].

    The image is the mean of the samples; the uncertainty is their standard deviation. See `recon.guidance.DPS`.

    Parameters
    ----------
    denoiser, method, samples, seed
        As of `Guided`.
    """

    name = "dps"


@registry.register("diffusion-diffpir")
class DiffusionDiffPIR(Guided):
    """Samples by denoising diffusion for plug-and-play restoration, for any linear operator [Zhu et al. 2023].

    The image is the mean of the samples; the uncertainty is their standard deviation. See `recon.guidance.DiffPIR`.

    Parameters
    ----------
    denoiser, method, samples, seed
        As of `Guided`.
    """

    name = "diffpir"
