"""Noise found in the data: its level where pixels are missing too, and the gain of Poisson noise."""

from __future__ import annotations

import pytest
import skimage.data
import torch
from skimage.restoration import estimate_sigma

from recon.calibration.image_noise import image_noise_level, poisson_gaussian_noise
from recon.physics.errors import CalibrationError


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.from_numpy(skimage.data.camera()[:256, :256].copy()).double()[None, None] / 255


@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_level_of_a_picture_as_scikit_image_has_it(picture, sigma, generator):
    y = picture + sigma * torch.randn(picture.shape, dtype=torch.float64, generator=generator)
    found = image_noise_level(y)
    assert found == pytest.approx(sigma, rel=0.08)
    assert found == pytest.approx(float(estimate_sigma(y[0, 0].numpy())), rel=0.05)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.15])
def test_level_where_pixels_are_missing(picture, keep, generator):
    known = torch.rand(picture.shape, generator=generator) < keep
    y = (picture + 0.1 * torch.randn(picture.shape, dtype=torch.float64, generator=generator)) * known
    assert image_noise_level(y, known) == pytest.approx(0.1, rel=0.25)


def test_too_few_pixels():
    with pytest.raises(CalibrationError, match=r"\(sigma\)"):
        image_noise_level(torch.zeros(1, 1, 5, 5))
    with pytest.raises(CalibrationError, match="side by side"):
        image_noise_level(torch.zeros(1, 1, 64, 64), torch.eye(64).bool()[None, None])


@pytest.mark.parametrize(("gain", "sigma"), [(0.02, 0.03), (0.05, 1e-3), (1e-4, 0.08)])
def test_gain_and_level_of_a_smooth_image(gain, sigma, generator):
    place = torch.linspace(0, 1, 256, dtype=torch.float64)
    clean = (0.1 + 0.9 * (place * place[:, None]))[None, None]
    y = gain * torch.poisson(clean / gain, generator=generator)
    y = y + sigma * torch.randn(y.shape, dtype=torch.float64, generator=generator)
    found = poisson_gaussian_noise(y)
    for level in (0.2, 0.9):  # what counts is the noise at each brightness
        expected, got = gain * level + sigma**2, found.gain * level + found.sigma**2
        assert got == pytest.approx(expected, rel=0.15)


def test_gain_of_a_photograph(picture, generator):
    y = 0.02 * torch.poisson(picture / 0.02, generator=generator)
    assert poisson_gaussian_noise(y).gain == pytest.approx(0.02, rel=0.3)


def test_images_that_do_not_tell():
    with pytest.raises(CalibrationError, match="one brightness"):
        poisson_gaussian_noise(torch.ones(1, 1, 128, 128))
    with pytest.raises(CalibrationError, match="too small"):
        poisson_gaussian_noise(torch.rand(1, 1, 32, 32))
