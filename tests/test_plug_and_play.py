"""Plug-and-play: closed forms where the denoiser is linear, deepinv's iterations elsewhere, any operator and scale."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.optim.dpir import get_DPIR_params
from deepinv.physics.noise import GaussianNoise
from gaussian_prior import GaussianDenoiser, measured, operators, posterior_of, vector
from networks import problem as kspace
from networks import tiny
from torch import Tensor

import recon
from recon.guidance.denoisers import ImageDenoiser
from recon.guidance.problems import first_estimate, problems
from recon.models.noise_unet import DiffusionDenoiser
from recon.models.plug_and_play import PlugAndPlayADMM, PlugAndPlayHQS, Red
from recon.physics.errors import DataError, OptionError, ShapeError

SIGMA = 0.02
CORRELATION = 2.0


class OfUnit(GaussianDenoiser):
    """The denoiser of Gaussian images over their magnitude."""

    def __init__(self, covariance: Tensor, unit: float) -> None:
        super().__init__(covariance / unit**2)


@pytest.mark.parametrize("name", list(operators()))
def test_admm_ends_at_the_posterior_mean_whatever_it_removes(name: str) -> None:
    """A Gaussian denoiser is the proximal map of the prior's own penalty: the end is Tikhonov's closed form."""
    physics, y, A, covariance = measured(name, SIGMA, CORRELATION)
    expected, _ = posterior_of(covariance, A, vector(y)[0], SIGMA)
    unit, _ = first_estimate(y, physics, SIGMA)
    for denoising in (0.6, 1.0):
        x = PlugAndPlayADMM(OfUnit(covariance, unit), denoising=denoising, iterations=200)(y, physics)
        assert torch.allclose(x.flatten(), expected, atol=2e-3 * float(expected.abs().max())), denoising


@pytest.mark.parametrize("name", list(operators()))
def test_red_ends_where_its_gradient_vanishes(name: str) -> None:
    r"""With a linear denoiser: :math:`(A^T A / \sigma^2 + (1 - D) / \tau^2)^{-1} A^T y / \sigma^2`."""
    physics, y, A, covariance = measured(name, SIGMA, CORRELATION)
    unit, _ = first_estimate(y, physics, SIGMA)
    denoiser = OfUnit(covariance, unit)
    x = Red(denoiser, denoising=0.6, iterations=200)(y, physics)
    D = denoiser.matrix(0.6)
    curvature = (torch.eye(len(D), dtype=torch.float64) - D) / (0.6 * unit) ** 2
    expected = torch.linalg.solve(A.mT @ A / SIGMA**2 + curvature, A.mT @ vector(y)[0] / SIGMA**2)
    assert torch.allclose(x.flatten(), expected, atol=2e-3 * float(expected.abs().max()))


def test_dpir_is_eight_half_quadratic_steps() -> None:
    physics, y, A, covariance = measured("inpainting", SIGMA, CORRELATION)
    one = next(problems(y, physics, [SIGMA]))
    denoiser = OfUnit(covariance, one.unit)
    sigma, step, count = get_DPIR_params(one.sigma)
    assert count == 8
    x, eye = one.start.flatten(), torch.eye(16, dtype=torch.float64)
    for level, gamma in zip(sigma.tolist(), step.tolist(), strict=True):
        u = torch.linalg.solve(eye + gamma * A.mT @ A, x + gamma * A.mT @ vector(one.y)[0])
        x = denoiser.matrix(level) @ u
    found = PlugAndPlayHQS(denoiser)(y, physics)
    assert torch.allclose(found.flatten(), one.unit * x, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("name", ["dpir", "pnp-admm", "red"])
def test_every_method_takes_k_space_of_any_scale_image_by_image(name: str) -> None:
    cls = recon.models.registry[name]
    model = cls(tiny("diffusion-denoiser").eval(), **({} if name == "dpir" else {"iterations": 3}))
    y, physics = kspace(batch=2, sets=2, shape=(12, 12))
    physics.noise_model = GaussianNoise(0.1)
    x = model(y, physics)
    assert x.shape == (2, 4, 12, 12)
    physics.noise_model = GaussianNoise(5.0)
    y[1] = 0
    louder = model(50 * y, physics) / 50
    assert torch.allclose(louder[0], x[0], atol=1e-3 * float(x.abs().max()))


def test_a_level_that_nobody_tells_is_a_hundredth_of_the_image() -> None:
    physics, y, _, covariance = measured("super-resolution", SIGMA, CORRELATION)
    physics.noise_model = GaussianNoise(0.0)
    unit, _ = first_estimate(y, physics, None)
    model = PlugAndPlayADMM(OfUnit(covariance, unit), iterations=5)
    found = model(y, physics)
    physics.noise_model = GaussianNoise(0.01 * unit)
    one = next(problems(y, physics, None))
    assert one.sigma == 0.01
    assert torch.allclose(found, one.unit * model.restore(one, ImageDenoiser(model.denoiser, 1)))


def test_bad_input_is_told_in_one_line() -> None:
    network = tiny("diffusion-denoiser").eval()
    y, physics = kspace(shape=(16, 16))
    for options in ({"denoising": 0.0}, {"denoising": math.inf}, {"iterations": 0}):
        with pytest.raises(OptionError, match="positive level"):
            Red(network, **options)
    with pytest.raises(ShapeError):
        Red(network)(y[:, 1:], physics)
    with pytest.raises(DataError, match="finite"):
        Red(network)(y * math.nan, physics)
    real_only = DiffusionDenoiser(channels=(3,), widths=(16, 16), blocks=(1, 1))
    with pytest.raises(ShapeError, match="other channels"):
        PlugAndPlayHQS(real_only)(y, physics)
