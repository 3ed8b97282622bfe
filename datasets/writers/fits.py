"""FITS for astronomers, through astropy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.metadata import describe_image
from recon.datasets.scan import Image, SliceArray
from recon.datasets.stamp_output import append_text, write_stamps
from recon.datasets.stamps import Stamps
from recon.datasets.writers import Data, Writer, writers

_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_WIDER = {"b1": "u1", "i1": "i2", "u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4"}  # FITS lacks these


@writers.register("fits")
class FitsWriter(Writer):
    """The primary image is ``(slice, y, x)``, or ``(y, x)`` of one slice; ``(slice, y, x, 3)`` in colour.

    Of a complex image it is the magnitude, and the extensions REAL and IMAG hold the rest. Each map is an
    extension, its name in capitals. ``BUNIT`` is the unit, ``CDELT`` the voxel size in mm. The table PROVENANCE
    holds affine, header and notes as one JSON text.

    Stamps are the extensions SCI, PSF, WEIGHT, MASK, NEIGHBOURS, and the table OBJECTS.
    """

    endings: ClassVar[tuple[str, ...]] = (".fits", ".fit")
    kinds: ClassVar[tuple[type, ...]] = (Image, Stamps)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice, one extension after the other."""
        if isinstance(data, Stamps):
            write_stamps(data, path)
            return
        assert isinstance(data, Image)
        is_complex = np.iscomplexobj(data.pixels[0])
        _append(path, None, data, data.pixels, np.abs if is_complex else np.asarray)
        if is_complex:
            _append(path, "REAL", data, data.pixels, np.real)
            _append(path, "IMAG", data, data.pixels, np.imag)
        for name, values in data.maps.items():
            _append(path, name.upper(), data, values, np.asarray)
        append_text(path, describe_image(data))


def _append(path: Path, name: str | None, image: Image, array: SliceArray, convert: Callable[[ndarray], Any]) -> None:
    from astropy.io import fits

    dtype = np.asarray(convert(np.asarray(array[0]))).dtype
    code = dtype.str[1:]
    code = _WIDER.get(code, code)
    shape = tuple(array.shape)[1 if array.shape[0] == 1 else 0 :]
    header = fits.PrimaryHDU().header if name is None else fits.ImageHDU(name=name).header
    header["BITPIX"], header["NAXIS"] = _BITPIX[code], len(shape)
    for axis, n in enumerate(reversed(shape), start=1):
        header.set(f"NAXIS{axis}", n, after="NAXIS" if axis == 1 else f"NAXIS{axis - 1}")
    if name is None and image.unit is not None:
        header["BUNIT"] = image.unit
    if image.spacing is not None and len(array.shape) == 3:
        for axis, step in enumerate(image.spacing[::-1][: len(shape)], start=1):
            header[f"CDELT{axis}"], header[f"CUNIT{axis}"] = step, "mm"
    with fits.StreamingHDU(str(path), header) as stream:
        for index in range(array.shape[0]):
            stream.write(np.ascontiguousarray(convert(np.asarray(array[index])), dtype=np.dtype(f"={code}")))
