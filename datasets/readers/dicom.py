"""DICOM images through pydicom: a file, a multi-frame file, or a folder that holds a series."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from recon.datasets.dicom_geometry import Frame, frames_of, order_frames, voxel_to_ras
from recon.datasets.dicom_tags import KEPT, PRIVATE_CREATOR, PRIVATE_GROUP, PRIVATE_TEXT
from recon.datasets.folders import count_others, matching_files
from recon.datasets.lazy import LazySlices, check_size
from recon.datasets.limits import check_claim
from recon.datasets.metadata import image_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image, Source
from recon.physics.errors import DTypeError, FileFormatError, MissingDependencyError, OptionError, ShapeError

if TYPE_CHECKING:
    from pydicom import Dataset

_CURE = "Try: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"


@readers.register("dicom")
class DicomReader:
    """A picture, or a stack of them sorted along the normal of the slices.

    Rows are y and columns are x: ``pixels[slice, row, column]``. `affine` is that of DICOM, turned from LPS to
    RAS. Stored values become physical ones (``unit`` HU for CT). A folder may hold other files, but only one
    series; of several, ``variable`` names one by its number, description or UID.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by the mark after the preamble; a folder by the first such file in it."""
        if path.is_dir():
            return next(matching_files(path, _is_dicom), None) is not None
        return _is_dicom(head)

    def read(self, path: Path, options: ReadOptions) -> Image:
        """Read the headers; pixels are decoded when asked for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that are not quite to the letter of the standard
            return self._read(path, options)

    def _read(self, path: Path, options: ReadOptions) -> Image:
        files = list(matching_files(path, _is_dicom)) if path.is_dir() else [path]
        images = {file: dataset for file in files if (dataset := _header(file)) is not None}
        if not images:
            raise FileFormatError("no image, only other DICOM objects", file=path)
        images = _one_series(images, path, options.variable)
        frames = [frame for file, dataset in images.items() for frame in frames_of(dataset, file)]
        for file, dataset in images.items():
            _check_pixels(dataset, file)
        _check_alike(frames, path)
        frames, notes = order_frames(frames)
        first = images[frames[0].path]
        if first.get("PhotometricInterpretation") == "MONOCHROME1":
            notes.append("small values are meant to be shown bright (MONOCHROME1); values kept as stored")
        if first.get("ModalityLUTSequence"):
            notes.append("stored values: the file's look-up table is not applied")
        if path.is_dir() and (others := count_others(path, list(images))):
            notes.append(f"{others} other files in the folder skipped")
        affine, spacing = voxel_to_ras(frames)
        block = _own_text(first)
        fields = image_fields(block, path) if block else {}
        kept = {name: _plain(first[name].value) for name in KEPT if first.get(name) not in (None, "")}
        return Image(
            pixels=_pixels(frames, first, path),
            source=Source("dicom", path),
            spacing=spacing,
            affine=affine,
            unit=fields.get("unit") or _unit(first),
            header={**kept, **fields.get("header", {})},
            notes=(*fields.get("notes", ()), *notes),
        )


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _header(path: Path) -> Dataset | None:
    """Read everything before the pixels; None for objects without a picture."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
    # NotImplementedError: how pydicom tells of a value representation that the standard does not have.
    except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise FileFormatError("the DICOM file is damaged or truncated", file=path, found=str(error)) from error
    return dataset if "Rows" in dataset and "Columns" in dataset else None


def _one_series(images: dict[Path, Dataset], path: Path, wanted: str | None) -> dict[Path, Dataset]:
    series: dict[str, dict[Path, Dataset]] = defaultdict(dict)
    for file, dataset in images.items():
        series[str(dataset.get("SeriesInstanceUID", ""))][file] = dataset
    if wanted is not None:
        names = ("SeriesNumber", "SeriesDescription", "SeriesInstanceUID")
        series = {
            uid: members
            for uid, members in series.items()
            if wanted in [str(next(iter(members.values())).get(name)) for name in names]
        }
    if len(series) == 1:
        return next(iter(series.values()))
    found = ", ".join(
        f"{next(iter(members.values())).get('SeriesNumber')} ({len(members)} files)" for members in series.values()
    )
    if wanted is not None:
        raise OptionError(f"no single series is called {wanted!r}", file=path, found=found or "none")
    raise FileFormatError(
        "several series", file=path, found=found, expected="one", cure="Name one by its number with --variable"
    )


def _check_pixels(dataset: Dataset, path: Path) -> None:
    """Hold the claimed size against the file, and look for a decoder."""
    from pydicom.pixels import get_decoder

    n_frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.get("SamplesPerPixel", 1))
    bits = int(dataset.get("BitsAllocated", 8))
    halved = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"  # colours at every second pixel only
    shape = (n_frames, int(dataset.Rows), int(dataset.Columns), 2 if halved else samples)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise FileFormatError("the DICOM file does not name its transfer syntax", file=path)
    if samples not in (1, 3):
        raise DTypeError("a picture of neither one nor three channels", file=path, found=f"{samples} samples")
    present = path.stat().st_size
    if syntax.is_compressed:
        check_claim(shape, math.ceil(bits / 8), stored=present, path=path, what="the picture")
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:  # how pydicom says that it knows none; its table of decoders is private
            available = False
        if not available:
            raise MissingDependencyError(f"no decoder for {syntax.name}", file=path, cure=_CURE)
    elif bits == 1 or syntax.is_deflated:
        check_claim(shape, math.ceil(bits / 8), stored=present, path=path, what="the picture")
    else:
        check_size(path, shape, math.ceil(bits / 8), present)


def _check_alike(frames: list[Frame], path: Path) -> None:
    first = frames[0]
    for frame in frames:
        same_axes = (frame.axes is None) == (first.axes is None) and (
            frame.axes is None or first.axes is None or np.allclose(frame.axes, first.axes, atol=1e-3)
        )
        if frame.shape != first.shape or not same_axes:
            raise ShapeError(
                "the slices of the series differ in size or orientation",
                file=path,
                found=f"{frame.path.name} {frame.shape}",
                expected=f"{first.shape} as {first.path.name}",
                cure="Put the slices of one stack into a folder of their own",
            )


def _pixels(frames: list[Frame], dataset: Dataset, path: Path) -> LazySlices:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    bits = int(dataset.get("BitsAllocated", 8))
    scaled = any(frame.scale not in (None, (1.0, 0.0)) for frame in frames)
    if scaled:
        dtype = np.dtype(np.float32 if bits <= 16 else np.float64)
    elif "FloatPixelData" in dataset or bits > 32:
        dtype = np.dtype(np.float64)
    else:
        kind = "i" if int(dataset.get("PixelRepresentation", 0)) else "u"
        dtype = np.dtype(f"{kind}{max(1, math.ceil(bits / 8))}")
    palette = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette:
        depth = int((dataset.get("RedPaletteColorLookupTableDescriptor") or [0, 0, 8])[2])
        dtype = np.dtype(np.uint16 if depth > 8 else np.uint8)

    def read(index: int) -> ndarray:
        frame = frames[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                packed = dataset.file_meta.TransferSyntaxUID.is_deflated  # as a whole: there is no way to one frame
                values = pixel_array(dcmread(frame.path) if packed else frame.path, index=frame.index)
        except Exception as error:
            raise FileFormatError(
                "the pixels cannot be decoded",
                file=frame.path,
                found=f"{type(error).__name__}: {error}"[:300],
                cure=_CURE if dataset.file_meta.TransferSyntaxUID.is_compressed else None,
            ) from error
        if palette:
            return apply_color_lut(values, dataset).astype(dtype)
        if scaled and frame.scale is not None:
            values = values * frame.scale[0] + frame.scale[1]
        return values.astype(dtype)

    return LazySlices((len(frames), *frames[0].shape), dtype, read, path)


def _unit(dataset: Dataset) -> str | None:
    from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

    kind = str(dataset.get("RescaleType") or "")
    if kind in ("", "US"):
        is_ct = dataset.get("SOPClassUID") in (CTImageStorage, EnhancedCTImageStorage)
        return "HU" if is_ct and "RescaleIntercept" in dataset else None
    return kind


def _own_text(dataset: Dataset) -> str | None:
    try:
        return str(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[PRIVATE_TEXT].value)
    except KeyError:
        return None


def _plain(value: Any) -> Any:
    """Turn pydicom's values into those of JSON."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else int(value)
    return str(value)
