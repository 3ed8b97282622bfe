"""Simulated galaxies: the recipe's numbers, the drawing against galsim's, determinism, catalogues."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import galsim
import numpy as np
import pytest
import torch
from astropy.io import fits

from recon.datasets.galaxies import (
    EUCLID,
    JWST,
    LETTER_CAMERA,
    LSST,
    LSST_POISSON,
    ROMAN,
    Camera,
    CatalogueGalaxies,
    Noise,
    ParametricGalaxies,
    PowerLaw,
    PSFError,
    PSFModel,
    Ring,
    SeeingNormal,
    SeeingTable,
    simulate_galaxies,
)
from recon.datasets.galaxies.profiles import Galaxy
from recon.datasets.galaxies.rendering import galaxy_grid, galaxy_transform, psf_grid, psf_stamp_and_transform
from recon.physics import PSFConvolution
from recon.physics.errors import FileFormatError, OptionError

# Seeing alone draws fast, and its transform is known.
SEEING = replace(LSST, psf=PSFModel(seeing=SeeingTable(), ellipticity=(0.01, 0.03)))


class OneGalaxy:
    """A source that gives a round exponential each time."""

    def draw(self, rng: np.random.Generator, index: int, split: str) -> Galaxy:
        return Galaxy(profile=galsim.Exponential(half_light_radius=0.5), kind="sersic", index=index, g1=0.0, g2=0.0)


# --- the recipe's numbers ---------------------------------------------------------------------------------------


def test_noise_of_the_letter() -> None:
    assert LETTER_CAMERA.noise(0.2).sky == pytest.approx(349.47, abs=0.01)
    assert LSST.noise.sigma == pytest.approx(19.037, abs=5e-4)


def test_noise_of_the_authors_later_recipe() -> None:
    camera = Camera(
        exposure=30,
        zero_point=28.17,
        sky_magnitude=20.46,
        quantum_efficiency=0.94,
        read_noise=8.8,
        reads=2,
        dark=0.2,
    )
    assert camera.noise(0.2).sigma == pytest.approx(39.11, abs=0.01)
    assert replace(camera, gain=2.0).noise(0.2).sigma == pytest.approx(39.11 / 2, abs=0.01)


@pytest.mark.parametrize("survey", [LSST, LSST_POISSON], ids=lambda survey: survey.name)
def test_requested_snr_is_met(survey) -> None:
    sample = simulate_galaxies(3, survey, snr=40.0)
    snr = np.sqrt(np.sum(sample.truth.astype(float) ** 2, axis=(1, 2))) / survey.noise.sigma
    np.testing.assert_allclose(snr, 40, rtol=1e-5)
    np.testing.assert_allclose(sample.catalogue["snr"], 40, rtol=1e-5)


def test_distributions(rng) -> None:
    snr = np.array([LSST.snr.draw(rng) for _ in range(4000)])
    assert snr.min() >= 18
    assert snr.max() <= 220
    median = (0.5 * (18**0.3 + 220**0.3)) ** (1 / 0.3)
    assert np.median(snr) == pytest.approx(median, rel=0.06)
    shear = np.array([LSST.shear.draw(rng) for _ in range(4000)])  # p(g) proportional to g
    assert np.mean(shear**2) == pytest.approx((0.05**4 - 0.01**4) / (0.05**2 - 0.01**2) / 2, rel=0.03)
    assert PowerLaw(1.0, 100.0, -1.0).draw(rng) > 1
    seeing = np.array([SeeingTable().draw(rng) for _ in range(4000)])
    assert 0.45 <= seeing.min() < 0.5
    assert np.median(seeing) == pytest.approx(0.66, abs=0.03)
    normal = np.array([SeeingNormal(0.67, 0.18).draw(rng) for _ in range(4000)])
    assert normal.mean() == pytest.approx(0.67, abs=0.02)
    assert normal.min() > 0.2


# --- drawing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [48, 31])
@pytest.mark.parametrize(
    "profile", [galsim.Exponential(half_light_radius=0.5), galsim.DeVaucouleurs(half_light_radius=0.5)]
)
def test_galaxy_is_drawn_as_galsim_does(n: int, profile) -> None:
    grid = galaxy_grid(n, 0.2)
    galaxy = Galaxy(profile=profile, kind="sersic", index=0)
    matrix = galsim.Shear(g1=0.2, g2=-0.1).getMatrix()
    ours = grid.stamp(galaxy_transform(galaxy, grid, matrix, (0.07, -0.03), 0.15) * grid.pixel)
    moved = galsim.Convolve(profile, galsim.Gaussian(fwhm=0.15)).shear(g1=0.2, g2=-0.1).shift(0.07, -0.03)
    middle = 0.5 if n % 2 == 0 else 0.0
    theirs = moved.drawImage(nx=n, ny=n, scale=0.2, offset=(middle, middle), dtype=float).array
    assert np.abs(ours - theirs).max() < 3e-4 * theirs.max()


def test_knots_are_where_galsim_puts_them() -> None:
    grid = galaxy_grid(48, 0.2)
    knots = np.array([[0.5, -0.2, 0.3], [-0.8, 0.6, 0.7]])
    galaxy = Galaxy(profile=galsim.Gaussian(sigma=0.4, flux=1e-12), knots=knots, kind="knots", index=0)
    matrix = np.array([[0.9, 0.3], [-0.2, 1.1]])
    ours = grid.stamp(galaxy_transform(galaxy, grid, matrix, (0.0, 0.0), 0.4) * grid.pixel)
    spot = galsim.Gaussian(fwhm=0.4)
    theirs = galsim.Add([spot.shift(*k[:2]) * k[2] for k in knots])
    theirs = theirs.transform(*matrix.ravel()) / np.linalg.det(matrix)
    theirs = theirs.drawImage(nx=48, ny=48, scale=0.2, offset=(0.5, 0.5), dtype=float).array
    assert np.abs(ours - theirs).max() < 1e-4 * theirs.max()


@pytest.mark.parametrize("n", [48, 33])
def test_psf_sums_to_one_and_is_centred(n: int) -> None:
    grid = psf_grid(n, 0.2)
    profile = galsim.Kolmogorov(fwhm=0.7)
    stamp, transform = psf_stamp_and_transform(profile, grid)
    assert stamp.sum() == pytest.approx(1, abs=1e-12)
    assert np.unravel_index(stamp.argmax(), stamp.shape) == (n // 2, n // 2)
    middle = 0.5 if n % 2 == 0 else 0.0
    theirs = profile.drawImage(nx=n, ny=n, scale=0.2, offset=(middle, middle), dtype=float).array
    assert np.abs(stamp - theirs / theirs.sum()).max() < 2e-3 * theirs.max()
    # the transform belongs to the stamp: what is convolved is what a method is told
    np.testing.assert_allclose(grid.stamp(transform), stamp, atol=1e-6)


def test_observation_is_psf_times_truth() -> None:
    sample = simulate_galaxies(20, LSST, snr=1e6)
    physics = PSFConvolution(torch.from_numpy(sample.psf)[:, None])
    y = physics.A(torch.from_numpy(sample.truth)[:, None])[:, 0].numpy()
    assert (np.abs(y - sample.observed).max((1, 2)) < 6e-3 * sample.observed.max((1, 2))).all()
    alone = simulate_galaxies(2, SEEING, galaxies=OneGalaxy(), snr=1e6)  # whose light is in the stamp
    np.testing.assert_allclose(alone.observed.sum((1, 2)), alone.truth.sum((1, 2)), rtol=1e-3)
    np.testing.assert_allclose(alone.truth.sum((1, 2)), alone.catalogue["flux"], rtol=1e-3)


def test_target_resolution() -> None:
    truth = simulate_galaxies(1, replace(SEEING, target_fwhm=0.4, resolution=0.05), galaxies=OneGalaxy(), snr=10).truth
    row = simulate_galaxies(1, SEEING, galaxies=OneGalaxy(), snr=10).catalogue[0]
    factor = math.sqrt(row["magnification"])
    blurred = galsim.Convolve(
        galsim.Exponential(half_light_radius=0.5 * factor).shear(g1=row["g1"], g2=row["g2"]),
        galsim.Gaussian(fwhm=0.4),
        galsim.Gaussian(fwhm=0.05),
    ).shift(row["x_offset"], row["y_offset"])
    theirs = blurred.drawImage(nx=48, ny=48, scale=0.2, offset=(0.5, 0.5), method="no_pixel", dtype=float).array
    assert np.abs(truth[0] / truth.sum() - theirs / theirs.sum()).max() < 1e-3 * theirs.max()


@pytest.mark.parametrize("survey", [EUCLID, ROMAN, JWST], ids=lambda survey: survey.name)
def test_space_telescopes_have_their_resolution(survey) -> None:
    sample = simulate_galaxies(1, survey, snr=100)
    psf = sample.psf[0].astype(float)
    expected = {"euclid": 0.725 / 1.2, "roman": 1.58 / 2.37, "jwst": 1.5 / 6.5}[survey.name] * 0.2062648  # lambda/D
    # of an Airy pattern, the peak over the sum is pi/4 (1 - obscuration^2) per (lambda/D)^2
    peak = psf.max() / survey.pixel_scale**2  # lowered by the pixel and by aberrations
    assert 0.5 < peak / (math.pi / 4 / expected**2) < 1
    assert np.unravel_index(psf.argmax(), psf.shape) == (survey.n // 2, survey.n // 2)
    assert psf.sum() == pytest.approx(1, abs=1e-5)


# --- randomness -------------------------------------------------------------------------------------------------


def test_galaxy_depends_on_seed_and_number_alone() -> None:
    whole = simulate_galaxies(5, SEEING, seed=3)
    part = simulate_galaxies(2, SEEING, seed=3, start=3)
    for name in ("observed", "truth", "psf"):
        np.testing.assert_array_equal(getattr(whole, name)[3:], getattr(part, name))
    assert (whole.catalogue[3:] == part.catalogue).all()
    assert not np.array_equal(simulate_galaxies(1, SEEING, seed=4).truth, whole.truth[:1])


def test_processes_change_nothing() -> None:
    alone = simulate_galaxies(66, SEEING, galaxies=OneGalaxy())
    shared = simulate_galaxies(66, SEEING, galaxies=ParametricGalaxies(), workers=2)
    again = simulate_galaxies(66, SEEING)
    np.testing.assert_array_equal(shared.observed, again.observed)
    np.testing.assert_array_equal(alone.psf, shared.psf)  # the source of galaxies leaves the other streams alone


def test_other_snr_keeps_galaxy_psf_and_noise() -> None:
    low, high = (simulate_galaxies(2, SEEING, snr=snr) for snr in (20.0, 40.0))
    np.testing.assert_allclose(high.truth, 2 * low.truth, rtol=1e-5)
    np.testing.assert_array_equal(high.psf, low.psf)
    physics = PSFConvolution(torch.from_numpy(low.psf)[:, None])
    noise = [s.observed - physics.A(torch.from_numpy(s.truth)[:, None])[:, 0].numpy() for s in (low, high)]
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] > 0.999


def test_splits_share_no_galaxy() -> None:
    truths = [simulate_galaxies(1, SEEING, split=split, snr=20.0).truth for split in ("train", "validation", "test")]
    assert not any(np.allclose(truths[i], truths[j], rtol=0.01) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_gaussian_noise_has_its_level() -> None:
    sample = simulate_galaxies(8, SEEING, snr=1e-3)
    assert sample.observed.std() == pytest.approx(LSST.noise.sigma, rel=0.02)


def test_poisson_noise_keeps_the_sky_and_grows_with_light() -> None:
    survey = replace(LSST_POISSON, psf=SEEING.psf, noise=Noise(sky=40, read=5.0, gain=2.0, poisson=True))
    sample = simulate_galaxies(12, survey, snr=1e-3)
    assert sample.observed.mean() == pytest.approx(40, rel=0.01)
    assert sample.observed.var() == pytest.approx(40 / 2 + 25, rel=0.05)
    bright = simulate_galaxies(12, survey, galaxies=OneGalaxy(), snr=1e4)
    expected = PSFConvolution(torch.from_numpy(bright.psf)[:, None]).A(torch.from_numpy(bright.truth)[:, None])[:, 0]
    core = expected.numpy() > 0.2 * expected.numpy().max()
    residual = (bright.observed - 40 - expected.numpy())[core]
    assert residual.var() == pytest.approx(expected.numpy()[core].mean() / 2, rel=0.25)


# --- shear, rings and wrong PSFs --------------------------------------------------------------------------------


def test_ring_cancels_and_shows_the_shear() -> None:
    round_ones = ParametricGalaxies(ellipticity=0.05)
    sample = simulate_galaxies(2, replace(SEEING, offset=0.0), galaxies=round_ones, ring=Ring(g1=0.02), snr=1e5)
    rows = sample.catalogue
    assert len(sample) == 16
    assert rows["galaxy"].tolist() == [0] * 8 + [1] * 8
    assert rows["g1"].tolist() == ([0.02] * 4 + [-0.02] * 4) * 2
    assert abs(rows["intrinsic_g1"][:4].sum()) < 1e-12
    assert len(set(rows["id"])) == 16
    # unweighted moments of the truth turn by the shear: the rings' means differ by 2 g times 2 in distortion
    grid = np.arange(48) - 24.0
    e1 = []
    for members in (sample.truth[:4], sample.truth[4:8]):
        image = members.astype(float)
        qxx, qyy = (image * grid**2).sum((1, 2)), (image * grid[:, None] ** 2).sum((1, 2))
        e1.append(np.mean((qxx - qyy) / (qxx + qyy)))
    assert e1[0] - e1[1] == pytest.approx(0.08, rel=0.08)
    assert abs(e1[0] + e1[1]) < 0.01


def test_pairs_share_their_noise() -> None:
    sample = simulate_galaxies(1, SEEING, galaxies=OneGalaxy(), ring=Ring(rotations=2), snr=1e-4)
    np.testing.assert_allclose(sample.observed[0], sample.observed[2], atol=0.1)
    assert np.abs(sample.observed[0] - sample.observed[1]).max() > 10


def test_wrong_psf_is_given_and_the_image_is_right() -> None:
    right = simulate_galaxies(3, SEEING)
    wrong = simulate_galaxies(3, SEEING, psf_error=PSFError(shear=0.1))
    np.testing.assert_array_equal(right.observed, wrong.observed)
    assert np.abs(right.psf - wrong.psf).max() > 0.01 * right.psf.max()
    sharper = simulate_galaxies(6, SEEING, psf_error=PSFError(fwhm=0.1)).psf.max((1, 2))
    changed = sharper / simulate_galaxies(6, SEEING).psf.max((1, 2))
    assert (changed > 1.1).any()
    assert (changed < 0.9).any()
    with pytest.raises(OptionError, match="does not fit the seeing"):
        simulate_galaxies(1, EUCLID, psf_error=PSFError(fwhm=0.1))


# --- catalogues -------------------------------------------------------------------------------------------------


def test_parametric_catalogue(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "galaxy"
    file = tmp_path / "real_galaxy_catalog_23.5_example.fits"
    shutil.copy(folder / "cosmos-catalog.fits", file)
    shutil.copy(folder / "cosmos-parametric-fits.fits", tmp_path / "real_galaxy_catalog_23.5_example_fits.fits")
    source = CatalogueGalaxies(file=file, parametric=True)
    assert len(source) == 100
    rows = {
        split: set(simulate_galaxies(4, SEEING, galaxies=source, split=split).catalogue["row"])
        for split in ("train", "validation", "test")
    }
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    assert [source.draw(np.random.default_rng(), i, "test").index for i in (0, 30)] == [
        source.draw(np.random.default_rng(), 0, "test").index
    ] * 2  # 30 of 100 belong to the test


def test_images_of_a_catalogue_are_used_at_their_resolution(tmp_path: Path) -> None:
    galaxy, psf = galsim.Exponential(half_light_radius=0.5), galsim.Gaussian(fwhm=0.12)
    seen = galsim.Convolve(galaxy, psf).drawImage(nx=160, ny=160, scale=0.03).array
    psf_image = psf.drawImage(nx=41, ny=41, scale=0.03).array
    fits.HDUList([fits.PrimaryHDU(seen)] + [fits.ImageHDU(seen)] * 9).writeto(tmp_path / "images.fits")
    fits.HDUList([fits.PrimaryHDU(psf_image)] + [fits.ImageHDU(psf_image)] * 9).writeto(tmp_path / "psfs.fits")
    fits.PrimaryHDU(np.eye(9)[4] * np.eye(9)[4][:, None]).writeto(tmp_path / "noise.fits")
    number = np.arange(10)
    columns = {
        "IDENT": number,
        "MAG": np.full(10, 22.0),
        "BAND": np.full(10, "F814W"),
        "WEIGHT": np.ones(10),
        "GAL_FILENAME": np.full(10, "images.fits"),
        "PSF_FILENAME": np.full(10, "psfs.fits"),
        "NOISE_FILENAME": np.full(10, "noise.fits"),
        "GAL_HDU": number,
        "PSF_HDU": number,
        "PIXEL_SCALE": np.full(10, 0.03),
        "NOISE_MEAN": np.zeros(10),
        "NOISE_VARIANCE": np.full(10, 1e-12),
    }
    from astropy.table import Table

    Table(columns).write(tmp_path / "catalog.fits")
    sample = simulate_galaxies(1, SEEING, galaxies=CatalogueGalaxies(file=tmp_path / "catalog.fits"), snr=100)
    row = sample.catalogue[0]
    factor = math.sqrt(row["magnification"])
    expected = galsim.Convolve(galaxy, psf, galsim.Pixel(0.03), galsim.Gaussian(fwhm=0.25))
    expected = expected.rotate(row["rotation"] * galsim.radians).dilate(factor).shear(g1=row["g1"], g2=row["g2"])
    expected = expected.shift(row["x_offset"], row["y_offset"])
    theirs = expected.drawImage(nx=48, ny=48, scale=0.2, offset=(0.5, 0.5), method="no_pixel", dtype=float).array
    assert np.abs(sample.truth[0] / sample.truth.sum() - theirs).max() < 0.01 * theirs.max()


def test_catalogue_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such catalogue"):
        simulate_galaxies(1, SEEING, galaxies=CatalogueGalaxies(file=tmp_path / "nowhere.fits"))
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="no COSMOS catalogue"):
        simulate_galaxies(1, SEEING, galaxies=CatalogueGalaxies(file=bad))
