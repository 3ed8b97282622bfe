"""Intervals that cover what they say on data alike, and do not on other data."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.conformal import Calibration, Judged, Sampling, calibrate, coverage, covered, fit, judge, object_pixels
from recon.datasets.coils import random_loops
from recon.datasets.masks import make_mask
from recon.physics import MultiCoilMRI
from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient
from recon.training.examples import make_example


def slices(count, seed, *, foretold=True, shift=1.0, pixels=400):
    """Gaussian errors whose deviation differs from pixel to pixel, and from slice to slice; known up to a factor."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        true = torch.rand(pixels, generator=rng).exp() * (0.5 + torch.rand(1, generator=rng))
        error = (shift * true * torch.randn(pixels, generator=rng)).abs()
        told = true / 3 if foretold else torch.rand(pixels, generator=rng)
        made.append(Judged(error, told))
    return made


def calibration(judged, level=0.9):
    scale, floor, difficulty = fit(judged, level)
    return Calibration(
        level=level, scale=scale, floor=floor, difficulty=difficulty, method="", replicas=6, slices=len(judged)
    )


def test_finds_the_factor_between_deviation_and_error():
    """Gaussian errors, deviations three times too small: 90 % lie within 3 x 1.645 of them."""
    found = calibration(slices(400, 0))
    for u in (0.3, 0.6, 1.2):
        assert float(found.half_width(torch.tensor(u), Sampling())) == pytest.approx(3 * 1.645 * u, rel=0.08)


@pytest.mark.parametrize("foretold", [True, False])
@pytest.mark.parametrize("level", [0.7, 0.9])
def test_covers_other_slices_of_the_same_kind(foretold, level):
    found = calibration(slices(900, 1, foretold=foretold), level)
    held_out = covered(slices(500, 2, foretold=foretold), found)
    assert held_out.mean == pytest.approx(level, abs=0.02)
    assert len(held_out.slices) == 500
    assert held_out.half_width > held_out.error


def test_large_errors_are_covered_like_small_ones():
    """Where the deviation foretells them; intervals of one width would give up the large ones."""
    found = calibration(slices(300, 1))
    judged = slices(100, 2)
    u = torch.cat([item.deviation for item in judged])
    held = torch.cat([item.error for item in judged]) <= found.half_width(u, Sampling())
    for part in held[u.argsort()].chunk(4):
        assert float(part.float().mean()) == pytest.approx(0.9, abs=0.03)


def test_a_deviation_that_foretells_nothing_is_not_followed():
    """Then all intervals are about as wide: the floor drowns the deviation."""
    judged = slices(200, 1, foretold=False)
    found = calibration(judged)
    width = found.half_width(torch.cat([item.deviation for item in judged]), Sampling())
    assert width.std() < 0.2 * width.mean()


def test_other_data_are_not_covered():
    found = calibration(slices(300, 1))
    assert covered(slices(100, 2, shift=1.6), found).mean < 0.8


def test_few_slices_keep_the_promise_in_expectation():
    """Conformal risk control: over many draws of 30 slices a new one is covered to 90 % or more, not to much more."""
    shares = [covered(slices(10, 1000 + t, pixels=60), calibration(slices(40, t, pixels=60))).mean for t in range(40)]
    assert 0.9 - 0.006 < np.mean(shares) < 0.95


def test_slices_count_alike_however_large():
    """One huge, easy slice must not speak for all."""
    judged = slices(60, 0)
    easy = Judged(torch.zeros(200_000), torch.ones(200_000))
    alone, among = (
        calibration(some).half_width(torch.tensor(0.5), Sampling()) for some in (judged, [*judged, easy, easy])
    )
    assert float(among) > 0.85 * float(alone)


def test_no_deviation_is_safe():
    judged = [Judged(item.error, torch.zeros_like(item.error)) for item in slices(100, 0)]
    found = calibration(judged)
    assert float(found.half_width(torch.zeros(()), Sampling())) > 0
    assert covered(slices_without(100, 5), found).mean == pytest.approx(0.9, abs=0.03)


def slices_without(count, seed):
    return [Judged(item.error, torch.zeros_like(item.error)) for item in slices(count, seed)]


