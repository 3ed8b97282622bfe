"""NIfTI images (``.nii``, ``.nii.gz``, ``.hdr/.img``); the headers are read by nibabel."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.lazy import ForwardReader, LazySlices, check_size, mapped_slices
from recon.datasets.limits import check_claim
from recon.datasets.metadata import image_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image, Source
from recon.physics.errors import DTypeError, FileFormatError, ShapeError

_GZIP = b"\x1f\x8b"
_COMMENT = 6  # extension code of a plain text
_MAX_EXTENSIONS = 1 << 26
_TO_MM = {"meter": 1000.0, "micron": 0.001}  # everything else counts as mm, as everywhere


@readers.register("nifti")
class NiftiReader:
    """Volumes, real, complex or in colour.

    A slice is cut along the third voxel axis: ``pixels[slice, y, x]`` is the voxel (x, y, slice) of the file, so
    that `affine` is that of the file. Further axes (time, echo) continue the slice axis, one volume after the
    other; `affine` and `spacing` hold for each. Scale factors are applied.
    """

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002
        """Tell by the magic in the header, inside gzip too."""
        if head.startswith(_GZIP):
            try:
                head = zlib.decompressobj(wbits=31).decompress(head, 512)
            except zlib.error:
                return False
        return _version(head) is not None

    def read(self, path: Path, options: ReadOptions) -> Image:  # noqa: ARG002
        """Read the header, and check it against the size of the file."""
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        open_stream = partial(_open_stream, path, packed)
        with open_stream() as stream:
            header, texts = _read_header(stream, path)
        data = path.with_suffix(".img") if bytes(header["magic"]).startswith(b"ni") else path
        if not data.is_file():
            raise FileFormatError("the .img of the pair is missing", file=path, expected=f"{data.name} beside it")
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
        if len(shape) < 2:
            raise ShapeError("an image needs two axes", file=path, found=shape)
        if dtype.kind not in "biufcV":
            raise DTypeError("an image that is not made of numbers", file=path, found=f"dtype {dtype}")
        stored = (math.prod(shape[2:]), shape[1], shape[0])
        if packed and data == path:
            check_claim(stored, dtype.itemsize, stored=path.stat().st_size, path=path, what="the image")
            blocks = ForwardReader(open_stream, offset)
            raw = LazySlices(stored, dtype, lambda index: blocks.block(index, stored[1:], dtype), path)
        else:
            check_size(data, stored, dtype.itemsize, data.stat().st_size - offset)
            raw = mapped_slices(data, stored, dtype, offset)
        pixels, notes = _values(raw, header, path)
        fields = _fields(header, texts, path)
        if len(shape) > 3 and math.prod(shape[3:]) > 1:
            notes.append(f"{math.prod(shape[3:])} volumes of {shape[2]} slices, one after the other")
        return Image(pixels=pixels, source=Source("nifti", path), notes=(*fields.pop("notes", ()), *notes), **fields)


def _open_stream(path: Path, packed: bool) -> BufferedIOBase:
    return gzip.open(path, "rb") if packed else path.open("rb")


def _version(head: bytes) -> int | None:
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return 1
    return 2 if head[4:8] in (b"n+2\0", b"ni2\0") else None


def _read_header(stream: BufferedIOBase, path: Path) -> tuple[Any, list[str]]:
    """Read the header proper, and the texts among its extensions."""
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.spatialimages import HeaderDataError
    from nibabel.volumeutils import native_code

    raw = stream.read(540)
    version = _version(raw)
    if version is None:
        raise FileFormatError("not a NIfTI file", file=path, expected="n+1, ni1, n+2 or ni2 in its header")
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    try:
        with LoggingOutputSuppressor():  # it repairs, and tells so on the terminal
            header = kind(raw[: kind.sizeof_hdr])
        offset = float(header["vox_offset"])
        if not 0 <= offset <= _MAX_EXTENSIONS:
            raise FileFormatError("the NIfTI header is damaged", file=path, found=f"data at byte {offset:g}")
        stream.seek(kind.sizeof_hdr)
        texts = []
        if stream.read(4)[:1] not in (b"", b"\0"):
            size = int(offset) - stream.tell()
            found = header.exts_klass.from_fileobj(stream, size, header.endianness != native_code)
            texts = [str(extension.text) for extension in found if extension.get_code() == _COMMENT]
    except HeaderDataError as error:
        raise FileFormatError("the NIfTI header is damaged", file=path, found=str(error)) from error
    return header, texts


def _values(raw: LazySlices, header: Any, path: Path) -> tuple[LazySlices, list[str]]:
    """Turn what is stored into values: scale factors, colours."""
    dtype = raw.dtype
    if dtype.fields:
        names = dtype.names or ()
        if names[:3] != ("R", "G", "B"):
            raise DTypeError("an image that is not made of numbers", file=path, found=f"dtype {dtype}")

        def colours(index: int) -> ndarray:
            return np.stack([raw[index][name] for name in names[:3]], axis=-1)

        notes = ["the transparency is left out"] if len(names) > 3 else []
        return LazySlices((*raw.shape, 3), np.dtype(np.uint8), colours, path), notes
    slope, intercept = header.get_slope_inter()
    target = _native(dtype)
    if slope is None or (slope, intercept) == (1.0, 0.0):
        if target == dtype:
            return raw, []
        return LazySlices(raw.shape, target, lambda index: raw[index].astype(target), path), []
    if dtype.kind in "biu":
        target = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)

    def scaled(index: int) -> ndarray:
        return (raw[index] * slope + intercept).astype(target)

    return LazySlices(raw.shape, target, scaled, path), []


def _native(dtype: np.dtype) -> np.dtype:
    """Return the dtype in this machine's byte order, and no wider than double precision."""
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    if dtype.kind == "c" and dtype.itemsize > 16:
        return np.dtype(np.complex128)
    return dtype.newbyteorder("=")


def _fields(header: Any, texts: list[str], path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    comments = []
    for text in texts:
        if text.lstrip().startswith("{"):
            fields |= image_fields(text.rstrip("\0 "), path)
        else:
            comments.append(text)
    fields["header"] = dict(fields.get("header", {}))
    if comments:
        fields["header"]["comments"] = comments
    if description := bytes(header["descrip"]).split(b"\0")[0].decode("latin-1").strip():
        fields["header"].setdefault("description", description)
    scale = _TO_MM.get(header.get_xyzt_units()[0], 1.0)
    zooms = [abs(float(zoom)) * scale for zoom in header.get_zooms()[:3]]
    fields["spacing"] = (zooms[2], zooms[1], zooms[0]) if len(zooms) == 3 and min(zooms) > 0 else None
    fields["affine"] = None
    if int(header["sform_code"]) or int(header["qform_code"]):
        affine = np.array(header.get_best_affine(), dtype=float)
        affine[:3] *= scale
        fields["affine"] = affine if np.isfinite(affine).all() else None
    return fields
