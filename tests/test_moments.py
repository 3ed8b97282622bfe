"""Shapes: closed forms, agreement with galsim.hsm, gradients, errors, and stamps that have no shape."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import galsim
import numpy as np
import pytest
import torch

from recon.physics.errors import OptionError, ShapeError
from recon.shear import (
    MomentFlag,
    Shapes,
    adaptive_moments,
    e_of_g,
    fpfs,
    g_of_e,
    regauss,
    weighted_moments,
)

SCALE = 0.2
PSF = galsim.Kolmogorov(fwhm=0.7).shear(g1=0.02, g2=-0.01)


def draw(profile, n: int = 48, method: str = "auto") -> torch.Tensor:
    """One stamp in double precision, the profile's centre at the pixel n // 2."""
    middle = 0.5 if n % 2 == 0 else 0.0
    image = profile.drawImage(nx=n, ny=n, scale=SCALE, offset=(middle, middle), method=method, dtype=float)
    return torch.from_numpy(image.array)[None, None]


def galaxies(n: int, size: int = 48, noise: float = 0.0) -> torch.Tensor:
    """Seen through the PSF, of all sizes and shapes."""
    rng = np.random.default_rng(1)
    stamps = []
    for _ in range(n):
        g, angle = 0.5 * math.sqrt(rng.uniform()), rng.uniform(0, math.pi)
        galaxy = galsim.Sersic(n=rng.choice([1.0, 2.5]), half_light_radius=rng.uniform(0.1, 0.7), flux=2e4)
        galaxy = galaxy.shear(g=g, beta=angle * galsim.radians).shift(*rng.uniform(-0.3, 0.3, 2))
        stamps.append(draw(galsim.Convolve(galaxy, PSF), size))
    return torch.cat(stamps).float() + noise * torch.from_numpy(rng.normal(size=(n, 1, size, size))).float()


