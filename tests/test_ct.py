"""Computed tomography: line integrals, exact adjoints, agreement with deepinv, filtered back-projection, noise."""

from __future__ import annotations

import math

import deepinv
import pytest
import torch

from recon.physics import FanCT, ParallelCT
from recon.physics.ct import angular_weights
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.noise import (
    WATER,
    PhotonNoise,
    PostLogNoise,
    attenuation_of,
    hounsfield_of,
    line_integrals,
    noise_model,
    post_log_variance,
)


def disc(n: int, radius: float, *, at: tuple[float, float] = (0.0, 0.0), fine: int = 8) -> torch.Tensor:
    """A disc of 1, its edge averaged over the pixels; ``at`` is (x, y) from the centre."""
    place = (torch.arange(n * fine, dtype=torch.float64) + 0.5) / fine - n / 2
    inside = ((place - at[0]).square() + (place[:, None] - at[1]).square() <= radius**2).double()
    return torch.nn.functional.avg_pool2d(inside[None, None], fine)


@pytest.mark.parametrize("cls", [ParallelCT, FanCT])
@pytest.mark.parametrize("matrix", [True, False])
def test_integrals_of_a_disc_are_its_chords(cls, matrix):
    physics = cls((1, 64, 64), 12, pixel_size=0.5, matrix=matrix)
    y = physics.A(disc(64, 20, at=(6, -4)))[0, 0]
    rays = physics._rays()
    distance = (rays.point - torch.tensor([6.0, -4.0])).double()
    direction = rays.direction / rays.direction.norm(dim=1, keepdim=True)
    across = (distance[:, 0] * direction[:, 1] - distance[:, 1] * direction[:, 0]).abs().reshape(y.shape)
    chord = 0.5 * 2 * (400 - across.square()).clamp_min(0).sqrt()
    assert float((y - chord).abs().mean()) < 0.02 * float(chord.max())
    assert float((y - chord)[across < 15].abs().max()) < 0.02 * float(chord.max())


@pytest.mark.parametrize("cls", [ParallelCT, FanCT])
def test_the_matrix_and_the_rays_are_one_operator(cls, generator):
    physics = [cls((1, 21, 30), 9, matrix=matrix) for matrix in (True, False)]
    x = torch.randn(2, 1, 21, 30, dtype=torch.float64, generator=generator)
    y = [p.A(x) for p in physics]
    torch.testing.assert_close(*y)
    torch.testing.assert_close(*(p.A_adjoint(y[0]) for p in physics))
    single = [p.A(x.float()) for p in physics]
    torch.testing.assert_close(*single, rtol=1e-4, atol=1e-3)
    v = torch.randn(y[0].shape, generator=generator)
    for p, values in zip(physics, single, strict=True):
        left, right = float((values * v).sum()), float((x.float() * p.A_adjoint(v)).sum())
        assert abs(left - right) < 1e-5 * float(values.norm() * v.norm())


def test_parallel_beam_is_deepinvs(generator):
    """The interpolation differs (one axis here, two there), so a smooth image is compared."""
    x = disc(48, 14, at=(5, 3)).float()
    x = deepinv.physics.Blur(deepinv.physics.functional.gaussian_blur(sigma=(2.0, 2.0)), padding="constant").A(x)
    theirs = deepinv.physics.Tomography(torch.tensor([0.0, 17.0, 90.0, 133.0]), 48, normalize=False).A(x)
    ours = ParallelCT((1, 48, 48), [0.0, 17.0, 90.0, 133.0]).A(x)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_fan_beam_is_deepinvs():
    """deepinv leaves the slope of a ray out of its step, so that is put back."""
    x = disc(48, 14, at=(5, 3)).float()
    x = deepinv.physics.Blur(deepinv.physics.functional.gaussian_blur(sigma=(2.0, 2.0)), padding="constant").A(x)
    angles = torch.tensor([0.0, 40.0, 200.0])
    told = {
        "pixel_spacing": 1.0,
        "source_radius": 120.0,
        "detector_radius": 60.0,
        "n_detector_pixels": 90,
        "detector_spacing": 1.5,
    }
    theirs = deepinv.physics.Tomography(angles, 48, normalize=False, fan_beam=True, fan_parameters=told).A(x)
    ours = FanCT((1, 48, 48), angles, source_distance=120.0, detector_distance=60.0, detectors=90, detector_spacing=1.5)
    slope = (1 + (ours.cells() / 180).square()).sqrt().float()[:, None]
    ratio = ours.A(x) / slope
    assert float((ratio - theirs).norm() / theirs.norm()) < 0.05  # its padded image is wider than it reckons


def test_norm_and_unit(generator):
    physics = ParallelCT((1, 16, 16), 10, normalize=True)
    x = torch.randn(1, 1, 16, 16, generator=generator)
    assert float(physics.compute_sqnorm(x, tol=1e-6, verbose=False)) == pytest.approx(1, rel=1e-3)
    assert physics.sqnorm == pytest.approx(1)
    plain = ParallelCT((1, 16, 16), 10, pixel_size=2.0)
    torch.testing.assert_close(plain.A(x) * (physics.scale / 2), physics.A(x))


