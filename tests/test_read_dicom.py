"""DICOM, written by pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, JPEGLosslessSV1, RLELossless
from samples import RAS, dicom_slice

from recon.datasets import Image
from recon.datasets import open as open_any
from recon.physics.errors import FileFormatError, MissingDependencyError, OptionError, ReconError, ShapeError

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (3, 13, 10)).astype(np.uint16)


def write(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, stack: np.ndarray = STACK, **elements: object) -> Path:
    for index, pixels in enumerate(stack):
        write(dicom_slice(pixels, index, **elements), folder / f"{(7 * index) % 5}-{index}.dcm")
    return folder


def pixels(image: Image) -> np.ndarray:
    return np.stack(list(image.pixels))


def test_a_series_is_sorted_by_position(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("other")
    image = open_any(series(tmp_path))
    assert isinstance(image, Image)
    np.testing.assert_array_equal(pixels(image), STACK)
    assert image.pixels[0].dtype == np.uint16
    np.testing.assert_allclose(image.affine, RAS)
    assert image.spacing == pytest.approx((4, 1.5, 1))
    assert image.notes == ("1 other files in the folder skipped",)
    assert image.header["PatientName"] == "Doe^Jane"
    assert image.unit is None


def test_one_slice(tmp_path: Path) -> None:
    image = open_any(write(dicom_slice(STACK[1], 1), tmp_path / "a"))
    np.testing.assert_array_equal(pixels(image), STACK[1:2])
    np.testing.assert_allclose(image.affine, RAS @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])


def test_an_oblique_slice_agrees_with_nibabel_s_rule(tmp_path: Path) -> None:
    """The standard's equation C.7.6.2.1-1, written out."""
    row, column = np.array([0.8, 0.6, 0]), np.array([-0.36, 0.48, 0.8])
    dataset = dicom_slice(STACK[0], ImageOrientationPatient=[*row, *column], ImagePositionPatient=[5.0, 6.0, 7.0])
    affine = open_any(write(dataset, tmp_path / "a.dcm")).affine
    lps = np.array([5.0, 6.0, 7.0]) + 3 * 1.0 * row + 8 * 1.5 * column
    np.testing.assert_allclose((affine @ [3, 8, 0, 1])[:3], lps * [-1, -1, 1])
    np.testing.assert_allclose(affine[:3, 2], 4 * np.cross(row, column) * [-1, -1, 1])


