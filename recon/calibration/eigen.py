"""Dominant eigenpairs of the image-space covariance at every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.calibration.kernels import fourier_basis

# The power method gives up after its exponent has doubled so often: eigenvalues that close are equal for all purposes.
_DOUBLINGS = 8


def grid(n: int, step: int = 1) -> Float[Tensor, " m"]:
    """Positions of every `step`-th pixel in fields of view, 0 at index ``n // 2``."""
    return (torch.arange(0, n, step, dtype=torch.float64) - n // 2) / n


def covariance(
    lags: Complex[Tensor, "*lag coil coil"], axes: Sequence[Float[Tensor, "_"]]
) -> Complex[Tensor, "*spatial coil coil"]:
    """Evaluate the covariance on a grid: one thin matrix product an axis."""
    coils = lags.shape[-2:]
    out = lags.flatten(-2)
    for axis, points in enumerate(axes):
        basis = fourier_basis(points, (lags.shape[axis] - 1) // 2, lags)
        done, rest = out.shape[:axis], out.shape[axis + 1 :]
        out = (basis @ out.reshape(*done, out.shape[axis], -1)).reshape(*done, len(points), *rest)
    return out.reshape(*out.shape[:-1], *coils)


def _rescale(a: Complex[Tensor, "n r c"], norm: Float[Tensor, " n"]) -> Complex[Tensor, "n r c"]:
    """Divide in place by real numbers; on the real view, where it is several times faster."""
    torch.view_as_real(a).mul_(norm.clamp_min(torch.finfo(norm.dtype).tiny).reciprocal()[:, None, None, None])
    return a


def _normalise(v: Complex[Tensor, "n coil one"]) -> Complex[Tensor, "n coil one"]:
    return _rescale(v, torch.linalg.vector_norm(torch.view_as_real(v).flatten(1), dim=1))


def dominant_eigenpairs(
    G: Complex[Tensor, "n coil coil"], *, start: int = 0, tolerance: float = 1e-4, floor: float = 0.5
) -> tuple[Complex[Tensor, "n coil one"], Float[Tensor, " n"]]:
    """Largest eigenvalue and its eigenvector of many small positive semidefinite matrices, by the power method.

    Two squarings and five products with the fourth power make twenty iterations for the price of seven. Where that is
    not enough (two eigenvalues close to each other) the exponent goes on doubling for those matrices alone.

    Parameters
    ----------
    G
        Hermitian, positive semidefinite, with eigenvalues of at most about 1.
    start
        Number of the start: after deflation another than those that found the vectors which were taken out, as the
        second of two equal eigenvalues is orthogonal to the start that found the first.
    tolerance
        Angle in radian by which one more step may still turn an eigenvector.
    floor
        Where the largest eigenvalue is below, the eigenvector is of no interest and may stay as it is.
    """
    P = G @ G
    P = P @ P
    # The column of the largest diagonal entry overlaps with the eigenvector; a little of all others, with phases of no
    # pattern, makes the start generic.
    coils = torch.arange(G.shape[-1], dtype=G.real.dtype, device=G.device)
    generic = torch.polar(torch.full_like(coils, 0.1), (start + 1) * coils * coils + coils).repeat(len(G), 1)
    generic.scatter_(1, P.diagonal(dim1=-2, dim2=-1).real.argmax(-1, keepdim=True), 1.0)
    v = P @ generic[..., None]
    for _ in range(3):
        v = P @ v
    before = _normalise(v)
    v = _normalise(P @ before)
    values = (v.mH @ (G @ v)).real.flatten()
    rest = (_turned(before, v, tolerance) & (values > floor)).nonzero().flatten()
    P = P[rest]
    for _ in range(_DOUBLINGS):
        if not len(rest):
            break
        P = P @ P
        P = _rescale(P, P.diagonal(dim1=-2, dim2=-1).real.sum(-1))  # no power over- or underflows
        before = v[rest]
        after = _normalise(P @ before)
        v[rest], values[rest] = after, (after.mH @ (G[rest] @ after)).real.flatten()
        turning = _turned(before, after, tolerance)
        rest, P = rest[turning], P[turning]
    return v, values


def _turned(
    before: Complex[Tensor, "n coil one"], after: Complex[Tensor, "n coil one"], angle: float
) -> Bool[Tensor, " n"]:
    # |after - (before^H after) before| is the sine of the angle, without the cancellation that 1 - cos^2 suffers from.
    difference = after - (before.mH @ after) * before
    return torch.linalg.vector_norm(torch.view_as_real(difference).flatten(1), dim=1) > angle


def eigenmaps(
    G: Complex[Tensor, "n coil coil"], sets: int
) -> tuple[Complex[Tensor, "n coil set"], Float[Tensor, "n set"]]:
    """Return the largest eigenvalues of many small matrices, falling, and their orthonormal eigenvectors.

    Further pairs than the first are found after deflation.
    """
    vectors: list[Tensor] = []
    values: list[Tensor] = []
    for start in range(sets):
        if vectors:
            G = G - values[-1][:, None, None] * (vectors[-1] @ vectors[-1].mH)
        v, w = dominant_eigenpairs(G, start=start)
        for before in vectors:  # deflation is only as exact as the vector that was taken out
            v = _normalise(v - before @ (before.mH @ v))
        vectors.append(v)
        values.append(w)
    return torch.cat(vectors, -1), torch.stack(values, -1)
