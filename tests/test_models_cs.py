"""Zero filling, root sum of squares, CG-SENSE and L1-wavelet: optimality, limits, choice of the strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.calibration.espirit import espirit
from recon.datasets.masks import poisson
from recon.models import registry
from recon.models.cg_sense import CGSense
from recon.models.l1_wavelet import L1Wavelet
from recon.models.rss import RootSumOfSquares
from recon.models.zero_filled import ZeroFilled
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import ShapeError
from recon.physics.layout import to_channels, to_complex
from recon.physics.trajectories import radial
from recon.pogm import pogm
from recon.regularisation import largest_eigenvalue, least_on_path, leave_out
from recon.sparsity import SparseDetails
from recon.wavelets import Wavelets

SHAPE = (64, 56)
MODELS = ["zero-filled", "rss", "cg-sense", "l1-wavelet"]


def phantom(shape=SHAPE):
    """Ellipses with phase, complex128."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    image = torch.zeros(shape, dtype=torch.float64)
    for cy, cx, ry, rx, value in [
        (0, 0, 0.85, 0.7, 0.6),
        (0.1, 0, 0.7, 0.55, 0.3),
        (-0.2, 0.25, 0.25, 0.12, -0.5),
        (-0.2, -0.25, 0.25, 0.12, -0.4),
        (0.5, 0.05, 0.1, 0.1, 0.4),
    ]:
        image += value * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    return torch.polar(image, 0.6 * y + 0.4 * x * y)


