"""Stamps out of a full image and a catalogue, and out of MEDS: positions, neighbours, edges, epochs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from samples import gaussian_stamp, write_meds

import recon
from recon.datasets.stamp_cleaning import StampFlag
from recon.physics.errors import DataError, FileFormatError, MissingDependencyError, OptionError, ShapeError

SHAPE = (90, 120)
X, Y = np.array([30.3, 60.0, 95.6, 2.0]), np.array([40.0, 45.4, 20.0, 70.0])
FLUX = np.array([500.0, 800.0, 300.0, 400.0])


def field():
    """Four objects; the second has a neighbour 12 pixels to its right; labels 1 to 5 where they are bright."""
    pixels, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int32)
    for label, (x, y, flux) in enumerate(
        [*zip(X, Y, FLUX, strict=True), (72.0, 45.0, 900.0)],
        start=1,
    ):
        image = flux * gaussian_stamp(SHAPE, 2.0, x - SHAPE[1] // 2, y - SHAPE[0] // 2)
        pixels += image
        labels[image > 2] = label
    return pixels, labels


@pytest.fixture
def image(tmp_path):
    pixels, labels = field()
    rng = np.random.default_rng(0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ("RA---TAN", "DEC--TAN"), (10.0, 80.0), (60.5, 45.5)
    wcs.wcs.cd = np.array([[-5e-5, 1e-5], [1e-5, 5e-5]])
    main = fits.PrimaryHDU((pixels + 0.1 * rng.standard_normal(SHAPE)).astype(np.float32), wcs.to_header())
    main.header["BUNIT"] = "adu"
    parts = {"PSF": gaussian_stamp(11, 1.2), "VARIANCE": np.full(SHAPE, 0.01), "SEGMENTATION": labels}
    extensions = [fits.ImageHDU(array, name=name) for name, array in parts.items()]
    fits.HDUList([main, *extensions]).writeto(tmp_path / "field.fits")
    return tmp_path / "field.fits"


def save_table(path, **columns):
    Table(columns).write(path, overwrite=True)
    return path


def whole(stamps):
    return stamps.batch(0, stamps.n)


def test_object_is_at_the_middle_pixel_and_its_neighbour_is_masked(image, tmp_path):
    catalogue = save_table(tmp_path / "cat.fits", id=np.array([7, 5, 9, 1]), x=X, y=Y)
    for size in (32, 31):
        stamps = recon.datasets.open(image, catalogue=catalogue, size=size)
        batch = whole(stamps)
        assert batch.ids.tolist() == [7, 5, 9, 1]
        assert batch.y.shape == (4, 1, size, size)
        half = size // 2
        pixels = fits.getdata(image)
        for i, (x, y) in enumerate(zip(np.round(X[:3]).astype(int), np.round(Y[:3]).astype(int), strict=True)):
            assert batch.y[i, 0, half, half] == pixels[y, x]
        assert batch.flags[0] == 0
        assert batch.flags[1] == StampFlag.MASKED | StampFlag.NEIGHBOURS
        assert batch.weight[1, 0, half, half + 12] == 0
        assert batch.weight[1, 0, half, half] == pytest.approx(100)
        assert batch.flags[3] & StampFlag.TRUNCATED
        assert not batch.weight[3, 0, :, : half - 2].any()
        np.testing.assert_array_equal(stamps.positions[:, 0], np.floor(X + 0.5))
        assert stamps.units == "adu"


def test_jacobian_is_that_of_each_position(image, tmp_path):
    import galsim

    stamps = recon.datasets.open(image, catalogue=save_table(tmp_path / "cat.fits", x=X, y=Y), size=16)
    wcs = galsim.AstropyWCS(wcs=WCS(fits.getheader(image)))
    for i in range(4):
        local = wcs.jacobian(image_pos=galsim.PositionD(X[i] + 1, Y[i] + 1))
        expected = [[local.dudx, local.dudy], [local.dvdx, local.dvdy]]
        np.testing.assert_allclose(stamps.jacobian[i], expected, rtol=1e-6, atol=1e-8)


def test_positions_in_every_convention(image, tmp_path):
    expected = whole(recon.datasets.open(image, catalogue=save_table(tmp_path / "a.fits", x=X, y=Y), size=16)).y
    ra, dec = WCS(fits.getheader(image)).all_pix2world(X, Y, 0)
    tables = [
        save_table(tmp_path / "b.fits", NUMBER=np.arange(4), X_IMAGE=X + 1, Y_IMAGE=Y + 1),
        save_table(tmp_path / "c.ecsv", x=X, y=Y),
        save_table(tmp_path / "d.csv", RA=ra, DEC=dec),
    ]
    sextractor = tmp_path / "e.cat"
    rows = [f"{i + 1} {x + 1} {y + 1}" for i, (x, y) in enumerate(zip(X, Y, strict=True))]
    sextractor.write_text("# 1 NUMBER\n# 2 X_IMAGE\n# 3 Y_IMAGE\n" + "\n".join(rows) + "\n")
    for table in [*tables, sextractor]:
        stamps = recon.datasets.open(image, catalogue=table, size=16)
        np.testing.assert_array_equal(whole(stamps).y, expected, err_msg=str(table))
        assert any("positions from" in note for note in stamps.notes)


def test_position_that_is_no_number_or_off_the_image_keeps_its_row(image, tmp_path):
    x, y = X.copy(), Y.copy()
    x[1], y[2] = np.nan, 1e6
    batch = whole(recon.datasets.open(image, catalogue=save_table(tmp_path / "cat.fits", x=x, y=y), size=16))
    lost = StampFlag.TRUNCATED | StampFlag.ALL_MASKED | StampFlag.NO_FLUX | StampFlag.MASKED
    assert len(batch) == 4
    assert batch.flags[1] & lost == batch.flags[2] & lost == lost
    assert batch.flags[0] == 0


def test_gzip_arrays_and_other_files_give_the_same(image, tmp_path):
    catalogue = save_table(tmp_path / "cat.fits", x=X, y=Y)
    expected = whole(recon.datasets.open(image, catalogue=catalogue, size=32))
    with fits.open(image) as file:
        file.writeto(tmp_path / "field.fits.gz")
        np.save(tmp_path / "field.npy", file[0].data)
        np.save(tmp_path / "weight.npy", 1 / file["VARIANCE"].data)
        np.save(tmp_path / "labels.npy", file["SEGMENTATION"].data)
        np.save(tmp_path / "psf.npy", file["PSF"].data)
    others = {
        "psf": tmp_path / "psf.npy",
        "weight": tmp_path / "weight.npy",
        "segmentation": tmp_path / "labels.npy",
    }
    for path, options in (("field.fits.gz", {}), ("field.npy", others)):
        batch = whole(recon.datasets.open(tmp_path / path, catalogue=catalogue, size=32, **options))
        np.testing.assert_array_equal(batch.y, expected.y)
        np.testing.assert_allclose(batch.weight, expected.weight, rtol=1e-6)
        np.testing.assert_array_equal(batch.flags, expected.flags)
    np.save(tmp_path / "weight.npy", np.ones((3, 4)))
    with pytest.raises(ShapeError, match="weight that does not fit the image"):
        recon.datasets.open(image, catalogue=catalogue, weight=tmp_path / "weight.npy")


def test_detection_finds_the_objects(image):
    stamps = recon.datasets.open(image, size=24)
    assert any("detected by SEP" in note for note in stamps.notes)
    found = stamps.positions
    for x, y in [*zip(X, Y, strict=True), (72.0, 45.0)]:
        assert np.hypot(found[:, 0] - x, found[:, 1] - y).min() < 1.5
    assert len(found) < 10


def test_detection_of_an_array_knows_the_noise(image, tmp_path):
    np.save(tmp_path / "field.npy", fits.getdata(image))
    np.save(tmp_path / "psf.npy", gaussian_stamp(11, 1.2))
    batch = whole(recon.datasets.open(tmp_path / "field.npy", psf=tmp_path / "psf.npy", size=24))
    assert ((batch.sigma > 0.07) & (batch.sigma < 0.15)).all()
    np.save(tmp_path / "field.npy", np.zeros((64, 64), np.float32))
    with pytest.raises(DataError, match="no object was detected"):
        recon.datasets.open(tmp_path / "field.npy", psf=tmp_path / "psf.npy", size=24)


def test_detection_without_sep_says_what_to_install(image, monkeypatch):
    monkeypatch.setitem(sys.modules, "sep", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'recon-imaging\[galaxy\]'"):
        recon.datasets.open(image, size=24)


def test_catalogues_that_cannot_be_used(image, tmp_path):
    with pytest.raises(FileFormatError, match="no columns of positions; found a, b"):
        recon.datasets.open(image, catalogue=save_table(tmp_path / "cat.fits", a=X, b=Y))
    with pytest.raises(FileFormatError, match="no such file"):
        recon.datasets.open(image, catalogue=tmp_path / "none.fits")
    with pytest.raises(FileFormatError, match="holds no table"):
        recon.datasets.open(image, catalogue=image)
    (tmp_path / "bad.csv").write_text("x,y\n1,two\n3,4\n")
    with pytest.raises(FileFormatError, match="not numbers"):
        recon.datasets.open(image, catalogue=tmp_path / "bad.csv")
    np.save(tmp_path / "field.npy", fits.getdata(image))
    sky = save_table(tmp_path / "sky.fits", ra=X, dec=Y)
    with pytest.raises(DataError, match="no WCS"):
        recon.datasets.open(tmp_path / "field.npy", catalogue=sky, psf=tmp_path / "field.npy")
    with pytest.raises(OptionError, match="no PSF"):
        recon.datasets.open(tmp_path / "field.npy", catalogue=save_table(tmp_path / "cat.fits", x=X, y=Y))
    with pytest.raises(OptionError, match="at least one pixel"):
        recon.datasets.open(image, catalogue=tmp_path / "cat.fits", size=-1)


# MEDS


@pytest.fixture
def meds(tmp_path):
    write_meds(tmp_path / "meds.fits", [32, 48, 32], [2, 1, 2])
    return tmp_path / "meds.fits"


def test_coadd_of_boxes_of_several_sizes(meds):
    stamps = recon.datasets.open(meds)
    batch = whole(stamps)
    assert batch.ids.tolist() == [1, 2, 3]
    assert batch.y.shape == (3, 1, 48, 48)
    for i in range(3):
        assert batch.y[i, 0, 24, 24] == 100 * (i + 1), "the middle of a box is the middle of the stamp"
        assert batch.psf[i].flatten().argmax() == 24 * 48 + 24
    assert batch.weight[0, 0, 24, 24] == 4
    assert batch.weight[0, 0, 8, 8] == 0, "the neighbour in the corner of the box"
    assert not batch.weight[0, 0, :8].any(), "outside the box"
    assert (batch.flags & StampFlag.NEIGHBOURS != 0).all()
    np.testing.assert_allclose(stamps.jacobian[1], [[0.26, 0.01], [-0.02, 0.27]])


def test_chosen_epoch_and_objects_that_lack_it(meds):
    stamps = recon.datasets.open(meds, epoch=1, size=32)
    with pytest.warns(UserWarning, match="their objects are flagged"):
        batch = whole(stamps)
    assert batch.y[[0, 2], 0, 16, 16].tolist() == [101, 301]
    assert batch.weight[0, 0, 16, 16] == 5
    assert batch.ids.tolist() == [1, 2, 3]
    assert batch.flags[1] & StampFlag.ALL_MASKED
    assert any("1 objects lack" in note for note in stamps.notes)
    with pytest.raises(OptionError, match=r"no object has this epoch; found 2; expected 0 \(the coadd\) to 1"):
        recon.datasets.open(meds, epoch=2)


def test_meds_packed_in_any_way_gives_the_same(meds, tmp_path):
    expected = whole(recon.datasets.open(meds))
    with fits.open(meds) as file:
        file.writeto(tmp_path / "meds.fits.gz")
        packed = [
            fits.CompImageHDU(hdu.data, name=hdu.name, compression_type="GZIP_1", quantize_level=0)
            if isinstance(hdu, fits.ImageHDU)
            else hdu
            for hdu in file
        ]
        fits.HDUList(packed).writeto(tmp_path / "meds.fits.fz")
    for name in ("meds.fits.gz", "meds.fits.fz"):
        batch = whole(recon.datasets.open(tmp_path / name))
        np.testing.assert_array_equal(batch.y, expected.y)
        np.testing.assert_array_equal(batch.weight, expected.weight)
        np.testing.assert_array_equal(batch.psf, expected.psf)


def test_meds_whose_psfs_are_elsewhere(meds, tmp_path):
    with fits.open(meds) as file:
        fits.HDUList([hdu for hdu in file if hdu.name != "PSF"]).writeto(tmp_path / "without.fits")
    with pytest.raises(OptionError, match="has no PSFs"):
        recon.datasets.open(tmp_path / "without.fits")
    np.save(tmp_path / "psf.npy", gaussian_stamp(11, 1.2))
    assert recon.datasets.open(tmp_path / "without.fits", psf=tmp_path / "psf.npy").psf.shape == (1, 11, 11)


def test_meds_whose_table_points_past_the_end(meds, tmp_path):
    with fits.open(meds) as file:
        file["object_data"].data["start_row"][2, 0] = 10**6
        file.writeto(tmp_path / "bad.fits")
    with pytest.raises(FileFormatError, match="_CUTOUTS is shorter than the table says"):
        recon.datasets.open(tmp_path / "bad.fits")
