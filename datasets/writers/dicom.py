"""DICOM: derived images that keep the patient, the study and the place of their source."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.dicom_tags import KEPT, PRIVATE_CREATOR, PRIVATE_GROUP, PRIVATE_TEXT
from recon.datasets.metadata import describe_image
from recon.datasets.scan import Image
from recon.datasets.window import display_top
from recon.datasets.writers import Data, Writer, writers

if TYPE_CHECKING:
    from pydicom import Dataset

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOP = 65535


@writers.register("dicom")
class DicomWriter(Writer):
    """One file a slice; several make a folder, the series.

    MR Image Storage where the place of the image is known and it is not CT, else Secondary Capture. Values are
    magnitudes in 16 bit with slope and intercept of the whole series (integers that fit are kept), colours 8
    bit; NaN becomes 0. Unique identifiers come from the content: the same image gives the same files. Elements
    that `Image.header` has by their DICOM names (PatientID, StudyInstanceUID, EchoTime, ...) are taken over. The
    description of the image (JSON) is in a private block (0099,xx01), creator RECON IMAGING. Maps are left out.
    """

    endings: ClassVar[tuple[str, ...]] = (".dcm",)
    kinds: ClassVar[tuple[type, ...]] = (Image,)

    def is_folder(self, data: Data) -> bool:
        """Several slices make a folder."""
        return isinstance(data, Image) and data.n_slices > 1

    def write(self, data: Data, path: Path) -> None:
        """Read once for range and checksum, and once for writing."""
        assert isinstance(data, Image)
        coding = _code(data)
        digits = max(4, len(str(data.n_slices)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the source's header has may not be to the letter of the standard
            for index in range(data.n_slices):
                dataset = _dataset(data, index, coding)
                target = path / f"{index + 1:0{digits}d}.dcm" if self.is_folder(data) else path
                dataset.save_as(target, enforce_file_format=True)


@dataclass(frozen=True)
class _Coding:
    """How values become integers: ``value = slope * stored + intercept``.

    Parameters
    ----------
    slope, intercept
        As the decimal strings in the file give them.
    signed
        16 bit with a sign.
    top
        The value to be shown white.
    digest
        Checksum of values and description.
    """

    slope: float
    intercept: float
    signed: bool
    top: float
    digest: str


def _code(image: Image) -> _Coding:
    from pydicom.valuerep import format_number_as_ds

    digest = hashlib.sha256(describe_image(image).encode())
    lowest, highest, exact = np.inf, -np.inf, True
    for index in range(image.n_slices):
        values = _real(np.asarray(image.pixels[index]))
        digest.update(np.ascontiguousarray(values).tobytes())
        exact &= values.dtype.kind in "biu"
        finite = values[np.isfinite(values)]
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    top = display_top(image.pixels)
    fits = (lowest >= 0 and highest <= _TOP) or (lowest >= -(2**15) and highest < 2**15)
    if exact and fits:
        return _Coding(1.0, 0.0, lowest < 0, top, digest.hexdigest())
    low = min(lowest, 0.0) if np.isfinite(lowest) else 0.0
    slope = (highest - low) / _TOP if highest > low else 1.0
    slope, low = (float(format_number_as_ds(float(value))) for value in (slope, low))
    return _Coding(slope, low, signed=False, top=top, digest=digest.hexdigest())


def _real(values: ndarray) -> ndarray:
    return np.abs(values) if np.iscomplexobj(values) else values


def _dataset(image: Image, index: int, coding: _Coding) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage, generate_uid

    colour = len(image.pixels.shape) == 4
    modality = str(image.header.get("Modality") or ("MR" if image.affine is not None and image.unit != "HU" else "OT"))
    is_mr = modality == "MR" and image.affine is not None and not colour
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = MRImageStorage if is_mr else SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[coding.digest, "image", str(index)])
    _empty_but_required(dataset, is_mr=is_mr)
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[coding.digest, "study"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[coding.digest, "frame"])
    _take_over(dataset, image.header)
    dataset.Modality = modality
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[coding.digest, "series"])
    dataset.SeriesDescription = _short(f"recon {dataset.get('SeriesDescription') or ''}")
    dataset.InstanceNumber = index + 1
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"] if is_mr else ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = _derivation(image)
    dataset.SoftwareVersions = _software()
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    _place(dataset, image, index)
    _pixels(dataset, np.asarray(image.pixels[index]), coding)
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(PRIVATE_TEXT, "UT", describe_image(image))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _empty_but_required(dataset: Dataset, *, is_mr: bool) -> None:
    """Set elements that must be there, though they may be empty (type 2), and those that have a neutral value."""
    empty = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"]
    empty += ["AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "Manufacturer", "PatientPosition"]
    if is_mr:
        empty += ["PositionReferenceIndicator", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime"]
        empty += ["EchoTrainLength"]
        dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
    else:
        dataset.ConversionType = "WSD"
    for name in empty:
        setattr(dataset, name, None)


def _take_over(dataset: Dataset, header: Any) -> None:
    from pydicom.uid import UID

    for name in KEPT:
        value = header.get(name)
        if value is None or (name.endswith("UID") and not UID(str(value)).is_valid):
            continue
        try:
            setattr(dataset, name, value)
        except (ValueError, TypeError):  # what another program put there is not worth failing
            continue


def _place(dataset: Dataset, image: Image, index: int) -> None:
    """Set the image plane, where it is known."""
    from pydicom.valuerep import format_number_as_ds

    def decimal(*values: float) -> list[str]:
        return [format_number_as_ds(float(value)) for value in values]

    if image.spacing is not None:
        dataset.PixelSpacing = decimal(*image.spacing[1:])
        dataset.SliceThickness = decimal(image.spacing[0])[0]
    if image.affine is None:
        return
    affine = _RAS_TO_LPS @ image.affine
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = affine[:3, 0] / steps[0], affine[:3, 1] / steps[1]
    distance = abs(float(np.cross(row, column) @ affine[:3, 2]))
    dataset.ImageOrientationPatient = decimal(*row, *column)
    dataset.ImagePositionPatient = decimal(*(affine @ [0, 0, index, 1])[:3])
    dataset.PixelSpacing = decimal(steps[1], steps[0])
    dataset.SliceThickness = dataset.SpacingBetweenSlices = decimal(distance)[0]
    dataset.SliceLocation = decimal(float(np.cross(row, column) @ (affine @ [0, 0, index, 1])[:3]))[0]


def _pixels(dataset: Dataset, values: ndarray, coding: _Coding) -> None:
    from pydicom.valuerep import format_number_as_ds

    dataset.Rows, dataset.Columns = values.shape[:2]
    if values.ndim == 3:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        bits, signed = 8, False
        scaled = values if values.dtype == np.uint8 else np.clip(_real(values) / coding.top, 0, 1) * 255
        stored = np.round(scaled).astype(np.uint8)
    else:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        bits, signed = 16, coding.signed
        stored = _real(values)
        if stored.dtype.kind not in "biu" or (coding.slope, coding.intercept) != (1.0, 0.0):
            known = np.where(np.isnan(stored), 0.0, stored.astype(float))
            stored = np.clip(np.round((known - coding.intercept) / coding.slope), 0, _TOP)
        stored = stored.astype("<i2" if signed else "<u2")
        dataset.RescaleIntercept = format_number_as_ds(coding.intercept)
        dataset.RescaleSlope = format_number_as_ds(coding.slope)
        dataset.RescaleType = "US"
        dataset.WindowCenter, dataset.WindowWidth = (format_number_as_ds(coding.top / part) for part in (2, 1))
        dataset.VOILUTFunction = "LINEAR_EXACT"  # the default does not allow widths below 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    data = np.ascontiguousarray(stored).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def _derivation(image: Image) -> str:
    provenance = image.header.get("provenance", {})
    model = provenance.get("model", {}) if isinstance(provenance, dict) else {}
    name = model.get("name") if isinstance(model, dict) else None
    magnitude = ", magnitude of a complex image" if np.iscomplexobj(image.pixels[0]) else ""
    return f"{_software()}{f', {name}' if name else ''}{magnitude}"[:1024]


def _software() -> str:
    try:
        return f"recon {version('recon-imaging')}"
    except PackageNotFoundError:
        return "recon"


def _short(text: str) -> str:
    return text.strip()[:64]
