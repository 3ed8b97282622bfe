"""Noise: its covariance over the coils, whitening, and its level where no noise scan tells it."""

from __future__ import annotations

from functools import lru_cache
from math import log, prod, sqrt

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.calibration.kernels import calibration_gram, calibration_region, centre_block
from recon.physics.errors import CalibrationError, ShapeError

_OUTER_SHARE = 0.01  # share of the samples, the outermost ones, that is taken for noise
_OUTER_LEAST = 128
_SAMPLES_PER_COIL = 10
_MEDIAN = sqrt(2 * log(2))  # median of a Rayleigh variable of scale 1


def noise_covariance(noise: Complex[Tensor, "coil sample"]) -> Complex[Tensor, "coil coil"]:
    """Covariance ``E[n n^H]`` of a noise scan; its diagonal is twice the variance of the real part.

    Raises
    ------
    CalibrationError
        Fewer than ten samples a coil.
    """
    coils, samples = noise.shape
    if samples < _SAMPLES_PER_COIL * coils:
        raise CalibrationError(
            "too few noise samples for a covariance",
            found=f"{samples} samples of {coils} coils",
            expected=f"at least {_SAMPLES_PER_COIL * coils} samples",
            cure="Reconstruct without whitening",
        )
    return noise @ noise.mH / samples


def noise_covariance_from_kspace(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."] | None = None
) -> Complex[Tensor, "coil coil"]:
    """Covariance of the outermost samples of k-space, where little signal is left; pooled over the batch.

    Correlations between coils are shrunk as far as they are uncertain [Schaefer and Strimmer, Stat. Appl. Genet. Mol.
    Biol. 4:32 (2005)], so few samples still give a matrix that can be inverted.

    Parameters
    ----------
    kspace
        DC in the centre.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``.

    Raises
    ------
    CalibrationError
        The outer half of k-space has fewer than ten samples a coil.
    """
    least = max(_SAMPLES_PER_COIL * kspace.shape[1], _OUTER_LEAST)
    outer = torch.cat([_outer_samples(k, m, least) for k, m in acquired(kspace, mask)], 1)
    covariance = noise_covariance(outer)
    variance = torch.diagonal(covariance)
    correlation = covariance.abs().square() / (variance.real[:, None] * variance.real).clamp_min(
        torch.finfo(variance.real.dtype).tiny
    )
    correlation.fill_diagonal_(0)
    error = ((1 - correlation).square() / outer.shape[1]).fill_diagonal_(0)
    shrink = (error.sum() / correlation.sum().clamp_min(torch.finfo(error.dtype).tiny)).clamp(0, 1)
    return (1 - shrink) * covariance + shrink * torch.diag(variance)


def whitening_matrix(covariance: Complex[Tensor, "coil coil"]) -> Complex[Tensor, "coil coil"]:
    """Inverse square root ``W`` of the covariance ``C``: ``W C W^H = 1``.

    The Hermitian root, which of all whitening matrices changes the coils least. White noise of this scale has a real
    part of standard deviation ``1 / sqrt(2)``.

    Raises
    ------
    CalibrationError
        A coil without noise, or coils that are copies of each other.
    """
    values, vectors = torch.linalg.eigh(covariance)
    least = values.shape[0] * torch.finfo(values.dtype).eps * values[-1]
    if not bool(values[0] > least):
        raise CalibrationError(
            "the noise covariance is singular",
            found=f"eigenvalues from {float(values[0]):.3g} to {float(values[-1]):.3g}",
            cure="Drop coils that are dead or copies of others, or reconstruct without whitening",
        )
    return (vectors * values.rsqrt()) @ vectors.mH


def whiten(
    kspace: Complex[Tensor, "b coil *spatial"], matrix: Complex[Tensor, "virtual columns"]
) -> Complex[Tensor, "b virtual *spatial"]:
    """Mix the coils of k-space by a matrix."""
    if matrix.shape[1] != kspace.shape[1]:
        raise ShapeError("the matrix does not fit the coils", found=tuple(matrix.shape), expected=kspace.shape[1])
    return (matrix @ kspace.flatten(2)).unflatten(2, kspace.shape[2:])


