"""Gaussian images: their exact denoiser, their measurements, and the exact posterior given these."""

from __future__ import annotations

import math

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise
from torch import Tensor, nn

from recon.physics.blur import CircularBlur
from recon.physics.inpainting import Inpainting
from recon.physics.single_coil import SingleCoilMRI
from recon.physics.superresolution import SuperResolution

S, SIGMA = 0.3, 0.1
KERNEL = torch.tensor([[0, 0.1, 0], [0.2, 0.4, 0.1], [0, 0.2, 0]], dtype=torch.float64)[None, None]


class White(nn.Module):
    """The exact denoiser of white Gaussian images of standard deviation S."""

    deviation = S

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return x * S**2 / (S**2 + level**2)


def half_seen(side: int = 64) -> tuple[Tensor, Inpainting]:
    """Pixels that are measured as 0.4, and pixels that are not measured."""
    mask = torch.zeros(side, side, dtype=torch.float64)
    mask[:, ::2] = 1
    return 0.4 * mask[None, None], Inpainting(mask, (1, side, side), noise_model=GaussianNoise(SIGMA))


class GaussianDenoiser(nn.Module):
    """Posterior mean of x ~ N(mean, C) in white noise, for images of few pixels."""

    def __init__(self, covariance: Tensor, mean: Tensor | float = 0.0, deviation: float | None = None) -> None:
        super().__init__()
        self.covariance, self.mean = covariance.double(), mean
        self.deviation = float(covariance.diagonal().mean().sqrt()) if deviation is None else deviation

    def matrix(self, sigma: float) -> Tensor:
        """D of D(x) = mean + D (x - mean)."""
        c = self.covariance
        return c @ torch.linalg.inv(c + sigma**2 * torch.eye(len(c), dtype=c.dtype))

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        level = float(torch.as_tensor(sigma).flatten()[0])
        flat = (x - self.mean).flatten(1)
        return (flat @ self.matrix(level).mT.to(x.dtype)).reshape(x.shape) + self.mean


def matrix_of(physics, shape: tuple[int, int, int]) -> Tensor:
    """A, column by column, complex measurements as pairs."""
    n = shape[0] * shape[1] * shape[2]
    columns = physics.A(torch.eye(n, dtype=torch.float64).reshape(n, *shape))
    return vector(columns).mT


def vector(y: Tensor) -> Tensor:
    y = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    return y.flatten(1).double()


def posterior_of(covariance: Tensor, A: Tensor, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x ~ N(0, C) given y = A x + n."""
    c = covariance.double()
    gain = c @ A.mT @ torch.linalg.inv(A @ c @ A.mT + sigma**2 * torch.eye(len(A), dtype=c.dtype))
    return gain @ y, c - gain @ A @ c


def operators() -> dict[str, tuple[LinearPhysics, tuple[int, int, int]]]:
    """Operators on 4 x 4 pixels, and the shapes of their images."""
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.float64)
    return {
        "inpainting": (Inpainting(mask, (1, 4, 4)), (1, 4, 4)),
        "blur": (CircularBlur(KERNEL, (1, 4, 4)), (1, 4, 4)),
        "super-resolution": (SuperResolution(2, (1, 4, 4), KERNEL), (1, 4, 4)),
        "mri": (SingleCoilMRI(mask), (2, 4, 4)),
    }


def measured(name: str, sigma: float, correlation: float) -> tuple[LinearPhysics, Tensor, Tensor, Tensor]:
    """An operator with its measurements, its matrix, and the covariance of images that are smooth over so many pixels.

    No pixel depends on another where the correlation is 0.
    """
    physics, shape = operators()[name]
    physics.noise_model = GaussianNoise(sigma)
    n = math.prod(shape)
    place = torch.arange(n, dtype=torch.float64)
    covariance = S**2 * torch.exp(-((place[:, None] - place).abs()) / max(correlation, 1e-9))
    generator = torch.Generator().manual_seed(1)
    truth = torch.linalg.cholesky(covariance) @ torch.randn(n, dtype=torch.float64, generator=generator)
    exact = physics.A(truth.reshape(1, *shape))
    noise = sigma * torch.randn(exact.shape, dtype=exact.dtype, generator=generator)
    y = exact + (noise * physics.mask if name in {"inpainting", "mri"} else noise)
    return physics, y, matrix_of(physics, shape), covariance
