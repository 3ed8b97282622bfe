"""From one slice of a scan to what a model takes: whitened, compressed, scaled k-space and its operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from deepinv.physics import GaussianNoise
from jaxtyping import Bool, Complex64
from torch import Tensor

from recon.calibration import (
    CoilMaps,
    compress_svd,
    espirit,
    lowres_maps,
    noise_covariance,
    noise_covariance_from_kspace,
    noise_level,
    remove_oversampling,
    whiten,
    whitening_matrix,
)
from recon.datasets import Scan
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import CalibrationError, DataError, MaskError, OptionError, ShapeError
from recon.physics.fft import fft_centred
from recon.physics.layout import to_complex
from recon.physics.noncartesian import density_compensation

_CALIBRATION = 24  # side of the gridded centre that coil maps are estimated from
Whitening = Literal["auto", "corners", "none"]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a slice is made ready.

    Parameters
    ----------
    coils
        Compress to this many virtual coils; None keeps all.
    whiten
        ``auto``: by the noise scan where the file has one; ``corners``: by the corners of k-space; ``none``.
    map_sets
        Sets of ESPIRiT maps: 1, 2 (soft SENSE), or None to let the data decide.
    device
        Where the work is done; None: the accelerator if there is one, else the CPU.
    """

    coils: int | None = None
    whiten: Whitening = "auto"
    map_sets: Literal[1, 2] | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if self.coils is not None and self.coils < 1:
            raise OptionError("the number of virtual coils must be positive", found=self.coils)

    def resolved_device(self) -> torch.device:
        """Return the device asked for, or the best there is."""
        if self.device is not None:
            return torch.device(self.device)
        if torch.accelerator.is_available():
            accelerator = torch.accelerator.current_accelerator()
            if accelerator is not None:
                return accelerator
        return torch.device("cpu")


@dataclass(kw_only=True, eq=False)
class Problem:
    """One slice, ready for a model.

    Parameters
    ----------
    y
        ``(1, coil, y, x)`` k-space (``(1, coil, sample)`` off the grid), divided by ``scale``.
    physics
        The operator, its noise model in the same scale.
    sigma
        Noise level (standard deviation of the real part) in the units of ``y``; None where unknown.
    scale
        What the image must be multiplied by to be in the units of the file.
    intensity
        ``(set, *spatial)``: what each pixel must be multiplied by too. Whitened coils see each pixel by another
        factor than the coils of the file, and maps of the file need not have unit norm.
    steps, notes
        What was done, and what a reader should know.
    """

    y: Tensor
    physics: MultiCoilMRI | NonCartesianMRI
    sigma: float | None
    scale: float
    intensity: Tensor
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(scan: Scan, index: int, how: Preparation) -> Problem:
    """Make slice ``index`` ready for a model.

    Raises
    ------
    DataError, MaskError, ShapeError
        Samples, mask or maps of the file that cannot be used.
    """
    device = how.resolved_device()
    steps: list[str] = []
    notes = list(scan.notes)
    k = torch.from_numpy(scan.slice(index)).to(device)[None]
    k, mixing, sigma = _whitened(k, scan, how, steps)
    if scan.trajectory is not None:
        return _prepare_noncartesian(k, mixing, scan, index, how, sigma, steps, notes)

    sampled, from_file = scan.sampling(index)
    mask = torch.from_numpy(np.array(sampled)).to(device)[None, None]
    if not from_file:
        steps.append(f"mask taken from the zeros in k-space: {sampled.mean():.1%} sampled")
    k = k * mask
    k, mask = _without_oversampling(k, mask, scan, steps)
    k, mixing = _compressed(k, mask, mixing, how, steps)
    if scan.coil_maps is None:
        maps = _estimated_maps(k, mask, how, steps, notes)
        intensity = _seen_unmixed(maps, mixing)
    else:
        maps, intensity = _given_maps(scan, index, mixing, k)
        steps.append("coil maps taken from the file")
    if sigma is None:
        sigma = _estimated_noise(k, mask, steps, notes)
    return _scaled(k, MultiCoilMRI(maps, mask), intensity, sigma, steps, notes)


