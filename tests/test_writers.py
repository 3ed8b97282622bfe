"""Writers: what comes back through our readers and through the other side's libraries, and how they fail."""

from __future__ import annotations

import json
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage
from samples import RAS, complex_normal

from recon.datasets import Image, Scan, Source, save, writers
from recon.datasets import open as open_any
from recon.datasets.lazy import LazySlices
from recon.datasets.writers import find_writer
from recon.physics.errors import DataError, OptionError, OutputError

HEADER = {
    "provenance": {"model": {"name": "cg_sense"}, "input": {"sha256": "ab" * 32}, "seed": 3},
    "metrics": {"psnr": [31.5, float("nan")]},
    "PatientID": "0815",
    "StudyInstanceUID": "1.2.3",
    "EchoTime": 12.5,
}
IMAGES = (".h5", ".npz", ".cfl", ".nii", ".nii.gz", ".dcm", ".png", ".fits")
SCANS = (".h5", ".npz", ".cfl", ".mrd")


def make_image(shape: tuple[int, ...] = (3, 13, 10), *, real: bool = False, **fields: object) -> Image:
    pixels = complex_normal(shape)
    known = {"spacing": (4.0, 1.5, 1.0), "affine": RAS, "header": HEADER, "notes": ("a note",)}
    maps = {"uncertainty": np.abs(pixels), "g_factor": 1 + np.abs(pixels)}
    values = np.abs(pixels) if real else pixels
    return Image(**{"pixels": values, "source": Source("array"), "maps": maps, **known, **fields})


