from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom

from recon.calibration import (
    noise_covariance,
    noise_covariance_from_kspace,
    noise_level,
    whiten,
    whitening_matrix,
)
from recon.physics.errors import CalibrationError, ShapeError
from recon.physics.fft import fft_centred


def gaussian(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Complex noise whose real part has variance 1."""
    return math.sqrt(2) * torch.randn(*shape, dtype=torch.complex64, generator=generator)


def head(n: int = 128, coils: int = 8) -> torch.Tensor:
    """k-space of a smooth head (maximum 1) under smooth coils: ``(1, coil, n, n)``."""
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    phantom = shepp_logan_phantom()[8:-8:3, 8:-8:3][:n, :n]
    image = np.zeros((n, n))
    image[: phantom.shape[0], : phantom.shape[1]] = phantom
    k = fft_centred(torch.from_numpy(image) + 0j, (-2, -1))
    k = k * torch.from_numpy(np.exp(-8 * (y**2 + x**2)))  # a scanner's edges are not sharper than its point spread
    image = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k), norm="ortho")).real
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = np.stack([np.exp(-((y - np.sin(a)) ** 2 + (x - np.cos(a)) ** 2) / 1.5 + 1j * (a + x * y)) for a in angles])
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    return fft_centred(torch.from_numpy(maps) * image / image.max(), (-2, -1))[None].to(torch.complex64)


def lines(n: int, every: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, 1, n, dtype=torch.bool)
    mask[..., ::every] = True
    mask[..., n // 2 - 12 : n // 2 + 12] = True
    return mask


def test_whitening_makes_noise_white(generator: torch.Generator) -> None:
    mix = gaussian(generator, 6, 6)
    noise = mix @ gaussian(generator, 6, 20000)
    matrix = whitening_matrix(noise_covariance(noise))
    other = (mix @ gaussian(generator, 6, 20000))[None]
    white = whiten(other, matrix)[0]
    torch.testing.assert_close(white @ white.mH / 20000, torch.eye(6, dtype=torch.complex64), atol=0.05, rtol=0)
    assert white.real.std() == pytest.approx(1 / math.sqrt(2), rel=0.02)


def test_covariance_counts_both_parts(generator: torch.Generator) -> None:
    covariance = noise_covariance(3 * gaussian(generator, 2, 50000))
    torch.testing.assert_close(covariance.diagonal().real, torch.tensor([18.0, 18.0]), rtol=0.03, atol=0)


def test_corners_find_the_covariance_under_a_signal(generator: torch.Generator) -> None:
    mix = torch.eye(8, dtype=torch.complex64) + 0.15 * gaussian(generator, 8, 8)
    noise = torch.einsum("ij,bj...->bi...", mix, gaussian(generator, 1, 8, 128, 128))
    k = head() * 50 + noise
    matrix = whitening_matrix(noise_covariance_from_kspace(k))
    white = whiten(noise, matrix)[0].flatten(1)
    covariance = white @ white.mH / white.shape[1]
    eigenvalues = torch.linalg.eigvalsh(covariance)
    before = torch.linalg.eigvalsh(mix @ mix.mH)
    assert eigenvalues[-1] / eigenvalues[0] < 3 < before[-1] / before[0]


@pytest.mark.parametrize("snr", [1, 10, 100, 1000, 10000])
@pytest.mark.parametrize("every", [1, 4])
def test_noise_level_is_right_at_any_snr(snr: float, every: int, generator: torch.Generator) -> None:
    k = head()
    mask = lines(128, every)
    noisy = (k + gaussian(generator, *k.shape) / snr) * mask
    assert float(noise_level(noisy, mask)) * snr == pytest.approx(1, rel=0.1)


def test_noise_level_of_poisson_disc_without_a_mask(generator: torch.Generator) -> None:
    k = head()
    mask = torch.rand(1, 1, 128, 128, generator=generator) < 0.1
    assert float(noise_level((k + 0.01 * gaussian(generator, *k.shape)) * mask)) == pytest.approx(0.01, rel=0.1)


def test_noise_level_of_each_item_and_scale(generator: torch.Generator) -> None:
    k = head() + 0.01 * gaussian(generator, 1, 8, 128, 128)
    levels = noise_level(torch.cat([k, 7 * k]))
    assert float(levels[1] / levels[0]) == pytest.approx(7, rel=1e-4)


def test_sharp_edges_do_not_pass_for_noise(generator: torch.Generator) -> None:
    """The signal in the corners is twenty times the noise; the null space of the kernels tells them apart."""
    k = fft_centred(torch.from_numpy(shepp_logan_phantom()[::3, ::3].copy()) + 0j, (-2, -1))
    n = k.shape[-1]
    x = torch.linspace(-1, 1, n)
    weights = torch.stack([torch.exp(1j * p * x) * (1 + q * x) for p, q in ((0, 0), (1, 0.5), (-1, -0.5), (0.5, 0.8))])
    image = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k), norm="ortho"))
    k = fft_centred(image * weights[:, None], (-2, -1))[None].to(torch.complex64)
    sigma = 1e-3
    k = k + sigma * gaussian(generator, *k.shape)
    corner = k[0, :, :5, :5].abs().median() / 1.177
    assert corner > 5 * sigma
    assert float(noise_level(k)) == pytest.approx(sigma, rel=0.3)


def test_real_scan_agrees_with_its_empty_background(shared_data) -> None:
    data = np.fromfile(shared_data / "mri" / "kspace" / "brain-full-8ch.cfl", np.complex64)
    k = torch.from_numpy(data.reshape(8, 180, 230).transpose(0, 2, 1).copy())[None]
    image = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, (-2, -1)), norm="ortho"), (-2, -1))
    corners = torch.stack(
        [image[0, :, a, b] for a in (slice(0, 12), slice(-12, None)) for b in (slice(0, 12), slice(-12, None))]
    )
    background = (corners.abs().flatten(2).median(-1).values / math.sqrt(2 * math.log(2))).square().mean().sqrt()
    assert float(noise_level(k)) == pytest.approx(float(background), rel=0.1)


def test_too_few_samples_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(CalibrationError, match="70 samples of 8 coils"):
        noise_covariance(gaussian(generator, 8, 70))
    k = head()
    mask = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    mask[..., 60:63, 60:63] = True
    with pytest.raises(CalibrationError, match="too few samples"):
        noise_level(k * mask, mask)
    with pytest.raises(CalibrationError):
        noise_covariance_from_kspace(k * mask, mask)


def test_dead_coil_is_refused(generator: torch.Generator) -> None:
    noise = gaussian(generator, 4, 100)
    noise[2] = 0
    with pytest.raises(CalibrationError, match="singular"):
        whitening_matrix(noise_covariance(noise))


def test_whitening_matrix_must_fit(generator: torch.Generator) -> None:
    with pytest.raises(ShapeError):
        whiten(gaussian(generator, 1, 4, 8, 8), torch.eye(3, dtype=torch.complex64))
