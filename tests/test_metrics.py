from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_laplace
from skimage.data import camera
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recon.metrics import bootstrap_interval, evaluate, hfen, nmse, psnr, ssim, vif
from recon.physics.errors import DataError, OptionError, ShapeError


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    reference = np.stack([camera()[i : i + 96, i : i + 80] * (1 + i / 100) for i in range(100, 180, 8)]).astype(float)
    return reference + rng.normal(scale=12, size=reference.shape), reference


def test_as_fastmri_defines_them(volume):
    """Written out as fastMRI's evaluate.py has it: the volume's maximum, skimage's SSIM slice by slice."""
    pred, gt = volume
    assert psnr(pred, gt) == pytest.approx(peak_signal_noise_ratio(gt, pred, data_range=gt.max()))
    assert nmse(pred, gt) == pytest.approx(np.linalg.norm(gt - pred) ** 2 / np.linalg.norm(gt) ** 2)
    by_slice = [structural_similarity(g, p, data_range=gt.max()) for g, p in zip(gt, pred, strict=True)]
    assert ssim(pred, gt) == pytest.approx(np.mean(by_slice))
    assert evaluate(pred, gt, level=None) == pytest.approx(
        {"psnr": psnr(pred, gt), "ssim": ssim(pred, gt), "nmse": nmse(pred, gt), "hfen": hfen(pred, gt)}
    )