def test_values_of_ct(tmp_path: Path) -> None:
    stored = STACK[0].astype(np.int16)
    dataset = dicom_slice(stored, RescaleSlope=1.0, RescaleIntercept=-1024.0, Modality="CT", SOPClassUID=CTImageStorage)
    image = open_any(write(dataset, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.pixels[0], stored.astype(np.float32) - 1024)
    assert image.unit == "HU"


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    for index in range(3):
        write(dicom_slice(STACK[index], index, RescaleSlope=1.0 + index, RescaleIntercept=0.0), tmp_path / f"{index}")
    np.testing.assert_array_equal(pixels(open_any(tmp_path)), STACK * np.arange(1, 4, dtype=np.float32)[:, None, None])


def test_multi_frame(tmp_path: Path) -> None:
    image = open_any(write(dicom_slice(STACK, NumberOfFrames=3), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(pixels(image), STACK)


def test_enhanced_multi_frame_has_a_place_for_each_frame(tmp_path: Path) -> None:
    dataset = dicom_slice(STACK, NumberOfFrames=3)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, name)
    del dataset.SpacingBetweenSlices
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 1.0], 4.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index in (2, 0, 1):
        place, values, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-30.0, -20.0, -7.0 + 4 * index]
        values.RescaleSlope, values.RescaleIntercept = 2.0, 0.0
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([place]), Sequence([values])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image = open_any(write(dataset, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(pixels(image), 2.0 * STACK[[1, 2, 0]])
    np.testing.assert_allclose(image.affine, RAS)


def test_colours_and_palettes(tmp_path: Path) -> None:
    colours = RNG.integers(0, 255, (13, 10, 3)).astype(np.uint8)
    image = open_any(write(dicom_slice(colours), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.pixels[0], colours)
    palette = open_any(get_testdata_file("examples_palette.dcm", download=False))
    assert palette.pixels[0].shape[-1] == 3


def test_repeated_positions_are_volumes(tmp_path: Path) -> None:
    for echo in range(2):
        for index in range(3):
            dataset = dicom_slice(STACK[index] + 5000 * echo, index, InstanceNumber=10 * echo + index)
            write(dataset, tmp_path / f"{echo}{index}")
    image = open_any(tmp_path)
    np.testing.assert_array_equal(pixels(image), np.concatenate([STACK, STACK + 5000]))
    np.testing.assert_allclose(image.affine, RAS)
    assert "2 images at one place" in image.notes[0]


def test_a_missing_slice_gets_a_note(tmp_path: Path) -> None:
    for index in (0, 1, 3):
        write(dicom_slice(STACK[0], index), tmp_path / f"{index}")
    assert "uneven distances, 4.000 to 8.000 mm" in open_any(tmp_path).notes[0]


def test_several_series(tmp_path: Path) -> None:
    series(tmp_path)
    write(dicom_slice(STACK[0] + 9, 0, SeriesInstanceUID="1.2.9", SeriesNumber=9), tmp_path / "other")
    with pytest.raises(FileFormatError, match=r"several series; found 7 \(3 files\), 9 \(1 files\).*--variable"):
        open_any(tmp_path)
    np.testing.assert_array_equal(open_any(tmp_path, variable="9").pixels[0], STACK[0] + 9)
    assert open_any(tmp_path, variable="1.2.3.4").n_slices == 3
    with pytest.raises(OptionError, match="no single series is called '5'"):
        open_any(tmp_path, variable="5")


def test_slices_that_do_not_fit(tmp_path: Path) -> None:
    series(tmp_path)
    write(dicom_slice(STACK[0], 4, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), tmp_path / "sagittal")
    with pytest.raises(ShapeError, match="differ in size or orientation"):
        open_any(tmp_path)


def test_what_is_not_said_is_none(tmp_path: Path) -> None:
    dataset = dicom_slice(STACK[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, name)
    image = open_any(write(dataset, tmp_path / "a.dcm"))
    assert image.affine is None
    assert image.spacing is None


def test_other_objects_are_skipped(tmp_path: Path) -> None:
    report = dicom_slice(STACK[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    write(report, tmp_path / "report")
    with pytest.raises(FileFormatError, match="only other DICOM objects"):
        open_any(tmp_path)
    series(tmp_path)
    image = open_any(tmp_path)
    assert image.n_slices == 3
    assert "1 other files" in image.notes[0]


def test_compressed_pixels(tmp_path: Path) -> None:
    dataset = dicom_slice(STACK[0])
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(open_any(write(dataset, tmp_path / "a.dcm")).pixels[0], STACK[0])


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dicom_slice(STACK[0])
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    path = write(dataset, tmp_path / "a.dcm")
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    with pytest.raises(MissingDependencyError, match=r"no decoder for JPEG Lossless.*pip install pylibjpeg"):
        open_any(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.99])
def test_truncation_is_told(tmp_path: Path, part: float) -> None:
    path = write(dicom_slice(STACK[0]), tmp_path / "a.dcm")
    data = path.read_bytes()
    path.write_bytes(data[: max(140, int(part * len(data)))])
    with pytest.raises(ReconError) as caught:
        open_any(path).pixels[0]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_picture_that_claims_too_much(tmp_path: Path) -> None:
    path = write(dicom_slice(STACK[0], Rows=60000, Columns=60000), tmp_path / "a.dcm")
    with pytest.raises(FileFormatError, match="truncated"):
        open_any(path)


FOLDER = Path(get_testdata_file("CT_small.dcm", download=False)).parent


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.dcm")), ids=lambda path: path.stem)
def test_the_collection_of_pydicom(path: Path) -> None:
    """Values as pydicom has them, or one line: some of these files are damaged, or need other decoders."""
    try:
        image = open_any(path)
        found = image.pixels[0]
    except ReconError as error:
        found, message = None, str(error)
    if found is None:
        assert "\n" not in message
        assert str(path) in message
        return
    source = pydicom.dcmread(path)
    expected = pydicom.pixels.pixel_array(source, index=0)
    if source.PhotometricInterpretation == "PALETTE COLOR":
        expected = pydicom.pixels.apply_color_lut(expected, source)
    np.testing.assert_allclose(found, pydicom.pixels.apply_modality_lut(expected, source), rtol=1e-6)


@pytest.mark.parametrize("name", ["CT_small", "MR_small_RLE", "image_dfl", "SC_ybr_full_422_uncompressed", "JPEG2000"])
def test_files_that_can_be_read(name: str) -> None:
    assert open_any(FOLDER / f"{name}.dcm").pixels[0].any()


def test_a_real_series(shared_data: Path) -> None:
    image = open_any(shared_data / "mri" / "brain-dicom")
    assert image.pixels.shape == (9, 512, 512)
    assert image.spacing == pytest.approx((15, 0.41015625, 0.41015625))
