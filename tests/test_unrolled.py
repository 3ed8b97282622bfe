"""What unrolled networks share: steps for any operator, the linear estimate that they start from, options."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import compressed_reference as reference
import pytest
import torch
from compressed_problems import NAMES, SIDE, measured, moment, still
from deepinv.physics import CompressedSensing, Inpainting
from networks import problem, tiny
from torch import Tensor

from recon.cards import Card
from recon.checkpoint import load_checkpoint, save_checkpoint
from recon.models import registry
from recon.models.ista_net_plus import ISTANetPlus
from recon.models.unrolled import linear_estimate
from recon.physics import BlockCompressedSensing, MultiCoilMRI
from recon.physics.errors import OptionError, ShapeError
from recon.physics.measurement_matrices import gaussian_matrix

each = pytest.mark.parametrize("name", NAMES)


# --- operators --------------------------------------------------------------------------------------------------------


@each
def test_blocks_by_themselves_in_pieces_and_at_once(name: str) -> None:
    """Without gradients the batch is cut; a block of it does not depend on the others."""
    _, y, physics = measured((24, 30), batch=2)
    model = tiny(name, stitch=False).eval()
    with torch.no_grad():
        cut = model(y, physics)
    torch.testing.assert_close(cut, model(y, physics).detach())
    other = y.clone()
    other[0, 0, :, 1, 2] += 1
    with torch.no_grad():
        difference = (model(other, physics) - cut).abs()
    inside = physics.to_blocks(difference)[0, 0, 1, 2]
    assert float(inside.max()) > 0
    assert float(difference.sum()) == pytest.approx(float(inside.sum()), rel=1e-5)


@each
def test_stitched_blocks_see_each_other(name: str) -> None:
    _, y, physics = measured((24, 30))
    model = tiny(name, stitch=True).eval()
    other = y.clone()
    other[0, 0, :, 1, 2] += 1
    with torch.no_grad():
        difference = (model(other, physics) - model(y, physics)).abs()
    inside = physics.to_blocks(difference)[0, 0, 1, 2]
    assert float(difference.sum()) > float(inside.sum()) * 1.001


@each
def test_padding_and_float64(name: str) -> None:
    """An image that is not of whole blocks; whole-image networks that crop see zeros beyond its border."""
    for size in ((12, 18), (13, 17)):
        _, y, physics = measured(size, batch=2)
        model = copy.deepcopy(tiny(name)).double().eval()
        x = model(y.double(), physics)
        assert x.shape == (2, 1, *size)
        assert x.dtype == torch.float64
        torch.testing.assert_close(x.float(), tiny(name).eval()(y, physics), rtol=1e-3, atol=1e-4)


@each
def test_colours_and_complex_images_go_through_one_by_one(name: str) -> None:
    x, y, physics = measured(channels=2)
    model = tiny(name).eval()
    both = model(y, physics)
    for c in range(2):
        torch.testing.assert_close(both[:, c : c + 1], model(y[:, c : c + 1], physics))
    together = tiny(name, channels=2).eval()
    y2 = y.clone()
    y2[:, 1] = 0
    assert together(y, physics).shape == x.shape
    assert not torch.allclose(together(y2, physics)[:, 0], together(y, physics)[:, 0], atol=1e-5)
    with pytest.raises(ShapeError, match="channels do not fit"):
        together(y[:, :1], physics)


@pytest.mark.parametrize("name", ["ista-net-plus", "coast"])
def test_step_is_scaled_by_the_norm_of_any_operator(name: str, generator: torch.Generator) -> None:
    """Gradient descent with the step 1 / norm^2 converges for matrices of whatever scale, and is the published step."""
    x, y, physics = measured((12, 18))
    model = still(tiny(name, phases=1))
    start = physics.A_adjoint(y)
    expected = start - physics.A_adjoint(physics.A(start)) + start
    if name == "coast":
        torch.testing.assert_close(model(y, physics), expected, rtol=1e-4, atol=1e-5)
    scaled = BlockCompressedSensing(7 * physics.matrix, physics.img_size, physics.block)
    torch.testing.assert_close(model(scaled.A(x), scaled), model(y, physics), rtol=1e-4, atol=1e-5)
    skewed = BlockCompressedSensing(torch.randn(12, SIDE**2, generator=generator), physics.img_size, physics.block)
    operators = [
        (skewed, x),
        (CompressedSensing(20, (1, 8, 8), rng=torch.Generator().manual_seed(0)), x[..., :8, :8]),
        (Inpainting((1, 8, 8), mask=torch.rand(1, 8, 8, generator=generator) > 0.5), x[..., :8, :8]),
    ]
    for operator, truth in operators:
        data = operator.A(truth)
        many = still(tiny(name, phases=40))
        with torch.no_grad():
            errors = [float((operator.A(image) - data).norm()) for image in many.iterates(data, operator)]
        assert errors[-1] < 0.7 * errors[0] or errors[0] < 1e-4
        assert all(b <= a * (1 + 1e-4) + 1e-5 for a, b in pairwise(errors))


@each
def test_mri_as_real_and_imaginary_part(name: str) -> None:
    y, physics = problem(batch=2)
    model = tiny(name, scale="image").eval()
    x = model(y, physics)
    assert x.shape == (2, 2, 24, 24)
    torch.testing.assert_close(model(1e4 * y, physics), 1e4 * x, rtol=1e-3, atol=1.0)
    joint = tiny(name, scale="image", channels=2).eval()
    assert joint(y, physics).shape == x.shape


def test_real_mri_is_the_published_formula(generator: torch.Generator) -> None:
    """The authors' A^T A is the real part of F^-1 mask F; a real image has it in the first of the two channels."""
    half = torch.rand(1, 1, 16, 16, generator=generator) > 0.4
    mask = half & half.flip(2, 3).roll((1, 1), (2, 3))  # as real images' k-space: F^-1 mask F x is real
    mask = mask | mask.flip(2, 3).roll((1, 1), (2, 3))
    physics = MultiCoilMRI(torch.ones(1, 1, 1, 16, 16, dtype=torch.complex64), mask)
    x = torch.rand(1, 1, 16, 16, generator=generator)
    y = physics.A(torch.cat((x, torch.zeros_like(x)), 1))
    model = tiny("ista-net-plus", phases=2).eval()

    def normal(v: Tensor) -> Tensor:
        return physics.A_adjoint_A(torch.cat((v, torch.zeros_like(v)), 1))[:, :1]

    out = back = physics.A_adjoint(y)[:, :1]
    for block in model.blocks:
        r = out - block.step * (normal(out) - back)
        s = reference.soft(block.H(block.D(r)), block.threshold)
        out = r + block.G(block.inverse(s))
    torch.testing.assert_close(model(y, physics)[:, :1], out, rtol=1e-4, atol=1e-5)


