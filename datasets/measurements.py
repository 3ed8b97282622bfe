"""Measurements with their operator: `Measurements`, what a file of `recon simulate ct` and its like says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from recon.datasets.arrays import check_finite
from recon.datasets.scan import SliceArray, Source
from recon.physics.errors import DataError, ShapeError


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """Measurements by any operator that a text describes, and how their images become the user's.

    Parameters
    ----------
    measurements
        ``(slice, channel, ...)``, real, as the operator gives them. Read slice by slice through `slice`.
    physics
        The operator, as ``ct:angles=60``; see `recon.physics_spec.parse_physics`.
    img_size
        (c, y, x) of an image.
    arrays
        Masks and kernels that the text names as files, by key.
    sigma, gain
        Of the noise, in the unit of the measurements; None: not known.
    scale, offset, unit
        An image of the operator times ``scale`` plus ``offset`` is one in ``unit`` (HU, grey levels).
    levels
        ``"uint8"`` or ``"uint16"`` where the image was made of such numbers.
    reference
        ``(slice, c, y, x)``: the image that was measured, as the operator sees it.
    spacing
        Pixel size (z, y, x) in mm.
    notes
        One line for each thing that a user should know.
    """

    measurements: SliceArray
    physics: str
    img_size: tuple[int, int, int]
    source: Source
    arrays: Mapping[str, ndarray] = field(default_factory=dict)
    sigma: float | None = None
    gain: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    levels: str | None = None
    reference: SliceArray | None = None
    spacing: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        path, shape = self.source.path, tuple(self.measurements.shape)
        if len(shape) < 3 or min(shape) < 1:
            raise ShapeError("measurements without channels or slices", file=path, found=shape)
        if len(self.img_size) != 3 or min(self.img_size) < 1:
            raise ShapeError("the size of an image is (c, y, x)", file=path, found=self.img_size)
        if self.reference is not None and tuple(self.reference.shape) != (shape[0], *self.img_size):
            raise ShapeError(
                "a reference that does not fit the measurements",
                file=path,
                found=tuple(self.reference.shape),
                expected=(shape[0], *self.img_size),
            )
        for what, value in (("sigma", self.sigma), ("gain", self.gain)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise DataError(f"the noise's {what} is positive", file=path, found=value)
        if not (np.isfinite(self.scale) and np.isfinite(self.offset) and self.scale != 0):
            raise DataError("a scale that cannot be used", file=path, found=f"{self.scale} and {self.offset}")

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return int(self.measurements.shape[0])

    def slice(self, index: int) -> ndarray:
        """Read one slice as float32; raises `DataError` where it is not finite."""
        data = np.ascontiguousarray(self.measurements[index], dtype=np.float32)
        check_finite(data, f"slice {index} has measurements", self.source.path, "Repair or drop this slice (--slices)")
        return data
