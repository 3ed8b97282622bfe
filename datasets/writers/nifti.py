"""NIfTI (``.nii``, ``.nii.gz``)."""

from __future__ import annotations

import gzip
import sys
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.metadata import describe_image
from recon.datasets.scan import Image
from recon.datasets.writers import Data, Writer, writers

_COLOUR = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@writers.register("nifti")
class NiftiWriter(Writer):
    """The voxel (x, y, slice) is ``pixels[slice, y, x]``; the affine is that of the image.

    A complex image is written as its magnitude: many programs take the real part of complex NIfTI for the image.
    Maps do not fit into one volume and are left out. The header and notes are an extension (code 6, JSON). Without
    an affine the file says that it has none (form codes 0).
    """

    endings: ClassVar[tuple[str, ...]] = (".nii.gz", ".nii")
    kinds: ClassVar[tuple[type, ...]] = (Image,)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice."""
        assert isinstance(data, Image)
        first = _stored(np.asarray(data.pixels[0]))
        header = _header(data, first.dtype)
        with path.open("wb") as file:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=4, mtime=0) as packed:
                    _write(packed, header, data, first.dtype)
            else:
                _write(file, header, data, first.dtype)


def _write(file: BufferedIOBase, header: Any, image: Image, dtype: np.dtype) -> None:
    header.write_to(file)
    for index in range(image.n_slices):
        values = _stored(np.asarray(image.pixels[index])).astype(dtype, copy=False)
        file.write(np.ascontiguousarray(values).tobytes())


def _stored(values: ndarray) -> ndarray:
    """Return values of a dtype that NIfTI has: (y, x), colours as a structure."""
    if values.ndim == 3:
        top = 255.0 if values.dtype.kind == "f" else 1.0
        bytes_ = np.clip(values * top, 0, 255) if top > 1 else values >> (8 * (values.dtype.itemsize - 1))
        return np.ascontiguousarray(bytes_.astype(np.uint8)).view(_COLOUR)[..., 0]
    if values.dtype.kind == "c":
        return np.abs(values)
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    return values.astype(np.float32) if values.dtype == np.float16 else values.astype(values.dtype.newbyteorder("="))


def _header(image: Image, dtype: np.dtype) -> Any:
    import nibabel

    n, y, x = image.pixels.shape[:3]
    kind = nibabel.Nifti1Header if max(n, y, x) < 2**15 else nibabel.Nifti2Header
    header = kind(endianness="<" if sys.byteorder == "little" else ">")
    header.set_data_dtype(dtype)
    header.set_data_shape((x, y, n))
    if image.spacing is not None:
        header.set_zooms(image.spacing[::-1])
    if image.affine is not None:
        header.set_qform(image.affine, code="scanner", strip_shears=True)
        header.set_sform(image.affine, code="scanner")
    header.set_xyzt_units("mm")
    header["descrip"] = b"recon: magnitude" if np.iscomplexobj(image.pixels[0]) else b"recon"
    header["magic"] = header.single_magic
    text = nibabel.nifti1.Nifti1Extension("comment", describe_image(image).encode())
    header.extensions.append(text)
    header["vox_offset"] = header.single_vox_offset + header.extensions.get_sizeondisk()
    return header
