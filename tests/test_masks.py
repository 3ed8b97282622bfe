from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from recon.datasets.masks import MASKS, make_mask
from recon.datasets.poisson_disc import _throw, poisson_disc
from recon.physics.errors import MaskError, OptionError, ShapeError

EXACT = ("gaussian_lines", "gaussian", "poisson")
LINES = ("random", "equispaced", "equispaced_fraction", "gaussian_lines", "partial_fourier")
RATE = {"full": 1.0, "partial_fourier": 1.5}
sides = st.integers(40, 90)


def central(n: int, size: int) -> slice:
    start = (n - size + 1) // 2
    return slice(start, start + size)


@pytest.mark.parametrize("name", MASKS)
def test_boolean_repeatable_and_of_a_broadcastable_shape(name):
    shape = (61, 48)
    mask = make_mask(name, shape, RATE.get(name, 4.0), generator=7)
    assert mask.dtype == torch.bool
    assert mask.shape == ((1, 48) if name in LINES else shape)
    assert mask.expand(shape)[30, 24], "the centre of k-space is sampled"
    again = make_mask(name.replace("_", "-"), shape, RATE.get(name, 4.0), generator=torch.Generator().manual_seed(7))
    assert torch.equal(mask, again)


@pytest.mark.parametrize("name", ["random", "gaussian_lines", "gaussian", "poisson", "radial", "spiral"])
def test_seeds_give_different_masks(name):
    a, b = (make_mask(name, (64, 64), 4.0, generator=seed) for seed in (0, 1))
    assert not torch.equal(a, b)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(EXACT), y=sides, x=sides, rate=st.floats(1.5, 10), seed=st.integers(0, 2**31))
def test_exact_count_and_full_centre(name, y, x, rate, seed):
    center = 4
    mask = make_mask(name, (y, x), rate, center=center, generator=seed)
    assert mask.sum() == round(mask.numel() / rate)
    block = mask[..., central(x, center)]
    assert (block if name in LINES else block[central(y, center)]).all()


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(["radial", "spiral"]), y=sides, x=sides, rate=st.floats(1.6, 10))
def test_gridded_trajectories_come_near_the_acceleration(name, y, x, rate):
    mask = make_mask(name, (y, x), rate, generator=1)
    spoke = max(y, x) / mask.numel()  # what half a spoke, or a step of the spiral, may miss
    assert abs(mask.float().mean() - 1 / rate) <= spoke


@settings(max_examples=40, deadline=None)
@given(n=st.integers(20, 400), rate=st.floats(2, 10), fraction=st.floats(0.02, 0.09), data=st.data())
def test_equispaced_fraction_is_fastmri(n, rate, fraction, data):
    low = round(n * fraction)
    step = rate * (low - n) / (low * rate - n)
    offset = data.draw(st.integers(0, round(step) - 1))
    expected = np.zeros(n, bool)
    pad = (n - low + 1) // 2
    expected[pad : pad + low] = True
    expected[np.around(np.arange(offset, n - 1, step)).astype(int)] = True
    mask = make_mask("equispaced_fraction", (8, n), rate, center=fraction, offset=offset)
    np.testing.assert_array_equal(mask[0].numpy(), expected)


def test_fastmri_centre_and_adjusted_rate_on_its_own_matrix():
    mask = make_mask("equispaced_fraction", (640, 368), 4, offset=0)[0]
    assert mask[central(368, 29)].all()  # 0.08 of 368 lines
    assert abs(368 / mask.sum() - 4) < 0.2
    assert mask.nonzero()[:4, 0].tolist() == [0, 5, 11, 16]  # steps of 4 * 339 / (368 - 116) = 5.38


def test_random_lines_have_the_expected_rate():
    masks = torch.stack([make_mask("random", (8, 200), 4, center=0.08, generator=seed)[0] for seed in range(300)])
    assert masks[:, central(200, 16)].all()
    assert abs(masks.float().mean() - 0.25) < 0.005


