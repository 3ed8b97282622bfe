"""Inpainting, demosaicing, blur, super-resolution, one-coil MRI, users' functions: what they compute; deepinv's."""

from __future__ import annotations

import math

import deepinv
import pytest
import torch

from recon.physics import (
    Blur,
    CircularBlur,
    Demosaicing,
    FunctionPhysics,
    Inpainting,
    Resampling,
    SingleCoilMRI,
    SuperResolution,
)
from recon.physics.checks import check_measurements, check_operator
from recon.physics.errors import DataError, MaskError, OperatorError, OptionError, ShapeError
from recon.physics.inpainting import block_mask, coded_mask, random_mask
from recon.physics.kernels import gaussian_kernel, motion_kernel, random_motion_kernel


@pytest.fixture
def x(generator):
    return torch.randn(2, 3, 24, 20, generator=generator)


def test_random_masks_keep_their_share(generator):
    assert 0.28 < float(random_mask((100, 100), 0.3, generator).mean()) < 0.32
    assert float(random_mask((5, 5), 1e-9, generator).sum()) == 1
    assert bool(random_mask((9, 9), 1.0, generator).all())


def test_block_masks_take_whole_blocks_out(generator):
    mask = block_mask((20, 30), (4, 6), 1, generator)
    rows, columns = torch.nonzero(mask == 0, as_tuple=True)
    assert len(rows) == 24
    assert (int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (3, 5)


def test_coded_masks_have_a_flat_spectrum():
    """What makes them uniformly redundant: the periodic spectrum of a tile has two values, at 0 and elsewhere."""
    tile = coded_mask((13, 13), 13)
    assert int(tile.sum()) == (13**2 - 1) // 2
    power = torch.fft.fft2(2 * tile.double() - 1).abs()[1:, 1:]
    assert float(power.max() / power.min()) < 1.35
    assert torch.equal(coded_mask((20, 15), 13)[13:, :13], tile[:7])


def test_inpainting_is_deepinvs(x, generator):
    mask = random_mask((24, 20), 0.4, generator)
    ours, theirs = Inpainting(mask, (3, 24, 20)), deepinv.physics.Inpainting((3, 24, 20), mask.expand(3, 24, 20))
    torch.testing.assert_close(ours.A(x), theirs.A(x))
    torch.testing.assert_close(ours.A_dagger(ours.A(x)), x * mask)


def test_demosaicing_is_deepinvs_for_its_pattern(x):
    assert torch.equal(Demosaicing((24, 20), "bggr").A(x), deepinv.physics.Demosaicing((24, 20)).A(x))


@pytest.mark.parametrize(("pattern", "shares"), [("rggb", (1, 2, 1, 4)), ("xtrans", (8, 20, 8, 36))])
def test_filter_arrays_see_one_colour_a_pixel(pattern, shares):
    mask = Demosaicing((36, 36), pattern).mask[0]
    assert bool((mask.sum(0) == 1).all())
    torch.testing.assert_close(mask.mean((1, 2)), torch.tensor(shares[:3]) / shares[3])


@pytest.mark.parametrize("padding", ["valid", "replicate", "reflect", "constant"])
@pytest.mark.parametrize("size", [3, 17])
def test_blur_is_deepinvs_in_both_ways_of_computing(x, padding, size):
    kernel = gaussian_kernel(1.5)
    kernel = torch.nn.functional.interpolate(kernel, size=(size, size)) if size != kernel.shape[-1] else kernel
    ours = Blur(kernel, (3, 24, 20), padding=padding)
    theirs = deepinv.physics.Blur(kernel, padding=padding)
    assert ours.use_fft == (size > 4)
    torch.testing.assert_close(ours.A(x), theirs.A(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.A_adjoint(ours.A(x)), theirs.A_adjoint(theirs.A(x)), rtol=1e-4, atol=1e-4)


def test_circular_blur_solves_its_proximal_problem(x):
    physics = CircularBlur(gaussian_kernel(1.0), (3, 24, 20))
    y = physics.A(x)
    u = physics.prox_l2(x, 0 * y, gamma=2.0)
    torch.testing.assert_close(2.0 * physics.A_adjoint_A(u) + u, x, rtol=1e-4, atol=1e-4)


def test_motion_goes_where_it_is_told():
    kernel = motion_kernel(9, 0.0)[0, 0]
    torch.testing.assert_close(kernel[4, 1:-1], torch.full((7,), 1 / 8), rtol=0.02, atol=0)
    assert float(kernel.sum()) == pytest.approx(1)
    assert float(kernel[3].sum()) < 1e-6
    rising = motion_kernel(9, 45.0)[0, 0]
    assert float(rising.flip(1).diagonal().sum()) > 0.5 > float(rising.diagonal().sum())
    assert torch.equal(motion_kernel(1), torch.ones(1, 1, 1, 1))


def test_random_motion_follows_its_seed():
    first, again = (random_motion_kernel(9, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.sum()) == pytest.approx(1)
    assert not torch.equal(first, random_motion_kernel(9, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("size", [(24, 20), (23, 21)])
def test_super_resolution_for_sizes_that_do_not_divide(size, generator):
    x = torch.randn(1, 1, *size, generator=generator)
    ours = SuperResolution(3, (1, *size))
    y = ours.A(x)
    assert y.shape[2:] == tuple(-(-n // 3) for n in size)
    assert torch.equal(y, deepinv.physics.Downsampling((1, *size), "bicubic", 3).A(x))
    theirs = deepinv.physics.Downsampling((1, *size), "bicubic", 3)
    torch.testing.assert_close(ours.A_adjoint(y), theirs.A_adjoint(y), rtol=1e-4, atol=1e-5)
    u = ours.prox_l2(x, y, gamma=2.0)
    torch.testing.assert_close(2.0 * ours.A_adjoint(ours.A(u) - y) + u, x, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("factor", [2, 3])
def test_resampling_is_matlabs_imresize(factor, generator):
    x = torch.rand(1, 1, 24, 30, generator=generator)
    torch.testing.assert_close(
        Resampling(factor, (1, 24, 30)).A(x), deepinv.physics.DownsamplingMatlab(factor).A(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kernel", ["cubic", "linear", "box"])
@pytest.mark.parametrize("factor", [1.0, 1.5, 2.7])
def test_resampling_keeps_what_is_flat_and_a_ramp(kernel, factor):
    physics = Resampling(factor, (1, 30, 40), kernel)
    torch.testing.assert_close(
        physics.A(torch.ones(1, 1, 30, 40)), torch.ones(1, 1, *map(len, (physics.rows, physics.columns)))
    )
    ramp = physics.A(torch.arange(40.0).expand(1, 1, 30, 40))[0, 0, 3]
    expected = (torch.arange(len(physics.columns)) + 0.5) * factor - 0.5
    torch.testing.assert_close(ramp[5:-5], expected[5:-5], rtol=0, atol=0.35 if kernel == "linear" else 0.15)


def test_mri_is_deepinvs(generator):
    x = torch.randn(2, 2, 15, 12, generator=generator)
    mask = torch.rand(15, 12, generator=generator) < 0.5
    ours, theirs = SingleCoilMRI(mask), deepinv.physics.MRI(mask.float())
    for ours_of, theirs_of in (
        (ours.A, theirs.A),
        (ours.A_adjoint, theirs.A_adjoint),
        (ours.A_dagger, theirs.A_dagger),
    ):
        torch.testing.assert_close(ours_of(x), theirs_of(x), rtol=1e-4, atol=1e-5)


def test_a_users_functions_with_and_without_adjoint(x):
    def forward(x):
        return x.roll(1, -1) + 2 * x

    given = FunctionPhysics(forward, lambda y: y.roll(-1, -1) + 2 * y, (3, 24, 20))
    made = FunctionPhysics(forward, None, (3, 24, 20))
    torch.testing.assert_close(given.A_adjoint(x), made.A_adjoint(x))
    check_operator(given)
    check_operator(made, dtype=torch.float64)


class Doubled(torch.autograd.Function):
    """Of the older kind, as most projectors of other packages are."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_a_users_autograd_function_of_the_older_kind():
    check_operator(FunctionPhysics(Doubled.apply, None, (1, 8, 8)))


@pytest.mark.parametrize(
    ("forward", "adjoint", "message"),
    [
        (lambda x: x.roll(1, -1), lambda y: y.roll(1, -1), "adjoint is not the operator's adjoint"),
        (lambda x: x, lambda y: 1.02 * y, "adjoint is not the operator's adjoint"),
        (lambda x: x, lambda y: y[..., 1:], "another shape"),
        (lambda x: x.square(), lambda y: y, "not linear"),
        (lambda x: x + 0.1, lambda y: y, "not linear"),
        (lambda x: x / 0, lambda y: y, "not finite"),
    ],
)
def test_wrong_operators_are_found(forward, adjoint, message):
    with pytest.raises(OperatorError, match=message):
        check_operator(FunctionPhysics(forward, adjoint, (1, 16, 16)))


def test_every_shipped_operator_passes_the_check_of_users_operators(generator):
    for physics in (
        Blur(gaussian_kernel(1.0), (1, 32, 32), padding="reflect"),
        SuperResolution(4, (1, 32, 32)),
        SingleCoilMRI(random_mask((32, 32), 0.3, generator)),
    ):
        check_operator(physics)
    with pytest.raises(OptionError, match="size"):
        check_operator(Blur(gaussian_kernel(1.0)))
    with pytest.raises(OperatorError, match="not linear"):
        check_operator(deepinv.physics.Physics(torch.sin), (1, 8, 8))


def test_measurements_of_another_shape_or_not_finite():
    physics = SuperResolution(2, (1, 16, 16))
    check_measurements(torch.zeros(4, 1, 8, 8), physics)
    with pytest.raises(ShapeError, match=r"expected \(b, 1, 8, 8\)"):
        check_measurements(torch.zeros(4, 1, 8, 9), physics)
    with pytest.raises(DataError, match="1 of 64"):
        check_measurements(
            torch.zeros(1, 1, 8, 8).index_put_((*[torch.tensor(0)] * 4,), torch.tensor(math.nan)), physics
        )
    with pytest.raises(DataError, match="no measurement"):
        check_measurements(torch.zeros(0, 1, 8, 8), physics)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Inpainting(torch.zeros(4, 4)), MaskError, "keeps no pixel"),
        (lambda: Inpainting(torch.full((4, 4), 0.5)), MaskError, "kept or not"),
        (lambda: Inpainting(torch.ones(4, 4), (1, 5, 4)), MaskError, "does not fit"),
        (lambda: random_mask((4, 4), 0.0, torch.Generator()), OptionError, "share"),
        (lambda: block_mask((4, 4), (4, 4), 1, torch.Generator()), OptionError, "cannot be taken"),
        (lambda: coded_mask((4, 4), 12), OptionError, "odd prime"),
        (lambda: Demosaicing((4, 4), "rgbg"), OptionError, "filter array"),
        (lambda: Blur(torch.ones(5, 5), (1, 4, 4)), ShapeError, "larger than the image"),
        (lambda: Blur(torch.zeros(3, 3)), DataError, "all zero"),
        (lambda: Blur(torch.ones(3, 3), padding="mirror"), OptionError, "border"),
        (lambda: gaussian_kernel(0.0), OptionError, "positive"),
        (lambda: motion_kernel(0.5), OptionError, "pixel long"),
        (lambda: random_motion_kernel(4, torch.Generator()), OptionError, "odd"),
        (lambda: SuperResolution(1.5, (1, 8, 8)), OptionError, "resampling"),
        (lambda: SuperResolution(9, (1, 8, 8)), OptionError, "from 1 to 8"),
        (lambda: SuperResolution(2, (1, 8, 8), "cubical"), OptionError, "bicubic"),
        (lambda: Resampling(0.5, (1, 8, 8)), OptionError, "from 1 to 8"),
        (lambda: SingleCoilMRI(torch.zeros(4, 4)), MaskError, "samples nothing"),
        (lambda: SingleCoilMRI(torch.ones(3, 4, 4)), MaskError, "shape"),
        (lambda: SingleCoilMRI(torch.eye(2)[None, :, None].expand(1, 2, 4, 2)), MaskError, "together"),
    ],
)
def test_what_cannot_be_an_operator(make, error, message):
    with pytest.raises(error, match=message):
        make()
