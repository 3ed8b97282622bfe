"""Cartesian MRI in deepinv's machinery, which runs on it unchanged: solvers, optimisers, models, noise."""

from __future__ import annotations

import deepinv
import pytest
import torch
from deepinv.optim import L2
from deepinv.optim.optimizers import optim_builder
from deepinv.optim.prior import TVPrior, WaveletPrior
from mri_scans import of_deepinv, random_scan, relative

from recon.physics import MultiCoilMRI


@pytest.fixture
def pair():
    maps, sampled, x = random_scan(5, (32, 32), dtype=torch.float32)
    physics = MultiCoilMRI(maps[:, 0], sampled)
    peer = of_deepinv(physics)
    return physics, physics.A(x), peer, peer.A(x), x


@pytest.mark.parametrize("solver", ["CG", "lsqr", "BiCGStab", "minres"])
def test_pseudoinverse_agrees(pair, solver):
    physics, y, peer, y_peer, _ = pair
    assert relative(physics.A_dagger(y, solver=solver), peer.A_dagger(y_peer, solver=solver)) < 1e-3


def test_pseudoinverse_solves_the_normal_equations(pair):
    physics, y, _, _, x = pair
    found = physics.A_dagger(y, max_iter=200, tol=1e-6)
    assert relative(physics.A_adjoint_A(found), physics.A_adjoint(y)) < 1e-5
    assert relative(found, x) < 1e-3  # 4 coils, 60 % sampled: determined


def test_proximal_operator_and_data_term_agree(pair):
    physics, y, peer, y_peer, x = pair
    z = 0.5 * x
    assert relative(physics.prox_l2(z, y, 1.0), peer.prox_l2(z, y_peer, 1.0)) < 1e-5
    assert relative(L2().grad(z, y, physics), L2().grad(z, y_peer, peer)) < 1e-5
    assert relative(L2().fn(z, y, physics), L2().fn(z, y_peer, peer)) < 1e-5


@pytest.mark.parametrize("prior", [lambda: TVPrior(n_it_max=10), lambda: WaveletPrior(wv="db4", level=2)])
@pytest.mark.parametrize("algorithm", ["PGD", "ADMM"])
def test_optimisers_agree(pair, prior, algorithm):
    physics, y, peer, y_peer, _ = pair

    def run(y, physics):
        # a prior of its own: TVPrior starts from where it last stopped
        params = {"stepsize": 0.9, "lambda": 0.01}
        solver = optim_builder(algorithm, prior=prior(), data_fidelity=L2(), max_iter=5, params_algo=params)
        return solver(y, physics)

    with torch.no_grad():
        assert relative(run(y, physics), run(y_peer, peer)) < 1e-5


def denoiser():
    return deepinv.models.DnCNN(2, 2, depth=3, nf=8, pretrained=None)


@pytest.mark.parametrize(
    "model",
    [
        lambda: deepinv.models.MoDL(denoiser=denoiser(), num_iter=2),
        lambda: deepinv.models.VarNet(denoiser=denoiser(), num_cascades=2),
        lambda: deepinv.models.VarNet(denoiser=denoiser(), num_cascades=2, mode="e2e-varnet"),
        lambda: deepinv.models.ArtifactRemoval(denoiser()),
    ],
)
def test_models_agree_and_train(pair, model):
    physics, y, peer, y_peer, x = pair
    torch.manual_seed(0)
    net = model()

    def gradient(y, physics):
        net.zero_grad()
        out = net(y, physics)
        (out - x).square().mean().backward()
        return out.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    for ours, theirs in zip(gradient(y, physics), gradient(y_peer, peer), strict=True):
        assert relative(ours, theirs) < 1e-4


def test_foundation_model_runs(pair):
    physics, y, _, _, x = pair
    physics.noise_model = deepinv.physics.GaussianNoise(0.01)
    with torch.no_grad():
        assert deepinv.models.RAM(pretrained=False)(y, physics).shape == x.shape


def test_update_and_call_with_parameters(pair):
    physics, _, _, _, x = pair
    maps, sampled, _ = random_scan(6, (32, 32), dtype=torch.float32)
    physics.noise_model = deepinv.physics.GaussianNoise(0.0)
    physics.update(mask=sampled.float().expand(-1, 2, -1, -1), sigma=torch.tensor(0.2))
    assert physics.noise_model.sigma == 0.2
    assert torch.equal(physics.mask, sampled)
    torch.testing.assert_close(physics.A_adjoint_A(x), physics.A_adjoint(physics.A(x)), atol=1e-5, rtol=1e-5)
    clean = physics.A(x, coil_maps=maps[:, 0])
    assert torch.equal(clean, MultiCoilMRI(maps, sampled).A(x))
    assert torch.equal(physics.A_adjoint_A(x), MultiCoilMRI(maps, sampled).A_adjoint_A(x))
    smaller, mask, image = random_scan(7, (9, 14), coils=2, batch=2, dtype=torch.float32)
    physics.update(coil_maps=smaller, mask=mask)
    assert relative(physics.A_adjoint_A(image), MultiCoilMRI(smaller, mask).A_adjoint_A(image)) < 1e-6
    assert physics.img_size == (2, 9, 14)


def test_noise_lies_on_the_samples_only():
    maps, sampled, x = random_scan(8, (64, 64), coils=8)
    physics = MultiCoilMRI(maps, sampled, noise_model=deepinv.physics.GaussianNoise(0.5))
    noise = physics(x) - physics.A(x)
    at = sampled.expand_as(noise)
    assert not noise[~at].any()
    for part in (noise[at].real, noise[at].imag):
        assert abs(part.std() - 0.5) < 0.02
