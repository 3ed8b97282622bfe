"""Compressed measurements of images: `CompressedScan`, what a file of block compressed sensing says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from recon.datasets.arrays import LEVELS, check_finite
from recon.datasets.scan import SliceArray, Source
from recon.physics.errors import DataError, OptionError, ShapeError

COLOURS = ("luminance", "channels")
"""What is measured of a colour image: Y of YCbCr, or red, green and blue one by one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedScan:
    """Measurements by block compressed sensing, in the units of the image that was measured.

    Parameters
    ----------
    measurements
        ``(slice, channel, m, rows, columns)``, blocks side by side from the top left corner. Read slice by slice
        through `slice`.
    matrix
        ``(m, n)``, n the pixels of a block, row by row.
    block, size
        (h, w) of a block and (y, x) of the image, which was filled up with zeros to whole blocks.
    peak
        White of the image (255 for 8 bit): learned models see the image divided by it. None: not known.
    levels
        ``"uint8"`` or ``"uint16"`` where the image was made of such numbers, and pictures of it should be.
    sigma
        Standard deviation of the noise in each measurement; None: not known.
    colour
        ``"luminance"`` or ``"channels"`` of a colour image; None: it was grey.
    unit, spacing, affine
        As those of `recon.datasets.Image`.
    header
        What else the file said, by its own names.
    notes
        One line for each thing that a user should know.
    """

    measurements: SliceArray
    matrix: Float[ndarray, "m n"]
    block: tuple[int, int]
    size: tuple[int, int]
    source: Source
    peak: float | None = None
    levels: str | None = None
    sigma: float | None = None
    colour: str | None = None
    unit: str | None = None
    spacing: tuple[float, float, float] | None = None
    affine: Float[ndarray, "4 4"] | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        path = self.source.path
        h, w = self.block
        if min(*self.block, *self.size) < 1 or h > self.size[0] or w > self.size[1]:
            raise OptionError(
                "a block that is larger than the image", file=path, found=f"block {h} x {w}, image {self.size}"
            )
        m, n = self.matrix.shape if self.matrix.ndim == 2 else (0, 0)
        if n != h * w or not 1 <= m <= n:
            raise ShapeError(
                "a measurement matrix that does not fit the block",
                file=path,
                found=self.matrix.shape,
                expected=f"(m, {h * w}) with m from 1 to {h * w}",
            )
        check_finite(self.matrix, "a measurement matrix with values", path)
        shape, blocks = tuple(self.measurements.shape), (m, *self.grid)
        channels = 3 if self.colour == "channels" else 1
        if len(shape) != 5 or shape[1:] != (channels, *blocks) or shape[0] < 1:
            raise ShapeError(
                "measurements that do not fit the matrix and the image",
                file=path,
                found=shape,
                expected=f"(slice, {channels}, {', '.join(map(str, blocks))})",
            )
        for what, value, known in (("colour", self.colour, COLOURS), ("levels", self.levels, LEVELS)):
            if value is not None and value not in known:
                raise OptionError(f"no such {what}", file=path, found=value, expected=f"one of {', '.join(known)}")
        for what, number in (("peak", self.peak), ("sigma", self.sigma)):
            if number is not None and not (np.isfinite(number) and number >= 0):
                raise DataError(f"a {what} that cannot be used", file=path, found=number)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return int(self.measurements.shape[0])

    @property
    def n_channels(self) -> int:
        """Number of channels: 1, or 3 of a colour image."""
        return int(self.measurements.shape[1])

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of blocks."""
        return -(-self.size[0] // self.block[0]), -(-self.size[1] // self.block[1])

    @property
    def ratio(self) -> float:
        """Measurements a pixel of a block."""
        return float(self.matrix.shape[0] / self.matrix.shape[1])

    @cached_property
    def orthonormal(self) -> bool:
        """Whether the rows of the matrix are, as far as a file's rounding lets them."""
        import torch

        from recon.physics.measurement_matrices import has_orthonormal_rows

        return has_orthonormal_rows(torch.from_numpy(self.matrix))

    def slice(self, index: int) -> Float[ndarray, "channel m rows columns"]:
        """Read one slice; raises `DataError` where it is not finite."""
        data = np.ascontiguousarray(self.measurements[index], dtype=np.float32)
        check_finite(data, f"slice {index} has measurements", self.source.path, "Repair or drop this slice (--slices)")
        return data
