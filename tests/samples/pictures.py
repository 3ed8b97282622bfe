"""NIfTI, DICOM, PNG and TIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samples.registry import complex_normal, sample

RAS = np.array([[-1.0, 0, 0, 30], [0, -1.5, 0, 20], [0, 0, 4, -7], [0, 0, 0, 1]])
"""Voxel (x, y, z) to mm: 1 x 1.5 x 4 mm, rows and columns as in DICOM."""


@sample("nifti")
def make_nifti(folder: Path) -> Path:
    import nibabel

    volume = np.random.default_rng(0).integers(-500, 500, (10, 13, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, RAS), folder / "brain.nii.gz")
    return folder / "brain.nii.gz"


@sample("nifti-complex")
def make_nifti_complex(folder: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(complex_normal((10, 13, 3)), RAS), folder / "brain.nii")
    return folder / "brain.nii"


@sample("nifti-2")
def make_nifti2(folder: Path) -> Path:
    import nibabel

    nibabel.save(nibabel.Nifti2Image(complex_normal((10, 13, 3)).real, RAS), folder / "brain.nii")
    return folder / "brain.nii"


def dicom_slice(pixels: np.ndarray, index: int = 0, **elements: object):
    """One slice as a scanner writes it: RAS from above, positions in LPS."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"1.2.3.{index + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.3", "1.2.3.4", 7
    dataset.Modality, dataset.PatientName, dataset.PatientID = "MR", "Doe^Jane", "0815"
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [-30.0, -20.0, -7.0 + 4 * index]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [1.5, 1.0], 3.0, 4.0
    dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.shape[-1] == 3 else "MONOCHROME2"
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


@sample("dicom")
def make_dicom(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4000, (13, 10)).astype(np.uint16)
    dataset = dicom_slice(pixels, RescaleSlope=2.0, RescaleIntercept=-10.0)
    dataset.save_as(folder / "slice.dcm", enforce_file_format=True)
    return folder / "slice.dcm"


@sample("dicom-series")
def make_dicom_series(folder: Path) -> Path:
    """Three slices, the names in another order than the positions, and a file of another kind."""
    pixels = np.random.default_rng(0).integers(0, 4000, (3, 13, 10)).astype(np.uint16)
    for index, name in enumerate(("c", "a", "b")):
        dicom_slice(pixels[index], index).save_as(folder / f"{name}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("not an image")
    return folder


@sample("png")
def make_png(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 65535, (13, 10)).astype(np.uint16)).save(folder / "a.png")
    return folder / "a.png"


@sample("png-colour")
def make_png_colour(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (13, 10, 3)).astype(np.uint8)).save(folder / "a.png")
    return folder / "a.png"


@sample("png-tiff")
def make_tiff(folder: Path) -> Path:
    from PIL import Image

    pages = [Image.fromarray(complex_normal((13, 10), seed).real) for seed in range(3)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    return folder / "a.tif"
