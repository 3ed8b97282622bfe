"""Dominant eigenpairs of the image-space covariance at every pixel."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from recon.calibration.kernels import fourier_basis
from torch import Tensor


def grid(n: int, step: int = 1) -> Float[Tensor, " m"]:
    """Positions of every `step`-th pixel in fields of view, 0 at index ``n // 2``."""
    return (torch.arange(0, n, step, dtype=torch.float64) - n // 2) / n


def covariance(
    lags: Complex[Tensor, "*lag coil coil"], axes: list[Float[Tensor, " n"]]
) -> Complex[Tensor, "*spatial coil coil"]:
    """Evaluate the covariance on a grid: one thin matrix product an axis."""
    coils = lags.shape[-2:]
    out = lags.flatten(-2)
    for axis, points in enumerate(axes):
        basis = fourier_basis(points, (lags.shape[axis] - 1) // 2, lags)
        done, rest = out.shape[:axis], out.shape[axis + 1 :]
        out = (basis @ out.reshape(*done, out.shape[axis], -1)).reshape(*done, len(points), *rest)
    return out.reshape(*out.shape[:-1], *coils)


def orthonormalise(V: Complex[Tensor, "... coil set"]) -> Complex[Tensor, "... coil set"]:
    """Gram-Schmidt over the few columns."""
    columns: list[Tensor] = []
    for column in V.unbind(-1):
        v = column
        for q in columns:
            v = v - q * (q.conj() * v).sum(-1, keepdim=True)
        columns.append(v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(torch.finfo(v.real.dtype).tiny))
    return torch.stack(columns, -1)


def eigenmaps(
    G: Complex[Tensor, "n coil coil"], sets: int, iterations: int = 30
) -> tuple[Complex[Tensor, "n coil set"], Float[Tensor, "n set"]]:
    """Subspace iteration with a Rayleigh-Ritz step at the end."""
    V = orthonormalise(G[..., :sets] + 1e-3 * torch.eye(G.shape[-1], sets, dtype=G.dtype, device=G.device))
    for _ in range(iterations):
        V = orthonormalise(G @ V)
    values, rotation = torch.linalg.eigh(V.mH @ (G @ V))
    return V @ rotation.flip(-1), values.flip(-1)
