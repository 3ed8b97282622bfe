"""Wavelet transform: orthogonal for every size, and pywt's on even ones."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.physics.errors import OptionError, ShapeError
from recon.wavelets import Wavelets, analysis_matrix, daubechies


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_those_of_pywt(order):
    np.testing.assert_allclose(daubechies(order), pywt.Wavelet(f"db{order}").rec_lo, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 4, 8])
@given(n=st.integers(2, 70))
@settings(max_examples=25, deadline=None)
def test_one_level_is_orthogonal_for_every_size(order, n):
    W = analysis_matrix(n, order)
    np.testing.assert_allclose(W @ W.T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 96), (320, 320), (48, 32, 64)])
@pytest.mark.parametrize("order", [1, 4])
def test_coefficients_are_those_of_pywt(shape, order, rng):
    x = rng.standard_normal(shape)
    ours = Wavelets(shape, order=order, levels=2, dtype=torch.float64).analysis(torch.from_numpy(x))
    theirs = pywt.wavedecn(x, f"db{order}", mode="periodization", level=2)
    np.testing.assert_allclose(ours, pywt.coeffs_to_array(theirs)[0], atol=1e-12)


@given(
    spatial=st.lists(st.integers(2, 45), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    shifted=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_synthesis_is_inverse_and_transpose(spatial, seed, shifted):
    generator = torch.Generator().manual_seed(seed)
    W = Wavelets(spatial, dtype=torch.float64)
    shift = torch.randint(16, (len(spatial),), generator=generator).tolist() if shifted else None
    x, c = torch.randn(2, 2, *spatial, dtype=torch.float64, generator=generator)
    x_before, c_before = x.clone(), c.clone()
    Wx, back = W.analysis(x, shift), W.synthesis(c, shift)
    torch.testing.assert_close((Wx * c).sum(), (x * back).sum(), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(W.synthesis(Wx, shift), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(W.analysis(back, shift), c, rtol=0, atol=1e-12)
    assert torch.equal(x, x_before)
    assert torch.equal(c, c_before)


@pytest.mark.parametrize("spatial", [(40, 33), (32, 18, 21)])
def test_shift_is_that_of_the_image(spatial):
    shift = (3, 11, 6)[: len(spatial)]
    W = Wavelets(spatial, dtype=torch.float64)
    x = torch.randn(spatial, dtype=torch.float64)
    axes = tuple(range(len(spatial)))
    torch.testing.assert_close(W.analysis(x, shift), W.analysis(x.roll(shift, axes)), rtol=0, atol=1e-12)


def test_polynomials_have_no_details():
    W = Wavelets((64,), levels=1, dtype=torch.float64)
    t = torch.linspace(-1, 1, 64, dtype=torch.float64)
    details = W.analysis(1 + t - 2 * t**2 + t**3)[32:]
    assert details[4:-4].abs().max() < 1e-10  # away from the seam
    assert details.abs().max() > 1e-2


def test_a_constant_keeps_to_the_low_pass_part_on_odd_axes_too():
    W = Wavelets((45, 63), levels=2, dtype=torch.float64)
    c = W.analysis(torch.ones(45, 63, dtype=torch.float64)).square()
    assert c[:12, :16].sum() > 0.99 * c.sum()


def test_levels_leave_short_axes_alone():
    assert Wavelets((320, 320)).low == (20, 20)
    assert Wavelets((10, 64, 33)).low == (10, 8, 9)
    assert Wavelets((5, 7)).levels == 0


def test_gradients():
    W = Wavelets((18, 17), levels=2, dtype=torch.float64)
    x = torch.randn(2, 18, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: W.analysis(x, (1, 5)), x, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: W.synthesis(x, (1, 5)), x, fast_mode=True)


def test_bad_input():
    with pytest.raises(OptionError, match="order 0"):
        Wavelets((32, 32), order=0)
    with pytest.raises(OptionError, match="0 to 5"):
        Wavelets((32, 32), levels=6)
    with pytest.raises(ShapeError, match=r"\(32, 31\)"):
        Wavelets((32, 32)).analysis(torch.zeros(32, 31))
    with pytest.raises(ShapeError):
        Wavelets((32, 32)).synthesis(torch.zeros(31, 32))
