"""Guided diffusion: exact where theory says so, biased as theory says elsewhere, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.physics.noise import GaussianNoise, PoissonNoise
from gaussian_prior import GaussianDenoiser, matrix_of, posterior_of, vector
from networks import problem as kspace
from networks import tiny
from torch import Tensor, nn

import recon
from recon import guidance
from recon.guidance import DPS, TFG, Axis, DiffPIR
from recon.guidance.denoisers import ImageDenoiser
from recon.guidance.problems import Problem, problems
from recon.guidance.search import Example
from recon.models.guided import DiffusionDPS, DiffusionTFG
from recon.models.noise_unet import DiffusionDenoiser
from recon.physics.blur import CircularBlur
from recon.physics.denoising import Denoising
from recon.physics.errors import DataError, OperatorError, OptionError, ShapeError
from recon.physics.inpainting import Inpainting
from recon.physics.matrix import MatrixOperator
from recon.physics.single_coil import SingleCoilMRI
from recon.physics.superresolution import SuperResolution

S, SIGMA = 0.3, 0.1
KERNEL = torch.tensor([[0, 0.1, 0], [0.2, 0.4, 0.1], [0, 0.2, 0]], dtype=torch.float64)[None, None]


class White(nn.Module):
    """The exact denoiser of white Gaussian images of standard deviation S."""

    deviation = S

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return x * S**2 / (S**2 + level**2)


def half_seen(side: int = 64) -> tuple[Tensor, Inpainting]:
    """Pixels that are measured as 0.4, and pixels that are not measured."""
    mask = torch.zeros(side, side, dtype=torch.float64)
    mask[:, ::2] = 1
    return 0.4 * mask[None, None], Inpainting(mask, (1, side, side), noise_model=GaussianNoise(SIGMA))


def moments(method: guidance.sampling.Method, samples: int = 8) -> list[tuple[float, float]]:
    """Mean and variance of seen and of unseen pixels."""
    y, physics = half_seen()
    found = guidance.sample(y, physics, White(), method, samples=samples, unit=1.0).samples
    return [(float(x.mean()), float(x.var())) for x in (found[..., ::2], found[..., 1::2])]


def check(found: list[tuple[float, float]], expected: list[tuple[float, float]], draws: int = 16384) -> None:
    """Within four standard errors, and a thousandth for what deepinv does in 32 bits."""
    for (mean, variance), (mean_, variance_) in zip(found, expected, strict=True):
        assert abs(mean - mean_) < 4 * math.sqrt(variance_ / draws) + 1e-3
        assert abs(variance / variance_ - 1) < 4 * math.sqrt(2 / draws) + 1e-3


# --- what theory says of each sampler, pixel by pixel -----------------------------------------------------------------


def tfg_by_hand(method: TFG, seen: bool) -> tuple[float, float]:
    """TFG's algorithm for one white Gaussian pixel: every step is affine."""
    mean, variance = 0.0, S**2
    angles = torch.linspace(math.atan(30), 0, method.steps + 1, dtype=torch.float64)
    signals = angles.cos().square().tolist()
    kept_all = [a / b for a, b in pairwise(signals)]
    mean_of = {"constant": 1.0, "increase": sum(kept_all), "decrease": sum(1 - k for k in kept_all)}
    for signal, following, kept in zip(signals[:-1], signals[1:], kept_all, strict=True):
        course = {"constant": 1.0, "increase": kept * method.steps, "decrease": (1 - kept) * method.steps}
        rho, mu = (
            strength * course[name] / mean_of[name]
            for strength, name in ((method.rho, method.rho_course), (method.mu, method.mu_course))
        )
        noise = SIGMA**2 + (method.gamma * S) ** 2 * (1 - signal)
        root = math.sqrt(signal)
        d = root  # x0 = d x, because signal and noise have the same variance
        for repeat in range(method.recurrence):
            # x0 + mu pulls: b x + c
            b, c = d, 0.0
            for _ in range(method.iterations):
                pull = mu * S**2 * (1 - signal) / noise if seen else 0.0
                b, c = b - pull * b, c + pull * (0.4 - c)
            spread = method.eta**2 * (1 - following) / (1 - signal) * (1 - kept)
            direction = math.sqrt(1 - following - spread) / math.sqrt(1 - signal)
            slope = math.sqrt(following) * b + direction * (1 - root * d)
            offset = math.sqrt(following) * c
            if seen:
                strength = rho * (1 - kept) * S**2 * d / noise / math.sqrt(kept)
                slope, offset = slope - strength * d, offset + strength * 0.4
            mean, variance = slope * mean + offset, slope**2 * variance + S**2 * spread
            if repeat + 1 < method.recurrence:
                mean, variance = math.sqrt(kept) * mean, kept * variance + (1 - kept) * S**2
    return mean, variance