def test_equispaced_lines_are_equispaced():
    mask = make_mask("equispaced", (8, 101), 3, center=12, offset=2)[0]
    expected = torch.zeros(101, dtype=torch.bool)
    expected[2::3] = True
    expected[central(101, 12)] = True
    assert torch.equal(mask, expected)


def test_every_mask_is_full_at_rate_one():
    for name in ("random", "equispaced", "equispaced_fraction", "gaussian_lines", "gaussian", "poisson"):
        assert make_mask(name, (33, 40), 1).all(), name


def test_partial_fourier_keeps_one_side():
    mask = make_mask("partial_fourier", (8, 64), 64 / 40)[0]
    assert not mask[:24].any()
    assert mask[24:].all()


@settings(max_examples=25, deadline=None)
@given(y=st.integers(8, 60), x=st.integers(8, 60), radius=st.floats(1, 6), seed=st.integers(0, 1000))
def test_poisson_disc_keeps_its_distances_and_leaves_no_hole(y, x, radius, seed):
    order = np.random.default_rng(seed).permutation(y * x)
    mask = _throw(order, np.zeros((y, x), bool), np.full((y, x), radius))
    scale = np.array([max(y, x) / y, max(y, x) / x])
    points, grid = np.argwhere(mask) * scale, np.argwhere(np.ones_like(mask)) * scale
    if len(points) > 1:
        assert cKDTree(points).query(points, k=2)[0][:, 1].min() >= radius - 1e-9
    assert cKDTree(points).query(grid)[0].max() < radius + 1 / 32


def test_poisson_disc_thins_outwards_and_leaves_the_corners():
    mask = poisson_disc((160, 120), 6, center=(16, 16)).float()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 160), torch.linspace(-1, 1, 120), indexing="ij")
    rho = torch.hypot(y, x)
    density = [mask[(rho > low) & (rho < low + 0.2)].mean().item() for low in (0.2, 0.4, 0.6, 0.8)]
    assert density == sorted(density, reverse=True)
    assert density[0] > 2 * density[-1]
    assert mask[rho > 1.03].sum() == 0


@pytest.mark.parametrize(
    ("error", "name", "shape", "rate", "options"),
    [
        (OptionError, "cartesian", (32, 32), 4, {}),
        (OptionError, "poisson", (32, 32), 4, {"offset": 1}),
        (OptionError, "partial_fourier", (32, 32), 1.5, {"center": 4}),
        (OptionError, "random", (32, 32), 4, {"center": (4, 4)}),
        (ShapeError, "random", (32,), 4, {}),
        (MaskError, "random", (32, 32), 0.5, {}),
        (MaskError, "random", (32, 32), float("nan"), {}),
        (MaskError, "random", (32, 32), 4, {"center": 9}),
        (MaskError, "random", (32, 32), 4, {"center": 1.5}),
        (MaskError, "gaussian", (32, 32), 10, {"center": 12}),
        (MaskError, "gaussian", (32, 32), 2, {"center": 40}),
        (MaskError, "equispaced", (32, 32), 2.5, {}),
        (MaskError, "equispaced", (32, 32), 3, {"offset": 3}),
        (MaskError, "partial_fourier", (32, 32), 2, {}),
        (MaskError, "radial", (32, 32), 1.05, {}),
        (MaskError, "spiral", (32, 32), 1.05, {}),
    ],
)
def test_impossible_requests(error, name, shape, rate, options):
    with pytest.raises(error) as caught:
        make_mask(name, shape, rate, **options)
    assert "\n" not in str(caught.value)


def test_poisson_disc_says_what_fits():
    with pytest.raises(MaskError, match="smaller centre"):
        poisson_disc((32, 32), 20, center=(20, 20))
    with pytest.raises(MaskError, match="Change the acceleration"):
        poisson_disc((32, 32), 1.1)
