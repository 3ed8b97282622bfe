"""Responses to shear in the catalogue, and the mean shear that they give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import recon
from recon.datasets import Source, Stamps
from recon.datasets.galaxies import GalaxySample, Ring, simulate_galaxies
from recon.galaxies import plan as planning
from recon.galaxies.catalogue import ObjectFlag
from recon.galaxies.responses import NAMES
from recon.physics.errors import OptionError, ShapeError
from recon.shear import adaptive_moments, mean_shear, shear_responses

G = 0.02


@pytest.fixture(scope="module")
def ring() -> GalaxySample:
    return simulate_galaxies(4, snr=3000, seed=5, ring=Ring(g1=G), split="test")


def stamps(sample: GalaxySample, chosen: np.ndarray) -> Stamps:
    return Stamps(
        pixels=sample.observed[chosen],
        psf=sample.psf[chosen],
        sigma=sample.catalogue["sigma"][chosen],
        source=Source("array"),
    )


def measured(data: Stamps) -> recon.StampResult:
    return recon.reconstruct(data, model="wiener", replicas=0, responses=True)


def test_half_the_difference_of_both_signs_is_the_shear(ring: GalaxySample) -> None:
    """Shapes cancel, and noise is little, so that what is left is the calibration."""
    results = [measured(stamps(ring, ring.catalogue["g1"] * sign > 0)) for sign in (1, -1)]
    plus, minus = (result.mean_shear() for result in results)
    assert plus.number == minus.number == 16
    assert (plus.g1 - minus.g1) / 2 == pytest.approx(G, rel=0.01)
    assert (plus.g2 - minus.g2) / 2 == pytest.approx(0, abs=0.01 * G)
    naive = (np.mean(results[0].catalogue["g1"]) - np.mean(results[1].catalogue["g1"])) / 2
    assert abs(naive / G - 1) > 0.05  # what it is without


def test_it_is_what_recon_shear_gives(ring: GalaxySample, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stamps(ring, ring.catalogue["g1"] > 0)
    found = measured(data).mean_shear()
    batch = data.batch(0, data.n)
    direct = mean_shear(
        shear_responses(
            batch.y,
            batch.psf,
            batch.sigma,
            lambda x, _: adaptive_moments(x),
            recon.load_model("wiener"),
            ids=torch.arange(data.n),
        )
    )
    assert (found.g1, found.g2) == pytest.approx((direct.g1, direct.g2), rel=1e-3)
    assert found.g1_error == pytest.approx(direct.g1_error, rel=1e-3)
    monkeypatch.setattr(planning, "_PIXELS", 6 * 48 * 48)  # in parts it is the same
    assert measured(data).mean_shear().g1 == pytest.approx(found.g1, rel=1e-4)


def test_bad_objects_have_none_and_others_keep_theirs(ring: GalaxySample, tmp_path) -> None:
    data = stamps(ring, np.arange(6))
    first = measured(data).catalogue
    pixels, psf = data.pixels.copy(), data.psf.copy()
    pixels[1], pixels[2], psf[3] = np.nan, 0, np.nan
    with pytest.warns(UserWarning, match="PSF"):
        result = recon.reconstruct(
            replace(data, pixels=pixels, psf=psf), model="wiener", replicas=0, responses=True, spool=tmp_path / "spool"
        )
    for name in NAMES:
        assert np.isnan(result.catalogue[name]).tolist() == [False, True, True, True, False, False]
        np.testing.assert_allclose(result.catalogue[name][[0, 4, 5]], first[name][[0, 4, 5]], rtol=1e-4, atol=1e-5)
    assert result.catalogue["flags"][3] & ObjectFlag.BAD_PSF
    assert result.mean_shear().number == 3


def test_a_masked_pixel_does_not_spoil_the_responses(ring: GalaxySample) -> None:
    data = stamps(ring, np.arange(4))
    mask = np.zeros(data.pixels.shape, np.uint8)
    mask[:, 20, 27] = 1
    spoiled = data.pixels.copy()
    spoiled[:, 20, 27] = 1e6
    masked = measured(replace(data, pixels=spoiled, mask=mask)).catalogue
    whole = measured(data).catalogue
    for name in ("r11", "r22"):
        np.testing.assert_allclose(masked[name], whole[name], atol=0.1)


def test_refused(ring: GalaxySample) -> None:
    data = stamps(ring, np.arange(2))
    with pytest.raises(ShapeError, match="square"):
        measured(replace(data, pixels=data.pixels[:, :40]))
    with pytest.raises(OptionError, match="responses=True"):
        recon.reconstruct(data, model="wiener", replicas=0).mean_shear()
