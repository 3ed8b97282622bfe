"""Non-Cartesian MRI: against the sum itself, sigpy's NUFFT and the Cartesian operator; density, trajectories."""

from __future__ import annotations

import math

import deepinv
import numpy as np
import pytest
import sigpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import OptionError, ReconError, ShapeError
from recon.physics.noncartesian import density_compensation
from recon.physics.trajectories import radial, spiral


def grid(shape):
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def scattered(shape, samples, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(samples, len(shape), dtype=torch.float64, generator=g) - 0.5) * torch.tensor(shape)


def random_maps(*shape, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.one_of(st.tuples(*[st.integers(2, 9)] * 2), st.tuples(*[st.integers(2, 5)] * 3)),
    coils=st.integers(1, 3),
    sets=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_is_the_fourier_sum(shape, coils, sets, seed):
    t = scattered(shape, 20, seed)
    maps = random_maps(2, sets, coils, *shape)
    physics = NonCartesianMRI(maps, t)
    x = torch.randn(2, 2 * sets, *shape, dtype=torch.float64)
    angle = 2 * math.pi * (t / torch.tensor(shape)) @ grid(shape).T
    E = torch.polar(torch.ones_like(angle), -angle) / math.sqrt(math.prod(shape))
    z = torch.complex(x[:, 0::2], x[:, 1::2])
    y = torch.einsum("jm,bcm->bcj", E, (maps * z[:, :, None]).sum(1).flatten(2))
    torch.testing.assert_close(physics.A(x), y, rtol=1e-7, atol=1e-8)
    back = torch.einsum("jm,bcj->bcm", E.conj(), y).reshape(2, coils, *shape)
    expected = (maps.conj() * back[:, None]).sum(2)
    found = physics.A_adjoint(y)
    torch.testing.assert_close(torch.complex(found[:, 0::2], found[:, 1::2]), expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(physics.A_adjoint_A(x), found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", [(16, 16), (15, 18), (7, 9), (6, 5, 4)])
def test_cartesian_trajectory_gives_the_cartesian_operator(shape):
    maps = random_maps(1, 4, *shape, dtype=torch.complex64)
    x = torch.randn(1, 2, *shape)
    physics, cartesian = NonCartesianMRI(maps, grid(shape)), MultiCoilMRI(maps, three_d=len(shape) == 3)
    y = cartesian.A(x)
    assert torch.linalg.vector_norm(physics.A(x) - y.flatten(2)) < 1e-5 * torch.linalg.vector_norm(y)
    back = cartesian.A_adjoint(y)
    for found in (physics.A_adjoint(y.flatten(2)), physics.A_adjoint_A(x)):
        assert torch.linalg.vector_norm(found - back) < 1e-5 * torch.linalg.vector_norm(back)


@pytest.mark.parametrize("make", [lambda s: radial(s, 30, golden=True), lambda s: spiral(s, 8, 150)])
def test_agrees_with_sigpy(make):
    shape = (32, 27)
    t = make(shape)
    maps = random_maps(1, 4, *shape, dtype=torch.complex64)
    x = torch.randn(1, 2, *shape)
    physics = NonCartesianMRI(maps, t)
    images = (maps[0] * torch.complex(x[0, 0], x[0, 1])).numpy()
    peer = sigpy.nufft(images, t.numpy(), oversamp=2, width=8)
    assert np.linalg.norm(physics.A(x)[0].numpy() - peer) < 1e-4 * np.linalg.norm(peer)
    back = (
        maps[0].conj().resolve_conj().numpy() * sigpy.nufft_adjoint(peer, t.numpy(), images.shape, oversamp=2, width=8)
    ).sum(0)
    found = physics.A_adjoint(torch.from_numpy(peer.astype(np.complex64))[None])[0]
    assert np.linalg.norm(torch.complex(found[0], found[1]).numpy() - back) < 1e-4 * np.linalg.norm(back)


@settings(max_examples=10, deadline=None)
@given(st.tuples(st.integers(2, 10), st.integers(2, 10)))
def test_density_of_a_cartesian_grid_is_one(shape):
    weights = density_compensation(grid(shape), shape)
    torch.testing.assert_close(weights, torch.ones_like(weights), rtol=1e-4, atol=0)


def test_density_of_spokes_is_the_ramp():
    spokes, n = 100, 64
    weights = density_compensation(radial((n, n), spokes), (n, n)).reshape(spokes, 2 * n)
    radius = (torch.arange(2 * n, dtype=torch.float64) - n).abs() / 2
    ring = (radius > 8) & (radius < 28)
    ramp = (math.pi * radius / spokes / 2)[ring]
    torch.testing.assert_close(weights[:, ring].mean(0), ramp, rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("make", "bound"),
    [(lambda s: radial(s, 100), 0.01), (lambda s: spiral(s, 16, 400), 0.01)],
    ids=["radial", "spiral"],
)
def test_gridding_gives_the_image_back(make, bound):
    shape = (64, 64)
    t = make(shape)
    maps = torch.full((1, 4, *shape), 0.5, dtype=torch.complex64)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    truth = torch.stack([torch.exp(-8 * (x**2 + y**2)), torch.zeros_like(x)])[None]
    physics = NonCartesianMRI(maps, t, density=density_compensation(t, shape))
    samples = physics.A(truth)
    error = torch.linalg.vector_norm(physics.gridded(samples) - truth) / torch.linalg.vector_norm(truth)
    assert error < bound
    by_cg = physics.A_dagger(samples, max_iter=30, tol=1e-5)
    assert torch.linalg.vector_norm(by_cg - truth) < 0.01 * torch.linalg.vector_norm(truth)


@pytest.mark.parametrize("golden", [False, True])
def test_spokes_pass_the_centre_and_turn_by_their_angle(golden):
    spokes = radial((20, 10), 12, 16, golden=golden).reshape(12, 16, 2)
    assert not spokes[:, 8].any()
    angle = torch.atan2(spokes[:, 15, 0] / 20, spokes[:, 15, 1] / 10)
    step = torch.remainder(angle.diff(), math.pi)
    expected = math.radians(111.2461) if golden else math.pi / 12
    torch.testing.assert_close(step, torch.full_like(step, expected), rtol=1e-4, atol=0)
    assert (spokes.abs() <= torch.tensor([10.0, 5.0])).all()


def test_spiral_moves_at_constant_speed_with_arms_one_cycle_apart():
    arms = spiral((64, 64), 8, 500).reshape(8, 500, 2)
    speed = torch.linalg.vector_norm(arms.diff(dim=1), dim=-1)
    torch.testing.assert_close(speed, speed.mean().expand_as(speed), rtol=0.06, atol=0)
    assert arms.norm(dim=-1).max() < 32
    far, near = arms[0, 400], arms[1]
    assert 0.5 < torch.linalg.vector_norm(near - far, dim=-1).min() < 1.1


def test_deepinv_proximal_operator_runs():
    shape = (16, 16)
    physics = NonCartesianMRI(random_maps(1, 4, *shape, dtype=torch.complex64), radial(shape, 20))
    x = torch.randn(1, 2, *shape)
    y = physics.A(x)
    z = torch.zeros_like(x)
    prox = physics.prox_l2(z, y, 2.0, max_iter=100, tol=1e-6)
    torch.testing.assert_close(prox + 2 * physics.A_adjoint_A(prox), 2 * physics.A_adjoint(y), rtol=1e-3, atol=1e-3)
    assert deepinv.optim.L2().grad(x, y, physics).abs().max() < 1e-4


def test_new_maps():
    physics, x = NonCartesianMRI.example(torch.Generator().manual_seed(0))
    maps = random_maps(1, 5, 12, 9, dtype=torch.complex64)
    y = physics.A(x, coil_maps=maps)
    assert torch.equal(y, NonCartesianMRI(maps, physics.trajectory).A(x))
    with pytest.raises(ShapeError, match="size"):
        physics.update(coil_maps=random_maps(1, 5, 12, 10, dtype=torch.complex64))


@pytest.mark.parametrize(
    "make",
    [
        lambda maps, t: NonCartesianMRI(maps, t * 2),
        lambda maps, t: NonCartesianMRI(maps, t / math.nan),
        lambda maps, t: NonCartesianMRI(maps, torch.zeros(4, 4)),
        lambda maps, t: NonCartesianMRI(maps, t).gridded(torch.ones(1, 3, len(t), dtype=torch.complex64)),
        lambda maps, t: NonCartesianMRI(maps, t).A_adjoint(torch.ones(1, 3, 7, dtype=torch.complex64)),
        lambda maps, t: radial((8,), 4),
        lambda maps, t: radial((8, 8), 0),
        lambda maps, t: spiral((8, 8), 0, 5),
        lambda maps, t: density_compensation(t, (8, 8, 8)),
    ],
)
def test_bad_input(make):
    with pytest.raises(ReconError):
        make(torch.ones(1, 3, 8, 8, dtype=torch.complex64), radial((8, 8), 6).float())


def test_trajectory_in_radians_is_told_from_cycles():
    with pytest.raises(OptionError, match="cycles per field of view"):
        NonCartesianMRI(torch.ones(1, 1, 4, 4, dtype=torch.complex64), torch.full((3, 2), math.pi))