def make_scan(shape: tuple[int, ...] = (3, 2, 13, 10), **fields: object) -> Scan:
    mask = fields.get("mask", np.broadcast_to(np.arange(shape[-2])[:, None] % 3 != 1, shape[-2:]))
    known = {"spacing": (4.0, 1.5, 1.0), "affine": RAS, "matrix": (shape[-2], max(1, shape[-1] // 2)), "mask": mask}
    known |= {"readout_axis": -1, "noise": complex_normal((shape[1], 40), 7), "header": {"te": 3.5}}
    per_slice = np.ones(1) if mask is None else mask[:, None] if mask.ndim == len(shape) - 1 else mask
    known["kspace"] = (complex_normal(shape) * per_slice).astype(np.complex64)
    return Scan(**{"source": Source("array"), **known, **fields})


def pixels(image: Image) -> np.ndarray:
    return np.stack([image.pixels[index] for index in range(image.n_slices)])


def kspace(scan: Scan) -> np.ndarray:
    return np.stack([scan.slice(index) for index in range(scan.n_slices)])


def lazily(array: np.ndarray) -> LazySlices:
    return LazySlices(array.shape, array.dtype, array.__getitem__, Path("array"))


SIZES = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))


class TestRoundTrips:
    @settings(deadline=None, max_examples=8)
    @given(shape=SIZES, real=st.booleans(), lazy=st.booleans())
    @pytest.mark.parametrize("ending", [".h5", ".npz"])
    def test_images_without_loss(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, shape: tuple[int, ...], real: bool, lazy: bool
    ) -> None:
        image = make_image(shape, real=real, unit="a.u.")
        expected = pixels(image)
        if lazy:
            image = make_image(shape, real=real, unit="a.u.", pixels=lazily(expected))
        back = open_any(save(image, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_array_equal(pixels(back), expected)
        assert pixels(back).dtype == expected.dtype
        assert (back.spacing, back.unit, back.notes) == (image.spacing, "a.u.", ("a note",))
        np.testing.assert_array_equal(back.affine, RAS)
        assert back.maps.keys() == image.maps.keys()
        for name in image.maps:
            np.testing.assert_array_equal(back.maps[name], image.maps[name])
        assert json.dumps(back.header) == json.dumps(HEADER)

    @settings(deadline=None, max_examples=8)
    @given(shape=SIZES)
    @pytest.mark.parametrize(("ending", "precision"), [(".nii", 0), (".nii.gz", 0), (".dcm", 1 / 65535)])
    def test_magnitudes(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, precision: float, shape: tuple[int, ...]
    ) -> None:
        image = make_image(shape)
        expected = np.abs(pixels(image))
        back = open_any(save(image, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_allclose(pixels(back), expected, atol=0.51 * precision * expected.max(), rtol=1e-6)
        np.testing.assert_allclose(back.affine, RAS, atol=1e-6)
        assert back.spacing == pytest.approx((4, 1.5, 1))
        assert back.header["provenance"] == HEADER["provenance"]
        assert back.notes == ("a note",)

    @settings(deadline=None, max_examples=8)
    @given(shape=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(2, 9)] * 2), volume=st.booleans())
    @pytest.mark.parametrize("ending", [".h5", ".npz", ".cfl"])
    def test_scans(
        self, tmp_path_factory: pytest.TempPathFactory, ending: str, shape: tuple[int, ...], volume: bool
    ) -> None:
        if volume:
            shape = (*shape[:2], 4, *shape[2:])
        scan = make_scan(shape, matrix=None, mask=np.ones(shape[2:], bool)) if volume else make_scan(shape)
        back = open_any(save(scan, tmp_path_factory.mktemp("out") / f"a{ending}"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        if ending != ".cfl":
            for index in range(scan.n_slices):
                np.testing.assert_array_equal(back.sampling(index)[0], scan.sampling(index)[0])
            for name in ("spacing", "matrix", "readout_axis", "oversampling", "header", "notes", "labels"):
                assert getattr(back, name) == getattr(scan, name), name
            np.testing.assert_array_equal(back.affine, scan.affine)
            np.testing.assert_array_equal(back.noise, scan.noise)

    @pytest.mark.parametrize("ending", [".h5", ".npz"])
    def test_everything_that_a_scan_may_have(self, tmp_path: Path, ending: str) -> None:
        scan = make_scan(
            coil_maps=complex_normal((3, 2, 13, 10), 5),
            reference=np.abs(complex_normal((3, 13, 5), 6)),
            mask=np.random.default_rng(0).random((3, 13, 10)) < 0.5,
            partial_fourier=(0.75, 1.0),
            oversampling=2.0,
            labels=tuple({"slice": k, "repetition": 0} for k in range(3)),
            notes=("repaired",),
        )
        back = open_any(save(scan, tmp_path / f"a{ending}"))
        for name in ("coil_maps", "reference"):
            found = getattr(back, name)
            np.testing.assert_array_equal(np.stack([found[k] for k in range(3)]), getattr(scan, name))
        np.testing.assert_array_equal(back.mask, scan.mask)
        assert back.partial_fourier == (0.75, 1.0)
        assert back.labels == scan.labels
        assert back.notes == ("repaired",)

    @pytest.mark.parametrize("dim", [2, 3])
    @pytest.mark.parametrize("ending", [".npz", ".mrd"])
    def test_trajectories(self, tmp_path: Path, ending: str, dim: int) -> None:
        trajectory = np.random.default_rng(0).uniform(-8, 8, (60, dim)).astype(np.float32)
        density = np.random.default_rng(1).random(60).astype(np.float32)
        matrix = (16, 18, 20)[-dim:]
        scan = make_scan(
            kspace=complex_normal((2, 3, 60)),
            noise=None,
            mask=None,
            trajectory=trajectory,
            density=density,
            matrix=matrix,
            readout_axis=None,
        )
        back = open_any(save(scan, tmp_path / f"a{ending}"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        np.testing.assert_allclose(back.trajectory, trajectory, atol=1e-5)
        if dim == 2 or ending == ".npz":
            np.testing.assert_allclose(back.density, density)
        assert back.matrix == matrix

    @pytest.mark.parametrize("ending", IMAGES)
    def test_equal_images_give_equal_files(self, tmp_path: Path, ending: str) -> None:
        first, second = (save(make_image((1, 13, 10)), tmp_path / f"{name}{ending}") for name in "ab")
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize("ending", IMAGES)
    @pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u2", "i4", "f2", "f4", "f8", "c8", "c16"])
    def test_any_dtype(self, tmp_path: Path, ending: str, dtype: str) -> None:
        values = np.arange(60).reshape(2, 6, 5).astype(dtype)
        path = save(make_image(pixels=values, maps={}), tmp_path / f"a{ending}")
        if ending in (".png", ".fits"):
            return
        back = open_any(path)
        found = kspace_or_pixels(back)
        expected = values if dtype in ("c8", "c16") and ending in (".h5", ".npz", ".cfl") else np.abs(values)
        np.testing.assert_allclose(np.abs(found).reshape(values.shape), np.abs(expected), atol=1e-3)


def kspace_or_pixels(back: Scan | Image) -> np.ndarray:
    return kspace(back) if isinstance(back, Scan) else pixels(back)


class TestCfl:
    def parse(self, path: Path) -> np.ndarray:
        """An independent reader, axes as BART has them."""
        lines = path.with_suffix(".hdr").read_text().splitlines()
        assert lines[0] == "# Dimensions"
        dims = [int(word) for word in lines[1].split()]
        assert len(dims) == 16
        assert path.stat().st_size == 8 * np.prod(dims)
        return np.fromfile(path, "<c8").reshape(dims, order="F")

    @pytest.mark.parametrize(("readout", "order"), [(-1, (0, 13, 10, 2)), (None, (0, 13, 10, 2)), (-2, (13, 10, 0, 2))])
    def test_a_stack_of_slices(self, tmp_path: Path, readout: int | None, order: tuple[int, ...]) -> None:
        scan = make_scan(readout_axis=readout)
        data = self.parse(save(scan, tmp_path / "a.cfl"))
        assert data.shape[:4] == tuple(max(1, n) for n in order)
        assert data.shape[13] == 3
        for index in range(3):
            one = data[..., index, 0, 0].squeeze()
            np.testing.assert_array_equal(one, scan.kspace[index].transpose(1, 2, 0))
        assert open_any(tmp_path / "a.cfl").readout_axis == (-2 if readout == -2 else None)

    def test_a_volume_and_repetitions(self, tmp_path: Path) -> None:
        labels = ({"slice": 0, "repetition": 0}, {"slice": 0, "repetition": 1})
        scan = make_scan((2, 3, 4, 5, 6), mask=None, matrix=None, labels=labels)
        data = self.parse(save(scan, tmp_path / "a.cfl"))
        assert data.shape == (4, 5, 6, 3, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1)
        np.testing.assert_array_equal(data[2, 3, 4, 1].squeeze(), scan.kspace[:, 1, 2, 3, 4])

    def test_an_image(self, tmp_path: Path) -> None:
        image = make_image()
        data = self.parse(save(image, tmp_path / "a.cfl"))
        np.testing.assert_array_equal(data.squeeze(), np.moveaxis(image.pixels, 0, -1))

    def test_what_it_cannot_hold(self, tmp_path: Path) -> None:
        colours = make_image(pixels=np.zeros((1, 5, 5, 3)), maps={})
        spokes = make_scan(
            kspace=complex_normal((1, 2, 9)), mask=None, noise=None, trajectory=np.zeros((9, 2)), matrix=None
        )
        for data, words in ((colours, "no colours"), (spokes, "no trajectory")):
            with pytest.raises(OptionError, match=words):
                save(data, tmp_path / "a.cfl")
        with pytest.raises(OptionError, match=r"ends in \.cfl"):
            save(make_image(), tmp_path / "a.bin", format="cfl")
        assert list(tmp_path.iterdir()) == []


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


class TestHdf5:
    def test_the_layout_of_fastmri(self, tmp_path: Path) -> None:
        lines = np.broadcast_to(np.arange(10) % 3 == 0, (13, 10))
        reference = np.abs(complex_normal((3, 13, 5), 6))
        scan = make_scan(mask=lines, readout_axis=-2, reference=reference)
        with h5py.File(save(scan, tmp_path / "a.h5")) as file:
            assert file["kspace"].shape == (3, 2, 13, 10)
            assert file["kspace"].dtype == np.complex64
            np.testing.assert_array_equal(file["mask"][()], lines[0])
            np.testing.assert_array_equal(file["reconstruction_rss"][()], reference)
            assert file.attrs["max"] == pytest.approx(reference.max())
            assert file.attrs["norm"] == pytest.approx(np.linalg.norm(reference))
            header = ismrmrd.xsd.CreateFromDocument(file["ismrmrd_header"][()])
        encoded, recon = header.encoding[0].encodedSpace, header.encoding[0].reconSpace
        assert (encoded.matrixSize.x, encoded.matrixSize.y, encoded.matrixSize.z) == (13, 10, 1)
        assert (encoded.fieldOfView_mm.x, encoded.fieldOfView_mm.y) == (13 * 1.5, 10)
        assert (recon.matrixSize.x, recon.matrixSize.y) == (13, 5)

    def test_other_programs_files_are_read_as_before(self, tmp_path: Path) -> None:
        """Without our description, geometry comes from fastMRI's header."""
        path = save(make_scan(readout_axis=-2), tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            del file["recon_metadata"]
        back = open_any(path)
        assert (back.spacing, back.matrix, back.readout_axis) == ((4, 1.5, 1), (13, 5), -2)

    def test_a_submission(self, tmp_path: Path) -> None:
        image = make_image()
        with h5py.File(save(image, tmp_path / "a.h5")) as file:
            np.testing.assert_array_equal(file["reconstruction"][()], np.abs(image.pixels))
            assert file["reconstruction"].dtype == np.float32
            np.testing.assert_array_equal(file["maps/uncertainty"][()], image.maps["uncertainty"])
            np.testing.assert_array_equal(file.attrs["affine"], RAS)

    def test_long_provenance(self, tmp_path: Path) -> None:
        """More than fits into an attribute."""
        header = {"provenance": {"steps": ["x" * 1000] * 100}}
        assert open_any(save(make_image(header=header), tmp_path / "a.h5")).header == header


class TestIsmrmrd:
    def test_its_own_package_reads_it(self, tmp_path: Path) -> None:
        scan = make_scan()
        with ismrmrd.Dataset(str(save(scan, tmp_path / "a.mrd")), "dataset", create_if_needed=False) as file:
            header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
            acquisitions = [file.read_acquisition(k) for k in range(file.number_of_acquisitions())]
        assert header.encoding[0].encodedSpace.matrixSize.x == 10
        assert header.encoding[0].encodedSpace.fieldOfView_mm.y == 13 * 1.5
        noise = [a for a in acquisitions if a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
        np.testing.assert_array_equal(np.concatenate([a.data for a in noise], 1), scan.noise)
        lines = [a for a in acquisitions if not a.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
        assert len(lines) == 3 * scan.mask[:, 0].sum(), "what was not sampled is not written"
        for line in lines:
            expected = scan.kspace[line.idx.slice, :, line.idx.kspace_encode_step_1]
            np.testing.assert_array_equal(line.data, expected)
            assert line.center_sample == 5
            lps = (RAS @ [2, 6, line.idx.slice, 1])[:3] * [-1, -1, 1]
            np.testing.assert_allclose(line.position[:], lps)

    @pytest.mark.parametrize("readout", [-1, -2])
    def test_slices_come_back(self, tmp_path: Path, readout: int) -> None:
        lines = np.arange(13)[:, None] if readout == -1 else np.arange(10)[None]
        scan = make_scan(mask=np.broadcast_to(lines % 3 != 1, (13, 10)), matrix=(13, 10), readout_axis=readout)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        found, sampled, affine = kspace(back), back.sampling(0)[0], np.array(back.affine)
        if readout == -2:  # the readout is x in this format
            found, sampled, affine = found.swapaxes(-1, -2), sampled.T, affine[:, [1, 0, 2, 3]]
        np.testing.assert_array_equal(found, scan.kspace)
        np.testing.assert_array_equal(sampled, scan.mask)
        np.testing.assert_allclose(affine, RAS, atol=1e-4)
        np.testing.assert_array_equal(back.noise, scan.noise)

    @pytest.mark.parametrize("readout", [-1, -2, -3])
    def test_volumes_come_back(self, tmp_path: Path, readout: int) -> None:
        axes = {-1: (0, 1, 2), -2: (0, 2, 1), -3: (1, 2, 0)}[readout]
        scan = make_scan((2, 3, 4, 5, 6), mask=None, matrix=None, readout_axis=readout)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        np.testing.assert_array_equal(kspace(back), scan.kspace.transpose(0, 1, *(2 + axis for axis in axes)))
        affine = np.array(back.affine)
        order = [2 - axis for axis in axes[::-1]]
        np.testing.assert_allclose(affine[:, :3], RAS[:, order], atol=1e-4)

    def test_partial_echo_and_repetitions(self, tmp_path: Path) -> None:
        mask = np.zeros((13, 10), bool)
        mask[:, 3:] = True
        labels = tuple({"slice": s, "repetition": r} for r in range(2) for s in range(2))
        scan = make_scan((4, 2, 13, 10), mask=mask, labels=labels)
        back = open_any(save(scan, tmp_path / "a.mrd"))
        np.testing.assert_array_equal(kspace(back), scan.kspace)
        np.testing.assert_array_equal(back.sampling(0)[0], mask)
        assert [(label["slice"], label["repetition"]) for label in back.labels] == [(0, 0), (1, 0), (0, 1), (1, 1)]
        np.testing.assert_allclose(back.affine, RAS, atol=1e-4)

    def test_what_is_not_known_is_not_invented(self, tmp_path: Path) -> None:
        path = save(make_scan(affine=None, spacing=None, matrix=None), tmp_path / "a.mrd")
        assert open_any(path).affine is None
        with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as file:
            assert b"unknown" in file.read_xml_header()

    def test_samples_that_are_no_lines(self, tmp_path: Path) -> None:
        mask = np.random.default_rng(0).random((13, 10)) < 0.3
        with pytest.raises(OptionError, match=r"whole readouts.*Choose \.h5"):
            save(make_scan(mask=mask), tmp_path / "a.mrd")
        assert list(tmp_path.iterdir()) == []

    def test_by_name_with_another_ending(self, tmp_path: Path) -> None:
        assert open_any(save(make_scan(), tmp_path / "a.h5", format="ismrmrd")).source.format == "ismrmrd"


class TestChoice:
    def test_every_writer_is_found_by_its_endings(self) -> None:
        for name, entry in writers.items():
            for kind in entry.kinds:
                for ending in entry.endings:
                    assert type(find_writer(Path(f"x{ending.upper()}"), kind)) is entry, name

    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("a.xyz", make_image(), r"no image .*found \.xyz.*\.nii\.gz"),
            ("a", make_image(), "found no ending"),
            ("a.nii", make_scan(), "no scan can be written with this ending"),
            ("a.mrd", make_image(), "no image can be written"),
        ],
    )
    def test_endings_that_do_not_exist(self, tmp_path: Path, name: str, data: Image | Scan, words: str) -> None:
        with pytest.raises(OptionError, match=words):
            save(data, tmp_path / name)

    def test_formats_by_name(self, tmp_path: Path) -> None:
        assert open_any(save(make_image(), tmp_path / "a", format="npz")).source.format == "npz"
        with pytest.raises(OptionError, match="does not hold a scan"):
            save(make_scan(), tmp_path / "a", format="nifti")
        with pytest.raises(OptionError, match="no output format is called 'jpeg'"):
            save(make_image(), tmp_path / "a", format="jpeg")


class Interrupted:
    """Pixels whose second slice is interrupted."""

    shape = (3, 64, 64)

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def __getitem__(self, index: int) -> np.ndarray:
        self.calls += 1
        if index == 1:
            raise self.error
        return np.ones((64, 64), np.complex64)


class TestFailures:
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("slice 1 is bad"), MemoryError()])
    @pytest.mark.parametrize("ending", IMAGES)
    def test_an_interrupt_leaves_nothing(self, tmp_path: Path, ending: str, error: BaseException) -> None:
        with pytest.raises(type(error)):
            save(make_image(pixels=Interrupted(error), maps={}), tmp_path / "new" / f"a{ending}")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("ending", SCANS)
    def test_an_interrupt_of_a_scan_leaves_nothing(self, tmp_path: Path, ending: str) -> None:
        class Kspace(Interrupted):
            shape = (3, 1, 64, 64)

            def __getitem__(self, index: int) -> np.ndarray:
                return super().__getitem__(index)[None]

        scan = Scan(kspace=Kspace(KeyboardInterrupt()), source=Source("array"))
        with pytest.raises(KeyboardInterrupt):
            save(scan, tmp_path / f"a{ending}")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """Every writer against a file size limit, in a process of its own: one line, nothing left, no crash."""
        program = textwrap.dedent(f"""
            import resource, sys
            from pathlib import Path
            import numpy as np
            from recon.datasets import Image, Scan, Source, save
            from recon.physics.errors import OutputError
            rng = np.random.default_rng(0)
            pixels = rng.standard_normal((1, 256, 256)).astype(np.float32)
            image = Image(pixels=pixels, source=Source("array"), maps={{"a": pixels}})
            scan = Scan(kspace=rng.standard_normal((2, 4, 64, 64)).astype(np.complex64), source=Source("array"))
            folder = Path({str(tmp_path)!r})
            small = Image(pixels=pixels[:, :8, :8], source=Source("array"))
            for ending in {IMAGES!r}:
                save(small, folder / f"first{{ending}}")  # so that only the disk is at fault
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
            for data, endings in ((image, {IMAGES!r}), (scan, {SCANS!r})):
                for ending in endings:
                    try:
                        save(data, folder / f"a{{ending}}")
                    except OutputError as error:
                        text = str(error)
                        assert "cannot be written" in text and "--out" in text and "\\n" not in text, text
                    else:
                        sys.exit(f"{{ending}}: no error")
            print("done")
        """)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
        assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr[-3000:]
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"first.hdr", *(f"first{ending}" for ending in IMAGES)}

    @pytest.mark.parametrize("ending", IMAGES)
    def test_nothing_is_overwritten_unless_asked(self, tmp_path: Path, ending: str) -> None:
        for n in (1, 3):
            target = tmp_path / f"{n}{ending}"
            first, second = make_image((n, 13, 10)), make_image((n, 5, 6))
            save(first, target)
            with pytest.raises(OutputError, match="exists already"):
                save(second, target)
            save(second, target, overwrite=True)
            if ending not in (".fits", ".cfl"):
                assert open_any(target).pixels.shape == (n, 5, 6)
            if target.is_dir():
                assert len(list(target.iterdir())) == n

    def test_a_folder_with_other_files_is_not_replaced(self, tmp_path: Path) -> None:
        target = save(make_image(), tmp_path / "a.dcm")
        (target / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match=r"holds other files too.*thesis\.tex"):
            save(make_image(), target, overwrite=True)
        assert (target / "thesis.tex").exists()

    def test_fewer_slices_replace_a_folder_whole(self, tmp_path: Path) -> None:
        save(make_image((5, 6, 6)), tmp_path / "a.png")
        save(make_image((2, 6, 6)), tmp_path / "a.png", overwrite=True)
        assert len(list((tmp_path / "a.png").iterdir())) == 2

    def test_permissions_are_usual(self, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
        for ending in (".h5", ".npz", ".nii.gz"):
            assert stat.S_IMODE(save(make_image(), tmp_path / f"a{ending}").stat().st_mode) == usual

    def test_memory_stays_with_one_slice(self, tmp_path: Path) -> None:
        """A scan of 96 MiB in slices of 1 MiB, written and read in a process that may hold 32 MiB of it."""
        program = textwrap.dedent(f"""
            import resource
            from pathlib import Path
            import numpy as np
            from recon.datasets import Scan, Source, open, save
            from recon.datasets.lazy import LazySlices
            def use(shape, name):
                slices = LazySlices(shape, np.dtype("c8"), lambda k: np.full(shape[1:], k + 1, "c8"), Path("x"))
                scan = open(save(Scan(kspace=slices, source=Source("array")), Path({str(tmp_path)!r}) / name))
                for k in range(scan.n_slices):
                    assert scan.slice(k)[0, 0, 0] == k + 1
            for ending in {SCANS!r}:
                use((1, 1, 16, 8192), f"small{{ending}}")
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                use((96, 1, 16, 8192), f"a{{ending}}")
                print(ending, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
        """)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
        assert run.returncode == 0, run.stderr[-3000:]
        used = {line.split()[0]: int(line.split()[1]) for line in run.stdout.splitlines()}
        assert used.keys() == set(SCANS)
        assert max(used.values()) < 32, f"MiB by format: {used}"

    @pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".dcm"])
    def test_ctrl_c_while_a_library_writes(self, tmp_path: Path, ending: str) -> None:
        """The signal comes at any time; the process ends by it, not by a crash, and leaves nothing."""
        program = textwrap.dedent(f"""
            import numpy as np
            from pathlib import Path
            from recon.datasets import Image, Source, save
            from recon.datasets.lazy import LazySlices
            pixels = LazySlices((100000, 64, 64), np.dtype("f4"), lambda k: np.ones((64, 64), "f4"), Path("x"))
            print("ready", flush=True)
            save(Image(pixels=pixels, source=Source("array")), {str(tmp_path / "new" / f"a{ending}")!r})
        """)
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while not (tmp_path / "new").exists():
                time.sleep(0.01)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=30)[1]
        assert b"KeyboardInterrupt" in error.splitlines()[-1]
        assert list(tmp_path.iterdir()) == []


def test_the_limit_is_back() -> None:
    """The tests above must not leave a limit behind."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
