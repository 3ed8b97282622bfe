"""deepinv's MoDL, VarNet and DRUNet-PnP on our operators."""

from __future__ import annotations

import pytest
import torch
from networks import BAD_SCANS, problem, tiny, without_gradient

from recon.physics.errors import OptionError, ShapeError
from recon.physics.layout import to_channels

NAMES = ("modl", "deepinv-varnet", "drunet-pnp")
TRAINED = NAMES[:2]


def test_modl_solves_its_data_consistency():
    r"""With a denoiser that changes nothing, one iteration is :math:`(\gamma A^H A + 1)^{-1} (\gamma A^H y + x_0)`."""
    y, physics = problem(shape=(9, 8))
    model = tiny("modl", iterations=1)
    model.network.prior[0].denoiser.forward = lambda x, sigma: x
    gamma = float(model.network.params_algo.stepsize[0].detach())
    b = physics.A_adjoint(y)
    columns = torch.eye(b.numel()).reshape(-1, *b.shape)
    normal = torch.stack([physics.A_adjoint_A(column).flatten() for column in columns], 1)
    expected = torch.linalg.solve(gamma * normal + torch.eye(b.numel()), (gamma * b + b).flatten())
    torch.testing.assert_close(model(y, physics).flatten(), expected, rtol=1e-3, atol=1e-3)


def test_varnet_takes_gradient_steps():
    y, physics = problem()
    model = tiny("deepinv-varnet")
    blocks = list(model.network.backbone_net)
    for block in blocks:
        block.denoiser.forward = torch.zeros_like
    x = physics.A_adjoint(y)
    for block in blocks:
        x = x - block.dc_weight * physics.A_adjoint(physics.A(x) - y)
    torch.testing.assert_close(model(y, physics), x)


def test_plug_and_play_comes_nearer_to_a_smooth_image_than_its_data():
    """With a denoiser by hand in place of trained weights, half-quadratic splitting is put to the test."""
    v = torch.linspace(-1, 1, 24)
    truth = torch.exp(-2 * (v[:, None] ** 2 + v**2))[None, None] * torch.tensor([1.0, 0.5])[:, None, None]
    _, physics = problem()
    y = physics.A(truth)
    y = y + 0.02 * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0)) * physics.mask
    model = tiny("drunet-pnp")
    window = torch.ones(1, 1, 3, 3) / 9
    model.denoiser.forward = lambda x, sigma: torch.nn.functional.conv2d(x, window, padding=1)
    zero_filled = torch.linalg.vector_norm(physics.A_adjoint(y) - truth)
    assert torch.linalg.vector_norm(model(y, physics) - truth) < 0.5 * zero_filled


@pytest.mark.parametrize("name", NAMES)
def test_scales_with_the_data(name):
    y, physics = problem(batch=2)
    model = tiny(name).eval()
    factors = torch.tensor([1e-4, 1e4])[:, None, None, None]
    with torch.no_grad():
        x = model(y, physics)
        torch.testing.assert_close(model(factors * y, physics) / factors, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_weight(name):
    y, physics = problem()
    model = tiny(name)
    model(y, physics).square().sum().backward()
    assert without_gradient(model) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_is_left_as_it_was(name):
    y, physics = problem()
    mask, image = physics.mask.clone(), to_channels(torch.ones(1, 1, 24, 24, dtype=torch.complex64))
    before = physics.A_adjoint_A(image)
    tiny(name)(y, physics)
    assert torch.equal(physics.mask, mask)
    assert torch.equal(physics.A_adjoint_A(image), before)


@BAD_SCANS
@pytest.mark.parametrize("name", NAMES)
def test_unusual_scans(scan, name):
    y, physics = problem(**scan)
    x = tiny(name)(y, physics)
    assert x.shape == (len(y), 2 * physics.n_sets, *physics.spatial)
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_measured_gives_an_image_without_nan(name):
    y, physics = problem()
    assert torch.isfinite(tiny(name)(0 * y, physics)).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_told(name):
    y, physics = problem()
    with pytest.raises(ShapeError, match="do not fit"):
        tiny(name)(y[:, :2], physics)
    with pytest.raises(OptionError, match="at least"):
        tiny(name, features=0)