def _whitened(k: Tensor, scan: Scan, how: Preparation, steps: list[str]) -> tuple[Tensor, Tensor, float | None]:
    """Decorrelate the coils' noise, its mean power kept; return the matrix that did it too."""
    if how.whiten == "none" or (how.whiten == "auto" and scan.noise is None):
        return k, torch.eye(k.shape[1], dtype=k.dtype, device=k.device), None
    if scan.noise is not None:
        covariance = noise_covariance(torch.from_numpy(scan.noise).to(k.device))
        origin = "the noise scan"
    else:
        covariance = noise_covariance_from_kspace(k, (k != 0).any(dim=1, keepdim=True))
        origin = "the corners of k-space"
    power = torch.diagonal(covariance, dim1=-2, dim2=-1).real.mean()
    matrix = whitening_matrix(covariance) * power.sqrt()
    steps.append(f"noise whitened by {origin}")
    return whiten(k, matrix), matrix, float((power / 2).sqrt())


def _without_oversampling(k: Tensor, mask: Tensor, scan: Scan, steps: list[str]) -> tuple[Tensor, Tensor]:
    axis, factor = scan.readout_axis, scan.oversampling
    if axis is None or factor is None or factor <= 1:
        return k, mask
    along = mask.any(dim=axis, keepdim=True)
    if not torch.equal(mask, along.expand_as(mask)):
        steps.append("readout oversampling kept: the readout is not fully sampled")
        return k, mask
    k = remove_oversampling(k, axis, factor)
    shape = list(mask.shape)
    shape[axis] = k.shape[axis]
    steps.append(f"readout oversampling of {factor:g} removed")
    return k, along.expand(shape)


def _compressed(k: Tensor, mask: Tensor, mixing: Tensor, how: Preparation, steps: list[str]) -> tuple[Tensor, Tensor]:
    """Compress the coils; the matrix comes back with the compression on top."""
    coils = k.shape[1]
    if how.coils is None or how.coils >= coils:
        return k, mixing
    compressed, matrix, kept = compress_svd(k, mask, how.coils)
    steps.append(f"{coils} coils compressed to {how.coils}, {kept:.2%} of the energy kept")
    return compressed, matrix @ mixing


def _seen_unmixed(maps: Tensor, mixing: Tensor) -> Tensor:
    """Norm over the file's coils of maps ``(1, set, virtual, *spatial)`` of mixed ones: the intensity that is lost."""
    unmixed = torch.einsum("cv,sv...->sc...", torch.linalg.pinv(mixing), maps[0])
    return torch.linalg.vector_norm(unmixed, dim=1)


