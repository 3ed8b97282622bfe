from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deepinv.physics.noise import GaussianNoise
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from recon.datasets.masks import make_mask
from recon.datasets.simulate import simulate_mri
from recon.left_out import choose_left_out
from recon.metrics import psnr
from recon.physics import MultiCoilMRI, NonCartesianMRI, trajectories
from recon.physics.errors import DataError, OptionError
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient
from recon.trust import (
    RESIDUAL_LIMIT,
    data_residual,
    g_factor,
    hold_out_error,
    noise_map,
    residual_map,
)


def cg_sense(iterations: int, weight: float = 0.0):
    def model(y, physics):
        b = to_complex(physics.A_adjoint(y))
        return to_channels(
            conjugate_gradient(lambda x: physics.normal(x) + weight * x, b, max_iter=iterations, tol=1e-7)
        )

    return model


def zero_filled(y, physics):
    return physics.A_adjoint(y)


@pytest.fixture(scope="module")
def brain():
    """A simulated slice at 5x, as data, operator, truth and noise level; the noise is white."""
    image = resize(shepp_logan_phantom(), (96, 80), anti_aliasing=True)
    texture = np.random.default_rng(0).normal(size=image.shape) * 0.05 * (image > 0.05)
    sim = simulate_mri(image + texture, coils=8, snr=40, mask="poisson", acceleration=4, correlation=0, center=16)
    whitening = torch.from_numpy(1 / np.sqrt(np.diag(sim.covariance).real)).to(torch.complex64)[:, None, None]
    y, maps = (torch.from_numpy(a)[None] * whitening for a in (sim.scan.slice(0), sim.coil_maps[0]))
    physics = MultiCoilMRI(maps, torch.from_numpy(sim.scan.mask), noise_model=GaussianNoise(1.0))
    return y, physics, torch.from_numpy(sim.truth[0])[None]


def random_maps(coils, shape, generator, dtype=torch.complex128):
    return torch.randn(1, coils, *shape, dtype=dtype, generator=generator)


# --- residual ---------------------------------------------------------------------------------------------------


def test_the_true_image_leaves_the_noise(brain):
    y, physics, truth = brain
    assert data_residual(to_channels(truth[None]), y, physics, 1.0) == pytest.approx(1, abs=0.01)


def test_residual_counts_no_degrees_of_freedom(generator):
    """A least-squares fit of n pixels to m samples takes up n/m of the noise's energy."""
    maps = random_maps(4, (12, 12), generator)
    physics = MultiCoilMRI(maps)
    y = 0.3 * torch.randn(1, 4, 12, 12, 2, dtype=torch.float64, generator=generator)
    y = torch.view_as_complex(y)
    x = cg_sense(200)(y, physics)
    assert data_residual(x, y, physics, 0.3) == pytest.approx(math.sqrt(1 - 1 / 4), rel=0.05)


def test_wrong_maps_go_over_the_limit(brain):
    y, physics, _ = brain
    x = cg_sense(20)(y, physics)
    assert data_residual(x, y, physics, 1.0) < RESIDUAL_LIMIT
    wrong = MultiCoilMRI(physics.coil_maps.roll(8, dims=-1), physics.mask)
    assert data_residual(cg_sense(20)(y, wrong), y, wrong, 1.0) > RESIDUAL_LIMIT


def test_residual_map_is_where_the_residual_comes_from(brain):
    y, physics, _ = brain
    x = cg_sense(5)(y, physics)
    where = residual_map(x, y, physics, 1.0)
    assert where.shape == (1, 96, 80)
    assert (where[~physics.mask[:, 0]] == 0).all()
    mean = where[physics.mask[:, 0]].square().mean().sqrt()
    assert float(mean) == pytest.approx(data_residual(x, y, physics, 1.0), rel=1e-4)