def noise_level(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, " b"]:
    """Estimate the standard deviation of the real part of the noise (root mean square over the coils).

    The median magnitude of the outermost samples tells it, as long as the signal has faded there. Where the data have
    a calibration block, the null space of its multi-coil kernels, which holds no signal at whatever SNR, gives a
    second figure; it is compared with that of white noise in a block of that size. Signal can only raise either, so
    the lower of both is returned.

    Parameters
    ----------
    kspace
        DC in the centre. Samples that are zero in all coils do not count.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``.

    Raises
    ------
    CalibrationError
        Too few samples in the outer half of k-space.
    """
    levels = []
    for k, m in acquired(kspace, mask):
        per_coil = outer_level(k, m)
        level = per_coil.square().mean().sqrt()
        null = _null_space_level(k / per_coil.clamp_min(torch.finfo(level.dtype).tiny).view(-1, *(1,) * m.ndim), m)
        levels.append(level if null is None else level * min(null, 1.0))
    return torch.stack(levels)


def acquired(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."] | None
) -> list[tuple[Complex[Tensor, "coil *spatial"], Bool[Tensor, "*spatial"]]]:
    """Pair the k-space of each item with what is really there of its mask: samples not zero in all coils."""
    there = (kspace != 0).any(1)
    if mask is not None:
        there = there & mask.reshape(-1, *mask.shape[-there.ndim + 1 :])
    return list(zip(kspace, there, strict=True))


def outer_level(kspace: Complex[Tensor, "coil *spatial"], mask: Bool[Tensor, "*spatial"]) -> Float[Tensor, " coil"]:
    """Estimate each coil's noise (of the real part) from the median of the outermost samples."""
    return _outer_samples(kspace, mask, _OUTER_LEAST).abs().median(1).values / _MEDIAN


def _outer_samples(kspace: Tensor, mask: Tensor, least: int) -> Complex[Tensor, "coil n"]:
    """Return the outermost sampled percent, at least `least` of them, none from the inner half of k-space."""
    square = torch.zeros((), device=kspace.device)
    for n in mask.shape:
        index = torch.arange(n, device=kspace.device) - n // 2
        square = square[..., None] + (index / max(n / 2, 1)).square()
    radius = square[mask]
    wanted = max(least, int(_OUTER_SHARE * radius.numel()))
    outer = radius.topk(min(wanted, radius.numel())).indices
    outer = outer[radius[outer] > 0.25 * radius.max()] if radius.numel() else outer
    if len(outer) < min(least, 64):
        raise CalibrationError(
            "too few samples in the outer half of k-space for its noise",
            found=len(outer),
            expected=f"at least {min(least, 64)}",
            cure="Give a noise scan or the noise level",
        )
    return kspace[:, mask][:, outer]


def _null_space_level(kspace: Tensor, mask: Tensor) -> float | None:
    """Noise level from the lower half of the null space's singular values; None where there is no null space."""
    coils, dims = kspace.shape[0], mask.ndim
    side = 24 if dims == 2 else 12
    size = calibration_region(mask, tuple(min(side, n) for n in mask.shape))
    fitting = [k for k in (5, 4, 3, 2) if coils * k**dims <= prod(max(s - k + 1, 0) for s in size) / 2]
    if coils == 1 or not fitting:
        return None
    kernel = (fitting[0],) * dims
    singular = _singular_values(centre_block(kspace, size), kernel).cpu()
    white = _white_singular_values(coils, size, kernel).to(singular.dtype)
    n, patches, rank, level = len(singular), prod(s - fitting[0] + 1 for s in size), 0, 0.0
    for _ in range(6):
        # The null space of `rank` signals is noise in that many fewer dimensions, of patches and of coefficients.
        left = max(n - rank, 4)
        position = ((torch.arange(left // 2) + 0.5) / left * n - 0.5).clamp(0, n - 1)
        low = position.floor().long()
        high, part = (low + 1).clamp_max(n - 1), position - position.floor()
        expected = torch.lerp(white[low], white[high], part.to(white.dtype)) * sqrt((patches - rank) / patches)
        level = float((singular[: left // 2] / expected).median())
        rank = int((singular > 1.1 * level * white[-1]).sum())
    return level


def _singular_values(block: Tensor, kernel: tuple[int, ...]) -> Float[Tensor, " n"]:
    matrix, _, _ = calibration_gram(block.to(torch.complex128), kernel)
    return torch.linalg.eigvalsh(matrix @ matrix.mH).clamp_min(0).sqrt()


@lru_cache(maxsize=8)
def _white_singular_values(coils: int, size: tuple[int, ...], kernel: tuple[int, ...]) -> Float[Tensor, " n"]:
    """Rising singular values of the calibration matrix of white noise whose real part has variance 1."""
    noise = torch.randn(coils, *size, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    return _singular_values(sqrt(2) * noise, kernel)
