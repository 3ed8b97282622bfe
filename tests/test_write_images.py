"""Writers of pictures: what the libraries of the other side read in NIfTI, DICOM, PNG and FITS."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from astropy.io import fits
from PIL import Image as Pillow
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage
from samples import RAS, complex_normal
from written import make_image, pixels

from recon.datasets import open as open_any
from recon.datasets import save


class TestNifti:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_nibabel_reads_it(self, tmp_path: Path, ending: str) -> None:
        image = make_image()
        file = nibabel.load(save(image, tmp_path / f"a{ending}"))
        np.testing.assert_array_equal(file.get_fdata(dtype=np.float32), np.abs(image.pixels).T)
        np.testing.assert_allclose(file.affine, RAS)
        np.testing.assert_allclose(file.get_qform(), RAS, atol=1e-5)
        assert file.header.get_zooms() == pytest.approx((1, 1.5, 4))
        assert file.header.get_xyzt_units()[0] == "mm"
        (extension,) = file.header.extensions
        assert extension.get_code() == 6
        assert json.loads(extension.text)["header"]["provenance"]["seed"] == 3

    def test_no_place_is_invented(self, tmp_path: Path) -> None:
        file = nibabel.load(save(make_image(affine=None, spacing=None), tmp_path / "a.nii"))
        assert (int(file.header["qform_code"]), int(file.header["sform_code"])) == (0, 0)

    def test_colours(self, tmp_path: Path) -> None:
        colours = np.random.default_rng(0).integers(0, 255, (2, 6, 5, 3)).astype(np.uint8)
        file = nibabel.load(save(make_image(pixels=colours, maps={}), tmp_path / "a.nii.gz"))
        found = np.asanyarray(file.dataobj)
        np.testing.assert_array_equal(np.stack([found[name] for name in "RGB"], -1).transpose(2, 1, 0, 3), colours)

    def test_more_voxels_than_version_1_counts(self, tmp_path: Path) -> None:
        image = make_image(pixels=np.ones((1, 2, 40000), np.uint8), maps={})
        assert isinstance(nibabel.load(save(image, tmp_path / "a.nii")), nibabel.Nifti2Image)


class TestDicom:
    def test_pydicom_reads_a_series(self, tmp_path: Path) -> None:
        image = make_image()
        folder = save(image, tmp_path / "a.dcm")
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == ["0001.dcm", "0002.dcm", "0003.dcm"]
        sets = [pydicom.dcmread(file) for file in files]
        for index, item in enumerate(sets):
            values = pydicom.pixels.apply_modality_lut(item.pixel_array, item)
            assert np.abs(values - np.abs(image.pixels[index])).max() < 0.51 * float(item.RescaleSlope)
            lps = (RAS @ [0, 0, index, 1])[:3] * [-1, -1, 1]
            np.testing.assert_allclose([float(v) for v in item.ImagePositionPatient], lps)
            assert [float(v) for v in item.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
            assert [float(v) for v in item.PixelSpacing] == [1.5, 1.0]
            assert (float(item.SliceThickness), item.InstanceNumber) == (4.0, index + 1)
            assert item.SOPClassUID == item.file_meta.MediaStorageSOPClassUID == MRImageStorage
            assert list(item.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
            assert "cg_sense, magnitude" in item.DerivationDescription
            assert (item.PatientID, item.StudyInstanceUID, item.EchoTime) == ("0815", "1.2.3", 12.5)
            assert item.BurnedInAnnotation == "NO"
            assert float(item.WindowWidth) == pytest.approx(np.percentile(np.abs(image.pixels), 99.9), rel=1e-3)
        for name, count in (("SOPInstanceUID", 3), ("SeriesInstanceUID", 1), ("FrameOfReferenceUID", 1)):
            assert len({item[name].value for item in sets}) == count
            assert all(item[name].value.is_valid for item in sets)

    @pytest.mark.parametrize("known", [True, False])
    def test_what_the_standard_requires_is_there(self, tmp_path: Path, known: bool) -> None:
        """Type 1 elements have a value, type 2 elements are present (PS3.3 A.4 and A.8.1)."""
        image = make_image((1, 13, 10), **({} if known else {"affine": None, "spacing": None, "header": {}}))
        item = pydicom.dcmread(save(image, tmp_path / "a.dcm"))
        type_1 = "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality ImageType SamplesPerPixel"
        type_1 += (
            " PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelData"
        )
        type_2 = "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID"
        type_2 += " AccessionNumber SeriesNumber InstanceNumber Manufacturer"
        if known:
            type_1 += " ScanningSequence SequenceVariant PixelSpacing ImageOrientationPatient ImagePositionPatient"
            type_1 += " FrameOfReferenceUID"
            type_2 += (
                " ScanOptions MRAcquisitionType EchoTime EchoTrainLength SliceThickness PositionReferenceIndicator"
            )
        else:
            type_1 += " ConversionType"
            assert item.SOPClassUID == SecondaryCaptureImageStorage
            assert "ImagePositionPatient" not in item
        for name in type_1.split():
            assert item[name].value not in (None, ""), name
        for name in type_2.split():
            assert name in item, name

    def test_an_oblique_place_comes_back(self, tmp_path: Path) -> None:
        row, column = np.array([0.8, 0.6, 0]), np.array([-0.36, 0.48, 0.8])
        affine = np.eye(4)
        affine[:3, :3] = np.stack([row, 1.5 * column, 4 * np.cross(row, column)], 1)
        affine[:3, 3] = 5, 6, 7
        back = open_any(save(make_image(affine=affine), tmp_path / "a.dcm"))
        np.testing.assert_allclose(back.affine, affine, atol=1e-6)

    def test_slices_against_the_normal_keep_their_place(self, tmp_path: Path) -> None:
        """Readers sort by position: order and affine turn together."""
        affine = RAS @ np.diag([1.0, 1, -1, 1])
        image = make_image(affine=affine)
        back = open_any(save(image, tmp_path / "a.dcm"))
        np.testing.assert_allclose(back.pixels[0], np.abs(image.pixels[2]), atol=1e-3)
        np.testing.assert_allclose(back.affine @ [0, 0, 0, 1], affine @ [0, 0, 2, 1])

    @pytest.mark.parametrize("values", [[0, 4095], [-1024, 3000], [0, 65535]])
    def test_integers_stay(self, tmp_path: Path, values: list[int]) -> None:
        stored = np.random.default_rng(0).integers(*values, (1, 6, 5), endpoint=True).astype(np.int32)
        item = pydicom.dcmread(save(make_image(pixels=stored, maps={}), tmp_path / "a.dcm"))
        np.testing.assert_array_equal(item.pixel_array, stored[0])
        assert (item.RescaleSlope, item.RescaleIntercept) == (1, 0)

    @pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e9])
    def test_values_of_any_size(self, tmp_path: Path, scale: float) -> None:
        image = make_image(pixels=complex_normal((2, 13, 10)) * np.float32(scale), maps={})
        back = pixels(open_any(save(image, tmp_path / "a.dcm")))
        np.testing.assert_allclose(back, np.abs(image.pixels), atol=1e-5 * np.abs(image.pixels).max())

    def test_colours_and_nan(self, tmp_path: Path) -> None:
        colours = np.random.default_rng(0).integers(0, 255, (1, 5, 5, 3)).astype(np.uint8)
        item = pydicom.dcmread(save(make_image(pixels=colours, maps={}), tmp_path / "colour.dcm"))
        np.testing.assert_array_equal(item.pixel_array, colours[0])
        values = np.full((1, 5, 5), np.nan, np.float32)
        values[0, 0] = 1
        item = pydicom.dcmread(save(make_image(pixels=values, maps={}), tmp_path / "nan.dcm"))
        assert item.pixel_array[1:].max() == 0
        zeros = make_image(pixels=np.zeros((1, 5, 5), np.float32), maps={})
        assert not open_any(save(zeros, tmp_path / "zero.dcm")).pixels[0].any()

    def test_a_header_that_is_not_to_the_letter(self, tmp_path: Path) -> None:
        header = {"PatientID": "x" * 100, "StudyInstanceUID": "not a uid", "EchoTime": "abc", "PatientAge": "old"}
        item = pydicom.dcmread(save(make_image((1, 5, 5), header=header), tmp_path / "a.dcm"))
        assert item.StudyInstanceUID.is_valid


class TestPng:
    def test_the_window(self, tmp_path: Path) -> None:
        image = make_image((1, 40, 30))
        picture = Pillow.open(save(image, tmp_path / "a.png"))
        magnitude = np.abs(image.pixels[0])
        top = np.percentile(magnitude, 99.9)
        np.testing.assert_array_equal(np.asarray(picture), np.round(255 * np.clip(magnitude / np.float32(top), 0, 1)))
        assert json.loads(picture.text["recon"])["header"]["provenance"]["seed"] == 3

    def test_slices_share_a_window(self, tmp_path: Path) -> None:
        values = np.stack([np.full((5, 5), level, np.float32) for level in (0.25, 0.5, 1)])
        folder = save(make_image(pixels=values, maps={}), tmp_path / "a.png")
        assert [np.asarray(Pillow.open(path)).max() for path in sorted(folder.iterdir())] == [64, 128, 255]

    @pytest.mark.parametrize(
        "values",
        [
            np.arange(30, dtype=np.uint8).reshape(1, 6, 5),
            np.arange(0, 60000, 2000, dtype=np.uint16).reshape(1, 6, 5),
            np.arange(90, dtype=np.uint8).reshape(1, 6, 5, 3),
        ],
    )
    def test_values_of_pictures_stay(self, tmp_path: Path, values: np.ndarray) -> None:
        np.testing.assert_array_equal(
            open_any(save(make_image(pixels=values, maps={}), tmp_path / "a.png")).pixels[0], values[0]
        )

    @pytest.mark.parametrize("value", [0, np.nan, np.inf])
    def test_nothing_to_see(self, tmp_path: Path, value: float) -> None:
        path = save(make_image(pixels=np.full((1, 5, 5), value, np.float32), maps={}), tmp_path / "a.png")
        assert len(np.unique(np.asarray(Pillow.open(path)))) == 1


class TestFits:
    @pytest.mark.parametrize("n", [1, 3])
    def test_astropy_reads_it(self, tmp_path: Path, n: int) -> None:
        image = make_image((n, 13, 10), unit="adu")
        with fits.open(save(image, tmp_path / "a.fits")) as file:
            file.verify("exception")
            names = [part.name for part in file]
            assert names == ["PRIMARY", "REAL", "IMAG", "UNCERTAINTY", "G_FACTOR", "PROVENANCE"]
            expected = image.pixels.squeeze()
            np.testing.assert_array_equal(file[0].data, np.abs(expected))
            np.testing.assert_array_equal(file["REAL"].data + 1j * file["IMAG"].data, expected)
            np.testing.assert_array_equal(file["G_FACTOR"].data, image.maps["g_factor"].squeeze())
            assert file[0].header["BUNIT"] == "adu"
            assert file[0].header["CDELT2"] == 1.5
            assert json.loads(file["PROVENANCE"].data["json"][0])["header"]["provenance"]["seed"] == 3

    @pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "f2", "f4", "f8"])
    def test_numbers_of_any_kind(self, tmp_path: Path, dtype: str) -> None:
        values = np.arange(30).reshape(1, 6, 5).astype(dtype)
        with fits.open(save(make_image(pixels=values, maps={}), tmp_path / "a.fits")) as file:
            np.testing.assert_array_equal(file[0].data, values[0])