def test_residual_of_a_trajectory(generator):
    physics = NonCartesianMRI(random_maps(3, (16, 16), generator, torch.complex64), trajectories.radial((16, 16), 20))
    x = torch.randn(1, 2, 16, 16, generator=generator)
    clean = physics.A(x)
    noise = 0.2 * torch.view_as_complex(torch.randn(*clean.shape, 2, generator=generator))
    assert data_residual(x, clean + noise, physics, 0.2) == pytest.approx(1, abs=0.05)


# --- hold-out ---------------------------------------------------------------------------------------------------


def test_perfect_prediction_leaves_the_noise_floor(brain):
    y, physics, truth = brain
    result = hold_out_error(lambda *_: to_channels(truth[None]), y, physics, fraction=0.3)
    assert result.samples > 300
    assert result.error == pytest.approx(result.noise_floor, rel=0.05)
    assert result.corrected < 0.1 * result.error
    assert hold_out_error(zero_filled, y, physics, sigma=1.0).noise_floor == pytest.approx(
        hold_out_error(zero_filled, y, physics).noise_floor
    )


def test_error_is_the_nmse_of_samples_that_the_model_never_saw(brain):
    y, physics, _ = brain
    seen = []

    def model(data, operator):
        seen.append((data, operator))
        return cg_sense(8)(data, operator)

    result = hold_out_error(model, y, physics, folds=2, seed=3)
    error = energy = 0.0
    for data, operator in seen:
        left_out = physics.mask & ~operator.mask
        assert (data[~operator.mask.expand_as(data)] == 0).all()
        assert (operator.mask & ~physics.mask).sum() == 0
        chosen = left_out.expand_as(y)
        prediction = physics.expand(to_complex(cg_sense(8)(data, operator)))
        error += (prediction - y)[chosen].abs().square().sum()
        energy += y[chosen].abs().square().sum()
    assert len(seen) == 2
    assert ((physics.mask & ~seen[0][1].mask) & (physics.mask & ~seen[1][1].mask)).sum() == 0, "folds are disjoint"
    assert result.error == pytest.approx(float(error / energy), rel=1e-4)
    assert result == hold_out_error(model, y, physics, folds=2, seed=3)
    assert result != hold_out_error(model, y, physics, folds=2, seed=4)


def test_ranks_methods_as_the_true_error_does(brain):
    y, physics, truth = brain
    models = [zero_filled, cg_sense(2), cg_sense(8), cg_sense(40), cg_sense(40, 0.03), cg_sense(40, 1.0)]
    by_truth = [psnr(to_complex(model(y, physics))[0, 0], truth[0]) for model in models]
    by_hold_out = [-hold_out_error(model, y, physics, folds=3).error for model in models]
    assert np.argmax(by_truth) == np.argmax(by_hold_out)
    pairs = [(i, j) for i in range(6) for j in range(i) if abs(by_truth[i] - by_truth[j]) > 1]
    agree = [(by_truth[i] > by_truth[j]) == (by_hold_out[i] > by_hold_out[j]) for i, j in pairs]
    assert np.mean(agree) >= 0.9, (by_truth, by_hold_out)


def test_ranks_methods_on_a_real_scan(shared_data):
    """Retrospective Poisson-disc at 10x: the best by hold-out is within half a decibel of the best by reference."""
    from recon.calibration import espirit
    from recon.datasets import open as open_file

    k = torch.from_numpy(open_file(shared_data / "mri" / "kspace" / "brain-full-8ch.cfl").slice(0))[None]
    k = k.reshape(1, 8, 230, 180)
    maps = espirit(k).maps.reshape(1, -1, 8, 230, 180)[:, :1]
    reference = MultiCoilMRI(maps).combine(k)[0]
    inside = maps[0, 0].abs().sum(dim=0) > 0
    mask = make_mask("poisson", (230, 180), 10, center=24)
    y = k * mask
    physics = MultiCoilMRI(espirit(y).maps.reshape(1, -1, 8, 230, 180)[:, :1], mask)
    models = [zero_filled, cg_sense(3), cg_sense(10), cg_sense(40)]
    by_truth = [psnr(to_complex(model(y, physics))[0, 0], reference, inside) for model in models]
    by_hold_out = [hold_out_error(model, y, physics).error for model in models]
    assert max(by_truth) - by_truth[int(np.argmin(by_hold_out))] < 0.5
    assert np.argmin(by_truth) in np.argsort(by_hold_out)[-2:]


