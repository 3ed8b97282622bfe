"""Guided diffusion: any operator, scale and denoiser, the search for its numbers, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cli_scans import kspace as scan_of
from cli_scans import save
from deepinv.physics import Physics
from deepinv.physics.noise import GaussianNoise, PoissonNoise
from gaussian_prior import White, half_seen
from networks import problem as kspace
from networks import tiny
from torch import Tensor, nn

import recon
from recon import guidance
from recon.cards import Card
from recon.checkpoint import save_checkpoint
from recon.datasets import Measurements, Source
from recon.guidance import DPS, TFG, Axis, DiffPIR
from recon.guidance.denoisers import ImageDenoiser
from recon.guidance.problems import Problem
from recon.guidance.search import Example
from recon.models.guided import DiffusionDPS, DiffusionTFG
from recon.models.noise_unet import DiffusionDenoiser
from recon.physics.denoising import Denoising
from recon.physics.errors import DataError, OperatorError, OptionError, ShapeError
from recon.physics.inpainting import Inpainting
from recon.physics.matrix import MatrixOperator

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
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, network, Card())
    for name in ("diffusion-tfg", "dpir"):
        model = recon.load_model(f"{name}:{path}")
        assert type(model) is recon.models.registry[name]
        given = recon.models.registry[name](path)  # read once, when the model is made
        for denoiser in (model.denoiser, given.denoiser):
            for mine, theirs in zip(denoiser.parameters(), network.parameters(), strict=True):
                assert torch.equal(mine, theirs)
    with pytest.raises(recon.ReconError):
        recon.load_model(f"tv:{path}")


# --- the search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A sampler whose images tell its numbers."""

    rho: float
    mu: float
    needs_noise = True

    def draw(self, problem: Problem, _denoiser: ImageDenoiser, _count: int, _generator: torch.Generator) -> Tensor:
        image = torch.zeros_like(problem.start)
        image[0, 0, 0, :2] = torch.tensor([self.rho, self.mu]) / problem.unit
        return image


def test_search_climbs_to_the_strength_that_is_best() -> None:
    """The score has its maximum at rho = 2, mu = 4; numbers grow by their factors only, and no further than told."""
    y, physics = half_seen(8)

    def score(posterior: guidance.Posterior, _truth: Tensor) -> float:
        rho, mu = posterior.samples.flatten()[:2].tolist()
        return -((math.log2(rho) - 1) ** 2) - (math.log2(mu) - 2) ** 2

    axes = {"rho": Axis(2.0, 8.0), "mu": Axis(2.0, 8.0)}
    start = Written(rho=0.25, mu=0.25)
    trials = guidance.search(start, [Example(y, physics, y)], White(), axes, rounds=12, samples=1, score=score)
    assert trials[0].method == Written(rho=2.0, mu=4.0)
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
    with pytest.raises(DataError, match="finite"):
        guidance.search(TFG(), [Example(y * math.nan, zero, y)], network, {"rho": Axis(2.0, 8.0)})


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
