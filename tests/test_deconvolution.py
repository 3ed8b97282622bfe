"""Classical and lightly learned deconvolution of galaxies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from deepinv.models import MedianFilter
from deepinv.physics import GaussianNoise
from galaxies import gaussian, observation, psf_like, relative
from scipy.signal import fftconvolve
from skimage.restoration import richardson_lucy
from torch import Tensor

from recon.models import registry
from recon.models.galaxy_pnp import GalaxyPnP, soft_starlets
from recon.models.learned import LearnedReconstructor
from recon.models.richardson_lucy import RichardsonLucy
from recon.models.starlet import Starlet
from recon.models.unem import UNEM
from recon.models.wiener import Wiener
from recon.physics import PSFConvolution
from recon.physics.errors import OptionError
from recon.starlets import Starlets

METHODS = {
    "wiener": Wiener(),
    "richardson-lucy": RichardsonLucy(),
    "starlet": Starlet(),
    "galaxy-pnp": GalaxyPnP(),
    "galaxy-pnp tv": GalaxyPnP("tv"),
    "unem": UNEM(),
}
every_method = pytest.mark.parametrize("name", METHODS)


def deconvolved(name: str, y: Tensor, physics: PSFConvolution) -> Tensor:
    with torch.no_grad():
        return METHODS[name](y, physics)


# --- all of them ----------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("known", [True, False], ids=["known noise", "unknown noise"])
def test_nearer_to_the_truth_than_the_data(name: str, known: bool) -> None:
    truth, y, physics = observation(3, 40, snr=100.0, known=known)
    x = deconvolved(name, y, physics)
    assert x.dtype == y.dtype
    for i in range(3):
        assert relative(x[i], truth[i]) < 0.7 * relative(y[i], truth[i])


@every_method
def test_more_noise_is_smoothed_more(name: str) -> None:
    """None of them lets the noise explode, as dividing by the transfer function does."""
    truth, y, physics = observation(3, 40, snr=20.0)
    assert relative(deconvolved(name, y, physics), truth) < relative(y, truth)


@every_method
def test_units_do_not_matter(name: str) -> None:
    _, y, physics = observation(2, snr=50.0)
    scaled = PSFConvolution(physics.psf, noise_model=GaussianNoise(1e-4 * physics.noise_model.sigma))
    x, same = deconvolved(name, y, physics), deconvolved(name, 1e-4 * y, scaled)
    assert relative(1e4 * same, x) < 1e-3


@every_method
def test_stamps_of_a_batch_do_not_see_each_other(name: str) -> None:
    _, y, physics = observation(3, snr=50.0)
    x = deconvolved(name, y, physics)
    for i in range(3):
        noise = GaussianNoise(physics.noise_model.sigma[i : i + 1])
        one = deconvolved(name, y[i : i + 1], PSFConvolution(physics.psf[i : i + 1], noise_model=noise))
        assert relative(one, x[i : i + 1]) < 1e-3


@every_method
@pytest.mark.parametrize("n", [40, 41])
def test_flux_is_kept_without_noise(name: str, n: int) -> None:
    truth, y, physics = observation(2, n, snr=math.inf)
    flux = deconvolved(name, y, physics).sum((1, 2, 3)) / truth.sum((1, 2, 3))
    assert torch.allclose(flux, torch.ones(2), atol=1e-3)


@every_method
def test_flux_is_unbiased(name: str) -> None:
    truth, y, physics = observation(100, 24, snr=20.0)
    ratio = deconvolved(name, y, physics).sum((1, 2, 3)) / truth.sum((1, 2, 3))
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 10


@every_method
@pytest.mark.parametrize("n", [40, 41])
def test_whole_pixel_shifts_shift_the_result(name: str, n: int) -> None:
    truth = 100 * gaussian(n, 1.8, q=0.7)
    physics = PSFConvolution(psf_like(1, 15), noise_model=GaussianNoise(0.0))
    x, moved = (deconvolved(name, physics.A(t), physics) for t in (truth, truth.roll((1, -2), (-2, -1))))
    inside = slice(10, -10)
    difference = (moved - x.roll((1, -2), (-2, -1)))[..., inside, inside]
    assert float(difference.abs().max()) < 2e-2 * float(x.max())


@every_method
def test_masked_pixels_do_not_matter(name: str) -> None:
    weight = torch.ones(2, 1, 32, 32)
    weight[0, 0, 14:16, 19] = 0
    weight[1] = 0
    truth, y, physics = observation(2, snr=100.0, weight=weight)
    spoilt = y.clone()
    spoilt[0, 0, 14:16, 19] = torch.nan
    spoilt[1, 0, 0, 0] = 1e6
    x = deconvolved(name, spoilt, physics)
    assert torch.equal(x, deconvolved(name, y, physics))
    assert torch.isfinite(x).all()
    assert float(x[1].abs().max()) < 1e-3 * float(truth.max())
    assert relative(x[:1], truth[:1]) < relative(y[:1], truth[:1])


@every_method
def test_empty_stamps_stay_empty(name: str) -> None:
    for noise in (None, GaussianNoise(1.0)):
        x = deconvolved(name, torch.zeros(2, 1, 24, 24), PSFConvolution(psf_like(2), noise_model=noise))
        assert float(x.abs().max()) < 1e-3


@every_method
def test_noise_alone_stays_finite(name: str, generator: torch.Generator) -> None:
    y = torch.randn(3, 1, 24, 24, generator=generator)
    y[2] -= 5  # a sky that was taken off twice
    assert torch.isfinite(deconvolved(name, y, PSFConvolution(psf_like(1), noise_model=GaussianNoise(1.0)))).all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wiener", {"balance": 0.0}),
        ("richardson-lucy", {"iterations": 0}),
        ("starlet", {"kappa": -1.0}),
        ("starlet", {"passes": 0}),
        ("galaxy-pnp", {"denoiser": "wavelts"}),
        ("galaxy-pnp", {"iterations": 0}),
        ("unem", {"iterations": 0}),
        ("tikhonet", {"filter": "gradient"}),
        ("tikhonet", {"layers": (3,)}),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        registry[name](**arguments)


# --- each by itself -------------------------------------------------------------------------------------------


def test_wiener_with_a_number_is_the_filter(generator: torch.Generator) -> None:
    y = torch.randn(1, 1, 12, 12, generator=generator, dtype=torch.float64)
    physics = PSFConvolution(psf_like(1, 9, dtype=torch.float64))
    grid = physics.grid((12, 12))
    H, Y = physics.transfer((12, 12)), torch.fft.rfft2(y, s=grid)
    expected = torch.fft.irfft2(H.conj() * Y / (H.abs() ** 2 + 0.05) * 1.05, s=grid)[..., :12, :12]
    torch.testing.assert_close(Wiener(0.05)(y, physics), expected)


def test_wiener_is_near_the_best_number() -> None:
    """The filter that the data choose does as well as the best of all constant ones, which only the truth tells."""
    for snr in (20.0, 200.0):
        truth, y, physics = observation(8, 48, snr=snr)
        mine = relative(Wiener()(y, physics), truth)
        best = min(relative(Wiener(10.0**e)(y, physics), truth) for e in np.linspace(-4, 0, 17))
        assert mine < 1.1 * best


def test_richardson_lucy_is_that_of_scikit_image() -> None:
    truth, y, physics = observation(1, 32, snr=math.inf)
    y = y + 1
    ours = RichardsonLucy(10, pedestal=False)(y, physics)
    theirs = richardson_lucy(np.pad(y[0, 0].numpy(), 0), physics.psf[0, 0].numpy(), 10, clip=False)
    inside = slice(8, -8)  # scikit-image does not count what leaves the image
    assert np.abs(ours[0, 0].numpy() - theirs)[inside, inside].max() < 0.05 * theirs.max()
    assert relative(ours, truth + 1) < 0.5


def test_richardson_lucy_by_its_formula() -> None:
    """Three iterations in plain numpy."""
    _, y, physics = observation(1, 24, snr=50.0, dtype=torch.float64)
    data, h = y.clamp_min(0)[0, 0].numpy(), physics.psf[0, 0].numpy()
    x, ones = data.copy(), np.ones_like(data)
    for _ in range(3):
        quotient = np.where(data > 0, data / np.maximum(fftconvolve(x, h, "same"), 1e-12), 0)
        x = x * fftconvolve(quotient, h[::-1, ::-1], "same") / fftconvolve(ones, h[::-1, ::-1], "same")
    ours = RichardsonLucy(3, pedestal=False)(y, physics)[0, 0].numpy()
    np.testing.assert_allclose(ours, x, atol=2e-3 * x.max())


def test_richardson_lucy_stops_at_the_noise() -> None:
    model = RichardsonLucy()
    counts, errors = [], {}
    for snr in (20.0, 200.0):
        truth, y, physics = observation(4, 40, snr=snr)
        errors[snr] = relative(model(y, physics), truth)
        counts.append(model.details["iterations"])
        residual = (y - physics.A(model(y, physics))).square().mean((1, 2, 3))
        assert (residual < 1.2 * physics.noise_model.sigma**2).all()
    assert sum(counts[0]) < sum(counts[1])
    truth, y, physics = observation(4, 40, snr=20.0)
    best = min(relative(RichardsonLucy(n)(y, physics), truth) for n in (1, 2, 3, 5, 8, 12, 20, 40, 100))
    assert errors[20.0] < 1.3 * best


def test_pedestal_keeps_the_flux_that_clipping_adds() -> None:
    truth, y, physics = observation(20, 40, snr=20.0)
    with_, without = (
        float((RichardsonLucy(10, pedestal=p)(y, physics).sum((1, 2, 3)) / truth.sum((1, 2, 3))).mean())
        for p in (True, False)
    )
    assert abs(with_ - 1) < 0.2
    assert without > 1.5


def test_starlets_add_up_and_have_an_adjoint(generator: torch.Generator) -> None:
    x = torch.randn(2, 1, 20, 24, generator=generator, dtype=torch.float64)
    starlets = Starlets((20, 24), dtype=torch.float64)
    planes = starlets.analysis(torch.fft.rfft2(x))
    assert planes.shape == (2, starlets.planes + 1, 20, 24)
    torch.testing.assert_close(planes.sum(1, keepdim=True), x)
    other = torch.randn(planes.shape, generator=generator, dtype=torch.float64)
    back = torch.fft.irfft2(starlets.adjoint(other), s=(20, 24))
    assert float((planes * other).sum()) == pytest.approx(float((x * back).sum()))
    assert float(torch.linalg.vector_norm(planes)) <= starlets.norm() * float(torch.linalg.vector_norm(x))
    # the first plane, by the kernel of the paper
    row = np.array([1, 4, 6, 4, 1]) / 16
    delta = torch.zeros(1, 1, 20, 24, dtype=torch.float64)
    delta[..., 10, 12] = 1
    expected = -np.outer(row, row)
    expected[2, 2] += 1
    np.testing.assert_allclose(starlets.analysis(torch.fft.rfft2(delta))[0, 0, 8:13, 10:15], expected, atol=1e-12)


def test_starlet_thresholds_go_by_the_noise() -> None:
    """An image of noise alone is gone but for its last plane, at three deviations."""
    y = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x = Starlet()(y, PSFConvolution(psf_like(1), noise_model=GaussianNoise(1.0)))
    assert float(x.std()) < 0.25
    assert float(Starlet(0.3)(y, PSFConvolution(psf_like(1), noise_model=GaussianNoise(1.0))).std()) > float(x.std())
    assert (Starlet(positive=True)(y, PSFConvolution(psf_like(1))) >= 0).all()


def test_starlet_solves_its_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass, many iterations: no small change of the image makes the objective smaller."""
    _, y, physics = observation(1, 16, snr=30.0, dtype=torch.float64)
    monkeypatch.setattr("recon.models.starlet.with_flux_of", lambda y, x, *_: x)
    x = Starlet(iterations=1500, passes=1)(y, physics)
    starlets = Starlets(physics.grid((16, 16)), dtype=torch.float64)
    sigma = float(physics.noise_model.sigma)
    power = starlets.filters.square() * physics.transfer((16, 16)).abs().square()
    threshold = 3 * sigma * torch.fft.irfft2(power, s=starlets.grid)[..., :1, :1].sqrt()
    threshold[:, -1] = 0

    def objective(x: Tensor) -> float:
        planes = starlets.analysis(torch.fft.rfft2(x, s=starlets.grid))
        return float((physics.A(x) - y).square().sum() / 2 + (threshold * planes.abs()).sum())

    least, generator = objective(x), torch.Generator().manual_seed(0)
    for _ in range(20):
        step = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        for size in (1e-1, 1e-2):
            assert objective(x + size * sigma * step) > least * (1 - 1e-9)