@pytest.mark.parametrize(
    "method",
    [
        TFG(steps=20),
        TFG(rho=0.0, mu=1.0, steps=20),
        TFG(rho=0.5, mu=0.3, gamma=0.7, recurrence=2, iterations=3, steps=15, eta=0.5),
        TFG(rho=0.5, mu=0.3, rho_course="decrease", mu_course="increase", steps=15, eta=0.0),
    ],
    ids=str,
)
def test_tfg_has_the_moments_of_its_algorithm(method: TFG) -> None:
    check(moments(method), [tfg_by_hand(method, seen) for seen in (True, False)])


def test_dps_has_the_moments_of_its_equation() -> None:
    """The reverse SDE with the likelihood's variance taken as that of measurement and diffusion noise together."""
    method = DPS(steps=30, weight=0.8)

    def by_hand(seen: bool) -> tuple[float, float]:
        times = torch.linspace(1, 0, 31, dtype=torch.float64)
        rate = (0.1 * times + 9.95 * times.square()).exp()
        scales, levels = rate.rsqrt().tolist(), (rate - 1).sqrt().tolist()
        mean, variance = 0.0, (scales[0] * levels[0]) ** 2
        for s0, s1, v0, v1 in zip(scales[:-1], scales[1:], levels[:-1], levels[1:], strict=True):
            d, ratio = S**2 / (S**2 + v0**2), v1 / v0
            slope, offset = (d - 1) / (s0 * v0) ** 2, 0.0  # of the score
            if seen:
                strength = method.weight * d / (SIGMA**2 + v0**2) / s0
                slope, offset = slope - strength * d / s0, strength * 0.4
            step = s0 * s1 * v0**2 * (1 - ratio**2)
            factor = s1 / s0 + step * slope
            mean = factor * mean + step * offset
            variance = factor**2 * variance + s1**2 * v1**2 * (1 - ratio**2)
        return mean, variance

    check(moments(method), [by_hand(seen) for seen in (True, False)])


def test_diffpir_has_the_moments_of_its_algorithm() -> None:
    """And so the clipping of deepinv's, which is meant for images from 0 to 1, does nothing here."""
    method = DiffPIR(strength=3.0, zeta=0.4, steps=20)
    bound = 1.5

    def by_hand(seen: bool, start: float) -> tuple[float, float]:
        """In DiffPIR's own units, images from -1 to 1."""
        product = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        level = ((1 - product) / product).sqrt()
        places = torch.sqrt(torch.linspace(0.0, 1000.0**2, method.steps)).int()
        places[-1] -= 1
        order = (999 - places).tolist()
        noise = SIGMA / bound  # of measurements from -1 to 1
        first = float(level[-1])
        top = float(product[-1].sqrt())
        mean = start / bound * top
        variance = (first**2 - 4 * (SIGMA / (2 * bound)) ** 2) * top**2
        prior = (S / bound) ** 2
        for place, after in pairwise(order):
            now, a = float(level[place]), float(product[place])
            d, c = prior / (prior + now**2) / math.sqrt(a), 0.0
            if seen:
                # prox of |x - y|^2 / 2, in images from 0 to 1, with the weight 1 / 2 rho
                weight = now**2 / (2 * method.strength * (noise / 2) ** 2)
                d, c = d / (1 + weight), weight / (1 + weight) * 0.4 / bound
            b = float(product[after])
            fresh = math.sqrt(1 - b) * math.sqrt(1 - method.zeta) / math.sqrt(1 - a)
            slope = math.sqrt(b) * d + fresh * (1 - math.sqrt(a) * d)
            offset = (math.sqrt(b) - fresh * math.sqrt(a)) * c
            mean, variance = slope * mean + offset, slope**2 * variance + (1 - b) * method.zeta
        return mean * bound, variance * bound**2

    y, physics = half_seen()
    start = next(problems(y, physics, [SIGMA], unit=1.0)).start
    starts = [float(start[..., place::2].mean()) for place in (0, 1)]
    check(moments(method), [by_hand(seen, s) for seen, s in zip((True, False), starts, strict=True)])


