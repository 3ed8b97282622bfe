"""Stamps into FITS: whole `Stamps` with all that belongs to them, or deblurred ones as they come (`StampFile`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.datasets.lazy import take
from recon.datasets.metadata import to_json
from recon.datasets.scan import SliceArray
from recon.datasets.stamps import Stamps
from recon.physics.errors import OutputError, ShapeError

_BATCH = 256
_WIDER = {"b1": "u1", "i1": "i2", "u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4"}  # FITS lacks these
_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_WCS_CARDS = (
    "WCSAXES",
    "CTYPE",
    "CRVAL",
    "CRPIX",
    "CD",
    "PC",
    "CDELT",
    "CUNIT",
    "LONPOLE",
    "LATPOLE",
    "RADESYS",
    "EQUINOX",
)
_HISTORY = 60  # characters of a value in a line of HISTORY


class StampFile:
    """A FITS file of images that are written as they come: constant memory, whole or absent.

    The primary image is ``(n, y, x)``; its header has the unit, the WCS of ``like`` and, as HISTORY, how it was made.
    The table OBJECTS has a row for each: ID, FLAGS, X and Y in the image they were cut from, JACOBIAN where every
    object has its own. The table PROVENANCE holds ``how`` as one JSON text.

    Parameters
    ----------
    path
        The target.
    like
        The stamps that were deblurred.
    how
        What was done: model, version, options.
    shape
        (y, x) of the images; by default those of ``like``. Their pixel ``n // 2`` is that of the stamps.
    overwrite
        Replace an existing file.

    Raises
    ------
    OutputError
        The target exists, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        like: Stamps,
        *,
        how: Mapping[str, Any],
        shape: tuple[int, int] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.like, self.how = Path(path), like, dict(how)
        self.shape = shape or like.shape
        self.overwrite = overwrite
        self.written = 0
        self._flags: list[ndarray] = []
        self._stack = ExitStack()

    def __enter__(self) -> StampFile:
        from astropy.io import fits

        self._temporary = self._stack.enter_context(atomic_path(self.path, overwrite=self.overwrite))
        header = fits.PrimaryHDU().header
        structure(header, np.dtype("f4"), (self.like.n, *self.shape))
        describe(header, self.like, self.shape)
        header["OBJECT"] = ("deblurred stamps", "one a row of the table OBJECTS")
        history(header, self.how)
        try:
            self._stream = fits.StreamingHDU(str(self._temporary), header)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def append(self, images: Shaped[ndarray, "b y x"], flags: Int[ndarray, " b"]) -> None:
        """Write the images of the next objects, and their flags."""
        if images.shape[1:] != self.shape or len(images) != len(flags):
            raise ShapeError(
                "images that do not fit the file", file=self.path, found=images.shape, expected=("b", *self.shape)
            )
        if self.written + len(images) > self.like.n:
            raise OutputError("more images than objects", file=self.path, expected=self.like.n)
        self._stream.write(np.ascontiguousarray(images, np.float32))
        self._flags.append(np.asarray(flags, np.int32))
        self.written += len(images)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.close()
            if kind is None:
                if self.written != self.like.n:
                    raise OutputError(
                        "fewer images than objects", file=self.path, found=self.written, expected=self.like.n
                    )
                append_table(self._temporary, "OBJECTS", columns(self.like, np.concatenate(self._flags)))
                unit = {} if self.like.units is None else {"unit": self.like.units}
                append_text(self._temporary, to_json({"header": self.how, **unit}))
        except BaseException as problem:
            self._stack.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)


def write_stamps(data: Stamps, path: Path) -> None:
    """Write stamps, PSFs, weights and masks as extensions that `FitsReader` reads back, some at a time."""
    from astropy.io import fits

    fits.PrimaryHDU().writeto(path)
    _append(path, "SCI", data.pixels, data, describe_it=True)
    _append(path, "PSF", data.psf, data)
    for name, array in (("WEIGHT", data.weight), ("MASK", data.mask), ("NEIGHBOURS", data.neighbours)):
        if array is not None:
            _append(path, name, array, data)
    assert data.flags is not None
    append_table(path, "OBJECTS", columns(data, data.flags))
    append_text(path, to_json({"header": dict(data.header), "notes": list(data.notes)}))