def _given_maps(scan: Scan, index: int, mixing: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maps of the file as the mixed coils see them, with unit norm, and the intensity this takes away."""
    assert scan.coil_maps is not None
    maps = torch.from_numpy(np.array(scan.coil_maps[index], dtype=np.complex64)).to(k.device)
    spatial = k.shape[2:]
    if maps.ndim == 1 + len(spatial):
        maps = maps[None]
    if maps.shape[-len(spatial) :] != spatial or maps.shape[1] != scan.n_coils:
        raise ShapeError(
            "the coil maps do not fit the k-space",
            file=scan.source.path,
            found=f"maps {tuple(maps.shape)}, k-space {tuple(k.shape[1:])}",
        )
    if not torch.isfinite(torch.view_as_real(maps)).all():
        raise DataError("the coil maps have values that are not finite", file=scan.source.path)
    maps = torch.einsum("vc,sc...->sv...", mixing, maps)
    norm = torch.linalg.vector_norm(maps, dim=1)
    intensity = torch.where(norm > 0, 1 / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0)
    return (maps * intensity[:, None])[None], intensity


def _estimated_maps(k: Tensor, mask: Tensor, how: Preparation, steps: list[str], notes: list[str]) -> Tensor:
    """Coil maps ``(1, set, coil, y, x)`` by ESPIRiT, or low-resolution ones where there is no calibration block."""
    if k.shape[1] == 1:
        steps.append("one coil: its map is taken as 1")
        return torch.ones((1, 1, *k.shape[1:]), dtype=k.dtype, device=k.device)
    sets: Literal[1, 2, "auto"] = "auto" if how.map_sets is None else how.map_sets
    try:
        found: CoilMaps = espirit(k, mask, sets=sets)
    except CalibrationError as error:
        notes.append(f"{error.problem}: low-resolution coil maps were used, which leave more aliasing")
        return lowres_maps(k, mask)[:, None]
    steps.append(f"ESPIRiT coil maps, {found.sets} set(s)")
    return found.maps


def _estimated_noise(k: Tensor, mask: Tensor, steps: list[str], notes: list[str]) -> float | None:
    try:
        sigma = float(noise_level(k, mask))
    except CalibrationError as error:
        notes.append(f"noise level unknown: {error.problem}")
        return None
    steps.append("noise level estimated from the outer corners of k-space")
    return sigma


def _scaled(
    k: Complex64[Tensor, "1 coil *k"],
    physics: MultiCoilMRI | NonCartesianMRI,
    intensity: Tensor,
    sigma: float | None,
    steps: list[str],
    notes: list[str],
) -> Problem:
    """Scale so that the zero-filled image's 99.9th percentile is 1."""
    adjoint = physics.A_adjoint(k) if isinstance(physics, MultiCoilMRI) else physics.gridded(k)
    magnitude = torch.linalg.vector_norm(adjoint, dim=1).flatten()
    scale = float(torch.quantile(magnitude, 0.999)) if magnitude.numel() < 2**24 else float(magnitude.max())
    if not scale > 0:
        raise DataError("the zero-filled image is zero everywhere: the coil maps do not cover the object")
    if sigma is not None:
        physics.set_noise_model(GaussianNoise(sigma / scale))
    return Problem(
        y=k / scale,
        physics=physics,
        sigma=None if sigma is None else sigma / scale,
        scale=scale,
        intensity=intensity,
        steps=steps,
        notes=notes,
    )


def _gridded_coils(
    k: Complex64[Tensor, "1 coil sample"], points: Tensor, density: Tensor, matrix: tuple[int, ...]
) -> tuple[Complex64[Tensor, "1 coil *spatial"], Bool[Tensor, "1 1 *spatial"]]:
    """Grid off-grid samples coil by coil, so that ESPIRiT finds a Cartesian centre to calibrate on."""
    flat = torch.ones((1, 1, *matrix), dtype=k.dtype, device=k.device)
    images = to_complex(NonCartesianMRI(flat, points, density=density).gridded(k.transpose(0, 1)))[None, :, 0]
    grid = fft_centred(images, tuple(range(2, images.ndim)))
    centre = torch.zeros(matrix, dtype=torch.bool, device=k.device)
    sides = [min(_CALIBRATION, n) for n in matrix]
    centre[
        tuple(slice(n // 2 - side // 2, n // 2 - side // 2 + side) for n, side in zip(matrix, sides, strict=True))
    ] = True
    return grid * centre, centre[None, None]


@lru_cache(maxsize=4)
def _density(points: bytes, axes: int, matrix: tuple[int, ...]) -> Tensor:
    """Density compensation of a trajectory; slices mostly share theirs."""
    trajectory = np.frombuffer(points, np.float32).reshape(-1, axes)
    return density_compensation(torch.from_numpy(trajectory.copy()), matrix)


def _prepare_noncartesian(
    k: Tensor,
    mixing: Tensor,
    scan: Scan,
    index: int,
    how: Preparation,
    sigma: float | None,
    steps: list[str],
    notes: list[str],
) -> Problem:
    if scan.matrix is None:
        raise MaskError(
            "the file does not tell the matrix of the image", file=scan.source.path, cure="Give it with --matrix"
        )
    assert scan.trajectory is not None
    pick = index if scan.trajectory.ndim == 3 and scan.trajectory.shape[0] > 1 else 0
    trajectory = scan.trajectory[pick] if scan.trajectory.ndim == 3 else scan.trajectory
    points = torch.from_numpy(np.array(trajectory, dtype=np.float32)).to(k.device)
    matrix = tuple(scan.matrix)[-points.shape[-1] :]
    if scan.density is None:
        density = _density(points.cpu().numpy().tobytes(), points.shape[-1], matrix)
    else:
        density = torch.from_numpy(np.array(scan.density[pick] if scan.density.ndim == 2 else scan.density))
    density = density.to(k.device, torch.float32)
    every = torch.ones(1, 1, k.shape[-1], dtype=torch.bool, device=k.device)
    k, mixing = _compressed(k, every, mixing, how, steps)
    maps = _estimated_maps(*_gridded_coils(k, points, density, matrix), how, steps, notes)
    steps.append("coil maps from the gridded centre of k-space")
    physics = NonCartesianMRI(maps, points, density=density)
    return _scaled(k, physics, _seen_unmixed(maps, mixing), sigma, steps, notes)