# --- the posterior ----------------------------------------------------------------------------------------------------


def operators() -> dict[str, tuple[LinearPhysics, tuple[int, int, int]]]:
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.float64)
    return {
        "inpainting": (Inpainting(mask, (1, 4, 4)), (1, 4, 4)),
        "blur": (CircularBlur(KERNEL, (1, 4, 4)), (1, 4, 4)),
        "super-resolution": (SuperResolution(2, (1, 4, 4), KERNEL), (1, 4, 4)),
        "mri": (SingleCoilMRI(mask), (2, 4, 4)),
    }


def posterior_error(name: str, method: TFG, correlation: float = 0.0) -> tuple[float, float]:
    """Largest error of the mean in posterior standard deviations, and of the variances over the posterior's."""
    physics, shape = operators()[name]
    physics.noise_model = GaussianNoise(SIGMA)
    n = math.prod(shape)
    place = torch.arange(n, dtype=torch.float64)
    covariance = S**2 * torch.exp(-((place[:, None] - place).abs()) / max(correlation, 1e-9))
    generator = torch.Generator().manual_seed(1)
    truth = torch.linalg.cholesky(covariance) @ torch.randn(n, dtype=torch.float64, generator=generator)
    exact = physics.A(truth.reshape(1, *shape))
    y = exact + SIGMA * torch.randn(exact.shape, dtype=exact.dtype, generator=generator)
    if name in {"inpainting", "mri"}:
        y = y * physics.mask
    mean, expected = posterior_of(covariance, matrix_of(physics, shape), vector(y)[0], SIGMA)
    found = guidance.sample(
        y, physics, GaussianDenoiser(covariance), method, samples=4000, together=4000, unit=1.0
    ).samples[:, 0]
    flat = found.flatten(1)
    off = (flat.mean(0) - mean).abs() / expected.diagonal().sqrt()
    return float(off.max()), float((torch.cov(flat.mT).diagonal() / expected.diagonal() - 1).mean())


@pytest.mark.parametrize("name", list(operators()))
def test_tfg_draws_from_the_posterior_of_white_images(name: str) -> None:
    """With rho = gamma = 1 Bayes' rule is exact, and what is left are the steps: variances too low by a few percent."""
    mean, variance = posterior_error(name, TFG(steps=50))
    assert mean < 0.15
    assert -0.15 < variance < -0.03


def test_the_error_of_steps_falls_with_their_number() -> None:
    coarse, fine = (posterior_error("inpainting", TFG(steps=steps))[1] for steps in (20, 60))
    assert coarse / fine == pytest.approx(3, rel=0.35)


def test_without_smoothing_the_likelihood_counts_too_much() -> None:
    """DPS's approximation, gamma = 0, takes the denoised image for certain: samples lie too close together."""
    without, with_it = (posterior_error("blur", TFG(gamma=gamma, steps=50))[1] for gamma in (0.0, 1.0))
    assert without < 1.5 * with_it < 0


def test_of_smooth_images_the_mean_is_near_and_the_spread_of_its_size() -> None:
    """The smoothing is that of white images: no longer exact, and still far better than without."""
    mean, variance = posterior_error("inpainting", TFG(steps=50), correlation=3.0)
    assert mean < 0.4
    assert abs(variance) < 0.15