def _append(path: Path, name: str, array: SliceArray, stamps: Stamps, *, describe_it: bool = False) -> None:
    from astropy.io import fits

    dtype = take(array, 0, 1).dtype
    code = _WIDER.get(dtype.str[1:], dtype.str[1:])
    header = fits.ImageHDU(name=name).header
    structure(header, np.dtype(code), tuple(array.shape))
    if describe_it:
        describe(header, stamps, stamps.shape)
    with fits.StreamingHDU(str(path), header) as stream:
        for start in range(0, array.shape[0], _BATCH):
            block = take(array, start, min(start + _BATCH, array.shape[0]))
            stream.write(np.ascontiguousarray(block, np.dtype(f"={code}")))


def structure(header: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Say what an image is made of."""
    header["BITPIX"], header["NAXIS"] = _BITPIX[dtype.str[1:]], len(shape)
    for axis, n in enumerate(reversed(shape), start=1):
        header.set(f"NAXIS{axis}", n, after="NAXIS" if axis == 1 else f"NAXIS{axis - 1}")


def describe(header: Any, stamps: Stamps, shape: tuple[int, int]) -> None:
    """Say the unit and the world coordinates: those of the stamps' file, else u and v in arcseconds."""
    if stamps.units is not None:
        header["BUNIT"] = stamps.units
    if stamps.pixel_scale is not None:
        header["PIXSCALE"] = (stamps.pixel_scale, "arcsec a pixel")
    if stamps.jacobian is None or len(stamps.jacobian) != 1:
        return
    if str(stamps.header.get("CTYPE1", "")).endswith("TAN") and stamps.positions is None:
        for key, value in stamps.header.items():
            if key.rstrip("_0123456789") in _WCS_CARDS and not key.endswith("3"):
                header[key] = value
        header["WCSAXES"] = 2
        for axis, (new, old) in enumerate(zip(reversed(shape), reversed(stamps.shape), strict=True), start=1):
            if f"CRPIX{axis}" in header:
                header[f"CRPIX{axis}"] += new // 2 - old // 2
        return
    for i, name in enumerate("UV", start=1):
        header[f"CTYPE{i}"], header[f"CUNIT{i}"], header[f"CRVAL{i}"] = "LINEAR", "arcsec", 0.0
        header[f"CRPIX{i}"] = (float(shape[2 - i] // 2 + 1), f"{name} = 0, the pixel n // 2")
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(stamps.jacobian[0, i - 1, j - 1])


def history(header: Any, how: Mapping[str, Any]) -> None:
    """Tell in HISTORY how the images were made, one line a value."""
    for key, value in how.items():
        text = f"{key}: {value}".encode("ascii", "replace").decode()
        header.add_history(" ".join(text.split())[:_HISTORY])


def columns(stamps: Stamps, flags: ndarray) -> dict[str, ndarray]:
    """Return what is said of each object."""
    assert stamps.ids is not None
    found: dict[str, ndarray] = {"ID": stamps.ids, "FLAGS": flags}
    if stamps.sigma is not None:
        found["SIGMA"] = np.asarray(stamps.sigma)
    if stamps.positions is not None:
        found["X"], found["Y"] = stamps.positions[:, 0], stamps.positions[:, 1]
    if stamps.jacobian is not None and len(stamps.jacobian) == stamps.n:
        found["JACOBIAN"] = stamps.jacobian.reshape(stamps.n, 4)
    return found


def append_table(path: Path, name: str, values: Mapping[str, ndarray]) -> None:
    """Append a table to a FITS file."""
    from astropy.io import fits
    from astropy.table import Table

    table = fits.table_to_hdu(Table({key: np.asarray(value) for key, value in values.items()}))
    table.header["EXTNAME"] = name
    fits.append(str(path), table.data, table.header)


def append_text(path: Path, text: str) -> None:
    """Append the table PROVENANCE of one JSON text."""
    from astropy.io import fits

    column = fits.Column(name="json", format=f"{len(text)}A", array=np.array([text]))
    table = fits.BinTableHDU.from_columns([column], name="PROVENANCE")
    fits.append(str(path), table.data, table.header)
