"""FITS out: pictures and stamps come back as they were, deblurred stamps as they come."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fits_stamps import N, opened, stamps_file, whole
from samples import gaussian_stamp

import recon
from recon.datasets import Image, Source, Stamps
from recon.datasets.stamp_output import StampFile
from recon.datasets.wcs import jacobians
from recon.physics.errors import OutputError, PSFWarning, ShapeError

REAL = ["u1", "i2", "u2", "i4", "f4", "f8"]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *product([*REAL, "c8"], [(1, 13, 10), (3, 13, 10)]),
        *product(REAL, [(1, 13, 10, 3), (3, 13, 10, 3)]),  # colours are never complex
    ],
)
def test_what_we_write_comes_back(dtype, shape, tmp_path):
    rng = np.random.default_rng(0)
    pixels = (rng.standard_normal(shape) * 50 + 100).clip(0).astype(dtype)
    if dtype == "c8":
        pixels = pixels * np.exp(1j * rng.random(shape)).astype(dtype)
    image = Image(
        pixels=pixels,
        source=Source("array"),
        spacing=(2.0, 1.0, 0.5),
        unit="HU",
        maps={"uncertainty": rng.random(shape[:3]).astype(np.float32)},
        header={"model": "x"},
        notes=("a note",),
    )
    back = opened(recon.datasets.save(image, tmp_path / "a.fits"))
    np.testing.assert_allclose(np.stack(list(back.pixels)), pixels, rtol=1e-6)
    np.testing.assert_array_equal(back.maps["uncertainty"], image.maps["uncertainty"])
    assert (back.spacing, back.unit, back.notes) == (image.spacing, "HU", ("a note",))
    assert back.header == {"model": "x"}


def test_stamps_come_back_as_they_were(tmp_path):
    path = stamps_file(tmp_path)
    stamps = opened(path)
    back = opened(recon.datasets.save(stamps, tmp_path / "b.fits"))
    a, b = whole(stamps), whole(back)
    for name in ("y", "psf", "weight", "sigma", "jacobian", "ids", "flags"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert back.units == "adu"


def test_what_belongs_to_each_object_comes_back(tmp_path, rng):
    stamps = Stamps(
        pixels=rng.standard_normal((3, 8, 8)),
        psf=gaussian_stamp(5, 1.0)[None],
        source=Source("array"),
        sigma=np.array([1.0, 2.0, 3.0]),
        neighbours=(rng.random((3, 8, 8)) < 0.1),
        jacobian=rng.standard_normal((3, 2, 2)),
        ids=np.array(["a", "bb", "ccc"]),
        flags=np.array([0, 32, 0], np.int32),
        positions=rng.random((3, 2)) * 100,
    )
    back = opened(recon.datasets.save(stamps, tmp_path / "a.fits"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PSFWarning)
        a, b = whole(stamps), whole(back)
    for name in ("y", "weight", "sigma", "jacobian", "ids", "flags"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_array_equal(back.positions, stamps.positions)
    assert back.ids.tolist() == ["a", "bb", "ccc"]


def test_deblurred_stamps_as_they_come(tmp_path):
    path = stamps_file(tmp_path)
    stamps = opened(path)
    target = tmp_path / "out.fits"
    how = {"model": "galaxy-admm", "iterations": 8, "note": "é" * 100}
    with StampFile(target, stamps, how=how) as file:
        for batch in stamps.batches(2):
            file.append(2 * batch.y[:, 0].numpy(), batch.flags | 1)
        assert not target.exists()
    image = opened(target)
    np.testing.assert_array_equal(np.stack(list(image.pixels)), 2 * fits.getdata(path))
    with fits.open(target) as file:
        file.verify("exception")
        header = file[0].header
        assert header["BUNIT"] == "adu"
        assert "model: galaxy-admm" in list(header["HISTORY"])
        assert file["OBJECTS"].data["ID"].tolist() == [1000, 1001, 1002, 1003, 1004]
        assert file["OBJECTS"].data["FLAGS"].tolist() == [1] * N
        assert json.loads(file["PROVENANCE"].data["json"][0])["header"] == how
        np.testing.assert_allclose(jacobians(header, np.zeros(1), np.zeros(1))[0], 0.2 * np.eye(2))


@pytest.mark.parametrize("units", ["adu", None])
def test_a_unit_comes_back_or_is_not_there(tmp_path, units):
    stamps = replace(opened(stamps_file(tmp_path)), units=units)
    with StampFile(tmp_path / "out.fits", stamps, how={}) as file:
        for batch in stamps.batches(N):
            file.append(batch.y[:, 0].numpy(), batch.flags)
    assert opened(tmp_path / "out.fits").unit == units


def test_deblurred_stamps_keep_the_coordinates_on_the_sky(shared_data, tmp_path):
    folder = shared_data / "galaxy"
    stamps = opened(folder / "cosmos-147246-g1_0.02.fits", psf=folder / "cosmos-147246-psf.fits")
    with StampFile(tmp_path / "a.fits", stamps, how={}, shape=(64, 66)) as file:
        file.append(np.zeros((1, 64, 66)), np.zeros(1, int))
    old = WCS(fits.getheader(folder / "cosmos-147246-g1_0.02.fits")).celestial
    new = WCS(fits.getheader(tmp_path / "a.fits")).celestial
    np.testing.assert_allclose(new.all_pix2world(33, 32, 0), old.all_pix2world(30, 30, 0), rtol=1e-12)


def test_a_file_of_fewer_or_more_images_than_objects_is_not_left(tmp_path):
    path = stamps_file(tmp_path)
    stamps = opened(path)
    with pytest.raises(OutputError, match="fewer images than objects"), StampFile(tmp_path / "o.fits", stamps, how={}):
        pass
    with pytest.raises(OutputError, match="more images"), StampFile(tmp_path / "o.fits", stamps, how={}) as file:
        file.append(np.zeros((N + 1, 12, 12)), np.zeros(N + 1, int))
    with pytest.raises(ShapeError, match="do not fit"), StampFile(tmp_path / "o.fits", stamps, how={}) as file:
        file.append(np.zeros((1, 12, 13)), np.zeros(1, int))
    assert [item.name for item in tmp_path.iterdir()] == ["stamps.fits"]