def coil_maps(coils=4, shape=SHAPE):
    """Smooth maps of unit norm over the coils, ``(1, coil, y, x)``."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape), indexing="ij")
    angles = [2 * np.pi * c / coils for c in range(coils)]
    magnitude = [1 / ((y - 1.3 * np.sin(a)) ** 2 + (x - 1.3 * np.cos(a)) ** 2 + 0.4) for a in angles]
    maps = torch.stack([torch.polar(m, a + 0.8 * y - 0.5 * x) for m, a in zip(magnitude, angles, strict=True)])
    return (maps / torch.linalg.vector_norm(maps, dim=0))[None]


def random_mask(rate=0.35, shape=SHAPE, seed=0):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate
    middle = tuple(slice(n // 2 - 6, n // 2 + 6) for n in shape)
    mask[middle] = True
    return mask


def measure(sigma, mask=None, coils=4, seed=0, dtype=torch.complex64):
    physics = MultiCoilMRI(coil_maps(coils).to(dtype), mask)
    x = phantom().to(dtype)
    y = physics.A(to_channels(x[None, None]))
    noise = torch.randn(*y.shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, y + sigma * torch.view_as_complex(noise).to(dtype) * physics.mask, physics


def error(x, truth):
    return float(torch.linalg.vector_norm(to_complex(x)[0, 0] - truth) / torch.linalg.vector_norm(truth))


# --- the maths ------------------------------------------------------------------------------------------------


def test_l1_solution_meets_the_optimality_conditions():
    _, y, physics = measure(0.02, random_mask(), dtype=torch.complex128)
    strength = 0.02
    x = to_complex(L1Wavelet(strength, reweighted=False, iterations=200, cycle_spinning=False)(y, physics))
    W = Wavelets(SHAPE, dtype=torch.float64)
    gradient = to_complex(physics.A_adjoint(physics.A(to_channels(x)) - y))

    def coefficients(z):
        return torch.complex(*W.analysis(torch.view_as_real(z).movedim(-1, 0).contiguous()))

    c, g = coefficients(x), coefficients(gradient)
    low = torch.zeros(SHAPE, dtype=torch.bool)
    low[: W.low[0], : W.low[1]] = True
    active = (c.abs() > 1e-9) & ~low
    assert 50 < active.sum() < 0.5 * c.numel()
    assert g[..., low].abs().max() < 1e-6
    assert (g[active] + strength * c[active] / c[active].abs()).abs().max() < 1e-6
    assert g[(c.abs() <= 1e-9) & ~low].abs().max() < strength + 1e-6


def test_pogm_of_a_quadratic_is_ridge_regression():
    _, y, physics = measure(0.02, random_mask(), dtype=torch.complex128)
    b = to_complex(physics.A_adjoint(y))
    found = pogm(physics.normal, b, lambda z, gamma: z / (1 + 0.5 * gamma), 1.0, max_iter=200)  # prox of |x|^2 / 4
    torch.testing.assert_close(physics.normal(found) + 0.5 * found, b, rtol=0, atol=1e-8)


def test_threshold_is_the_proximal_map_of_its_penalty():
    W = Wavelets((33, 20), dtype=torch.float64)
    prox = SparseDetails(W, 0.3)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 1, 33, 20, dtype=torch.complex128, generator=generator)

    def objective(x):
        return 0.5 * (x - z).abs().square().sum((1, 2, 3)) + 0.3 * prox.penalty(x)

    x = prox(z, 1.0)
    best = objective(x)
    for size in (1e-1, 1e-2, 1e-3):
        other = x + size * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        assert (objective(other) > best).all()
    assert float((objective(z) - best).min()) > 1


def test_without_strength_on_full_noise_free_data_l1_is_cg_sense_and_the_truth():
    truth, y, physics = measure(0, dtype=torch.complex128)
    l1 = L1Wavelet(1e-9, iterations=30)(y, physics)
    cg = CGSense()(y, physics)
    torch.testing.assert_close(l1, cg, rtol=0, atol=1e-7)
    assert error(cg, truth) < 1e-7


def test_no_strength_is_chosen_where_there_is_no_noise_to_suppress():
    truth, y, physics = measure(0)
    assert error(L1Wavelet()(y, physics), truth) < 5e-3


def test_gradients_reach_the_measurements():
    _, y, physics = measure(0.02, random_mask(), dtype=torch.complex128)
    y.requires_grad_()
    for model in (L1Wavelet(0.02, iterations=3), L1Wavelet(0.02, reweighted=False, iterations=3), CGSense(3)):
        (gradient,) = torch.autograd.grad(model(y, physics).square().sum(), y)
        direction = torch.randn_like(y) * physics.mask
        h = 1e-6
        with torch.no_grad():
            change = [float(model(y + s * h * direction, physics).square().sum()) for s in (1, -1)]
        expected = torch.linalg.vecdot(gradient.flatten(), direction.flatten()).real
        assert (change[0] - change[1]) / (2 * h) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("sets", [1, 2])
def test_bound_of_the_largest_eigenvalue(sets):
    maps = torch.randn(1, sets, 3, 12, 10, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    physics = MultiCoilMRI(maps, random_mask(0.8, (12, 10)))
    x = torch.randn(1, sets, 12, 10, dtype=torch.complex128)
    for _ in range(300):
        x = physics.normal(x)
        norm = torch.linalg.vector_norm(x)
        x = x / norm
    assert norm <= largest_eigenvalue(physics) * (1 + 1e-9)
    unit = MultiCoilMRI(maps / torch.linalg.vector_norm(maps, dim=2, keepdim=True))
    assert sets > 1 or largest_eigenvalue(unit) == pytest.approx(1)


# --- the choice of the strength -------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-3.3, 0.0, 2.5, 7.1])
def test_path_finds_the_least_error_up_and_down(offset):
    target = 2.0 * 0.6**offset
    found = least_on_path(lambda s: 1 + (np.log(s) - np.log(target)) ** 2, 2.0)
    assert found == pytest.approx(target, rel=1e-6)


def test_left_out_samples_are_not_seen():
    _, y, physics = measure(0.1, random_mask())
    split = leave_out(y, physics)
    lost = physics.mask & ~split.physics.mask
    assert int(lost.sum()) == round(0.08 * (int(physics.mask.sum()) - 64))
    assert not lost[..., 28:36, 24:32].any()  # the very centre stays
    changed = torch.where(lost, 100 * torch.ones_like(y), y)
    kept = leave_out(changed, physics)
    torch.testing.assert_close(kept.physics.A_adjoint(kept.y), split.physics.A_adjoint(split.y))


@pytest.mark.parametrize("model", [CGSense, L1Wavelet])
def test_more_noise_more_regularisation(model):
    found = []
    for sigma in (0.01, 0.05, 0.2):
        _, y, physics = measure(sigma, random_mask())
        chosen = model()
        chosen(y, physics)
        found.append(next(iter(chosen.details.values())))
    assert found == sorted(found, reverse=model is CGSense)
    assert found[0] != found[2]


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_chosen_strength_is_near_the_best(sigma):
    truth, y, physics = measure(sigma, random_mask())
    auto = L1Wavelet()
    chosen = error(auto(y, physics), truth)
    strength = auto.details["regularisation"]
    best = min(error(L1Wavelet(strength * 1.5**k)(y, physics), truth) for k in range(-3, 4))
    assert chosen < 1.08 * best
    best_cg = min(error(CGSense(n)(y, physics), truth) for n in range(1, 15))
    assert error(CGSense()(y, physics), truth) < 1.25 * best_cg
    assert chosen < 0.9 * best_cg


# --- behaviour ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_scale_and_repetition(name):
    _, y, physics = measure(0.03, random_mask())
    model = registry[name]()
    x = model(y, physics)
    assert torch.equal(x, registry[name]()(y, physics))
    torch.testing.assert_close(registry[name]()(1024 * y, physics), 1024 * x, rtol=1e-4, atol=1e-2)
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("name", MODELS)
def test_batch_is_each_image_by_itself(name):
    _, y1, physics = measure(0.03, random_mask())
    _, y2, _ = measure(0.1, random_mask(), seed=1)
    both = registry[name]()(torch.cat([y1, y2]), physics)
    for i, y in enumerate((y1, y2)):
        torch.testing.assert_close(both[i : i + 1], registry[name]()(y, physics), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_one_coil_odd_size_double_precision_and_nothing_at_all(name):
    shape = (33, 21)
    physics = MultiCoilMRI(torch.ones(1, 1, *shape, dtype=torch.complex128), random_mask(0.5, shape))
    truth = phantom(shape)
    y = physics.A(to_channels(truth[None, None]))
    x = registry[name]()(y, physics)
    assert x.dtype == torch.float64
    size = x if name == "rss" else to_complex(x).abs()
    assert torch.linalg.vector_norm(size[0, 0] - truth.abs()) < 0.5 * torch.linalg.vector_norm(truth)
    assert not registry[name]()(torch.zeros_like(y), physics).any()


@pytest.mark.parametrize("name", ["zero-filled", "cg-sense", "l1-wavelet"])
def test_two_sets_of_maps(name):
    first, second = coil_maps(4), coil_maps(4).flip(1).conj()
    second = second - (first.conj() * second).sum(1, keepdim=True) * first
    second = second / torch.linalg.vector_norm(second, dim=1, keepdim=True)
    physics = MultiCoilMRI(torch.stack([first, second], 1).to(torch.complex64), random_mask(0.7))
    truth = torch.stack([phantom(), phantom().flip(0) * 0.5])[None].to(torch.complex64)
    y = physics.A(to_channels(truth))
    x = registry[name]()(y, physics)
    assert x.shape == (1, 4, *SHAPE)
    distance = torch.linalg.vector_norm(to_complex(x) - truth) / torch.linalg.vector_norm(truth)
    assert distance < {"zero-filled": 0.8, "cg-sense": 0.25, "l1-wavelet": 0.15}[name]


@pytest.mark.parametrize("name", ["cg-sense", "l1-wavelet"])
def test_volume(name):
    maps = coil_maps(3, (24, 18))[:, :, None].expand(-1, -1, 6, -1, -1).to(torch.complex64)
    truth = phantom((24, 18)).to(torch.complex64).expand(6, -1, -1)
    physics = MultiCoilMRI(maps, random_mask(0.6, (24, 18))[None], three_d=True)
    x = registry[name]()(physics.A(to_channels(truth[None, None])), physics)
    assert error(x, truth) < 0.25


@pytest.mark.parametrize("name", MODELS)
def test_off_the_grid(name):
    maps = coil_maps(4).to(torch.complex64)
    physics = NonCartesianMRI(maps, radial(SHAPE, spokes=60))
    truth = phantom().to(torch.complex64)
    x = registry[name]()(physics.A(to_channels(truth[None, None])), physics)
    size = x[0, 0] if name == "rss" else to_complex(x)[0, 0].abs()
    limit = {"zero-filled": 0.25, "rss": 0.25, "cg-sense": 0.12, "l1-wavelet": 0.1}[name]
    scale = (size * truth.abs()).sum() / size.square().sum()
    assert torch.linalg.vector_norm(scale * size - truth.abs()) < limit * torch.linalg.vector_norm(truth)


def test_rss_is_the_magnitude_of_all_coils():
    truth, y, physics = measure(0)
    torch.testing.assert_close(RootSumOfSquares()(y, physics)[0, 0], truth.abs(), rtol=0, atol=1e-5)
    torch.testing.assert_close(ZeroFilled()(y, physics), to_channels(truth[None, None]), rtol=0, atol=1e-5)


def test_better_prior_better_image_on_a_real_brain(shared_data):
    k = np.fromfile(shared_data / "mri/kspace/brain-full-8ch.cfl", dtype=np.complex64)
    k = torch.from_numpy(k.reshape(8, 180, 230).transpose(0, 2, 1).copy())[None]
    full = espirit(k, sets=1).maps
    reference = MultiCoilMRI(full).combine(k)[0].abs()
    mask = poisson((230, 180), 5, center=24, generator=0)
    physics = MultiCoilMRI(espirit(k, mask, sets=1).maps, mask)
    inside = full.abs().sum((0, 1, 2)) > 0
    peak = reference.max()

    def psnr(name):
        x = to_complex(registry[name]()(k * mask, physics))[0, 0].abs()
        return float(10 * torch.log10(peak**2 / (x - reference)[inside].square().mean()))

    assert psnr("l1-wavelet") > 36
    assert psnr("cg-sense") > 34
    assert psnr("zero-filled") < 30


@pytest.mark.parametrize("name", MODELS)
def test_measurements_of_another_shape_are_refused(name):
    _, y, physics = measure(0, random_mask())
    for bad in (y[:, :2], y[..., :-1], y[:, :, None]):
        with pytest.raises(ShapeError, match="do not fit"):
            registry[name]()(bad, physics)
    two = MultiCoilMRI(physics.coil_maps.expand(2, -1, -1, -1, -1), physics.mask)
    with pytest.raises(ShapeError, match="do not fit"):
        registry[name]()(y.expand(3, -1, -1, -1), two)