def test_whole_lines_are_left_out_and_never_the_centre(generator):
    mask = make_mask("random", (40, 200), 3, center=20, generator=1).expand(40, 200)[None, None]
    lines = choose_left_out(mask, 0.1, 3, generator)
    for part in lines:
        assert torch.equal(part, part[:, :, :1].expand_as(part))
        assert not part[..., 90:110].any()
        assert part[0, 0, 0].sum() >= 2
    assert (sum(part.int() for part in lines) <= 1).all()


@pytest.mark.parametrize(("name", "folds"), [("random", 4), ("gaussian", 1)])
def test_lines_are_few_and_take_several_folds(brain, name, folds):
    _, physics, truth = brain
    operator = MultiCoilMRI(physics.coil_maps, make_mask(name, (96, 80), 3))
    left_out = []

    def model(data, reduced):
        left_out.append(operator.mask & ~reduced.mask)
        return zero_filled(data, reduced)

    result = hold_out_error(model, operator.A(to_channels(truth[None])), operator)
    assert len(left_out) == folds
    assert result.samples == sum(int(part.sum()) for part in left_out)
    assert (sum(part.int() for part in left_out) <= 1).all()


def test_samples_of_a_plane_and_of_a_full_scan(generator):
    mask = make_mask("poisson", (60, 60), 4, center=12)[None, None]
    part = choose_left_out(mask, 0.1, 1, generator)[0]
    assert not (part & ~mask).any()
    assert not part[..., 24:36, 24:36].any()
    assert part.sum() == round(0.1 * (int(mask.sum()) - 144))
    everything = torch.ones_like(mask)
    part = choose_left_out(everything, 0.1, 1, generator)[0]
    assert 200 < part.sum() < 360
    assert not part[..., 30, 30].any()


def test_nothing_to_leave_out_is_told(brain):
    y, physics, _ = brain
    centre = torch.zeros(96, 80, dtype=torch.bool)
    centre[38:58, 30:50] = True
    result = hold_out_error(zero_filled, y * centre, MultiCoilMRI(physics.coil_maps, centre))
    assert result.samples == 0
    assert math.isnan(result.error)
    assert math.isnan(result.corrected)


def test_two_sets_of_maps(generator):
    maps = torch.randn(1, 2, 4, 24, 24, dtype=torch.complex64, generator=generator)
    physics = MultiCoilMRI(maps, make_mask("gaussian", (24, 24), 1.5, center=6))
    x = torch.randn(1, 4, 24, 24, generator=generator)
    y = physics.A(x)
    assert hold_out_error(lambda *_: x, y, physics).error < 1e-9
    assert data_residual(x, y, physics, 1.0) < 1e-5
    deviation = noise_map(cg_sense(3), y, physics, 0.1, n=3)
    assert g_factor(deviation, physics, 0.1).shape == (1, 24, 24)


# --- noise ------------------------------------------------------------------------------------------------------


