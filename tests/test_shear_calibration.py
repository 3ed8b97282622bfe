"""Responses to shear in closed form, calibrated means, and m and c of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import galsim
import numpy as np
import pytest
import torch

from recon.datasets.galaxies import LSST, Galaxy, PSFModel, Ring, SeeingTable, simulate_galaxies
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.shear import (
    ShearResponses,
    adaptive_moments,
    bias,
    bias_in_bins,
    fpfs,
    mean_shear,
    regauss,
    shear_responses,
    sheared_stamps,
    weighted_moments,
)

GALAXY = torch.tensor([[5.0, 0.8], [0.8, 3.0]], dtype=torch.float64)  # second moments, pixels^2
PSF = torch.tensor([[2.5, 0.3], [0.3, 2.2]], dtype=torch.float64)
TARGET = 1.9
N = 48
ELLIPTICAL = replace(LSST, psf=PSFModel(seeing=SeeingTable(), ellipticity=(0.1, 0.1)))


def gaussian(M: torch.Tensor, centre=(0.0, 0.0), n: int = N) -> torch.Tensor:
    line = torch.arange(n, dtype=torch.float64) - n // 2
    y, x = torch.meshgrid(line - centre[1], line - centre[0], indexing="ij")
    P = torch.linalg.inv(M)
    image = torch.exp(-0.5 * (P[0, 0] * x * x + 2 * P[0, 1] * x * y + P[1, 1] * y * y))
    return (image / image.sum())[None, None]


def matrix(g1: float, g2: float) -> torch.Tensor:
    return torch.tensor([[1 + g1, g2], [g2, 1 - g1]], dtype=torch.float64) / math.sqrt(1 - g1 * g1 - g2 * g2)


def distortion(M: torch.Tensor) -> torch.Tensor:
    return torch.stack([M[0, 0] - M[1, 1], 2 * M[0, 1]]) / (M[0, 0] + M[1, 1])


def sheared_gaussian(g1: float, g2: float) -> torch.Tensor:
    """Second moments of the galaxy sheared, and seen through the round target."""
    S = matrix(g1, g2)
    return S @ GALAXY @ S.T + TARGET**2 * torch.eye(2, dtype=torch.float64)


# --- shearing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.01, 0.0), (0.0, -0.01), (0.1, -0.05)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-5)])
def test_shearing_is_exact(shear: tuple[float, float], dtype: torch.dtype, tolerance: float) -> None:
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)
    seen, psf = 1000 * gaussian(GALAXY + PSF, centre.tolist()), gaussian(PSF, n=41)
    expected = 1000 * gaussian(sheared_gaussian(*shear), (matrix(*shear) @ centre).tolist())
    result = sheared_stamps(seen.to(dtype), psf.to(dtype), [shear], sigma=TARGET)
    assert (result.images[0] - expected).abs().max() < tolerance * expected.max()
    stays = sheared_stamps(seen.to(dtype), psf.to(dtype), [shear], sigma=TARGET, centre=centre.to(dtype)[None])
    expected = 1000 * gaussian(sheared_gaussian(*shear), centre.tolist())
    assert (stays.images[0] - expected).abs().max() < tolerance * expected.max()
    torch.testing.assert_close(result.psf.double(), gaussian(TARGET**2 * torch.eye(2).double()), rtol=0, atol=1e-7)


def test_noise_level_is_told_and_the_added_noise_is_sheared_back() -> None:
    rng = torch.Generator().manual_seed(0)
    n, sigma = 300, 3.0
    noise, added = (sigma * torch.randn(n, 1, N, N, generator=rng) for _ in range(2))
    psf = gaussian(PSF).float()
    result = sheared_stamps(noise, psf, [(0.05, 0.0), (0.0, 0.0)], noise=sigma, sigma=TARGET, added=added)
    inner = [image[..., 8:40, 8:40] for image in result.images]
    assert inner[1].std().item() == pytest.approx(result.noise[0].item(), rel=0.02)

    def anisotropy(images: torch.Tensor) -> float:
        """Difference of the correlations along x and y."""
        along_x = (images[..., 2:] * images[..., :-2]).mean()
        along_y = (images[..., 2:, :] * images[..., :-2, :]).mean()
        return ((along_x - along_y) / images.var()).item()

    alone = sheared_stamps(noise, psf, [(0.05, 0.0)], noise=sigma, sigma=TARGET).images[0][..., 8:40, 8:40]
    assert abs(anisotropy(alone)) > 0.03
    assert abs(anisotropy(inner[0])) < 0.006


def test_response_of_a_gaussian_is_that_of_its_moments() -> None:
    seen, psf = 1000 * gaussian(GALAXY + PSF, (0.2, 0.1)), gaussian(PSF)
    found = shear_responses(seen, psf, 0.0, lambda x, _: adaptive_moments(x), sigma=TARGET, correct=False)
    torch.testing.assert_close(found.e[0, 0], distortion(sheared_gaussian(0, 0)), atol=1e-6, rtol=0)
    h = 0.01
    columns = [
        (distortion(sheared_gaussian(*plus)) - distortion(sheared_gaussian(*minus))) / (2 * h)
        for plus, minus in (((h, 0), (-h, 0)), ((0, h), (0, -h)))
    ]
    torch.testing.assert_close(found.response[0], torch.stack(columns, 1), atol=1e-5, rtol=0)


def test_response_goes_through_the_model() -> None:
    seen = (1000 * gaussian(GALAXY + PSF)).expand(3, 1, N, N)
    told = []

    def blur(y: torch.Tensor, physics) -> torch.Tensor:
        told.append((physics.psf.shape, physics.noise_model.sigma))
        return physics.A(y)  # makes the galaxy rounder by the target once more

    estimator = lambda x, psf: fpfs(x, psf, sigma=3.0, pixel_scale=1.0, weighting=0.0)  # noqa: E731
    through = shear_responses(seen, gaussian(PSF), 2.0, estimator, blur, sigma=TARGET, correct=False, chunk=2)
    assert [shape[0] for shape, _ in told] == [2] * 5 + [1] * 5
    assert 0 < told[0][1][0] < 2
    twice = 2 * TARGET**2 * torch.eye(2, dtype=torch.float64)
    expected = []
    for plus, minus in (((0.01, 0.0), (-0.01, 0.0)), ((0.0, 0.01), (0.0, -0.01))):
        shapes = []
        for shear in (plus, minus):
            S = matrix(*shear)
            shape = fpfs(1000 * gaussian(S @ GALAXY @ S.T + twice), sigma=3.0, pixel_scale=1.0, weighting=0.0)
            shapes.append(torch.cat([shape.e1, shape.e2]))
        expected.append((shapes[0] - shapes[1]) / 0.02)
    torch.testing.assert_close(through.response[0], torch.stack(expected, 1), atol=1e-5, rtol=0)


def test_added_noise_depends_on_id_alone() -> None:
    seen, psf = (1000 * gaussian(GALAXY + PSF)).float().expand(4, 1, N, N), gaussian(PSF).float()
    ids = torch.tensor([7, 8, 7, 9])
    run = lambda chunk: shear_responses(  # noqa: E731
        seen, psf, 1.0, lambda x, _: weighted_moments(x, 2.5), sigma=TARGET, ids=ids, chunk=chunk
    )
    e = run(4).e
    torch.testing.assert_close(e[:, 0], e[:, 2])
    assert (e[:, 0] - e[:, 1]).abs().max() > 1e-4
    torch.testing.assert_close(run(3).e, e, rtol=1e-3, atol=1e-5)


# --- ensembles --------------------------------------------------------------------------------------------------


@dataclass
class Made:
    """Shapes made from numbers."""

    e1: torch.Tensor
    e2: torch.Tensor
    flags: torch.Tensor

    @property
    def g1(self) -> torch.Tensor:
        return self.e1

    @property
    def g2(self) -> torch.Tensor:
        return self.e2


def made(shape: torch.Tensor, response: torch.Tensor, good: torch.Tensor | None = None) -> ShearResponses:
    """Responses of objects of known shapes ``(b, 2)`` and response matrices ``(b, 2, 2)``."""
    step = 0.01
    shears = step * torch.tensor([[0.0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    e = shape + torch.einsum("bij,vj->vbi", response, shears)
    return ShearResponses(e=e, good=torch.ones(5, len(shape), dtype=torch.bool) if good is None else good, step=step)


def test_mean_shear_inverts_the_mean_response() -> None:
    rng = torch.Generator().manual_seed(0)
    n = 4000
    response = torch.tensor([[0.7, 0.05], [0.02, 0.6]], dtype=torch.float64)
    response = response + 0.1 * torch.randn(n, 2, 2, generator=rng, dtype=torch.float64)
    g = torch.tensor([0.03, -0.01], dtype=torch.float64)
    noise = 0.2 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    result = mean_shear(made(response @ g + noise, response))
    assert result.g1_error == pytest.approx(0.2 / math.sqrt(n) / 0.7, rel=0.25)
    assert abs(result.g1 - 0.03) < 3.5 * result.g1_error
    assert abs(result.g2 + 0.01) < 3.5 * result.g2_error
    torch.testing.assert_close(result.response, response.mean(0))
    assert result.number == n


def test_bias_finds_the_m_and_c_put_in_and_rings_cancel_shape_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    galaxies, g = 200, 0.02
    shape = 0.3 * torch.randn(galaxies, 1, dtype=torch.float64, generator=rng)
    turn = torch.arange(4) * math.pi / 4
    ring = torch.stack([shape * torch.cos(2 * turn), shape * torch.sin(2 * turn)], -1)  # (galaxy, rotation, 2)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    shear = sign[None, :, None, None] * torch.tensor([g, 0.0], dtype=torch.float64)
    e = ring[:, None] + 0.7 * (1.05 * shear) + 0.7 * torch.tensor([3e-4, -2e-4], dtype=torch.float64)
    response = 0.7 * torch.eye(2, dtype=torch.float64).expand(galaxies * 8, 2, 2)
    group = torch.arange(galaxies).repeat_interleave(8)
    applied = shear.expand(galaxies, 2, 4, 2).reshape(-1, 2)
    found = bias(made(e.reshape(-1, 2), response), applied, group)
    assert found.m == pytest.approx(0.05, abs=1e-9)
    assert (found.c1, found.c2) == pytest.approx((3e-4, -2e-4), abs=1e-9)
    assert found.m_error < 1e-9  # the ring is complete
    assert found.response == pytest.approx(0.7)
    broken = ~((group < 100) & (torch.arange(galaxies * 8) % 8 == 0))  # some lose a rotation
    noisy = bias(made(e.reshape(-1, 2), response, broken.expand(5, -1)), applied, group)
    assert noisy.m_error > 0.01
    assert abs(noisy.m - 0.05) < 4 * noisy.m_error
    assert noisy.number == galaxies * 8 - 100
    # another direction of shear
    turned = bias(made(e.reshape(-1, 2).flip(1), response), applied.flip(1), group)
    assert turned.m == pytest.approx(0.05, abs=1e-9)


def test_bias_in_bins() -> None:
    galaxies = 40
    group = torch.arange(galaxies).repeat_interleave(2)
    applied = torch.tensor([[0.02, 0.0], [-0.02, 0.0]], dtype=torch.float64).repeat(galaxies, 1)
    snr = torch.linspace(10, 90, galaxies).repeat_interleave(2)
    m = torch.where(snr < 50, -0.1, 0.01).double()
    responses = made(applied * (1 + m[:, None]), torch.eye(2, dtype=torch.float64).expand(2 * galaxies, 2, 2))
    low, high = bias_in_bins(responses, applied, group, snr, [0, 50, 100])
    assert (low.m, high.m) == pytest.approx((-0.1, 0.01))
    assert low.number + high.number == 2 * galaxies
    with pytest.raises(DataError, match="without galaxies"):
        bias_in_bins(responses, applied, group, snr, [0, 5, 100])


def test_selection_response_is_counted() -> None:
    """A cut on the measured first component that moves with shear: without its response the mean would be off."""
    rng = torch.Generator().manual_seed(0)
    n, g = 200_000, 0.03
    intrinsic = 0.3 * torch.randn(n, 2, generator=rng, dtype=torch.float64)
    e = made(intrinsic + torch.tensor([g, 0.0]), torch.eye(2, dtype=torch.float64).expand(n, 2, 2)).e
    good = e[..., 0] > 0.1
    found = mean_shear(ShearResponses(e=e, good=good, step=0.01))
    none = mean_shear(ShearResponses(e=e, good=torch.ones_like(good), step=0.01))
    # mean of a normal cut from below: its slope with the shift is what the selection takes away
    a = (0.1 - g) / 0.3
    hazard = math.exp(-0.5 * a * a) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(a / math.sqrt(2)))
    assert found.response[0, 0].item() == pytest.approx(1 - hazard * (hazard - a), abs=0.03)
    assert none.response[0, 0].item() == pytest.approx(1)


def test_uncalibrated_shapes_have_a_response_of_one() -> None:
    shapes = Made(torch.tensor([0.1, 0.2, math.nan]), torch.tensor([0.0, 0.1, 0.2]), torch.tensor([0, 0, 0]))
    result = mean_shear(ShearResponses.without(shapes), blocks=2)
    assert (result.g1, result.g2, result.number) == pytest.approx((0.15, 0.05, 2))


# --- the whole way, on simulated galaxies -----------------------------------------------------------------------


class Exponentials:
    """A source of exponential discs of some sizes and shapes."""

    def draw(self, rng: np.random.Generator, index: int, split: str) -> Galaxy:
        profile = galsim.Exponential(half_light_radius=rng.uniform(0.3, 0.6)).shear(g1=rng.uniform(0, 0.4), g2=0)
        return Galaxy(profile=profile, kind="sersic", index=index)


def ring(n: int, snr: float):
    sample = simulate_galaxies(n, ELLIPTICAL, galaxies=Exponentials(), ring=Ring(g1=0.02, rotations=2), snr=snr)
    rows = sample.catalogue
    return (
        torch.from_numpy(sample.observed)[:, None],
        torch.from_numpy(sample.psf)[:, None],
        torch.from_numpy(np.stack([rows["g1"], rows["g2"]], 1)),
        torch.from_numpy(rows["galaxy"]),
        torch.from_numpy(rows["galaxy"] * 2 + rows["id"] % 2),
    )


@pytest.mark.parametrize(
    "estimator",
    [
        lambda x, psf: adaptive_moments(x),
        lambda x, psf: weighted_moments(x, 2.5),
        fpfs,
        regauss,
    ],
    ids=["adaptive", "weighted", "fpfs", "regauss"],
)
def test_calibrated_shear_is_right_where_there_is_no_noise(estimator) -> None:
    stamps, psf, shear, group, _ = ring(12, 1e5)
    found = bias(shear_responses(stamps, psf, LSST.noise.sigma, estimator, correct=False), shear, group)
    assert abs(found.m) < 1.5e-3 + 3 * found.m_error
    assert found.m_error < 3e-3
    assert abs(found.c1) < 3e-5 + 4 * found.c1_error  # the PSF is elliptical, the result is not


def test_adaptive_moments_are_biased_without_calibration_and_right_with_it_in_noise() -> None:
    stamps, psf, shear, group, ids = ring(60, 80.0)
    plain = bias(ShearResponses.without(adaptive_moments(stamps)), shear, group)
    assert plain.m < -0.2  # the PSF makes galaxies rounder
    found = shear_responses(stamps, psf, LSST.noise.sigma, lambda x, _: adaptive_moments(x), ids=ids)
    calibrated = bias(found, shear, group)
    assert abs(calibrated.m) < 4 * calibrated.m_error
    assert calibrated.m_error < 0.05
    assert calibrated.number == 240


def test_rows_without_a_shape_stay_and_are_left_out() -> None:
    stamps, psf, _, group, ids = ring(4, 100.0)
    stamps[3] = 0
    found = shear_responses(stamps, psf, LSST.noise.sigma, lambda x, _: adaptive_moments(x), correct=False, ids=ids)
    assert len(found) == 16
    assert not bool(found.good[:, 3].any())
    assert mean_shear(found, group).number == 15
    cut = shear_responses(
        stamps, psf, LSST.noise.sigma, lambda x, _: adaptive_moments(x), select=lambda m: m.x > 24, correct=False
    )
    assert 0 < int(cut.good[0].sum()) < 15
    assert bool(torch.isfinite(cut.response[4:]).all())  # what is not selected still has a response
    joined = ShearResponses.joined([found, cut])
    assert len(joined) == 32


def test_bad_input() -> None:
    seen, psf = gaussian(GALAXY + PSF), gaussian(PSF)
    estimator = lambda x, _: adaptive_moments(x)  # noqa: E731
    with pytest.raises(ShapeError, match="square"):
        sheared_stamps(seen[..., :40], psf, [(0.01, 0.0)])
    with pytest.raises(ShapeError, match="PSFs that do not fit"):
        sheared_stamps(seen, psf.expand(3, 1, N, N), [(0.01, 0.0)])
    with pytest.raises(OptionError, match="small"):
        sheared_stamps(seen, psf, [(0.9, 0.0)])
    with pytest.raises(DataError, match="size cannot be measured"):
        sheared_stamps(seen, 0 * psf, [(0.01, 0.0)])
    with pytest.raises(OptionError, match="step"):
        shear_responses(seen, psf, 0.0, estimator, step=0.5)
    responses = made(torch.zeros(4, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).expand(4, 2, 2))
    group = torch.tensor([0, 0, 1, 1])
    with pytest.raises(DataError, match="not \\+g and -g"):
        bias(responses, torch.full((4, 2), 0.02), group)
    with pytest.raises(ShapeError, match="do not fit"):
        bias(responses, torch.full((3, 2), 0.02), group)
    with pytest.raises(DataError, match="no galaxies with a"):
        mean_shear(replace(responses, good=torch.zeros(5, 4, dtype=torch.bool)))
    with pytest.raises(OptionError, match="one block"):
        mean_shear(responses, blocks=1)
    with pytest.raises(OptionError, match="do not belong together"):
        ShearResponses.joined([responses, replace(responses, step=0.02)])
