"""Stamps of galaxies: `Stamps` reads from disk what is asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

from recon.datasets.lazy import take
from recon.datasets.scan import SliceArray, Source
from recon.datasets.stamp_cleaning import StampFlag, clean_stamps, prepare_psfs
from recon.physics.errors import DataError, OptionError, PSFWarning, ShapeError

if TYPE_CHECKING:
    from recon.datasets.stamp_batch import StampBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamps:
    """Stamps of n objects, one PSF each or one for all, and what the file says of them.

    Everything is kept as the file has it; `batch` cleans what it reads, and tells by flags what it found.

    Parameters
    ----------
    pixels
        ``(n, y, x)``; x to the right, y up. The objects' centres are near the pixel ``n // 2``.
    psf
        ``(n, h, w)``, or ``(1, h, w)`` for all: with the pixel response in it, at the scale of the stamps.
    weight
        ``(n, y, x)`` or ``(1, y, x)``: inverse variance.
    sigma
        ``(n,)``: standard deviation of the noise, where it is the same all over a stamp.
    mask
        ``(n, y, x)`` or ``(1, y, x)``: a pixel is bad where this is not 0.
    neighbours
        ``(n, y, x)``: a pixel belongs to another object where this is not 0.
    pixel_scale
        Arcseconds a pixel; by default that of the Jacobian.
    jacobian
        ``(n, 2, 2)`` or ``(1, 2, 2)``: d(u, v)/d(x, y) in arcseconds, as `galsim.JacobianWCS` has it (on the sky, u to
        the west and v to the north); by default that of the pixel scale.
    ids
        ``(n,)`` numbers or names; by default 0, 1, 2, ...
    flags
        ``(n,)`` of `StampFlag`: what the reader found.
    positions
        ``(n, 2)``: (x, y) in the image they were cut from, counted from 0, of the stamps' pixels ``n // 2``.
    units
        Of the pixels.
    header
        What else the file said, by its own names.
    notes
        One line for each thing that was repaired or missing on reading.

    Raises
    ------
    ShapeError
        Arrays that do not belong to n stamps of one size.
    """

    pixels: SliceArray
    psf: SliceArray
    source: Source
    weight: SliceArray | None = None
    sigma: Shaped[ndarray, " n"] | None = None
    mask: SliceArray | None = None
    neighbours: SliceArray | None = None
    pixel_scale: float | None = None
    jacobian: Float[ndarray, "m 2 2"] | None = None
    ids: Shaped[ndarray, " n"] | None = None
    flags: Int[ndarray, " n"] | None = None
    positions: Float[ndarray, "n 2"] | None = None
    units: str | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for array, what, expected in (
            (self.pixels, "stamps", "(n, y, x)"),
            (self.psf, "PSFs", "(n, h, w), or (1, h, w) for all"),
        ):
            if len(array.shape) != 3 or min(array.shape) < 1:
                self._mismatch(f"{what} of a shape that cannot be used", tuple(array.shape), expected)
        n, stamp = self.n, tuple(self.pixels.shape[1:])
        if self.psf.shape[0] not in (1, n):
            self._mismatch("PSFs", self.psf.shape[0], f"{n}, one a stamp, or 1 for all")
        for what in ("weight", "mask", "neighbours"):
            array = getattr(self, what)
            if array is not None and (
                len(array.shape) != 3 or array.shape[0] not in (1, n) or array.shape[1:] != stamp
            ):
                self._mismatch(f"a {what} that does not fit the stamps", tuple(array.shape), (n, *stamp))
        if self.ids is None:
            object.__setattr__(self, "ids", np.arange(n))
        if self.flags is None:
            object.__setattr__(self, "flags", np.zeros(n, np.int32))
        for what in ("ids", "flags", "sigma", "positions"):
            array = getattr(self, what)
            if array is not None and len(array) != n:
                self._mismatch(what, len(array), f"{n}, one a stamp")
        if self.jacobian is None and self.pixel_scale is not None:
            object.__setattr__(self, "jacobian", self.pixel_scale * np.eye(2)[None])
        if self.jacobian is not None:
            if len(self.jacobian) not in (1, n):
                self._mismatch("Jacobians", len(self.jacobian), f"{n}, or 1 for all")
            if self.pixel_scale is None:
                scale = float(np.median(np.sqrt(np.abs(np.linalg.det(self.jacobian)))))
                object.__setattr__(self, "pixel_scale", scale if math.isfinite(scale) and scale > 0 else None)

    def _mismatch(self, what: str, found: object, expected: object) -> None:
        """Refuse what would shift the rows against each other."""
        raise ShapeError(
            what if " " in what else f"another number of {what} than of stamps",
            file=self.source.path,
            found=found,
            expected=expected,
        )

    @property
    def n(self) -> int:
        """Number of objects."""
        return int(self.pixels.shape[0])

    def __len__(self) -> int:
        return self.n

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of a stamp."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    @cached_property
    def _shared_psf(self) -> tuple[ndarray, ndarray]:
        psf, flags = prepare_psfs(take(self.psf, 0, 1))
        if flags[0] & StampFlag.BAD_PSF:
            raise DataError(
                "the PSF of all stamps cannot be used",
                file=self.source.path,
                found="values that are not finite, or a sum that is not positive",
            )
        return psf, flags

    def batch(self, start: int, stop: int) -> StampBatch:
        """Read objects ``start`` to ``stop``, as many as there are, and clean them; none is left out.

        Warns (`recon.physics.errors.PSFWarning`) where PSFs were normalised, moved or missing.

        Raises
        ------
        DataError
            One PSF stands for all, and cannot be used.
        """
        import torch

        from recon.datasets.stamp_batch import StampBatch

        stop = min(stop, self.n)
        if not 0 <= start < stop:
            raise OptionError("no such stamps", found=f"{start} to {stop}", expected=f"0 to {self.n}")
        mask, others = self._part(self.mask, start, stop), self._part(self.neighbours, start, stop)
        if others is not None:
            mask = others != 0 if mask is None else (mask != 0) | (others != 0)
        y, weight, sigma, flags = clean_stamps(
            take(self.pixels, start, stop),
            self._part(self.weight, start, stop),
            None if self.sigma is None else self.sigma[start:stop],
            mask,
        )
        if others is not None:
            flags |= np.where((others != 0).any((1, 2)), StampFlag.NEIGHBOURS, 0)
        psf, psf_flags = self._shared_psf if self.psf.shape[0] == 1 else prepare_psfs(take(self.psf, start, stop))
        self._warn(int(np.bitwise_or.reduce(psf_flags)))
        assert self.ids is not None
        assert self.flags is not None
        jacobian = self._part(self.jacobian, start, stop)
        return StampBatch(
            y=torch.from_numpy(y)[:, None],
            psf=torch.from_numpy(psf)[:, None],
            weight=None if weight is None else torch.from_numpy(np.ascontiguousarray(weight, np.float32))[:, None],
            sigma=torch.from_numpy(sigma),
            jacobian=None
            if jacobian is None
            else torch.from_numpy(np.broadcast_to(jacobian, (stop - start, 2, 2)).astype(np.float32)),
            ids=self.ids[start:stop],
            flags=(self.flags[start:stop] | flags | psf_flags).astype(np.int32),
            pixel_scale=self.pixel_scale,
        )

    def batches(self, size: int) -> Iterator[StampBatch]:
        """Read all objects in order, ``size`` at a time."""
        return (self.batch(start, start + size) for start in range(0, self.n, size))

    @staticmethod
    def _part(array: SliceArray | None, start: int, stop: int) -> ndarray | None:
        if array is None:
            return None
        return take(array, 0, 1) if array.shape[0] == 1 else take(array, start, stop)

    def _warn(self, flags: int) -> None:
        for flag, text in (
            (StampFlag.PSF_NORMALISED, "PSFs do not sum to 1; they are normalised"),
            (StampFlag.PSF_MOVED, "PSFs are off their centre, the pixel n // 2; they are moved by whole pixels"),
            (StampFlag.BAD_PSF, "PSFs are not finite or have no positive sum; their objects are flagged"),
        ):
            if flags & flag:
                warnings.warn(f"{self.source}: {text}", PSFWarning, stacklevel=3)

    @classmethod
    def from_galsim(
        cls,
        images: Sequence[Any],
        psf: Any,
        *,
        weight: Sequence[Any] | None = None,
        sigma: float | Float[ndarray, " n"] | None = None,
        ids: Shaped[ndarray, " n"] | None = None,
    ) -> Stamps:
        """Make stamps of `galsim.Image` objects of one size.

        Parameters
        ----------
        images
            One `galsim.Image` an object; its WCS gives the Jacobian.
        psf
            A `galsim.Image`, one an object, or a `galsim.GSObject` without pixel response, which is drawn.
        weight
            Inverse variance, one `galsim.Image` an object.
        sigma
            Standard deviation of the noise.
        ids
            By default 0, 1, 2, ...
        """
        from recon.datasets.galsim_stamps import arrays_of_galsim

        fields = arrays_of_galsim(images, psf, weight)
        if sigma is not None:
            fields["sigma"] = np.broadcast_to(np.asarray(sigma, float), (len(images),))
        return cls(source=Source("galsim"), ids=ids, **fields)
