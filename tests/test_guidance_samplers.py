"""Guided diffusion: exact where theory says so, and biased as theory says elsewhere."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from deepinv.physics.noise import GaussianNoise
from gaussian_prior import (
    SIGMA,
    GaussianDenoiser,
    S,
    White,
    half_seen,
    matrix_of,
    measured,
    operators,
    posterior_of,
    vector,
)

from recon import guidance
from recon.guidance import DPS, TFG, DiffPIR
from recon.guidance.problems import problems
from recon.physics import MultiCoilMRI


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


def posterior_error(name: str, method: TFG, correlation: float = 0.0) -> tuple[float, float]:
    """Largest error of the mean in posterior standard deviations, and of the variances over the posterior's."""
    physics, y, A, covariance = measured(name, SIGMA, correlation)
    mean, expected = posterior_of(covariance, A, vector(y)[0], SIGMA)
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
    """Its samples come near the data, and without smoothing its gradient on the image has length mu."""
    y, physics = half_seen(16)
    physics.noise_model = GaussianNoise(0.0)
    method = TFG(likelihood="norm", rho=0.0, mu=0.1, gamma=0.1, iterations=4, steps=20, draws=2)
    found = guidance.sample(y, physics, White(), method, samples=4, unit=1.0)
    free = guidance.sample(y, physics, White(), TFG(likelihood="norm", rho=0.0, mu=0.0, steps=20), samples=4, unit=1.0)
    errors = [float((p.mean[..., ::2] - 0.4).square().mean()) for p in (found, free)]
    assert errors[0] < 0.5 * errors[1]
    ends = [
        guidance.sample(y, physics, White(), TFG(likelihood="norm", rho=0.0, mu=mu, gamma=0.0, steps=1), unit=1.0)
        for mu in (0.0, 0.1)
    ]
    moves = ends[1].samples - ends[0].samples
    assert torch.allclose(moves.flatten(1).norm(dim=1), torch.tensor(0.1, dtype=torch.float64))
