"""ESPIRiT coil maps [Uecker et al., Magn Reson Med 71:990-1001 (2014)]."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.calibration.eigen import covariance, eigenmaps, grid
from recon.calibration.kernels import (
    calibration_kernels,
    calibration_region,
    centre_block,
    fourier_basis,
    kernel_autocorrelation,
)
from recon.calibration.noise import acquired, outer_level
from recon.physics.errors import CalibrationError, OptionError, ShapeError

_CALIBRATION = {2: 24, 3: 16}  # longest side of the calibration block by default, by dimensions
_PIXELS = 4096  # covariances in work at a time: they fit the cache
_KERNELS = (3, 6)  # least and greatest side chosen
_THRESHOLD = 10**-1.5
_COARSE = 32  # side of the grid on which the number of sets is decided
_SECOND_EIGENVALUE, _SECOND_SHARE = 0.9, 0.02  # a second set is there where this share of the support exceeds that
_LOST_ENERGY = 1e-3  # share of the signal that the automatic crop may cut off
_CROP_RANGE = (0.5, 0.95)


@dataclass(frozen=True, eq=False)
class CoilMaps:
    """Coil maps and how they came about.

    Parameters
    ----------
    maps
        ``(b, set, coil, *spatial)``; of unit norm over the coils where the object is (less where they fade in softly),
        zero elsewhere.
    eigenvalues
        ``(b, set, *spatial)``, not cropped: 1 where the calibration data agree with the map, 0 where nothing is.
    crop
        ``(b,)``: the eigenvalue below which maps are zero.
    threshold
        ``(b,)``: singular values below this fraction of the largest were taken for noise.
    calibration
        Size of the calibration block that was used.
    """

    maps: Complex[Tensor, "b set coil *spatial"]
    eigenvalues: Float[Tensor, "b set *spatial"]
    crop: Float[Tensor, " b"]
    threshold: Float[Tensor, " b"]
    calibration: tuple[int, ...]

    @property
    def sets(self) -> int:
        """Number of sets of maps."""
        return self.maps.shape[1]


def espirit(
    kspace: Complex[Tensor, "b coil *spatial"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    calibration: int | tuple[int, ...] | None = None,
    kernel: int | Literal["auto"] = "auto",
    threshold: float | Literal["auto"] = "auto",
    crop: float | Literal["auto"] = "auto",
    sets: Literal[1, 2, "auto"] = "auto",
    soft: bool = False,
) -> CoilMaps:
    """Estimate coil maps from the fully sampled middle of k-space.

    The phase of the maps is relative to the first principal component of the coils, as in BART.

    Parameters
    ----------
    kspace
        DC in the centre, ``(b, coil, y, x)`` or ``(b, coil, z, y, x)``. In 3D the kernels are cubes; where the readout
        is fully sampled it is much faster to transform it and to give its positions as a batch of slices.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``. Without it, samples that are zero in all coils count
        as missing.
    calibration
        Longest sides of the calibration block; by default 24 (16 in 3D), or what there is.
    kernel
        Side of the kernels, at least 2. "auto": 6, or less (at least 3) where the shortest side of the block is below
        14: larger kernels fit so few places there that signal is taken for noise.
    threshold
        Singular values of the calibration matrix below this fraction of the largest belong to its null space. "auto":
        0.0316 as in BART, or more (at most 0.1) where the noise in the outer samples of k-space reaches higher.
    crop
        Maps are zero where the eigenvalue is below. "auto": as high as it can be (0.5 to 0.95) without cutting off more
        than 0.1 % of the energy of the low-resolution image.
    sets
        Number of sets of maps. "auto": 2 where the object is larger than the field of view (a second eigenvalue above
        0.9 in 2 % of the support of the first), else 1.
    soft
        Fade the maps in with the eigenvalue, instead of cutting them off (soft SENSE).

    Raises
    ------
    CalibrationError
        No fully sampled block that is larger than the kernel, a single coil, or nothing but zeros in the block.
    OptionError, ShapeError
        Options out of range, k-space that is neither 2D nor 3D.
    """
    spatial = tuple(kspace.shape[2:])
    _check(kspace, kernel, threshold, crop)
    size = _calibration_size(kspace, mask, calibration)
    side = min(max(min(size) // 2 - 1, _KERNELS[0]), _KERNELS[1]) if kernel == "auto" else int(kernel)
    if min(size) <= side:
        raise CalibrationError(
            "no calibration block for ESPIRiT",
            found=f"{' x '.join(map(str, size))} fully sampled samples around the centre",
            expected=f"more than {side} along each axis",
            cure="Give coil maps, choose a smaller kernel, or use low-resolution maps (lowres_maps)",
        )
    coefficients, limits, blocks, wanted = [], [], [], 1
    for item, there in acquired(kspace, mask):
        block = centre_block(item, size)
        cut, sigma = (_THRESHOLD, _noise(item, there)) if threshold == "auto" else (float(threshold), 0.0)
        kernels, limit = calibration_kernels(block, (side,) * len(spatial), cut, sigma)
        lags = kernel_autocorrelation(kernels)
        if sets == 2 or (sets == "auto" and _has_second_set(lags)):
            wanted = 2
        coefficients.append(lags)
        limits.append(limit)
        blocks.append(block)
    maps = kspace.new_empty((len(kspace), wanted, *kspace.shape[1:]))
    eigenvalues = maps.real.new_empty((len(kspace), wanted, *spatial))
    crops = []
    for block, lags, m, w in zip(blocks, coefficients, maps, eigenvalues, strict=True):
        _fill(m, w, lags, _principal_coil(block))
        crops.append(_automatic_crop(m, w, block) if crop == "auto" else float(crop))
        weight = soft_weights(w, crops[-1]) if soft else (w >= crops[-1]).to(w.dtype)
        m.mul_(weight[:, None])
    return CoilMaps(maps, eigenvalues, w.new_tensor(crops), w.new_tensor(limits), size)


def soft_weights(eigenvalues: Float[Tensor, "*any"], crop: float) -> Float[Tensor, "*any"]:
    """Weights that rise from 0 to 1 as the root of the eigenvalue does around `crop`, with BART's S-curve.

    After Iyer, Ong and Lustig, "Towards a parameter-free ESPIRiT", ISMRM 2016.
    """
    t = ((eigenvalues.clamp_min(0).sqrt() - crop) / (1 - crop)).clamp(-1, 1)
    return 0.5 + t / (1 + t * t)


def _fill(maps: Tensor, eigenvalues: Tensor, lags: Tensor, principal: Complex[Tensor, " coil"]) -> None:
    """Write all eigenpairs, a few rows at a time, in the phase of the principal coil."""
    sets, coils, *spatial = maps.shape
    rest = [grid(n) for n in spatial[1:]]
    step = max(1, _PIXELS // prod(spatial[1:]))
    for start, rows in zip(range(0, spatial[0], step), grid(spatial[0]).split(step), strict=True):
        G = covariance(lags, [rows, *rest])
        v, w = eigenmaps(G.reshape(-1, coils, coils), sets)
        phase = torch.sgn(principal.conj() @ v).conj().unsqueeze(-2)
        v = (v * torch.where(phase == 0, 1, phase)).reshape(*G.shape[:-1], sets)
        maps[:, :, start : start + step] = v.movedim((-1, -2), (0, 1))
        eigenvalues[:, start : start + step] = w.reshape(*G.shape[:-2], sets).movedim(-1, 0)


def _noise(kspace: Tensor, mask: Tensor) -> float:
    try:
        return float(outer_level(kspace, mask).square().mean().sqrt())
    except CalibrationError:  # nothing but the middle was sampled
        return 0.0


def _principal_coil(block: Tensor) -> Complex[Tensor, " coil"]:
    """Return the combination of coils with most of the energy, its largest weight positive."""
    samples = block.flatten(1)
    vector = torch.linalg.eigh(samples @ samples.mH)[1][:, -1]
    return vector * vector[vector.abs().argmax()].sgn().conj()


def _has_second_set(lags: Tensor) -> bool:
    axes = [grid(_COARSE)] * (lags.ndim - 2)
    _, values = eigenmaps(covariance(lags, axes).flatten(0, -3), 2)
    first, second = (values > _SECOND_EIGENVALUE).sum(0)
    return bool(second > _SECOND_SHARE * first)


def _automatic_crop(maps: Tensor, eigenvalues: Tensor, block: Tensor) -> float:
    """Eigenvalue below which the maps hold 0.1 % of the energy of the low-resolution image, seen on a coarse grid."""
    image = block
    every: list[slice] = []
    for axis, (n, width) in enumerate(zip(maps.shape[2:], block.shape[1:], strict=True), 1):
        step = max(1, n // (4 * width))
        every.append(slice(None, None, step))
        window = torch.hann_window(width + 2, periodic=False, dtype=block.real.dtype, device=block.device)[1:-1]
        basis = fourier_basis(grid(n, step), width // 2, block)[:, :width] * window
        image = torch.tensordot(basis, image, ([1], [axis])).movedim(0, axis)
    energy = (maps[(slice(None), slice(None), *every)].conj() * image).sum(1).abs().square().flatten()
    values, order = eigenvalues[(slice(None), *every)].flatten().sort()
    lost = energy[order].cumsum(0)
    index = int(torch.searchsorted(lost, _LOST_ENERGY * lost[-1:]))
    return float(values[min(index, len(values) - 1)].clamp(*_CROP_RANGE))


def _check(kspace: Tensor, kernel: int | str, threshold: float | str, crop: float | str) -> None:
    if kspace.ndim not in (4, 5):
        raise ShapeError(
            "k-space of a shape that ESPIRiT cannot use",
            found=tuple(kspace.shape),
            expected="(b, coil, y, x) or (b, coil, z, y, x)",
        )
    if kspace.shape[1] < 2:
        raise CalibrationError("one coil needs no coil maps", cure="Use a map of ones")
    if isinstance(kernel, int) and kernel < 2:
        raise OptionError("kernels of ESPIRiT are too small", found=kernel, expected="2 or more")
    for name, value in (("threshold", threshold), ("crop", crop)):
        if value != "auto" and not 0 <= float(value) < 1:
            raise OptionError(f"the {name} of ESPIRiT is out of range", found=value, expected="'auto' or 0 to 1")


def _calibration_size(
    kspace: Tensor, mask: Tensor | None, calibration: int | tuple[int, ...] | None
) -> tuple[int, ...]:
    spatial = tuple(kspace.shape[2:])
    if calibration is None:
        calibration = _CALIBRATION[len(spatial)]
    if isinstance(calibration, int):
        calibration = (calibration,) * len(spatial)
    if len(calibration) != len(spatial):
        raise OptionError(
            "the calibration size does not fit k-space", found=calibration, expected=f"{len(spatial)} sides"
        )
    if mask is None:
        sampled = (kspace != 0).any(1).all(0)
    else:
        sampled = mask.reshape(-1, *mask.shape[-len(spatial) :]).all(0).expand(spatial)
    return calibration_region(sampled, tuple(min(c, n) for c, n in zip(calibration, spatial, strict=True)))
