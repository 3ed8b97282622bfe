"""The image itself in noise."""

from __future__ import annotations

import torch
from deepinv.physics import Denoising as DeepinvDenoising
from deepinv.physics.noise import GaussianNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators


@operators.register("denoising")
class Denoising(DeepinvDenoising):
    """The identity, ``y = x`` in noise: deepinv's."""

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[Denoising, Float[Tensor, "b c y x"]]:
        """Make an instance and an image for the shared operator test."""
        return cls(GaussianNoise(0.1)), torch.randn(batch, 1, 7, 6, dtype=dtype, generator=generator).to(device)
