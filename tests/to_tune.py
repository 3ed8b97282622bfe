"""Measurements and the simplest model for the tests of fine-tuning."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise
from deepinv.physics.noise import NoiseModel
from networks import problem
from torch import nn

from recon.finetuning.measurements import Measurement
from recon.physics import Denoising, MultiCoilMRI

SIGMA = 0.5


class Shrink(Reconstructor):
    """a A^T y: every loss has a closed form."""

    def __init__(self, a: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, y, physics):
        return self.a.to(y.real.dtype) * physics.A_adjoint(y)


def noisy(n: int = 128, seed: int = 0, noise: NoiseModel | None = None, dtype=torch.float32) -> Measurement:
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(2, 1, n, n, generator=g, dtype=dtype) + SIGMA * torch.randn(2, 1, n, n, generator=g, dtype=dtype)
    return Measurement(y=y, physics=Denoising(GaussianNoise(SIGMA) if noise is None else noise))


def scan(seed: int = 0, sigma: float = 0.05, **options) -> Measurement:
    """K-space of a blob, so that a part of it tells of the rest."""
    y, physics = problem(seed=seed, **options)
    g = torch.Generator().manual_seed(100 + seed)
    h, w = physics.spatial
    rows, columns = torch.meshgrid(torch.arange(h) - h / 2, torch.arange(w) - w / 2, indexing="ij")
    x = torch.zeros(1, 2, h, w)
    x[:, 0] = torch.exp(-(rows**2 + columns**2) / 60)
    physics = MultiCoilMRI(physics.coil_maps, physics.mask, noise_model=GaussianNoise(sigma))
    noise = torch.view_as_complex(sigma * torch.randn(*y.shape, 2, generator=g)) * physics.mask
    return Measurement(y=physics.A(x) + noise, physics=physics, name=f"scan {seed}")


def pair(m: Measurement):
    return m.y, m.physics


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