def test_any_denoiser_plugs_in() -> None:
    truth, y, physics = observation(1, 32, snr=60.0)
    x = GalaxyPnP(MedianFilter(), iterations=4)(y, physics)
    assert relative(x, truth) < relative(y, truth)
    assert relative(x, GalaxyPnP(iterations=4)(y, physics)) > 1e-3


def test_soft_starlets_do_nothing_without_noise(generator: torch.Generator) -> None:
    x = torch.randn(2, 1, 16, 16, generator=generator)
    starlets = Starlets((16, 16))
    torch.testing.assert_close(soft_starlets(x, starlets, torch.zeros(2)), x)
    assert soft_starlets(x, starlets, torch.ones(2)).std() < 0.2


def test_new_em_is_richardson_lucy_with_a_little_prior() -> None:
    _, y, physics = observation(2, 32, snr=200.0)
    plain = RichardsonLucy(6)(y, physics)
    model = UNEM(6)
    with torch.no_grad():
        model.value[:, 1] = -30.0  # no prior
        x = model(y, physics)
    shape = x / x.sum((1, 2, 3), keepdim=True)
    assert relative(shape, plain / plain.sum((1, 2, 3), keepdim=True)) < 1e-3


def test_em_learns() -> None:
    """A few steps of descent lower the error, of stamps not seen too, and every weight has a gradient."""
    truth, y, physics = observation(8, 32, snr=20.0)
    model = UNEM(4)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    errors = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = (model(y, physics) - truth).square().sum() / truth.square().sum()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.9 * errors[0]
    truth, y, physics = observation(3, 40, snr=20.0, seed=1)
    with torch.no_grad():
        assert relative(model(y, physics), truth) < 0.9 * relative(UNEM(4)(y, physics), truth)