def of_galsim(stamps: torch.Tensor, weight: torch.Tensor | None = None) -> list:
    """FindAdaptiveMom from our starting point."""
    y, x = (n // 2 + 1 for n in stamps.shape[-2:])
    results = []
    for index, stamp in enumerate(stamps[:, 0].numpy()):
        mask = None if weight is None else galsim.Image((weight[index, 0].numpy() > 0).astype(np.int32))
        image = galsim.Image(np.ascontiguousarray(stamp))
        results.append(
            galsim.hsm.FindAdaptiveMom(image, weight=mask, guess_centroid=galsim.PositionD(x, y), strict=False)
        )
    return results


def assert_agrees(stamps: torch.Tensor, weight: torch.Tensor | None = None, tolerance: float = 1e-4) -> None:
    ours, theirs = adaptive_moments(stamps, weight), of_galsim(stamps, weight)
    assert [bool(f) for f in ours.flags] == [r.error_message != "" for r in theirs]
    for index, r in enumerate(theirs):
        if r.error_message:
            assert math.isnan(ours.e1[index])
            continue
        values = [getattr(ours, name)[index].item() for name in ("x", "y", "sigma", "e1", "e2")]
        expected = [r.moments_centroid.x - 1, r.moments_centroid.y - 1, r.moments_sigma]
        expected += [r.observed_shape.e1, r.observed_shape.e2]
        assert values == pytest.approx(expected, abs=tolerance)
        assert ours.flux[index].item() == pytest.approx(r.moments_amp, rel=tolerance)
        assert ours.g1[index].item() == pytest.approx(r.observed_shape.g1, abs=tolerance)


# --- adaptive moments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_a_gaussian_are_its_own(dtype: torch.dtype) -> None:
    profile = galsim.Gaussian(sigma=0.6, flux=300).shear(e1=0.3, e2=-0.2).shift(0.25, -0.13)
    m = adaptive_moments(draw(profile, 63, "no_pixel").to(dtype))
    assert m.flux.dtype == dtype
    expected = {"flux": 300, "x": 31 + 1.25, "y": 31 - 0.65, "sigma": 3, "e1": 0.3, "e2": -0.2}
    for name, value in expected.items():
        assert getattr(m, name).item() == pytest.approx(value, rel=2e-5)
    assert bool(m.converged.all())
    assert isinstance(m, Shapes)


@pytest.mark.parametrize("noise", [0.0, 10.0, 40.0])
@pytest.mark.parametrize("size", [48, 33])
def test_agreement_with_galsim(size: int, noise: float) -> None:
    assert_agrees(galaxies(40, size, noise))


def test_agreement_with_galsim_on_a_large_oblong_stamp() -> None:
    stamp = torch.nn.functional.pad(galaxies(3, 48, 5.0), (50, 40, 10, 20))[..., 6:, :]
    assert_agrees(stamp.roll((3, -7), (2, 3)))


def test_agreement_with_galsim_under_a_mask() -> None:
    stamps = galaxies(8, noise=5.0)
    weight = torch.ones_like(stamps)
    weight[:, :, 20:23, 26:30] = 0
    weight[:, :, :, 40:] = -1
    stamps[:, :, 20:23, 26:30] = torch.nan  # what is masked may be anything
    with_zeros = torch.where(weight > 0, stamps, 0)
    ours, clean = adaptive_moments(stamps, weight), adaptive_moments(with_zeros, weight)
    torch.testing.assert_close(ours.e1, clean.e1)
    assert_agrees(with_zeros, weight)


def test_what_galsim_refuses_is_refused() -> None:
    sharp = galsim.Gaussian(fwhm=0.1)
    cusps = [galsim.Convolve(galsim.DeVaucouleurs(half_light_radius=r, flux=1e4), sharp) for r in (0.1, 0.2, 0.6)]
    cusps = torch.cat([draw(cusp) for cusp in cusps]).float()
    assert_agrees(torch.cat([cusps, galaxies(3)]))
    flags = adaptive_moments(cusps).flags
    assert MomentFlag.COLLAPSED in [MomentFlag(int(f)) for f in flags]


def test_rows_stay_where_they_are_among_hopeless_stamps() -> None:
    good = galaxies(3)
    nan = good[:1].clone()
    nan[..., 5, 5] = torch.nan
    noise = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    stamps = torch.cat([torch.zeros(1, 1, 48, 48), good[:1], nan, good[1:2], noise, -good[:1], good[2:]])
    m = adaptive_moments(stamps)
    alone = adaptive_moments(good)
    torch.testing.assert_close(m.e1[[1, 3, 7]], alone.e1, rtol=1e-4, atol=1e-5)
    assert MomentFlag(int(m.flags[0])) == MomentFlag.EMPTY
    assert MomentFlag(int(m.flags[2])) == MomentFlag.EMPTY
    assert len(m.flux) == 8
    masked = adaptive_moments(good, torch.zeros_like(good))
    assert set(masked.flags.tolist()) == {int(MomentFlag.EMPTY)}
    assert bool(torch.isnan(masked.flux).all())
    assert len(adaptive_moments(good[:0]).flux) == 0


def test_gradients_are_those_of_the_fixed_point() -> None:
    stamp = galaxies(1, 24)[..., :21].double().requires_grad_()
    direction = torch.randn(stamp.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def measured(t: torch.Tensor) -> torch.Tensor:
        m = adaptive_moments(t)
        return torch.stack([m.flux, m.x, m.y, m.sigma, m.e1, m.e2, m.g1])[:, 0]

    jacobian = torch.autograd.functional.jacobian(measured, stamp).flatten(1) @ direction.flatten()
    step = 1e-3 * direction
    numeric = (measured(stamp.detach() + step) - measured(stamp.detach() - step)) / 2e-3
    torch.testing.assert_close(jacobian, numeric, rtol=1e-5, atol=1e-8)


def test_gradient_is_finite_beside_a_failure() -> None:
    stamps = torch.cat([torch.zeros(1, 1, 24, 24), galaxies(1, 24)]).requires_grad_()
    m = adaptive_moments(stamps)
    m.e1[m.converged].sum().backward()
    assert bool(torch.isfinite(stamps.grad).all())
    assert stamps.grad[1].abs().max() > 0


def test_errors_are_the_scatter() -> None:
    noise, n = 12.0, 1200
    clean = galaxies(1)
    stamps = clean + noise * torch.randn(n, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    m = adaptive_moments(stamps, noise=noise)
    for name in ("flux", "sigma", "e1", "e2"):
        predicted = getattr(m, f"{name}_error").median().item()
        assert predicted == pytest.approx(getattr(m, name).std().item(), rel=0.08)
    weighted = adaptive_moments(stamps[:5], torch.full_like(clean, noise**-2))
    torch.testing.assert_close(weighted.e1_error, m.e1_error[:5])
    assert adaptive_moments(clean).e1_error is None


def test_bad_input_of_moments() -> None:
    stamp = galaxies(1)
    with pytest.raises(ShapeError, match="weight that does not fit"):
        adaptive_moments(stamp, torch.ones(1, 1, 24, 24))
    with pytest.raises(OptionError, match="size to start from"):
        adaptive_moments(stamp, guess=0)


# --- the others -------------------------------------------------------------------------------------------------


def test_conversions() -> None:
    g1, g2 = torch.tensor([0.0, 0.3, -0.1]), torch.tensor([0.0, -0.2, 0.6])
    e1, e2 = e_of_g(g1, g2)
    for index in range(3):
        shear = galsim.Shear(g1=g1[index].item(), g2=g2[index].item())
        assert (e1[index].item(), e2[index].item()) == pytest.approx((shear.e1, shear.e2), abs=1e-6)
    back = g_of_e(e1, e2)
    torch.testing.assert_close(back, (g1, g2))
    assert bool(torch.isnan(g_of_e(torch.tensor(0.9), torch.tensor(0.9))[0]))


def test_weighted_moments_of_a_gaussian() -> None:
    g = torch.tensor([[2.0, 0.7], [0.7, 3.5]]) ** 1  # its second moments in pixels
    y, x = np.mgrid[:41, :41] - 20.0
    inverse = np.linalg.inv(g.numpy())
    image = np.exp(-0.5 * (inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y))
    m = weighted_moments(torch.from_numpy(image)[None, None], 2.5)
    q = np.linalg.inv(inverse + np.eye(2) / 2.5**2)
    assert m.e1.item() == pytest.approx((q[0, 0] - q[1, 1]) / np.trace(q), abs=1e-6)
    assert m.e2.item() == pytest.approx(2 * q[0, 1] / np.trace(q), abs=1e-6)
    assert m.size.item() == pytest.approx(math.sqrt(np.trace(q) / 2), rel=1e-6)
    assert (m.x.item(), m.y.item()) == pytest.approx((20, 20))
    assert m.flags.item() == 0
    assert weighted_moments(torch.zeros(1, 1, 9, 9), 2.0).flags.item() == 1
    with pytest.raises(OptionError, match="without width"):
        weighted_moments(torch.zeros(1, 1, 9, 9), 0.0)


@pytest.mark.parametrize(
    ("g", "e1", "response", "g1"),
    [(0.02, 0.01367, 0.68374, 0.0200), (0.1, None, None, 0.09949), (0.2, None, None, 0.19596)],
)
def test_fpfs_check_values(g: float, e1: float | None, response: float | None, g1: float) -> None:
    stamp = draw(galsim.Gaussian(sigma=0.5, flux=5000).shear(g1=g), method="no_pixel")
    shape = fpfs(stamp, lift=True)
    assert shape.g1.item() == pytest.approx(g1, abs=6e-5)
    assert abs(shape.g2.item()) < 1e-6
    if e1 is not None:
        assert shape.e1.item() == pytest.approx(e1, abs=6e-6)
        assert shape.response.item() == pytest.approx(response, abs=6e-6)


def test_fpfs_of_a_round_object_is_nil_and_a_pixel_delta_is_no_psf() -> None:
    stamp = draw(galsim.Gaussian(sigma=0.5, flux=5000), method="no_pixel")
    assert math.hypot(fpfs(stamp).g1.item(), fpfs(stamp).g2.item()) < 1e-9
    delta = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    delta[..., 7, 7] = 1
    sheared = draw(galsim.Gaussian(sigma=0.5, flux=5000).shear(g1=0.1, g2=0.2), method="no_pixel")
    torch.testing.assert_close(fpfs(sheared, delta).g2, fpfs(sheared).g2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [48, 41, 65])
def test_fpfs_divides_the_psf_out(size: int) -> None:
    galaxy = galsim.Gaussian(sigma=0.5, flux=5000).shear(g1=0.1, g2=0.05)
    seen = draw(galsim.Convolve(galaxy, PSF))
    expected = fpfs(draw(galaxy, method="no_pixel"))
    for dtype in (torch.float64, torch.float32):
        shape = fpfs(seen.to(dtype), draw(PSF, size).to(dtype))
        assert shape.g1.item() == pytest.approx(expected.g1.item(), abs=2e-3)
        assert shape.g2.item() == pytest.approx(expected.g2.item(), abs=2e-3)
        assert shape.flags.item() == 0


@pytest.mark.parametrize("seen_through", [0.0, 0.3])
def test_fpfs_moments_by_their_closed_form(seen_through: float) -> None:
    """Under a Gaussian, a Gaussian has the moments of a Gaussian of waves, whatever round PSF it was seen through."""
    sigma, size, flux, g1, g2 = 0.6, 0.45, 5000.0, 0.1, 0.05
    galaxy = galsim.Gaussian(sigma=size, flux=flux).shear(g1=g1, g2=g2)
    psf = galsim.Gaussian(sigma=seen_through) if seen_through else None
    stamp = draw(galaxy if psf is None else galsim.Convolve(galaxy, psf), method="no_pixel")
    shape = fpfs(stamp, None if psf is None else draw(psf, method="no_pixel"), sigma=sigma, pixel_scale=SCALE)
    shear = np.array([[1 + g1, g2], [g2, 1 - g1]])
    waves = np.linalg.inv(np.eye(2) + (size / sigma) ** 2 * shear @ shear / np.linalg.det(shear))  # covariance of k
    m00 = flux / (2 * np.pi * sigma**2) * np.sqrt(np.linalg.det(waves))
    k2 = np.trace(waves)
    k4 = k2**2 + 2 * np.trace(waves @ waves)
    expected = {
        "m00": m00,
        "m22c": -m00 * (waves[0, 0] - waves[1, 1]) / math.sqrt(2),
        "m22s": -m00 * 2 * waves[0, 1] / math.sqrt(2),
        "m40": m00 * (1 - 2 * k2 + k4 / 2),
    }
    for name, value in expected.items():
        assert getattr(shape, name).item() == pytest.approx(value, rel=1e-4), name


def noisy_exponential() -> tuple[torch.Tensor, torch.Tensor]:
    galaxy = galsim.Convolve(galsim.Exponential(half_light_radius=0.4, flux=5000).shear(g1=0.1, g2=0.05), PSF)
    return draw(galaxy) + 20 * torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)), draw(PSF)


def test_fpfs_agrees_with_the_package() -> None:
    """The numbers are those of fpfs 3.0.2, `fpfs.image.measure_source`, on these stamps; it asks for an old numpy."""
    shape = fpfs(*noisy_exponential())
    for name, value in {"m00": 1597.05737, "m22c": 134.899353, "m22s": 78.0650635, "m40": 479.142212}.items():
        assert getattr(shape, name).item() == pytest.approx(value, rel=1e-5), name


def test_regauss_is_galsims_and_keeps_rows() -> None:
    stamps = torch.cat([galaxies(2, noise=2.0), torch.zeros(1, 1, 48, 48), galaxies(3)[2:]])
    psf = draw(PSF).float()
    shapes = regauss(stamps, psf, noise=2.0)
    assert shapes.flags.tolist() == [0, 0, 1, 0]
    result = galsim.hsm.EstimateShear(galsim.Image(stamps[0, 0].numpy()), galsim.Image(psf[0, 0].numpy()), sky_var=4.0)
    assert shapes.e1[0].item() == pytest.approx(result.corrected_e1, abs=1e-4)
    assert shapes.e_error[0].item() == pytest.approx(result.corrected_shape_err, rel=1e-3)
    assert shapes.resolution[0].item() == pytest.approx(result.resolution_factor, abs=1e-4)
    with ThreadPoolExecutor(2) as pool:
        again = regauss(torch.cat([stamps] * 70), psf, torch.ones(1, 1, 48, 48), pool=pool)
    assert len(again.e1) == 280
    torch.testing.assert_close(again.e1[276:], shapes.e1, equal_nan=True)


@pytest.mark.parametrize("estimator", ["REGAUSS", "LINEAR", "BJ", "KSB"])
def test_every_estimator_finds_the_shape(estimator: str) -> None:
    seen = draw(galsim.Convolve(galsim.Gaussian(sigma=0.6, flux=1e4).shear(g1=0.05), galsim.Gaussian(sigma=0.3)))
    shapes = regauss(seen, draw(galsim.Gaussian(sigma=0.3)), estimator=estimator)
    assert shapes.g1.item() == pytest.approx(0.05, abs=0.004)
    assert bool(torch.isnan(shapes.e_error).all())


def test_bad_input_of_the_others() -> None:
    stamps = galaxies(3)
    with pytest.raises(OptionError, match="no such estimator"):
        regauss(stamps, stamps[:1], estimator="IMCOM")
    with pytest.raises(ShapeError, match="PSFs that do not fit"):
        regauss(stamps, stamps[:2])
    with pytest.raises(ShapeError, match="PSFs that do not fit"):
        fpfs(stamps, stamps[:2])
    with pytest.raises(OptionError, match="without width"):
        fpfs(stamps, sigma=-1.0)
