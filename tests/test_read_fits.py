"""FITS in: stamps with what belongs to them, pictures, odd and broken files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fits_stamps import N, image_file, opened, stamps_file, whole
from samples import gaussian_stamp, write_stamps

import recon
from recon.cli import main
from recon.datasets import Image, Stamps
from recon.datasets.fits_file import scan
from recon.datasets.fits_image import centred
from recon.datasets.stamp_cleaning import StampFlag
from recon.datasets.wcs import jacobians
from recon.physics.errors import DataError, FileFormatError, OptionError, ShapeError


@pytest.fixture
def path(tmp_path):
    return stamps_file(tmp_path)


# Stamps


def test_cube_with_psfs_weights_mask_and_ids(path):
    stamps = opened(path)
    assert isinstance(stamps, Stamps)
    batch = whole(stamps)
    with fits.open(path) as file:
        np.testing.assert_array_equal(batch.y[:, 0], file[0].data)
        np.testing.assert_array_equal(batch.weight[:, 0], file["WEIGHT"].data)
        np.testing.assert_allclose(batch.psf[:, 0], file["PSF"].data, rtol=2e-3)
    assert batch.ids.tolist() == [1000, 1001, 1002, 1003, 1004]
    assert stamps.units == "adu"
    assert stamps.pixel_scale == pytest.approx(0.2)
    assert not batch.flags.any()
    assert stamps.notes == ()


def test_gzip_gives_the_same(path, tmp_path):
    packed = tmp_path / "stamps.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    plain, zipped = opened(path), opened(packed)
    for start in (3, 0):  # back in the stream, too
        a, b = plain.batch(start, N), zipped.batch(start, N)
        for name in ("y", "psf", "weight"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert zipped.batch(1, 3).ids.tolist() == [1001, 1002]


def test_tile_compressed_cube(tmp_path):
    cube = np.random.default_rng(0).integers(0, 99, (N, 12, 12)).astype(np.int32)
    psf = fits.ImageHDU(gaussian_stamp(9, 1.2), name="PSF")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(cube, name="SCI"), psf]).writeto(tmp_path / "a.fits.fz")
    stamps = opened(tmp_path / "a.fits.fz")
    np.testing.assert_array_equal(stamps.batch(1, 4).y[:, 0], cube[1:4])


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<i4", ">i8", "<f4", ">f4", ">f8", "u2", "u4"])
def test_every_kind_of_number(dtype, tmp_path):
    cube = np.random.default_rng(0).integers(0, 120, (N, 12, 12)).astype(dtype)
    write_stamps(tmp_path / "a.fits", N, SCI=cube)
    np.testing.assert_array_equal(whole(opened(tmp_path / "a.fits")).y[:, 0], cube.astype(np.float32))


def test_scale_factors_and_blanks(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(36, dtype=np.int16).reshape(1, 6, 6))
    hdu.header["BLANK"] = 7
    hdu.writeto(tmp_path / "a.fits")
    raw = (tmp_path / "a.fits").read_bytes()
    card = b"BLANK   =                    7".ljust(80)
    scaled = b"BSCALE  =                  0.5".ljust(80) + b"BZERO   =                 10.0".ljust(80)
    (tmp_path / "a.fits").write_bytes(raw.replace(card + b"END".ljust(240), card + scaled + b"END".ljust(80)))
    image_file(tmp_path / "psf.fits", gaussian_stamp(9, 0.8))
    batch = whole(opened(tmp_path / "a.fits", psf=tmp_path / "psf.fits"))
    expected = np.arange(36) * 0.5 + 10
    expected[7] = 0
    np.testing.assert_allclose(batch.y.flatten(), expected)
    assert batch.flags.tolist() == [StampFlag.BAD_PIXELS]
    assert batch.weight.flatten()[7] == 0


@pytest.mark.parametrize(
    ("name", "of_sigma"), [("VARIANCE", np.square), ("ERR", np.asarray), ("IVAR", lambda s: 1 / s**2)]
)
def test_variance_and_error_become_weights(name, of_sigma, tmp_path):
    sigma = np.full((N, 12, 12), 0.5)
    plane = of_sigma(sigma)
    plane[1, 2, 3] = -1
    write_stamps(tmp_path / "a.fits", N, WEIGHT=None, **{name: plane})
    batch = whole(opened(tmp_path / "a.fits"))
    assert batch.weight[0].mean() == pytest.approx(4)
    assert batch.weight[1, 0, 2, 3] == 0
    assert batch.flags.tolist() == [0, StampFlag.BAD_WEIGHT | StampFlag.MASKED, 0, 0, 0]


def test_one_psf_one_weight_one_mask_for_all(tmp_path):
    mask = np.zeros((12, 12), np.uint8)
    mask[0] = 1
    write_stamps(tmp_path / "a.fits", N, PSF=gaussian_stamp(9, 1.2), WEIGHT=np.full((12, 12), 4.0), MASK=mask)
    batch = whole(opened(tmp_path / "a.fits"))
    assert batch.psf.shape == (1, 1, 9, 9)
    assert (batch.weight[:, 0, 1:] == 4).all()
    assert not batch.weight[:, 0, 0].any()


def test_psf_weight_and_mask_in_other_files(path, tmp_path):
    cube = fits.getdata(path)
    main_file = image_file(tmp_path / "a.fits", cube, BUNIT="adu")
    other = image_file(tmp_path / "psf.fits", gaussian_stamp(9, 1.2))
    weight = image_file(tmp_path / "w.fits", np.full(cube.shape, 9.0))
    mask = np.zeros(cube.shape, np.uint8)
    mask[2, 2, 2] = 1
    np.save(tmp_path / "mask.npy", mask)
    batch = whole(opened(main_file, psf=other, weight=weight, mask=tmp_path / "mask.npy"))
    assert batch.weight[2, 0, 2, 2] == 0
    assert batch.weight.max() == 9
    assert batch.psf.shape[0] == 1
    with pytest.raises(OptionError, match="no PSF belongs"):
        opened(main_file, weight=weight)


def test_psf_of_the_option_goes_before_that_of_the_file(path, tmp_path):
    image_file(tmp_path / "psf.fits", gaussian_stamp(7, 1.0))
    assert opened(path, psf=tmp_path / "psf.fits").psf.shape == (1, 7, 7)
    assert opened(path, psf=path).psf.shape == (N, 9, 9), "a file of stamps as the source of PSFs"


def test_an_extension_an_object(tmp_path):
    sizes = [(12, 12), (14, 13), (11, 12)]
    stamps = [100 * gaussian_stamp(size, 2.0) for size in sizes]
    psfs = [gaussian_stamp(size, 1.2) for size in (7, 9, 8)]
    for name, images in (("a", stamps), ("psf", psfs)):
        fits.HDUList([fits.PrimaryHDU(images[0]), *map(fits.ImageHDU, images[1:])]).writeto(tmp_path / f"{name}.fits")
    stamps = opened(tmp_path / "a.fits", psf=tmp_path / "psf.fits")
    batch = whole(stamps)
    assert batch.y.shape == (3, 1, 14, 13)
    assert batch.psf.shape == (3, 1, 9, 9)
    peaks = [int(image.argmax()) for image in batch.y.flatten(1)]
    assert peaks == [7 * 13 + 6] * 3, "the pixel n // 2 of each is that of all"
    assert batch.weight[0, 0, 0, 0] == 0
    assert any("several sizes" in note for note in stamps.notes)


def test_counts_that_do_not_match(tmp_path):
    psf = np.stack([gaussian_stamp(9, 1.2)] * (N - 1))
    write_stamps(tmp_path / "a.fits", N, PSF=psf)
    with pytest.raises(ShapeError, match=r"a\.fits: another number of PSFs than of stamps; found 4; expected 5"):
        opened(tmp_path / "a.fits")
    write_stamps(tmp_path / "a.fits", N, WEIGHT=np.ones((N + 1, 12, 12)))
    with pytest.raises(ShapeError, match="weight that does not fit"):
        opened(tmp_path / "a.fits")
    write_stamps(tmp_path / "a.fits", N)
    with fits.open(tmp_path / "a.fits") as file:
        file["OBJECTS"].data = file["OBJECTS"].data[:3]
        file.writeto(tmp_path / "b.fits")
    with pytest.raises(ShapeError, match="another number of rows"):
        opened(tmp_path / "b.fits")


def test_psf_of_another_pixel_scale(path, tmp_path):
    image_file(tmp_path / "psf.fits", gaussian_stamp(9, 1.2), PIXSCALE=0.05)
    with pytest.raises(DataError, match=r'another pixel scale than the stamps; found 0\.05" a pixel'):
        opened(path, psf=tmp_path / "psf.fits")


def test_missing_units_and_scale_are_noted(tmp_path):
    image_file(tmp_path / "a.fits", gaussian_stamp(12, 2.0))
    image_file(tmp_path / "psf.fits", gaussian_stamp(9, 1.2))
    stamps = opened(tmp_path / "a.fits", psf=tmp_path / "psf.fits")
    assert stamps.units is None
    assert stamps.jacobian is None
    assert [note.split(":")[0] for note in stamps.notes] == [
        "no unit of the pixels (BUNIT)",
        "no pixel scale",
        "no weights and no noise level",
    ]


@pytest.mark.filterwarnings("ignore::recon.physics.errors.PSFWarning")
def test_sheared_cosmos_stamp(shared_data):
    folder = shared_data / "galaxy"
    stamps = opened(folder / "cosmos-147246-g1_0.02.fits", psf=folder / "cosmos-147246-psf.fits")
    assert stamps.units == "ELECTRONS"
    assert stamps.pixel_scale == pytest.approx(0.396, rel=1e-3)
    batch = whole(stamps)
    assert batch.flags.tolist() == [0]
    assert batch.psf.shape == (1, 1, 101, 101)
    psfs = opened(folder / "cosmos-psfs.fits")
    assert isinstance(psfs, Image)
    assert psfs.pixels.shape == (100, 39, 39)
    with pytest.raises(FileFormatError, match="holds no image; found 1 tables"):
        opened(folder / "cosmos-catalog.fits")


# World coordinates


def test_jacobian_is_that_of_galsim(tmp_path):
    import galsim

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval, wcs.wcs.crpix = (150.4, 62.0), (6.0, 7.0)
    wcs.wcs.cd = np.array([[-1.2e-5, 5.5e-5], [5.4e-5, 1.3e-5]])
    image_file(tmp_path / "a.fits", gaussian_stamp(12, 2.0), **dict(wcs.to_header()))
    image_file(tmp_path / "psf.fits", gaussian_stamp(9, 1.2))
    ours = opened(tmp_path / "a.fits", psf=tmp_path / "psf.fits").jacobian[0]
    local = galsim.AstropyWCS(wcs=wcs).jacobian(image_pos=galsim.PositionD(7, 7))
    expected = [[local.dudx, local.dudy], [local.dvdx, local.dvdy]]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wcs", ["scale", "jacobian"])
def test_jacobian_of_a_file_by_galsim(wcs, tmp_path):
    import galsim

    made = galsim.PixelScale(0.26) if wcs == "scale" else galsim.JacobianWCS(0.2, 0.01, -0.02, 0.22)
    image = galsim.Image(gaussian_stamp(12, 2.0), wcs=made)
    image.write(str(tmp_path / "a.fits"))
    image_file(tmp_path / "psf.fits", gaussian_stamp(9, 1.2))
    local = made.jacobian()
    ours = opened(tmp_path / "a.fits", psf=tmp_path / "psf.fits").jacobian[0]
    np.testing.assert_allclose(ours, [[local.dudx, local.dudy], [local.dvdx, local.dvdy]], rtol=1e-9)


def test_header_without_coordinates():
    assert jacobians(fits.Header(), np.zeros(1), np.zeros(1)) is None
    assert jacobians({"CTYPE1": "RA---TAN", "CTYPE2": "GLON-CAR"}, np.zeros(1), np.zeros(1)) is None
    assert jacobians({"CTYPE1": 3, "PIXSCALE": "wide"}, np.zeros(1), np.zeros(1)) is None


# Broken files


def test_file_without_data(tmp_path):
    fits.PrimaryHDU().writeto(tmp_path / "a.fits")
    with pytest.raises(FileFormatError, match=r"a\.fits: the file holds no image; found headers without data"):
        opened(tmp_path / "a.fits")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated(kept, path, tmp_path):
    data = path.read_bytes()
    (tmp_path / "b.fits").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FileFormatError, match="truncated"):
        opened(tmp_path / "b.fits")
    packed = gzip.compress(data)
    (tmp_path / "b.fits.gz").write_bytes(packed[: int(kept * len(packed))])
    with pytest.raises(FileFormatError, match="truncated"):
        opened(tmp_path / "b.fits.gz")


def test_data_without_the_filling_are_whole(tmp_path):
    image_file(tmp_path / "a.fits", gaussian_stamp(12, 2.0))
    data = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(data[: 2880 + 12 * 12 * 4])
    np.testing.assert_array_equal(opened(tmp_path / "b.fits").pixels[0], gaussian_stamp(12, 2.0))


def test_shape_that_no_file_holds(tmp_path):
    image_file(tmp_path / "a.fits", np.zeros((1, 12, 12)))
    data = (
        (tmp_path / "a.fits").read_bytes().replace(b"NAXIS3  =                    1", b"NAXIS3  =           1000000000")
    )
    (tmp_path / "a.fits").write_bytes(data)
    with pytest.raises(FileFormatError, match="truncated"):
        opened(tmp_path / "a.fits")


# Pictures


@pytest.mark.parametrize("shape", [(13, 10), (3, 13, 10), (1, 4, 13, 10)])
def test_pictures_of_others(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    image = opened(image_file(tmp_path / "a.fits", pixels, BUNIT="Jy", OBJECT="M31"))
    assert isinstance(image, Image)
    found = np.stack(list(image.pixels))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, pixels.reshape(-1, 13, 10))
    assert image.unit == "Jy"
    assert image.header["OBJECT"] == "M31"


def test_centring_keeps_the_middle_pixel():
    for n in (5, 6):
        for m in (3, 4, 8, 9):
            image = np.zeros((n, n))
            image[n // 2, n // 2] = 1
            assert centred(image, (m, m)).argmax() == m // 2 * m + m // 2


# Memory and command line


STREAM = """
import resource, sys
import recon
stamps = recon.datasets.open(sys.argv[1])
total = 0.0
for i, batch in enumerate(stamps.batches(50)):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total += float(batch.y.sum())
print(len(stamps), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_files_larger_than_the_bound_are_streamed(tmp_path):
    n, size = 6000, 48
    one = (100 * gaussian_stamp(size, 2.0)).astype(">f4")
    psf = gaussian_stamp(size, 1.2).astype(">f4")
    path = tmp_path / "a.fits"
    with path.open("wb") as file:
        for name, image in (("", one), ("PSF", psf)):
            hdu = fits.ImageHDU(name=name) if name else fits.PrimaryHDU()
            hdu.header["BITPIX"], hdu.header["NAXIS"] = -32, 3
            for axis, length in enumerate((size, size, n), start=1):
                hdu.header.set(f"NAXIS{axis}", length, after="NAXIS" if axis == 1 else f"NAXIS{axis - 1}")
            file.write(hdu.header.tostring().encode())
            for _ in range(n):
                file.write(image.tobytes())
            file.write(b"\0" * (-file.tell() % 2880))
    bound = 20 << 20
    assert path.stat().st_size > 5 * bound
    done = subprocess.run([sys.executable, "-c", STREAM, path], capture_output=True, text=True, check=True, timeout=120)
    count, grown = map(int, done.stdout.split())
    assert count == n
    assert grown << 10 < bound


def test_info_says_what_the_stamps_are(path, capsys):
    assert main(["info", "--json", str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)[0]
    assert facts["kind"] == "galaxy stamps"
    assert facts["objects"] == N
    assert facts["pixel scale"] == '0.2"'
    assert facts["flags of the first 5"] == "none"
    assert main(["info", str(path)]) == 0
    assert "galaxy stamps" in capsys.readouterr().out


def test_info_with_the_psf_in_another_file(tmp_path, capsys):
    pixels = 100 * gaussian_stamp(12, 2.0)
    pixels[0, 0] = np.nan
    image_file(tmp_path / "a.fits", pixels)
    image_file(tmp_path / "psf.fits", 2 * gaussian_stamp(9, 1.2))
    assert main(["info", "--json", str(tmp_path / "a.fits"), "--psf", str(tmp_path / "psf.fits")]) == 0
    facts = json.loads(capsys.readouterr().out)[0]
    assert facts["flags of the first 1"] == "1 bad_pixels, 1 psf_normalised"
    assert "unit" in facts["not in the file"]


def test_stamps_are_no_raw_measurements(path):
    with pytest.raises(recon.ReconError):
        recon.datasets.save(opened(path), path.with_suffix(".nii"))
    assert [hdu.kind for hdu in scan(path)] == ["image", "image", "image", "image", "table"]