def test_pull_solves_the_normal_equations() -> None:
    """By closed formulae and by conjugate gradients alike."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 4, 4, dtype=torch.complex128, generator=generator)
    from recon.physics import MultiCoilMRI

    coils = MultiCoilMRI(maps, torch.rand(1, 1, 4, 4, generator=generator) < 0.6)
    for physics, shape in [*operators().values(), (coils, (2, 4, 4))]:
        physics.noise_model = GaussianNoise(SIGMA)
        A = matrix_of(physics, shape)
        x = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        y = physics.A(x[:1])
        one = next(problems(y, physics, [SIGMA], unit=1.0))
        r = one.residual(x)
        for gamma in (0.0, 0.7):
            expected = vector(r) @ torch.linalg.inv(
                SIGMA**2 * torch.eye(len(A), dtype=torch.float64) + gamma**2 * A @ A.mT
            )
            assert torch.allclose(one.pull(r, gamma).flatten(1), expected @ A, atol=1e-4), type(physics)


def test_the_norm_of_the_paper_needs_no_noise_level() -> None:
    """And its samples come near the data; without smoothing its gradient has length rho."""
    y, physics = half_seen(16)
    physics.noise_model = GaussianNoise(0.0)
    method = TFG(likelihood="norm", rho=0.0, mu=0.1, gamma=0.1, iterations=4, steps=20, draws=2)
    found = guidance.sample(y, physics, White(), method, samples=4, unit=1.0)
    free = guidance.sample(y, physics, White(), TFG(likelihood="norm", rho=0.0, mu=0.0, steps=20), samples=4, unit=1.0)
    errors = [float((p.mean[..., ::2] - 0.4).square().mean()) for p in (found, free)]
    assert errors[0] < 0.5 * errors[1]


# --- any operator, any scale, any denoiser ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> DiffusionDenoiser:
    return tiny("diffusion-denoiser").eval()


@pytest.mark.parametrize("method", ["tfg", "dps", "diffpir"])
def test_samples_are_the_same_for_a_seed_and_scale_with_the_data(network: DiffusionDenoiser, method: str) -> None:
    quick = guidance.sampling.METHODS[method](steps=2)
    if method == "tfg":
        y, physics = kspace(shape=(16, 16))
    else:
        y = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
        physics = Inpainting((y[:, :1] < 0.6).float(), (2, 16, 16))
        y = y * physics.mask
    physics.noise_model = GaussianNoise(0.1)
    state = torch.get_rng_state()
    first, again, other = (
        guidance.sample(y, physics, network, quick, samples=3, together=2, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.samples, again.samples)
    assert not torch.allclose(first.samples, other.samples)
    assert first.samples.shape == (3, 1, 2, 16, 16)
    assert torch.allclose(first.mean, first.samples.mean(0))
    assert torch.allclose(first.spread, first.samples.std(0))
    louder = guidance.sample(50 * y, physics, network, quick, samples=3, together=2, sigma=5.0)
    assert torch.allclose(louder.samples / 50, first.samples, atol=1e-3 * float(first.samples.abs().max()))


def test_an_image_of_a_batch_does_not_see_the_others(network: DiffusionDenoiser) -> None:
    masks = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    physics = Inpainting(masks, (1, 16, 16), noise_model=GaussianNoise(0.1))
    y = physics.A(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    whole = guidance.sample(y, physics, network, TFG(steps=3), samples=2)
    alone = Inpainting(masks[:1], (1, 16, 16), noise_model=GaussianNoise(0.1))
    first = guidance.sample(y[:1], alone, network, TFG(steps=3), samples=2)
    assert torch.allclose(whole.samples[:, :1], first.samples, atol=1e-5)


def test_colours_and_sets_of_maps_go_through_the_denoiser_one_by_one(network: DiffusionDenoiser) -> None:
    for channels, group in ((1, 1), (2, 2), (3, 1), (4, 2)):
        fitted = ImageDenoiser(network, channels)
        assert fitted.group == group
        x = torch.rand(2, channels, 8, 8)
        level = torch.tensor([0.1, 0.3])
        expected = torch.cat([network.denoiser(x[:, c : c + group], level) for c in range(0, channels, group)], 1)
        assert torch.allclose(fitted(x, level), expected, atol=1e-6)


def test_other_models_are_denoisers_too() -> None:
    light = tiny("ram-light").eval()
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        expected = light(x, sigma=0.1)
        assert torch.allclose(ImageDenoiser(light, 1)(x, 0.1), expected, atol=1e-6)
    drunet = tiny("drunet-pnp").eval()
    assert ImageDenoiser(drunet, 2).group == 1


def test_models_say_their_spread(network: DiffusionDenoiser) -> None:
    y, physics = kspace(shape=(16, 16))
    model = DiffusionTFG(network, TFG(steps=3), samples=3)
    image = model(y, physics.clone())  # the level is not known and not told
    assert image.shape == (1, 2, 16, 16)
    physics.noise_model = GaussianNoise(0.1)
    image = model(y, physics)
    found = guidance.sample(y, physics, network, TFG(steps=3), samples=3)
    assert torch.allclose(image, found.mean)
    assert model.spread is not None
    assert torch.allclose(model.spread, torch.linalg.vector_norm(found.samples, dim=2).std(0))
    assert DiffusionDPS(network, samples=1).method == DPS()


def test_reconstruct_gives_the_spread_for_uncertainty(network: DiffusionDenoiser, tmp_path) -> None:
    import numpy as np
    from cli_scans import kspace as scan_of
    from cli_scans import save

    from recon.datasets import Measurements, Source

    model = DiffusionTFG(network, TFG(steps=2), samples=2)
    scan = recon.reconstruct(save(tmp_path / "scan.npz", scan_of()), model=model)
    assert scan.uncertainty is not None
    assert bool(torch.isfinite(scan.uncertainty).all())
    assert float(scan.uncertainty.mean()) > 0
    y = np.random.default_rng(0).random((2, 1, 16, 16), dtype=np.float32)
    data = Measurements(
        measurements=y,
        physics="denoising:sigma=0.1",
        img_size=(1, 16, 16),
        scale=10.0,
        sigma=0.1,
        source=Source("array"),
    )
    result = recon.reconstruct(data, model=model)
    assert result.uncertainty is not None
    assert result.uncertainty.shape == (2, 16, 16)
    alone = guidance.sample(torch.from_numpy(y[:1]), Denoising(GaussianNoise(0.1)), network, TFG(steps=2), samples=2)
    assert torch.allclose(result.uncertainty[0], 10 * alone.spread[0, 0], rtol=1e-3, atol=1e-5)


def test_a_name_and_a_file_make_a_model(network: DiffusionDenoiser, tmp_path) -> None:
    from recon.cards import Card
    from recon.checkpoint import save_checkpoint

    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, network, Card())
    for name in ("diffusion-tfg", "dpir"):
        model = recon.load_model(f"{name}:{path}")
        assert type(model) is recon.models.registry[name]
        for mine, theirs in zip(model.denoiser.parameters(), network.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    with pytest.raises(recon.ReconError):
        recon.load_model(f"tv:{path}")


# --- the search -------------------------------------------------------------------------------------------------------


UNSCALED = Problem(
    y=torch.ones(1, 1), physics=Denoising(), sigma=1.0, unit=1.0, start=torch.zeros(1, 1, 8, 8, dtype=torch.float64)
)


def test_search_climbs_to_the_strength_that_is_best() -> None:
    """The score has its maximum at rho = 2, mu = 4; numbers grow by their factors only, and no further than told."""
    y, physics = half_seen(8)

    def score(posterior: guidance.Posterior, _truth: Tensor) -> float:
        rho, mu = posterior.samples.flatten()[:2].tolist()
        return -((math.log2(rho) - 1) ** 2) - (math.log2(mu) - 2) ** 2

    def written(self: TFG, *_problem: object) -> Tensor:
        image = torch.ones(1, 1, 8, 8, dtype=torch.float64)
        image[0, 0, 0, :2] = torch.tensor([self.rho, self.mu])
        return image

    axes = {"rho": Axis(2.0, 8.0), "mu": Axis(2.0, 8.0)}
    start = TFG(rho=0.25, mu=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TFG, "draw", written)
        patch.setattr("recon.guidance.sampling.problems", lambda *_, **__: iter([UNSCALED]))
        trials = guidance.search(start, [Example(y, physics, y)], White(), axes, rounds=12, samples=1, score=score)
    assert (trials[0].method.rho, trials[0].method.mu) == (2.0, 4.0)
    assert [t.score for t in trials] == sorted((t.score for t in trials), reverse=True)
    assert max(t.method.rho for t in trials) <= 8
    assert len({t.method for t in trials}) == len(trials)


def test_search_survives_numbers_that_diverge() -> None:
    y, physics = half_seen(8)
    axes = {"mu": Axis(1e150, 1e300), "recurrence": Axis(2.0, 2.0)}
    trials = guidance.search(TFG(mu=0.1, gamma=0.0, steps=4), [Example(y, physics, y + 0.1)], White(), axes, samples=2)
    assert math.isfinite(trials[0].score)
    assert trials[-1].score == -math.inf
    assert max(t.method.recurrence for t in trials) == 2


# --- refusals ---------------------------------------------------------------------------------------------------------


class Squared(Physics):
    """Not linear."""

    def A(self, x: Tensor, **_options: object) -> Tensor:  # noqa: N802
        return x.square()


def test_bad_input_is_told_in_one_line(network: DiffusionDenoiser) -> None:
    y, physics = half_seen(16)
    y = y.float()
    quick = TFG(steps=1)
    seen = Inpainting(physics.mask.float(), (1, 16, 16))
    with pytest.raises(OptionError, match="not known"):
        guidance.sample(torch.rand(1, 5), MatrixOperator(torch.eye(5)), network, quick)
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(OptionError, match="positive"):
            guidance.sample(y, seen, network, quick, sigma=sigma)
    zero = Inpainting(physics.mask.float(), (1, 16, 16), noise_model=GaussianNoise(0.0))
    with pytest.raises(OptionError, match="positive"):
        guidance.sample(y, zero, network, quick)
    with pytest.raises(OptionError, match="sample"):
        guidance.sample(y, seen, network, quick, samples=0, sigma=0.1)
    with pytest.raises(OptionError, match="sample"):
        DiffusionTFG(network, samples=0)
    with pytest.raises(OptionError, match="sampler"):
        guidance.sample(y, seen, network, "langevin", sigma=0.1)
    with pytest.raises(OptionError, match="magnitude"):
        guidance.sample(y, seen, network, quick, sigma=0.1, unit=0.0)
    with pytest.raises(OperatorError, match="linear"):
        guidance.sample(y, Squared(), network, quick, sigma=0.1)
    with pytest.raises(DataError, match="finite"):
        guidance.sample(y * math.nan, seen, network, quick, sigma=0.1)
    with pytest.raises(ShapeError):
        guidance.sample(y[..., 1:], seen, network, quick, sigma=0.1)
    complex_only = DiffusionDenoiser(channels=(2,), widths=(16, 16), blocks=(1, 1))
    with pytest.raises(ShapeError, match="other channels"):
        guidance.sample(y, seen, complex_only, quick, sigma=0.1)
    with pytest.raises(ShapeError, match="does not take"):
        guidance.sample(y, seen, OfColour(), quick, sigma=0.1)
    with pytest.raises(DataError, match="not finite"):
        guidance.sample(y, seen, White(), TFG(mu=1e30, gamma=0.0, steps=9), sigma=1e-4, unit=1.0)
    for method in (DPS, TFG, DiffPIR):
        with pytest.raises(OptionError, match="no sampler"):
            method(steps=0)
    with pytest.raises(OptionError, match="no sampler"):
        TFG(rho=-1.0)
    with pytest.raises(OptionError, match="search"):
        guidance.search(TFG(), [], network, {"rho": Axis(2.0, 8.0)})
    with pytest.raises(OptionError, match="search"):
        guidance.search(TFG(), [Example(y, seen, y)], network, {"weight": Axis(2.0, 8.0)})


class OfColour(nn.Module):
    """A denoiser of colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.conv(x)


def test_noise_of_other_kinds_counts_by_its_level(network: DiffusionDenoiser) -> None:
    """As it does for every model that knows Gaussian noise only."""
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.5
    told = guidance.sample(x, Denoising(PoissonNoise(0.01)), network, TFG(steps=2), samples=1)
    level = math.sqrt(0.01 * float(x.mean()))
    assert torch.allclose(
        told.samples, guidance.sample(x, Denoising(), network, TFG(steps=2), samples=1, sigma=level).samples, atol=1e-5
    )
    assert bool(told.spread.isnan().all())