@pytest.mark.parametrize("cls", [ParallelCT, FanCT])
@pytest.mark.parametrize("normalize", [False, True])
def test_filtered_back_projection_gives_the_image_in_its_unit(cls, normalize):
    x = 3 * disc(64, 22, at=(3, 2))
    physics = cls((1, 64, 64), 90, pixel_size=0.7, normalize=normalize)
    image = physics.fbp(physics.A(x))
    inside = disc(64, 18, at=(3, 2)) == 1
    assert float(image[inside].mean()) == pytest.approx(3, rel=0.02)
    assert float((image - x)[inside].std()) < 0.15
    assert float(image[disc(64, 27, at=(3, 2)) == 0].abs().mean()) < 0.15


def test_batches_and_channels_are_measured_alike(generator):
    physics = FanCT((2, 12, 12), 5)
    x = torch.randn(3, 2, 12, 12, generator=generator)
    y = physics.A(x)
    torch.testing.assert_close(physics.A(x[1:2])[0, 1], y[1, 1])
    clone = physics.clone()
    assert clone._projector is physics._projector  # the matrix is shared, not copied
    torch.testing.assert_close(clone.A(x), y)


def test_angles_stand_for_their_gaps():
    even = angular_weights(torch.tensor([0.0, 45.0, 90.0, 135.0]), 180.0)
    torch.testing.assert_close(even, torch.full((4,), math.pi / 4))
    uneven = angular_weights(torch.tensor([90.0, 0.0, 30.0]), 180.0)
    torch.testing.assert_close(uneven, torch.deg2rad(torch.tensor([75.0, 60.0, 45.0])))
    limited = angular_weights(torch.arange(0.0, 60.0, 5.0), 180.0)
    torch.testing.assert_close(limited, torch.full((12,), math.radians(5)))


def test_hounsfield_units_and_back():
    hu = torch.tensor([-1000.0, 0.0, 1200.0])
    torch.testing.assert_close(attenuation_of(hu), torch.tensor([0.0, WATER, 2.2 * WATER]))
    torch.testing.assert_close(hounsfield_of(attenuation_of(hu)), hu)
    assert float(attenuation_of(torch.tensor(-2000.0))) == 0


def test_photon_noise_has_the_variance_of_counts():
    x = torch.full((1, 1, 200, 200), 2.0)
    for model in (PhotonNoise(1e4, rng=torch.Generator()), PostLogNoise(1e4, rng=torch.Generator())):
        y = model(x, seed=0)
        assert torch.equal(y, model(x, seed=0))
        assert float(y.mean()) == pytest.approx(2, abs=3e-3)
        assert float(y.var()) == pytest.approx(float(post_log_variance(torch.tensor(2.0), 1e4)), rel=0.05)


def test_rays_that_no_photon_passes_stay_finite():
    y = PhotonNoise(100.0)(torch.full((1, 1, 8, 8), 50.0))
    torch.testing.assert_close(y, torch.full_like(y, math.log(200)))
    torch.testing.assert_close(line_integrals(torch.tensor([100.0]), 100.0), torch.tensor([0.0]))
    with pytest.raises(DataError, match="below 0"):
        line_integrals(torch.tensor([-1.0]), 100.0)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({}, "ZeroNoise"),
        ({"sigma": 1.0}, "GaussianNoise"),
        ({"gain": 1.0}, "PoissonNoise"),
        ({"sigma": 1.0, "gain": 1.0}, "PoissonGaussianNoise"),
    ],
)
def test_noise_models_by_what_is_known(told, kind):
    assert type(noise_model(**told)).__name__ == kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelCT((1, 8, 8), []), "at least one"),
        (lambda: ParallelCT((1, 8, 8), 0), "at least one"),
        (lambda: ParallelCT((1, 8, 8), [math.nan]), "at least one"),
        (lambda: ParallelCT((1, 8, 8), 4, pixel_size=0.0), "pixel"),
        (lambda: ParallelCT((1, 8, 8), 4, detectors=-3), "detectors"),
        (lambda: FanCT((1, 8, 8), 4, source_distance=3.0), "outside the image"),
        (lambda: noise_model(sigma=0.0), "sigma is positive"),
        (lambda: noise_model(gain=-1.0), "gain is positive"),
        (lambda: PhotonNoise(0.0), "photons is positive"),
    ],
)
def test_geometries_and_levels_that_cannot_be(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_sinograms_and_images_of_another_size():
    physics = ParallelCT((1, 8, 8), 4)
    with pytest.raises(ShapeError, match="12 detectors, 4 angles"):
        physics.A_adjoint(torch.zeros(1, 1, 4, 12))
    with pytest.raises(ShapeError, match="another size"):
        physics.A(torch.zeros(1, 1, 9, 8))