def test_hfen_is_the_filter_of_15_by_15(volume):
    pred, gt = volume
    offset = np.arange(-7, 8)
    square = np.add.outer(offset**2, offset**2)
    gauss = np.exp(-square / 4.5)
    kernel = gauss * (square - 4.5) / (1.5**4 * gauss.sum())  # as MATLAB's fspecial("log", 15, 1.5)
    kernel -= kernel.mean()
    error = [convolve(p - g, kernel, mode="constant") for p, g in zip(pred, gt, strict=True)]
    edges = [convolve(g, kernel, mode="constant") for g in gt]
    assert hfen(pred, gt) == pytest.approx(np.linalg.norm(error) / np.linalg.norm(edges))
    inner = (slice(10, -10), slice(10, -10))
    np.testing.assert_allclose(
        convolve(gt[0], kernel, mode="constant")[inner], gaussian_laplace(gt[0], 1.5)[inner], atol=0.6
    )
    smooth, rough = gt + 20, gt + 20 * (np.arange(80) // 4 % 2)
    support = np.zeros(gt.shape[1:], bool)
    support[inner] = True
    assert hfen(smooth, gt, support) < 1e-6, "a constant error has no edges"
    assert hfen(rough, gt, support) > 0.01


def test_vif_gives_the_figures_of_sewar():
    """Of `sewar.full_ref.vifp`, version 0.4.10, slice by slice, the volume's maximum scaled to 255."""
    gt = np.stack([camera()[i : i + 96, i : i + 80] for i in (100, 180)]).astype(float)
    waves = 12 * np.sin(np.arange(96)[:, None] * 7 + np.arange(80) * 3)
    blurred = (gt + np.roll(gt, 1, 1) + np.roll(gt, 1, 2) + np.roll(gt, (1, 1), (1, 2))) / 4
    figures = {0.4278710754500775: gt + waves, 0.8316980959582161: 0.7 * gt, 1.0901247153544915: 1.2 * gt}
    figures[0.47796824159979495] = blurred
    for expected, image in figures.items():
        assert vif(image, gt) == pytest.approx(expected, rel=1e-8)
        assert vif(1e-3 * image, 1e-3 * gt) == pytest.approx(expected, rel=1e-6)
    assert vif(gt, gt) == pytest.approx(1)
    flat = np.stack([gt[0], np.zeros_like(gt[0])])
    assert vif(blurred[[0, 0]], flat) == pytest.approx(vif(blurred[0], gt[0])), "an empty slice has no information"


def test_vif_of_bad_input():
    with pytest.raises(ShapeError, match=r"too small for four scales.*41 x 41"):
        vif(np.ones((40, 60)), np.ones((40, 60)))
    with pytest.raises(DataError, match="flat"):
        vif(np.ones((50, 60)), np.ones((50, 60)))


def test_support_hides_what_lies_outside(volume):
    pred, gt = volume
    support = np.zeros(gt.shape[1:], bool)
    support[20:60, 20:60] = True
    spoilt = pred.copy()
    spoilt[:, 75:, :] = 1e4
    assert psnr(spoilt, gt, support) == pytest.approx(psnr(pred, gt, support))
    assert ssim(spoilt, gt, support) == pytest.approx(ssim(pred, gt, support), abs=1e-6)
    assert nmse(spoilt, gt, support) == pytest.approx(nmse(pred, gt, support))
    assert psnr(spoilt, gt) < 0
    inside = gt[:, support]
    assert psnr(pred, gt, support) == pytest.approx(
        peak_signal_noise_ratio(inside, pred[:, support], data_range=inside.max())
    )


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_scale_does_not_matter(scale, seed):
    rng = np.random.default_rng(seed)
    gt = rng.random((20, 24)) + 0.1
    pred = gt + 0.1 * rng.normal(size=gt.shape)
    a, b = (evaluate(factor * pred, factor * gt, seed=1) for factor in (1, scale))
    assert a == pytest.approx(b, rel=1e-6)


def test_complex_tensors_are_compared_by_magnitude(volume):
    pred, gt = (torch.from_numpy(v[0]) for v in volume)
    phase = torch.polar(torch.ones_like(gt), gt / 40)
    assert evaluate(pred.abs() * phase, gt * phase.conj()) == pytest.approx(evaluate(pred.abs(), gt))


def test_perfect_image(volume):
    _, gt = volume
    figures = evaluate(gt, gt)
    assert figures["psnr"] == figures["psnr_low"] == np.inf
    assert figures["ssim"] == pytest.approx(1)
    assert figures["nmse"] == figures["hfen"] == 0


@pytest.mark.parametrize("slices", [1, 10])
def test_intervals_hold_the_figure_and_repeat(volume, slices):
    pred, gt = (v[:slices] for v in volume)
    figures = evaluate(pred, gt, seed=5)
    for name in ("psnr", "ssim", "nmse", "hfen"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
    assert figures == evaluate(pred, gt, seed=5)
    narrow = evaluate(pred, gt, seed=5, level=0.5)
    assert narrow["psnr_high"] - narrow["psnr_low"] < figures["psnr_high"] - figures["psnr_low"]


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for repeat in range(200):
        low, high = bootstrap_interval(rng.normal(size=40), level=0.9, seed=repeat)
        inside += low < 0 < high
    assert 165 <= inside <= 195  # 0.9 within three standard errors, less what so few values cost


@pytest.mark.parametrize(
    ("error", "image", "reference", "options"),
    [
        (ShapeError, np.ones((9, 9)), np.ones((9, 8)), {}),
        (ShapeError, np.ones((6, 9)), np.ones((6, 9)), {}),
        (ShapeError, np.ones((9, 9)), np.ones((9, 9)), {"support": np.ones((3, 3), bool)}),
        (DataError, np.full((9, 9), np.nan), np.ones((9, 9)), {}),
        (DataError, np.ones((9, 9)), np.zeros((9, 9)), {}),
        (DataError, np.ones((9, 9)), np.ones((9, 9)), {"support": np.zeros((9, 9), bool)}),
        (OptionError, np.ones((9, 9)), np.ones((9, 9)), {"level": 95.0}),
    ],
)
def test_what_cannot_be_compared(error, image, reference, options):
    with pytest.raises(error):
        evaluate(image, reference, **options)


def test_one_value_has_no_interval():
    with pytest.raises(DataError):
        bootstrap_interval([1.0])


def test_intervals_hold_the_figure_where_most_is_air(rng):
    """Blocks of air belong to the frame: leaving them out of the draws would judge another image."""
    reference = np.zeros((64, 64))
    reference[20:40, 24:44] = 1 + rng.random((20, 20))
    figures = evaluate(reference + 0.01 * rng.standard_normal((64, 64)) * (reference > 0), reference)
    for name in ("psnr", "ssim", "nmse", "hfen"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