@pytest.mark.parametrize("name", ["tikhonet", "shapenet"])
def test_tikhonet_keeps_flux_and_units(name: str) -> None:
    truth, y, physics = observation(2, 40, snr=math.inf)
    torch.manual_seed(0)
    model = registry[name](4, 3, (1, 2, 2)).eval()
    assert isinstance(model, LearnedReconstructor)
    with torch.no_grad():
        x = model(y, physics)
        torch.testing.assert_close(model(8 * y, physics), 8 * x, rtol=1e-4, atol=1e-3)
    model.train()(y, physics).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.network = torch.nn.Identity()
    with torch.no_grad():
        flux = model(y, physics).sum((1, 2, 3))
    assert torch.allclose(flux, truth.sum((1, 2, 3)), rtol=1e-3)


def test_tikhonov_filter_of_tikhonet_by_its_formula(generator: torch.Generator) -> None:
    model = registry["tikhonet"](4, 3, (1, 2, 2), filter="laplacian").double()
    from recon.models.convolution import Grid

    y = torch.randn(1, 1, 10, 10, generator=generator, dtype=torch.float64)
    physics = PSFConvolution(psf_like(1, 7, dtype=torch.float64))
    grid = Grid.of(physics, y)
    ky = 2 * math.pi * torch.fft.fftfreq(grid.grid[0], dtype=torch.float64)[:, None]
    kx = 2 * math.pi * torch.fft.rfftfreq(grid.grid[1], dtype=torch.float64)
    L = 2 * torch.cos(ky) + 2 * torch.cos(kx) - 4
    penalty = model.log_lambda.exp().detach() * L**2
    expected = torch.fft.irfft2(grid.H.conj() * torch.fft.rfft2(y, s=grid.grid) / (grid.HtH + penalty), s=grid.grid)
    torch.testing.assert_close(model.tikhonov(y, grid).detach(), expected[..., :10, :10])