# --- linear start -----------------------------------------------------------------------------------------------------


def test_linear_estimate_is_the_best_one(generator: torch.Generator) -> None:
    blocks, second = moment()
    phi = gaussian_matrix(12, SIDE**2, generator)
    q = linear_estimate(phi, second)
    torch.testing.assert_close(phi.double() @ q, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)
    x, y = blocks.T.double(), phi.double() @ blocks.T.double()
    expected = x @ y.T @ torch.linalg.inv(y @ y.T)
    torch.testing.assert_close(q, expected, atol=1e-3, rtol=1e-3)
    assert float((x - q @ y).norm()) < 0.5 * float((x - phi.T.double() @ y).norm())


def test_linear_start_is_stored_and_belongs_to_its_matrix(tmp_path: Path) -> None:
    _, y, physics = measured()
    model = tiny("recursive-ista-net-plus", pixels=SIDE**2)
    adjoint = model.eval()(y, physics)
    model.fit_start(physics.matrix, moment()[1])
    started = model(y, physics)
    assert not torch.allclose(adjoint, started)
    for half in (False, True):
        save_checkpoint(tmp_path / "w.safetensors", model, Card(), half=half, overwrite=True)
        loaded, _ = load_checkpoint(tmp_path / "w.safetensors")
        assert loaded.arguments["measurements"] == 12
        torch.testing.assert_close(loaded(y, physics), started, atol=2e-2 if half else 0, rtol=0)
    for m, seed in ((12, 9), (11, 0)):
        _, y2, other = measured(m=m, seed=seed)
        with pytest.raises(OptionError, match="another measurement matrix"):
            model(y2, other)
    assert copy.deepcopy(model)(y, physics).shape == started.shape


@each
def test_measurements_that_do_not_fit(name: str) -> None:
    _, y, physics = measured()
    kspace, mri = problem()
    for data, operator in ((y[..., :-1], physics), (kspace[..., :-1], mri)):
        with pytest.raises(ShapeError):
            tiny(name)(data, operator)
    with pytest.raises(OptionError):
        registry[name](features=0)
    with pytest.raises(OptionError):
        registry[name](phases=0)
    with pytest.raises(OptionError):
        registry[name](scale="peak")


def test_no_more_measurements_than_pixels() -> None:
    with pytest.raises(OptionError, match="measurements"):
        ISTANetPlus(measurements=1090)
