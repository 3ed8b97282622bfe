"""Convolution by a PSF: against direct sums, galsim and deepinv; its centre, flux, sizes, gradients, noise."""

from __future__ import annotations

import warnings

import galsim
import numpy as np
import pytest
import torch
from deepinv.physics import BlurFFT
from deepinv.physics.noise import GaussianNoise
from scipy.signal import convolve2d

from recon.physics import PSFConvolution, SkyNoise
from recon.physics import psf as psf_module
from recon.physics.errors import DataError, DTypeError, OptionError, PSFWarning, ShapeError


def random_psf(generator, *shape):
    psf = torch.rand(*shape, dtype=torch.float64, generator=generator)
    return psf / psf.sum((-2, -1), keepdim=True)


def direct(x, psf):
    """The sum over pixels, the centre of the PSF at n // 2."""
    out = np.zeros_like(x)
    cy, cx = psf.shape[0] // 2, psf.shape[1] // 2
    full = convolve2d(x, psf)
    return out + full[cy : cy + x.shape[0], cx : cx + x.shape[1]]


@pytest.mark.parametrize("stamp", [(12, 12), (13, 9)])
@pytest.mark.parametrize("size", [(1, 1), (5, 5), (4, 6), (12, 12), (30, 31), (101, 100)])
def test_is_the_direct_sum_for_any_size(stamp, size, generator):
    x = torch.randn(2, 1, *stamp, dtype=torch.float64, generator=generator)
    psf = random_psf(generator, 2, 1, *size)
    y = PSFConvolution(psf, stamp).A(x)
    for i in range(2):
        np.testing.assert_allclose(y[i, 0], direct(x[i, 0].numpy(), psf[i, 0].numpy()), atol=1e-12)


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("size", [5, 8, 21, 48])
def test_a_delta_at_half_the_size_is_the_identity(n, size, generator):
    psf = torch.zeros(1, 1, size, size, dtype=torch.float64)
    psf[..., size // 2, size // 2] = 1
    x = torch.randn(3, 1, n, n, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(PSFConvolution(psf).A(x), x)


def test_moves_with_the_object(generator):
    x = torch.zeros(1, 1, 30, 30, dtype=torch.float64)
    x[..., 10:15, 12:17] = torch.rand(5, 5, dtype=torch.float64, generator=generator)
    physics = PSFConvolution(random_psf(generator, 1, 1, 6, 7))
    moved = physics.A(x.roll((4, -3), (-2, -1)))
    torch.testing.assert_close(moved, physics.A(x).roll((4, -3), (-2, -1)))


def test_keeps_the_flux_of_what_stays_inside(generator):
    x = torch.zeros(1, 1, 48, 48)
    x[..., 20:28, 20:28] = torch.rand(8, 8, generator=generator)
    y = PSFConvolution(random_psf(generator, 1, 1, 16, 17).float()).A(x)
    torch.testing.assert_close(y.sum(), x.sum())
    assert y[..., :4, :].abs().max() < 1e-6, "light wrapped round"


def test_agrees_with_deepinv_on_padded_stamps(generator):
    x = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
    x[..., 8:24, 8:24] = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=generator)
    psf = random_psf(generator, 1, 1, 9, 9)
    circular = BlurFFT(img_size=(1, 32, 32), filter=psf)
    torch.testing.assert_close(PSFConvolution(psf).A(x), circular.A(x))


@pytest.mark.parametrize("n", [48, 49])
@pytest.mark.parametrize("n_psf", [48, 63])
def test_agrees_with_the_drawing_of_galsim(n, n_psf):
    scale = 0.2
    galaxy = galsim.Gaussian(half_light_radius=0.7, flux=500.0).shear(g1=0.2, g2=-0.1).shift(0.13, -0.3)
    psf = galsim.Gaussian(fwhm=0.8).shear(g1=-0.05, g2=0.08)

    def draw(profile, size):
        image = profile.drawImage(nx=size, ny=size, scale=scale, method="no_pixel", use_true_center=False)
        return torch.from_numpy(image.array.astype(np.float64))[None, None]

    physics = PSFConvolution(draw(psf, n_psf))
    expected = draw(galsim.Convolve(galaxy, psf), n)
    assert (physics.A(draw(galaxy, n)) - expected).abs().max() < 2e-5 * expected.max()


def test_closed_form_solves_the_padded_equations(generator):
    psf = random_psf(generator, 2, 1, 5, 4)
    physics = PSFConvolution(psf, (8, 8))
    rhs = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=generator)
    rho = torch.tensor([0.3, 2.0], dtype=torch.float64)
    Y, X = physics.grid((8, 8))
    wide = PSFConvolution(psf, (2 * Y, 2 * X))  # on it, a sky of the size of the grid meets no edge
    x = physics.solve(rhs, rho)
    for i in range(2):
        circulant = np.empty((Y * X, Y * X))
        for column in range(Y * X):
            unit = torch.zeros(1, 1, Y, X, dtype=torch.float64)
            unit.view(-1)[column] = 1
            tiled = unit.repeat(1, 1, 2, 2)
            out = wide.A(tiled.expand(2, -1, -1, -1))[i, 0].numpy()
            circulant[:, column] = (
                out[Y // 2 : Y // 2 + Y, X // 2 : X // 2 + X]
                .take((np.arange(Y) - Y // 2) % Y, 0)
                .take((np.arange(X) - X // 2) % X, 1)
                .ravel()
            )
        normal = circulant.T @ circulant + float(rho[i]) * np.eye(Y * X)
        padded = np.zeros((Y, X))
        padded[:8, :8] = rhs[i, 0]
        exact = np.linalg.solve(normal, padded.ravel()).reshape(Y, X)[:8, :8]
        np.testing.assert_allclose(x[i, 0], exact, atol=1e-10)
    torch.testing.assert_close(physics.solve(rhs, rho.view(2, 1, 1, 1)), x)
    torch.testing.assert_close(physics.solve(rhs, 0.3)[:1], x[:1])


def test_transfer_function_is_that_of_the_grid(generator):
    psf = random_psf(generator, 3, 1, 6, 6)
    physics = PSFConvolution(psf)
    Y, X = physics.grid((48, 40))
    H = physics.transfer((48, 40))
    assert H.shape == (3, 1, Y, X // 2 + 1)
    assert Y >= 48 + 6 - 1
    torch.testing.assert_close(H[..., 0, 0].real, torch.ones(3, 1, dtype=torch.float64))
    assert physics.transfer((48, 40), torch.float32).dtype == torch.complex64


def test_padded_grid_is_no_larger_than_needed():
    def grid(n, h):
        return PSFConvolution(torch.full((1, 1, h, h), 1 / h**2, dtype=torch.float64)).grid((n, n))

    assert grid(48, 48) == (96, 96)
    assert grid(48, 5) == (54, 54)
    assert grid(48, 301)[0] < 48 + 301 - 1


def test_transfer_functions_are_made_once(generator, monkeypatch):
    made = []
    plain = psf_module._transfer
    monkeypatch.setattr(psf_module, "_transfer", lambda *a: made.append(1) or plain(*a))
    physics = PSFConvolution(random_psf(generator, 2, 1, 9, 9), (16, 16))
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64, generator=generator)
    for _ in range(3):
        physics.A_adjoint(physics.solve(physics.A(x), 0.1))
    assert len(made) == 1
    physics.update_parameters(psf=random_psf(generator, 2, 1, 9, 9))
    physics.A(x)
    assert len(made) == 2


def test_new_psf_replaces_the_old(generator):
    old, new = random_psf(generator, 1, 1, 5, 5), random_psf(generator, 1, 1, 8, 6)
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=generator)
    physics = PSFConvolution(old)
    physics.A(x)
    torch.testing.assert_close(physics.A(x, psf=new), PSFConvolution(new).A(x))
    torch.testing.assert_close(physics.psf, new)


def test_what_was_made_in_inference_serves_training(generator):
    physics = PSFConvolution(random_psf(generator, 1, 1, 5, 5))
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=generator)
    with torch.inference_mode():
        physics.A(x)
    x.requires_grad_()
    physics.A(x).sum().backward()
    assert x.grad is not None


def test_gradient_with_respect_to_the_psf(generator):
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=generator)
    psf = random_psf(generator, 2, 1, 4, 3).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PSFWarning)  # the finite differences change the sum
        assert torch.autograd.gradcheck(lambda p: PSFConvolution(p).A(x), psf, fast_mode=True)
        physics = PSFConvolution(psf)
        physics.A(x).sum().backward()
        PSFConvolution(psf).A(x).sum().backward()


def test_gradient_of_the_closed_form(generator):
    physics = PSFConvolution(random_psf(generator, 2, 1, 4, 3))
    rhs = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    rho = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(physics.solve, (rhs, rho), fast_mode=True)


def test_precision_follows_the_stamps(generator):
    physics = PSFConvolution(random_psf(generator, 1, 1, 5, 5))
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64, generator=generator)
    assert physics.A(x.float()).dtype == torch.float32
    torch.testing.assert_close(physics.A(x.float()).double(), physics.A(x), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(physics.float().double().A(x), physics.A(x), atol=1e-6, rtol=1e-5)


def test_psf_that_does_not_sum_to_one_is_normalised_with_a_warning(generator):
    psf = random_psf(generator, 1, 1, 5, 5)
    with pytest.warns(PSFWarning, match=r"sums to 0\.0625"):
        physics = PSFConvolution(psf / 16)
    torch.testing.assert_close(physics.psf, psf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PSFConvolution(psf * (1 + 1e-5))


@pytest.mark.parametrize(
    ("psf", "error"),
    [
        (torch.zeros(1, 1, 5, 5), DataError),
        (torch.full((1, 1, 5, 5), float("nan")), DataError),
        (-torch.ones(1, 1, 5, 5), DataError),
    ],
)
def test_psf_that_cannot_be_used(psf, error):
    with pytest.raises(error, match="cannot be normalised"):
        PSFConvolution(psf)


def test_stamps_that_do_not_fit(generator):
    physics = PSFConvolution(random_psf(generator, 2, 1, 5, 5), (8, 8))
    with pytest.raises(ShapeError, match=r"expected \(2, 1, 8, 8\)"):
        physics.A(torch.zeros(3, 1, 8, 8))
    with pytest.raises(ShapeError, match="do not fit"):
        physics.A(torch.zeros(2, 1, 8, 9))
    with pytest.raises(OptionError, match="two axes"):
        PSFConvolution(random_psf(generator, 1, 1, 5, 5), (8,))
    with pytest.raises(ShapeError, match="weight"):
        PSFConvolution(random_psf(generator, 1, 1, 5, 5), (8, 8), weight=torch.ones(1, 1, 7, 8))
    with pytest.raises(DTypeError, match="floating"):
        physics._checked_shape(torch.zeros(2, 1, 8, 8, dtype=torch.int32))


def test_gaussian_noise_of_each_object(generator):
    noise = GaussianNoise(torch.tensor([0.1, 3.0]), rng=generator)
    physics = PSFConvolution(random_psf(generator, 1, 1, 5, 5), noise_model=noise)
    spread = physics(torch.zeros(2, 1, 64, 64)).std(dim=(1, 2, 3))
    torch.testing.assert_close(spread, torch.tensor([0.1, 3.0]), rtol=0.05, atol=0)


def test_sky_noise_has_the_mean_and_variance_of_photons(generator):
    noise = SkyNoise(gain=torch.tensor([2.0, 0.5]), sky=torch.tensor([40.0, 0.0]), sigma=3.0, rng=generator)
    clean = torch.full((2, 1, 200, 200), 25.0)
    y = noise(clean)
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.tensor([25.0, 25.0]), rtol=0.01, atol=0)
    expected = torch.tensor([2.0 * 65 + 9, 0.5 * 25 + 9])
    torch.testing.assert_close(y.var((1, 2, 3)), expected, rtol=0.04, atol=0)
    torch.testing.assert_close(noise.variance(clean)[:, 0, 0, 0], expected)


def test_sky_noise_takes_light_below_zero_as_none(generator):
    y = SkyNoise(gain=1.0, sky=0.0, sigma=0.0, rng=generator)(torch.full((1, 1, 8, 8), -1e-7))
    assert not y.any()
    physics = PSFConvolution(random_psf(generator, 1, 1, 5, 5), noise_model=SkyNoise(sky=10.0, rng=generator))
    assert physics(torch.zeros(1, 1, 64, 64), sky=100.0).std() == pytest.approx(10, rel=0.1)


def test_same_seed_same_noise(generator):
    physics = PSFConvolution(random_psf(generator, 1, 1, 5, 5), noise_model=SkyNoise(sky=9.0, rng=torch.Generator()))
    x = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(physics(x, seed=3), physics(x, seed=3), atol=0, rtol=0)
    assert not torch.equal(physics(x, seed=3), physics(x, seed=4))