def test_noise_and_g_factor_against_the_closed_form(generator):
    """Small SENSE problem, R = 2: noise is sigma sqrt(diag((A^H A)^-1)) [Pruessmann 1999, eq. 23]."""
    shape = (8, 8)
    maps = random_maps(4, shape, generator)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, ::2] = True
    physics = MultiCoilMRI(maps, mask)
    basis = torch.eye(64, dtype=torch.complex128).reshape(64, *shape)
    normal = torch.stack([physics.normal(e[None])[0].flatten() for e in basis], dim=1)
    inverse = torch.linalg.inv(normal)
    noise = 0.2 * inverse.diagonal().real.sqrt().reshape(shape)
    strength = maps[0].abs().square().sum(dim=0)
    expected_g = noise * strength.sqrt() / (0.2 * math.sqrt(2))

    y = physics.A(torch.randn(1, 2, *shape, dtype=torch.float64, generator=generator))

    def sense(data, operator):
        return to_channels((inverse @ operator.combine(data * operator.mask).flatten()).reshape(1, 1, *shape))

    torch.testing.assert_close(sense(y, physics), cg_sense(200)(y, physics), rtol=1e-4, atol=1e-4)
    deviation = noise_map(sense, y, physics, 0.2, n=400, seed=1)
    ratio = deviation[0] / noise
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() == pytest.approx(1 / math.sqrt(800), rel=0.4)
    g = g_factor(deviation, physics, 0.2)[0]
    assert (g / expected_g).mean() == pytest.approx(1, abs=0.02)
    assert expected_g.min() >= 1 - 1e-9


def test_full_data_have_a_g_factor_of_one(generator):
    physics = MultiCoilMRI(random_maps(4, (24, 24), generator))
    y = torch.zeros(1, 4, 24, 24, dtype=torch.complex128)
    strength = physics.coil_maps.abs().square().sum(dim=2)
    deviation = noise_map(lambda data, p: p.A_adjoint(data) / strength, y, physics, 0.5, n=60)
    assert g_factor(deviation, physics, 0.5).mean() == pytest.approx(1, abs=0.02)


def test_noise_of_a_magnitude_image_matches_that_of_its_complex_one(brain):
    y, physics, truth = brain
    complex_map = noise_map(cg_sense(8), y, physics, 1.0, n=8)
    magnitude = noise_map(
        lambda d, p: torch.linalg.vector_norm(cg_sense(8)(d, p), dim=1, keepdim=True), y, physics, 1.0, n=8
    )
    bright = truth.abs() > 0.5 * truth.abs().max()
    assert (magnitude / complex_map)[bright].mean() == pytest.approx(1, abs=0.01)
    assert magnitude[truth.abs() < 0.01].mean() < complex_map[truth.abs() < 0.01].mean(), "Rician bias"


def test_noise_map_repeats_and_scales(brain):
    y, physics, _ = brain
    one = noise_map(cg_sense(4), y, physics, 1.0, n=4, seed=2)
    assert torch.equal(one, noise_map(cg_sense(4), y, physics, 1.0, n=4, seed=2))
    torch.testing.assert_close(noise_map(cg_sense(4), 3 * y, physics, 3.0, n=4, seed=2), 3 * one, rtol=1e-3, atol=1e-4)


def test_masked_maps_have_no_g_factor(brain):
    _, physics, _ = brain
    maps = physics.coil_maps.clone()
    maps[..., :10, :] = 0
    g = g_factor(torch.ones(1, 96, 80), MultiCoilMRI(maps, physics.mask), 1.0)
    assert (g[:, :10] == 0).all()
    assert torch.isfinite(g).all()


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_noise_level_must_be_known(brain, sigma):
    y, physics, truth = brain
    x = to_channels(truth[None])
    for judge in (
        lambda: data_residual(x, y, physics, sigma),
        lambda: residual_map(x, y, physics, sigma),
        lambda: noise_map(zero_filled, y, physics, sigma),
        lambda: g_factor(truth.abs(), physics, sigma),
    ):
        with pytest.raises(DataError):
            judge()


@pytest.mark.parametrize("options", [{"fraction": 0}, {"fraction": 1.0}, {"folds": 0}, {"fraction": 0.4, "folds": 3}])
def test_impossible_splits(brain, options):
    y, physics, _ = brain
    with pytest.raises(OptionError):
        hold_out_error(zero_filled, y, physics, **options)


def test_one_replica_is_not_enough(brain):
    y, physics, _ = brain
    with pytest.raises(OptionError):
        noise_map(zero_filled, y, physics, 1.0, n=1)
