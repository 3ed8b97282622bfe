"""Gaussian images: their exact denoiser, and the exact posterior for linear measurements."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
