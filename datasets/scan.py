"""What a file holds: `Scan` for raw measurements, `Image` for pictures, `Source` for where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Complex64, Float
from numpy import ndarray

from recon.datasets.arrays import check_finite
from recon.physics.errors import DataError, MaskError, OptionError, ShapeError

_CHUNK = 1 << 22
_Item = TypeVar("_Item")


@runtime_checkable
class SliceArray(Protocol):
    """An array that reads from disk only what is asked for; ``numpy.ndarray`` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, the slice axis first."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """One slice as a numpy array."""
        ...


def wanted_slices(n_slices: int, slices: Sequence[int] | None, path: str | Path | None) -> list[int]:
    """Return the numbers of the slices that are asked for; None: all.

    Raises
    ------
    OptionError
        A slice that does not exist, or none.
    """
    if slices is None:
        return list(range(n_slices))
    bad = [index for index in slices if not 0 <= index < n_slices]
    if bad or not slices:
        raise OptionError(
            "no such slice" if bad else "no slice was asked for",
            file=path,
            found=", ".join(map(str, bad)) or None,
            expected=f"0 to {n_slices - 1}",
        )
    return list(slices)


def evenly_spread(items: Sequence[_Item], most: int | None) -> Sequence[_Item]:
    """Return ``most`` of too many, evenly spread from the first to the last; None: all."""
    if most is None or len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


@dataclass(frozen=True)
class Source:
    """Where data came from.

    Parameters
    ----------
    format
        Name of the reader, or ``"array"``.
    path
        The file; None for arrays.
    """

    format: str
    path: Path | None = None

    @cached_property
    def sha256(self) -> str | None:
        """Checksum of the file (for ``.cfl``: of the data file), read in pieces; None for arrays and folders."""
        if self.path is None or not self.path.is_file():
            return None
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Name of the file without its folder; of arrays the format."""
        return self.format if self.path is None else self.path.name

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else self.format


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """Raw MRI measurements and what the file says of them. What the file does not say is None.

    Parameters
    ----------
    kspace
        ``(slice, coil, y, x)``; ``(slice, coil, z, y, x)`` for 3D encoding; ``(slice, coil, sample)``
        with a ``trajectory``. DC in the centre (index ``n // 2``). Read slice by slice through `slice`.
    mask
        True where sampled: the spatial shape, or ``(slice, *spatial)``; axes of length 1 broadcast.
    trajectory
        ``(sample, dim)`` or ``(slice, sample, dim)``, in cycles per field of view (within +-n/2),
        ordered as the axes: (y, x) or (z, y, x).
    density
        ``(sample,)`` or ``(slice, sample)``: density compensation weights that came with the trajectory.
    coil_maps
        ``(slice, coil, *spatial)``, or ``(slice, set, coil, *spatial)``.
    noise
        ``(coil, sample)`` from a noise-only acquisition.
    reference
        ``(slice, y, x)`` image that came with the file (fastMRI's ``reconstruction_rss``).
    spacing
        Voxel size (z, y, x) in mm of the encoded field of view divided by the encoded matrix.
    affine
        Voxel (x, y, z) of the *reconstructed* image to RAS mm, 4x4, as NIfTI has it.
    matrix
        (y, x) or (z, y, x) to which the reconstructed image is cropped.
    readout_axis
        The frequency-encoded spatial axis, counted from the end (-1: x, -2: y, -3: z).
    oversampling
        Factor by which the readout axis is oversampled (usually 2).
    partial_fourier
        Sampled fraction per spatial axis, in axis order; 1.0 where full.
    labels
        One mapping a slice: ``{"slice": 0, "repetition": 2, "encoding": 0, ...}``.
    header
        What else the file said, by its own names.
    notes
        One line for each thing that was repaired or missing on reading.
    """

    kspace: SliceArray
    source: Source
    mask: Bool[ndarray, "..."] | None = None
    trajectory: Float[ndarray, "*s sample dim"] | None = None
    density: Float[ndarray, "*s sample"] | None = None
    coil_maps: SliceArray | None = None
    noise: Complex64[ndarray, "coil noise_sample"] | None = None
    reference: SliceArray | None = None
    spacing: tuple[float, float, float] | None = None
    affine: Float[ndarray, "4 4"] | None = None
    matrix: tuple[int, ...] | None = None
    readout_axis: int | None = None
    oversampling: float | None = None
    partial_fourier: tuple[float, ...] | None = None
    labels: tuple[Mapping[str, int], ...] | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.kspace.shape
        wanted = (3,) if self.trajectory is not None else (4, 5)
        if len(shape) not in wanted or min(shape) < 1:
            raise ShapeError(
                "k-space of a shape that cannot be used",
                file=self.source.path,
                found=shape,
                expected="(slice, coil, sample) with a trajectory"
                if self.trajectory is not None
                else "(slice, coil, y, x) or (slice, coil, z, y, x)",
            )
        if self.mask is not None:
            self._check_mask(self.mask)

    def _check_mask(self, mask: ndarray) -> None:
        n, spatial = self.kspace.shape[0], self.kspace.shape[2:]
        per_slice = mask.ndim == len(spatial) + 1
        tail = mask.shape[1:] if per_slice else mask.shape
        fits = len(tail) == len(spatial) and all(m in (1, s) for m, s in zip(tail, spatial, strict=True))
        if not fits or (per_slice and mask.shape[0] not in (1, n)):
            raise MaskError(
                "the mask does not fit the k-space",
                file=self.source.path,
                found=f"mask {mask.shape}, k-space {tuple(self.kspace.shape)}",
                expected=f"a mask that broadcasts to {tuple(spatial)}",
            )
        if not mask.any():
            raise MaskError("the mask samples nothing", file=self.source.path)

    @property
    def n_slices(self) -> int:
        """Number of slices (for 3D encoding: of volumes)."""
        return self.kspace.shape[0]

    @property
    def n_coils(self) -> int:
        """Number of receive coils."""
        return self.kspace.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x) of the encoded matrix; (sample,) with a trajectory."""
        return tuple(self.kspace.shape[2:])

    def slice(self, index: int) -> Complex64[ndarray, "coil *spatial"]:
        """Read one slice of k-space; raises `DataError` where it is not finite or all zero."""
        data = np.ascontiguousarray(self.kspace[index], dtype=np.complex64)
        check_finite(data, f"slice {index} has samples", self.source.path, "Repair or drop this slice (--slices)")
        if not data.any():
            raise DataError(f"slice {index} is all zero", file=self.source.path)
        return data

    def sampling(self, index: int) -> tuple[Bool[ndarray, "*spatial"], bool]:
        """Return the mask of one slice, broadcast to the spatial shape, and whether it came from the file.

        Without a mask in the file, a sample counts as acquired where any coil is not exactly zero.
        """
        if self.trajectory is not None:
            return np.ones(self.spatial, dtype=bool), True
        if self.mask is None:
            return np.asarray((self.slice(index) != 0).any(axis=0)), False
        mask = self.mask
        if mask.ndim == len(self.spatial) + 1:
            mask = mask[index if mask.shape[0] > 1 else 0]
        return np.broadcast_to(mask, self.spatial), True


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """Pictures: from a file (NIfTI, DICOM, PNG) or on their way into one.

    Parameters
    ----------
    pixels
        ``(slice, y, x)`` real or complex, or ``(slice, y, x, 3)`` for colour.
    spacing
        Voxel size (z, y, x) in mm.
    affine
        Voxel (x, y, z) to RAS mm, 4x4, as NIfTI has it.
    unit
        Unit of the values, if any ("HU").
    maps
        Further arrays that belong to the image, by name ("uncertainty", "g_factor"): ``(slice, y, x)``.
    header
        What else the file said, or what is to be written (provenance included), JSON-serialisable.
    """

    pixels: SliceArray
    source: Source
    spacing: tuple[float, float, float] | None = None
    affine: Float[ndarray, "4 4"] | None = None
    unit: str | None = None
    maps: Mapping[str, ndarray] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.pixels.shape) not in (3, 4) or min(self.pixels.shape) < 1:
            raise ShapeError(
                "an image of a shape that cannot be used",
                file=self.source.path,
                found=self.pixels.shape,
                expected="(slice, y, x) or (slice, y, x, 3)",
            )

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.pixels.shape[0]

    def stacked(self, slices: Sequence[int] | None = None) -> ndarray:
        """Read all pixels, or those of some slices, at once.

        Raises
        ------
        OptionError
            A slice that does not exist.
        """
        wanted = wanted_slices(self.n_slices, slices, self.source.path)
        return np.stack([np.asarray(self.pixels[index]) for index in wanted])
