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
    kernel_autocorrelation,
)
from recon.physics.errors import CalibrationError, OptionError, ShapeError

# Share of the support where a second eigenvalue near one says that the object is larger than the field of view.
_SECOND_SET = 0.02


@dataclass(frozen=True, eq=False)
class CoilMaps:
    """Coil maps and how they came about.

    Parameters
    ----------
    maps
        ``(b, set, coil, *spatial)``; of unit norm over the coils where the object is, zero elsewhere.
    eigenvalues
        ``(b, set, *spatial)``: 1 where the calibration data is consistent with the maps, before the crop.
    crop
        Eigenvalue below which the maps are zero.
    threshold
        Singular values below this fraction of the largest went into the null space.
    calibration
        Size of the calibration block that was used.
    notes
        One line for each thing that a user should know.
    """

    maps: Complex[Tensor, "b set coil *spatial"]
    eigenvalues: Float[Tensor, "b set *spatial"]
    crop: float
    threshold: float
    calibration: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def sets(self) -> int:
        """Number of sets of maps."""
        return self.maps.shape[1]


def espirit(
    kspace: Complex[Tensor, "b coil *spatial"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    calibration: int | tuple[int, ...] | None = None,
    kernel: int = 6,
    threshold: float = 0.0316,
    crop: float | Literal["auto"] = "auto",
    sets: Literal[1, 2, "auto"] = "auto",
    soft: bool = False,
) -> CoilMaps:
    """Estimate coil maps from the fully sampled middle of k-space.

    Parameters
    ----------
    kspace
        DC in the centre, ``(b, coil, y, x)`` or ``(b, coil, z, y, x)``.
    mask
        True where sampled, broadcastable to the spatial shape or to ``(b, 1, *spatial)``; samples that are zero in
        all coils count as missing where it is None.
    calibration
        Size of the calibration block; by default the largest fully sampled one, at most 24 a side.
    kernel
        Side of the kernels.
    threshold
        Singular values of the calibration matrix below this fraction of the largest are noise.
    crop
        Maps are zero where their eigenvalue is below.
    sets
        Number of sets of maps; 2 where the object is larger than the field of view, which "auto" finds out.
    soft
        Fade the maps in with the eigenvalue, instead of cutting them off (soft SENSE).

    Raises
    ------
    CalibrationError
        No block of fully sampled k-space that is large enough.
    """
    spatial = tuple(kspace.shape[2:])
    if len(spatial) not in (2, 3):
        raise ShapeError(
            "k-space of a shape that ESPIRiT cannot use", found=tuple(kspace.shape), expected="(b, coil, y, x)"
        )
    size = _calibration_size(kspace, mask, calibration, kernel)
    kernels_of = tuple(min(kernel, n) for n in spatial)
    limit = 0.8 if crop == "auto" else float(crop)
    maps, values = [], []
    for item in kspace:
        block = centre_block(item, size)
        lags = kernel_autocorrelation(calibration_kernels(block, kernels_of, threshold)[0])
        count = sets
        if count == "auto":
            count = 2 if _needs_two(lags, limit) else 1
        virtual = torch.linalg.eigh(block.flatten(1) @ block.flatten(1).mH)[1][:, -1]
        virtual = virtual * virtual[virtual.abs().argmax()].sgn().conj()
        v, w = _eigenmaps(lags, spatial, count)
        reference = (virtual.conj()[:, None] * v).sum(-2, keepdim=True)
        v = v * torch.where(reference == 0, 1, reference.sgn()).conj()
        maps.append(v.movedim((-1, -2), (0, 1)))
        values.append(w.movedim(-1, 0))
    count = max(len(v) for v in values)
    full = torch.stack([torch.nn.functional.pad(m, (0, 0) * (m.ndim - 1) + (0, count - len(m))) for m in maps])
    eigenvalues = torch.stack([torch.nn.functional.pad(w, (0, 0) * (w.ndim - 1) + (0, count - len(w))) for w in values])
    weight = soft_weights(eigenvalues, limit) if soft else (eigenvalues >= limit).to(eigenvalues.dtype)
    return CoilMaps(full * weight[:, :, None], eigenvalues, limit, threshold, size)


def soft_weights(eigenvalues: Float[Tensor, "*any"], crop: float) -> Float[Tensor, "*any"]:
    """Weights that rise from 0 to 1 around the crop [Iyer et al., ISMRM workshop 2016; as in BART]."""
    t = ((eigenvalues.clamp_min(0).sqrt() - crop) / (1 - crop)).clamp(-1, 1)
    return 0.5 + t / (1 + t * t)


def _eigenmaps(lags: Tensor, spatial: tuple[int, ...], sets: int) -> tuple[Tensor, Tensor]:
    coils = lags.shape[-1]
    vectors, values = [], []
    rest = [grid(n) for n in spatial[1:]]
    for rows in grid(spatial[0]).split(max(1, 4096 // prod(spatial[1:]))):
        G = covariance(lags, [rows, *rest])
        v, w = eigenmaps(G.reshape(-1, coils, coils), sets)
        vectors.append(v.reshape(*G.shape[:-1], sets))
        values.append(w.reshape(*G.shape[:-2], sets))
    return torch.cat(vectors), torch.cat(values)


def _needs_two(lags: Tensor, limit: float) -> bool:
    axes = [torch.arange(-16, 16, dtype=torch.float64) / 32 for _ in lags.shape[:-2]]
    values = torch.linalg.eigvalsh(covariance(lags, axes))
    support = values[..., -1] >= limit
    return bool((values[..., -2] >= limit).sum() > _SECOND_SET * support.sum())


def _calibration_size(
    kspace: Tensor, mask: Tensor | None, calibration: int | tuple[int, ...] | None, kernel: int
) -> tuple[int, ...]:
    spatial = tuple(kspace.shape[2:])
    if kernel < 2:
        raise OptionError("ESPIRiT needs a kernel", found=kernel, expected="2 or more")
    if isinstance(calibration, int):
        calibration = (calibration,) * len(spatial)
    if mask is None:
        sampled = (kspace != 0).any(1).all(0)
    else:
        sampled = mask.reshape(-1, *mask.shape[-len(spatial) :]).all(0).expand(spatial)
    wanted = calibration or (24,) * len(spatial)
    limit = tuple(min(w, n) for w, n in zip(wanted, spatial, strict=True))
    size = calibration_region(sampled, limit)
    if min(size) <= kernel:
        raise CalibrationError(
            "no calibration block for ESPIRiT",
            found=f"{' x '.join(map(str, size))} fully sampled around the centre",
            expected=f"more than {kernel} along each axis",
            cure="Give coil maps, choose a smaller kernel, or use lowres_maps",
        )
    return size
