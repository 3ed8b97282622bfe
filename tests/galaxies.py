"""Small galaxies, PSFs and stamps for tests, all analytic."""

from __future__ import annotations

import torch
from deepinv.physics import GaussianNoise
from torch import Tensor

from recon.physics import PSFConvolution


def gaussian(
    n: int | tuple[int, int],
    sigma: float | Tensor,
    *,
    q: float = 1.0,
    angle: float = 0.0,
    dx: float = 0.0,
    dy: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A Gaussian of sum about 1 and axis ratio q, centred on n // 2; (b, 1, y, x) for sigma (b,)."""
    h, w = (n, n) if isinstance(n, int) else n
    y = torch.arange(h, dtype=dtype)[:, None] - h // 2 - dy
    x = torch.arange(w, dtype=dtype) - w // 2 - dx
    c, s = torch.cos(torch.tensor(angle, dtype=dtype)), torch.sin(torch.tensor(angle, dtype=dtype))
    a, b = (c * x + s * y) * q**0.5, (-s * x + c * y) / q**0.5
    sigma = torch.as_tensor(sigma, dtype=dtype).reshape(-1, 1, 1, 1)
    return torch.exp(-(a * a + b * b) / (2 * sigma**2)) / (2 * torch.pi * sigma**2)


def psf_like(b: int, n: int = 25, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Slightly elliptical PSFs, each of another size."""
    sigmas = torch.linspace(1.5, 2.0, b, dtype=dtype)
    psf = torch.cat([gaussian(n, s, q=0.9, angle=0.3 * i, dtype=dtype) for i, s in enumerate(sigmas)])
    return psf / psf.sum((-2, -1), keepdim=True)


def observation(
    b: int = 3,
    n: int = 32,
    *,
    snr: float = 50.0,
    known: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    flux: float = 1000.0,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, PSFConvolution]:
    """Return truth, noisy stamps and their physics; SNR as in GREAT3, infinite for no noise."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(1.6, 2.4, b, dtype=dtype)
    truth = flux * torch.cat([gaussian(n, s, q=0.6, angle=0.5 + i, dtype=dtype) for i, s in enumerate(sizes)])
    sigma = truth.square().sum((1, 2, 3)).sqrt() / snr
    clean = PSFConvolution(psf_like(b, dtype=dtype)).A(truth)
    noise = torch.randn(truth.shape, generator=generator, dtype=dtype) * sigma[:, None, None, None]
    model = GaussianNoise(sigma) if known else None
    return truth, clean + noise, PSFConvolution(psf_like(b, dtype=dtype), noise_model=model, weight=weight)


def relative(x: Tensor, truth: Tensor) -> float:
    """Norm of the difference over that of the truth."""
    return float(torch.linalg.vector_norm(x - truth) / torch.linalg.vector_norm(truth))
