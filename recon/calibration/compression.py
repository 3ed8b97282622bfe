"""Coil compression: fewer virtual coils that hold nearly all of the signal."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from recon.calibration.noise import whiten
from recon.physics.errors import DataError, OptionError
from recon.physics.fft import fft_centred, ifft_centred


def compress_svd(
    kspace: Complex[Tensor, "b coil *spatial"],
    mask: Bool[Tensor, "..."] | None = None,
    n_coils: int | None = None,
    *,
    energy: float | None = None,
) -> tuple[Complex[Tensor, "b virtual *spatial"], Complex[Tensor, "virtual coil"], float]:
    """Project on the principal components of the coils [Buehrer et al., MRM 57:1131 (2007); Huang et al. (2008)].

    One matrix serves the whole batch. Its rows are orthonormal: white noise stays white.

    Parameters
    ----------
    kspace, mask
        The sampled entries; those outside of the mask are not looked at.
    n_coils
        Number of virtual coils.
    energy
        Instead of it: the least share of the energy to keep, in (0, 1].

    Returns
    -------
    compressed
        k-space of the virtual coils, by falling energy.
    matrix
        ``compressed = matrix @ kspace`` over the coils (coil maps transform alike).
    kept_energy
        Share of the sampled energy that was kept.

    Raises
    ------
    OptionError
        Neither or both of `n_coils` and `energy`, or values out of range.
    DataError
        k-space is all zero.
    """
    coils = kspace.shape[1]
    if (n_coils is None) == (energy is None):
        raise OptionError("give either the number of virtual coils or the energy to keep")
    if energy is not None and not 0 < energy <= 1:
        raise OptionError("the energy to keep is a share", found=energy, expected="more than 0, at most 1")
    sampled = kspace if mask is None else kspace * mask
    samples = sampled.movedim(1, 0).flatten(1)
    values, vectors = _principal(samples @ samples.mH)
    share = values.cumsum(0) / values.sum()
    if not bool(torch.isfinite(share).all()):
        raise DataError("k-space that is all zero cannot be compressed")
    if energy is not None:
        n_coils = min(int((share < energy * (1 - 1e-6)).sum()) + 1, coils)
    assert n_coils is not None
    _check_count(n_coils, coils)
    matrix = vectors[:, :n_coils].mH
    return whiten(kspace, matrix), matrix, min(float(share[n_coils - 1]), 1.0)


def compress_gcc(
    kspace: Complex[Tensor, "b coil *spatial"], axis: int, n_coils: int
) -> tuple[Complex[Tensor, "b virtual *spatial"], Complex[Tensor, "n virtual coil"], float]:
    """Geometric coil compression along a fully sampled readout [Zhang et al., MRM 69:571-582 (2013)].

    Every position along the readout gets its own principal components, which need fewer virtual coils than those of
    all positions together; they are aligned from position to position (eq. 6-8), so that the virtual coils stay smooth.

    Parameters
    ----------
    kspace
        DC in the centre, fully sampled along `axis`, zero where not sampled.
    axis
        Readout axis, counted from the end (-1: x, -2: y, -3: z).
    n_coils
        Number of virtual coils.

    Returns
    -------
    compressed
        k-space of the virtual coils.
    matrices
        One a position along the readout, in image space: the coil maps at a position transform by its matrix.
    kept_energy
        Share of the energy that was kept.

    Raises
    ------
    OptionError
        An axis that is not spatial, or a number of coils out of range.
    DataError
        k-space is all zero.
    """
    coils = kspace.shape[1]
    _check_count(n_coils, coils)
    if not -(kspace.ndim - 2) <= axis < 0:
        raise OptionError("the readout axis is not a spatial one", found=axis, expected="-1, -2 or -3")
    hybrid = ifft_centred(kspace, (axis,)).movedim((axis, 1), (0, 1))  # (position, coil, b, rest)
    samples = hybrid.flatten(2)
    values, vectors = _principal(samples @ samples.mH)
    total = values.sum()
    if not bool(total > 0):
        raise DataError("k-space that is all zero cannot be compressed")
    matrices = _aligned(vectors[..., :n_coils].mH)
    compressed = (matrices @ samples).unflatten(2, hybrid.shape[2:]).movedim((0, 1), (axis, 1))
    return fft_centred(compressed, (axis,)), matrices, min(float(values[:, :n_coils].sum() / total), 1.0)


def _principal(gram: Complex[Tensor, "*n coil coil"]) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, falling, and eigenvectors."""
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0).flip(-1), vectors.flip(-1)


def _aligned(matrices: Complex[Tensor, "n virtual coil"]) -> Complex[Tensor, "n virtual coil"]:
    """Rotate each matrix within its row space to come as near as it can to the one before, from the middle outwards."""
    aligned = list(matrices)
    middle = len(aligned) // 2
    for before, here in [(i - 1, i) for i in range(middle + 1, len(aligned))] + [
        (i + 1, i) for i in range(middle - 1, -1, -1)
    ]:
        U, _, Vh = torch.linalg.svd(aligned[before] @ aligned[here].mH)  # orthogonal Procrustes problem
        aligned[here] = U @ Vh @ aligned[here]
    return torch.stack(aligned)


def _check_count(n_coils: int, coils: int) -> None:
    if not 1 <= n_coils <= coils:
        raise OptionError("the number of virtual coils is out of range", found=n_coils, expected=f"1 to {coils}")
