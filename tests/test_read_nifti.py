"""NIfTI, written by nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from samples import RAS, complex_normal

from recon.datasets import Image
from recon.datasets import open as open_any
from recon.physics.errors import DTypeError, FileFormatError, ReconError


def pixels(image: Image) -> np.ndarray:
    return np.stack(list(image.pixels))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", ">f4", "f8", "c8", "c16"])
def test_voxels_and_place(tmp_path: Path, ending: str, kind: type, dtype: str) -> None:
    volume = (complex_normal((10, 13, 3)) * 100).astype("c16")
    volume = (volume if "c" in dtype else np.abs(volume)).astype(dtype)
    nibabel.save(kind(volume, RAS), tmp_path / f"a{ending}")
    image = open_any(tmp_path / f"a{ending}")
    assert isinstance(image, Image)
    assert image.pixels.shape == (3, 13, 10)
    found = pixels(image)
    np.testing.assert_array_equal(found, volume.T)
    assert found.dtype == volume.dtype.newbyteorder("=")
    np.testing.assert_allclose(image.affine, RAS)
    assert image.spacing == pytest.approx((4, 1.5, 1))
    x, y, z = 4, 7, 2
    np.testing.assert_allclose(image.affine @ [x, y, z, 1], RAS @ [x, y, z, 1])
    assert found[z, y, x] == volume[x, y, z]


def test_scale_factors(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-500, 500, (10, 13, 3)).astype(np.int16)
    file = nibabel.Nifti1Image(stored, RAS)
    file.header.set_slope_inter(0.5, -3)
    nibabel.save(file, tmp_path / "a.nii")
    np.testing.assert_allclose(pixels(open_any(tmp_path / "a.nii")), nibabel.load(tmp_path / "a.nii").get_fdata().T)
    assert pixels(open_any(tmp_path / "a.nii")).min() < -200


def test_colours(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (10, 13, 3, 3)).astype(np.uint8)
    stored = colours.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nibabel.save(nibabel.Nifti1Image(stored, RAS), tmp_path / "a.nii.gz")
    image = open_any(tmp_path / "a.nii.gz")
    assert image.pixels.shape == (3, 13, 10, 3)
    np.testing.assert_array_equal(pixels(image), colours.transpose(2, 1, 0, 3))


def test_a_series_of_volumes(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).random((5, 6, 3, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volumes, RAS), tmp_path / "a.nii.gz")
    image = open_any(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(pixels(image), np.concatenate([volumes[..., 0].T, volumes[..., 1].T]))
    assert "2 volumes of 3 slices" in image.notes[0]


def test_slices_in_any_order(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((5, 6, 9)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, RAS), tmp_path / "a.nii.gz")
    image = open_any(tmp_path / "a.nii.gz")
    for index in (5, 2, 8, 0, -1):
        np.testing.assert_array_equal(image.pixels[index], volume[..., index].T)


def test_one_slice(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6), np.float32), RAS), tmp_path / "a.nii")
    assert open_any(tmp_path / "a.nii").pixels.shape == (1, 6, 5)


def test_what_is_not_said_is_none(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), None), tmp_path / "a.nii")
    image = open_any(tmp_path / "a.nii")
    assert image.affine is None
    assert image.unit is None


def test_units_of_length(tmp_path: Path) -> None:
    affine = np.diag([0.001, 0.0015, 0.004, 1])
    file = nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), affine)
    file.header.set_xyzt_units("meter")
    nibabel.save(file, tmp_path / "a.nii")
    image = open_any(tmp_path / "a.nii")
    assert image.spacing == pytest.approx((4, 1.5, 1))
    np.testing.assert_allclose(image.affine, np.diag([1, 1.5, 4, 1]), rtol=1e-6)


def test_comments_are_kept(tmp_path: Path) -> None:
    file = nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), RAS)
    file.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"by hand"))
    file.header["descrip"] = b"TE=49"
    nibabel.save(file, tmp_path / "a.nii")
    header = open_any(tmp_path / "a.nii").header
    assert header["description"] == "TE=49"
    assert header["comments"] == ["by hand"]


def test_a_pair(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Pair(volume, RAS), tmp_path / "a.img")
    np.testing.assert_array_equal(pixels(open_any(tmp_path / "a.hdr")), volume.T)
    (tmp_path / "a.img").unlink()
    with pytest.raises(FileFormatError, match=r"\.img of the pair is missing"):
        open_any(tmp_path / "a.hdr")


def test_the_ending_does_not_matter(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), RAS), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "volume")
    assert open_any(tmp_path / "volume").source.format == "nifti"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_truncation_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((20, 20, 5)), RAS), path)
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(FileFormatError, match=r"truncated|slice 4 cannot be read.*ended"):
        open_any(path).pixels[4]


@pytest.mark.parametrize(
    ("offset", "code", "value"),
    [
        (40, "<i2", [3, 30000, 30000, 30000]),  # far more voxels than the file has
        (40, "<i2", [3, -5, 6, 3]),
        (40, "<i2", [3, 0, 6, 3]),
        (40, "<i2", [99, 5, 6, 3]),
        (70, "<i2", [12345]),  # no such dtype
        (108, "<f4", [np.nan]),  # offset of the data
        (108, "<f4", [1e30]),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_damaged_headers(tmp_path: Path, offset: int, code: str, value: list, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), RAS), path)
    data = bytearray(gzip.decompress(path.read_bytes()) if ending == ".nii.gz" else path.read_bytes())
    new = np.array(value, code).tobytes()
    data[offset : offset + len(new)] = new
    path.write_bytes(gzip.compress(data) if ending == ".nii.gz" else bytes(data))
    with pytest.raises(ReconError) as caught:
        open_any(path).pixels[0]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_structures_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 3), np.float32), RAS), path)
    data = bytearray(path.read_bytes())
    data[70:74] = np.array([1, 1], "<i2").tobytes()  # one bit a voxel: not in the standard's use
    path.write_bytes(data)
    with pytest.raises((DTypeError, FileFormatError)):
        open_any(path)


def test_real_volumes(shared_data: Path) -> None:
    for name in ("neck-t2", "brain-chris_PD"):
        path = shared_data / "mri" / "volumes" / f"{name}.nii.gz"
        image, other = open_any(path), nibabel.load(path)
        np.testing.assert_array_equal(pixels(image), np.asanyarray(other.dataobj).T)
        np.testing.assert_allclose(image.affine, other.affine)