def harder(count, seed):
    """Errors grow with the acceleration, and with lines, more than their deviations."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for item in slices(count, seed):
        sampling = Sampling(2 + 8 * float(torch.rand((), generator=rng)), bool(torch.rand((), generator=rng) < 0.4))
        made.append(Judged(item.error * sampling.factor((0.5, -0.5, 0.6)), item.deviation, sampling))
    return made


def test_each_sampling_keeps_its_promise():
    """Without the difficulty low accelerations would be covered too often, and high ones too rarely."""
    found = calibration(harder(400, 0))
    assert found.difficulty == pytest.approx((0.5, -0.5, 0.6), abs=0.15)
    held_out = harder(300, 1)
    shares = covered(held_out, found).slices
    plain = covered(held_out, replace(found, difficulty=(0.0, 0.0, 0.0), scale=found.scale * 2.5)).slices
    for kind in (lambda s: s.of_lines, lambda s: not s.of_lines, lambda s: s.acceleration > 6):
        chosen = [share for share, item in zip(shares, held_out, strict=True) if kind(item.sampling)]
        assert np.mean(chosen) == pytest.approx(0.9, abs=0.03)
    assert np.std(shares) < 0.3 * np.std(plain)


def test_slices_of_one_sampling_have_no_exponents():
    judged = [replace(item, sampling=Sampling(4.0, True)) for item in slices(60, 0)]
    assert fit(judged, 0.9)[2] == pytest.approx((0.0, 0.0, 0.0))


def test_sampling_of_masks():
    lines = torch.zeros(1, 1, 8, 6, dtype=torch.bool)
    lines[..., ::2] = True
    assert Sampling.by(lines) == Sampling(2.0, True)
    points = lines.clone()
    points[..., 0, 1] = True
    assert not Sampling.by(points).of_lines


@pytest.mark.parametrize(("count", "level"), [(4, 0.9), (11, 0.9), (20, 0.99)])
def test_too_few_slices_for_the_level(count, level):
    with pytest.raises(DataError, match="too few"):
        fit(slices(count, 0), level)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90])
def test_impossible_levels(level):
    with pytest.raises(OptionError):
        fit(slices(40, 0), level)


# --- with a method and simulated k-space ------------------------------------------------------------------------


def sense(y, physics):
    b = to_complex(physics.A_adjoint(y))
    return to_channels(conjugate_gradient(physics.normal, b, max_iter=4))


def examples(count, seed, *, noise=0.02):
    """Discs with random insertions, 4 coils, Poisson-disc at 3x, noise of 2 % or what is told to be."""
    shape = (24, 24)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij")
    rng = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        image = (x.square() + y.square() < 0.8).float()
        for _ in range(4):
            cx, cy, r, value = (torch.rand(4, generator=rng) * torch.tensor([1.2, 1.2, 0.3, 1.6])).tolist()
            inside = (x - cx + 0.6).square() + (y - cy + 0.6).square() < r**2
            image = image + (value - 0.8) * inside * (image > 0)
        maps = random_loops(4, rng).maps(shape).to(torch.complex64)
        maps = maps / torch.linalg.vector_norm(maps, dim=0)
        mask = make_mask("poisson", shape, 3, center=8, generator=rng).expand(shape)
        full = MultiCoilMRI(maps).expand(image[None] + 0j)[0]
        drawn = torch.view_as_complex(torch.randn(4, *shape, 2, generator=rng))
        made.append(
            make_example(full + noise * drawn, mask, target=full, coil_maps=maps, sigma=0.02, name=f"{seed}:{index}")
        )
    return made


@pytest.fixture(scope="module")
def card():
    return calibrate(sense, examples(100, 0), replicas=2, data=["discs"])


def test_intervals_cover_held_out_slices_and_say_how(card):
    assert json.loads(json.dumps(card)) == card
    assert (card["level"], card["replicas"], card["slices"], card["data"]) == (0.9, 2, 100, ["discs"])
    assert 0.88 <= coverage(sense, examples(40, 1), card).mean <= 0.92


def test_intervals_do_not_cover_other_data(card):
    """The noise is stronger than the file says."""
    assert coverage(sense, examples(12, 1, noise=0.1), card).mean < 0.8


def test_intervals_do_not_cover_another_method(card):
    def blurred(y, physics):
        x = sense(y, physics)
        return (x + x.roll(1, -1) + x.roll(-1, -1)) / 3

    assert coverage(blurred, examples(12, 1), card).mean < 0.86


def test_repeats_by_seed():
    few = examples(12, 0)
    one = calibrate(sense, few, replicas=2, seed=3)
    assert one == calibrate(sense, few, replicas=2, seed=3)
    assert one != calibrate(sense, few, replicas=2, seed=4)


def test_width_of_an_interval(card):
    """Equation of the module."""
    known = Calibration.from_card({**card, "difficulty": [0.5, 1.0, 0.2]})
    u = torch.rand(5)
    plain = card["scale"] * (u + card["floor"])
    torch.testing.assert_close(known.half_width(u, Sampling(4.0)), 2 * plain)
    torch.testing.assert_close(known.half_width(u, Sampling(4.0, True)), 2 * plain * math.exp(1 + 0.2 * math.log(4)))
    torch.testing.assert_close(known.half_width(u, Sampling()), plain)


def test_judges_the_object_and_not_the_air():
    few = examples(1, 0)
    judged = judge(sense, few, replicas=2)
    assert 200 < judged[0].error.numel() < 24 * 24
    air = replace(few[0], y=few[0].y * 1e-4, target=few[0].target * 1e-4)
    assert judge(sense, [air], replicas=2) == []
    maps = few[0].coil_maps[None].clone()
    maps[..., :12, :] = 0
    assert not object_pixels(torch.ones(1, 2, 24, 24), MultiCoilMRI(maps))[:, :12].any()


@pytest.mark.parametrize("missing", [{"target": None}, {"sigma": float("nan")}])
def test_slices_without_truth_or_noise_level(missing):
    with pytest.raises(DataError, match="0:0"):
        calibrate(sense, [replace(examples(1, 0)[0], **missing)])


def test_nothing_to_measure_on(card):
    with pytest.raises(DataError):
        coverage(sense, [], card)
    with pytest.raises(OptionError):
        coverage(sense, [], {})


def test_card_comes_back(card):
    known = Calibration.from_card(card)
    assert known.to_card() == card
    assert Calibration.from_card({}) is None
    assert Calibration.from_card({**card, "method": "another"}) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"scale": "wide"},
        {"scale": 0.0},
        {"floor": -1.0},
        {"level": 2.0},
        {"replicas": 1},
        {"scale": None},
        {"difficulty": [1.0]},
        {"difficulty": [0, 0, float("nan")]},
    ],
)
def test_damaged_cards(card, damage):
    with pytest.raises(CheckpointError, match="calibration"):
        Calibration.from_card({**card, **damage})


def test_card_without_its_scale(card):
    with pytest.raises(CheckpointError):
        Calibration.from_card({key: value for key, value in card.items() if key != "scale"})
