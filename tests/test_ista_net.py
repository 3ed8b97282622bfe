"""ISTA-Net, ISTA-Net+, COAST and their recursive versions: sizes, formulas, any operator, imports."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import compressed_reference as reference
import pytest
import torch
from compressed_problems import SIDE, measured, moment
from deepinv.physics import CompressedSensing, Inpainting
from networks import problem, tiny
from torch import Tensor, nn

from recon.models import registry
from recon.models.ista_net import modulated, soft_threshold
from recon.models.ista_net_plus import ISTANetPlus
from recon.models.recursive_coast import RecursiveCOAST
from recon.models.recursive_ista_net_plus import RecursiveISTANetPlus
from recon.models.unrolled import linear_estimate
from recon.physics import BlockCompressedSensing
from recon.physics.errors import OptionError, ShapeError
from recon.physics.measurement_matrices import gaussian_matrix

NAMES = ("ista-net", "ista-net-plus", "recursive-ista-net-plus", "coast", "recursive-coast")
SYMMETRIC = NAMES[:3]
each = pytest.mark.parametrize("name", NAMES)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("ista-net", {}, 171_090),
        ("ista-net-plus", {}, 336_978),
        ("ista-net-plus", {"phases": 3}, 112_326),
        ("recursive-ista-net-plus", {"modulation": "none"}, 112_326),
        ("recursive-ista-net-plus", {}, 114_630),
        ("recursive-ista-net-plus", {"modulation": "threshold"}, 114_630),
        ("coast", {}, 1_122_024),
        ("recursive-coast", {}, 281_674),
    ],
)
def test_published_numbers_of_weights(name: str, arguments: dict[str, object], size: int) -> None:
    with torch.device("meta"):
        model = registry[name](**arguments)
    assert sum(p.numel() for p in model.parameters()) == size


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.3, -0.2])
def test_soft_threshold_and_its_gradient(theta: float, generator: torch.Generator) -> None:
    f = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=generator)
    threshold = torch.tensor(theta, dtype=torch.float64)
    torch.testing.assert_close(soft_threshold(f, threshold), reference.soft(f, threshold))
    f = f[(f.abs() - theta).abs() > 1e-3].requires_grad_()
    assert torch.autograd.gradcheck(soft_threshold, (f, threshold.requires_grad_()))


def test_gains_multiply_what_comes_out(generator: torch.Generator) -> None:
    for bias in (True, False):
        convolution = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        x, gain = torch.randn(2, 3, 5, 5, generator=generator), torch.randn(4, generator=generator)
        torch.testing.assert_close(modulated(convolution, x, gain), gain[:, None, None] * convolution(x))
        assert torch.equal(modulated(convolution, x, None), convolution(x))


def test_linear_estimate_is_the_best_one(generator: torch.Generator) -> None:
    blocks, second = moment()
    phi = gaussian_matrix(12, SIDE**2, generator)
    q = linear_estimate(phi, second)
    torch.testing.assert_close(phi.double() @ q, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)
    x, y = blocks.T.double(), phi.double() @ blocks.T.double()
    expected = x @ y.T @ torch.linalg.inv(y @ y.T)
    torch.testing.assert_close(q, expected, atol=1e-3, rtol=1e-3)
    assert float((x - q @ y).norm()) < 0.5 * float((x - phi.T.double() @ y).norm())


# --- recursion ----------------------------------------------------------------------------------------------------


def test_one_turn_a_block_is_the_plain_network() -> None:
    _, y, physics = measured()
    recursive = tiny("recursive-ista-net-plus", phases=3, recursions=3, modulation="none").eval()
    plain = tiny("ista-net-plus", phases=3).eval()
    plain.load_state_dict(recursive.state_dict())
    torch.testing.assert_close(recursive(y, physics, [1, 1, 1]), plain(y, physics))
    coast = tiny("coast", phases=2).eval()
    recursive = tiny("recursive-coast", phases=2).eval()
    recursive.blocks.load_state_dict(coast.blocks.state_dict())
    constant(recursive.control, coast.control(torch.tensor([physics.ratio])))
    torch.testing.assert_close(recursive(y, physics, [1, 1]), coast(y, physics))


def test_turns_are_an_unrolled_copy_with_tied_weights() -> None:
    """Outputs and gradients, which are the sums over the copies."""
    x, y, physics = measured()
    recursive = tiny("recursive-ista-net-plus", phases=2, recursions=3, modulation="none").eval()
    unrolled = tiny("ista-net-plus", phases=6).eval()
    order = [0, 0, 0, 1, 1, 1]
    for block, source in zip(unrolled.blocks, order, strict=True):
        block.load_state_dict(recursive.blocks[source].state_dict())
    for model in (recursive, unrolled):
        out, told = model.with_losses(y, physics, ("symmetry",))
        ((out - x).square().mean() + 0.01 * told["symmetry"]).backward()
    torch.testing.assert_close(recursive(y, physics), unrolled(y, physics))
    for name, p in recursive.blocks.named_parameters():
        number, _, rest = name.partition(".")
        copies = [
            unrolled.blocks[k].get_parameter(rest).grad for k, source in enumerate(order) if source == int(number)
        ]
        torch.testing.assert_close(p.grad, sum(copies), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("placement", ["transforms", "threshold"])
def test_gains_of_one_are_no_modulation_and_others_are(placement: str) -> None:
    _, y, physics = measured()
    model = tiny("recursive-ista-net-plus", modulation=placement).eval()
    without = tiny("recursive-ista-net-plus", modulation="none").eval()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("modulation")})
    assert not torch.allclose(model(y, physics), without(y, physics), atol=1e-4)
    for unit in model.modulation:
        constant(unit, torch.ones(8))
    torch.testing.assert_close(model(y, physics), without(y, physics))


def test_placements_differ_where_published_formulas_leave_it_open(generator: torch.Generator) -> None:
    """Both by the formula: g2 H~(soft(g1 H d)), and H~(g2 soft(g1 H d))."""
    r = torch.randn(2, 1, SIDE, SIDE, generator=generator)
    g1, g2 = torch.rand(2, 8, 1, 1, generator=generator) + 0.5
    for placement in ("transforms", "threshold"):
        block = tiny("recursive-ista-net-plus", modulation=placement).blocks[0]
        d = block.D(r)
        s = reference.soft(g1 * block.H(d), block.threshold)
        features = block.inverse(s) * g2 if placement == "transforms" else block.inverse(g2 * s)
        x, residual = block(r, torch.stack((g1, g2)).flatten(1), True)
        torch.testing.assert_close(x, r + block.G(features))
        f = g1 * block.H(d)
        back = block.inverse(f) * g2 if placement == "transforms" else block.inverse(g2 * f)
        torch.testing.assert_close(residual, back - d)


def constant(unit: nn.Module, gains: Tensor) -> None:
    with torch.no_grad():
        unit[-1].weight.zero_()
        unit[-1].bias.copy_(gains.detach())


@pytest.mark.parametrize("name", ["recursive-ista-net-plus", "recursive-coast"])
def test_iterates_and_early_output(name: str) -> None:
    _, y, physics = measured((13, 40), batch=4)  # more blocks than are done at once
    model = tiny(name, phases=2, recursions=2).eval()
    with torch.no_grad():
        images = model.iterates(y, physics)
        assert len(images) == 4
        torch.testing.assert_close(images[-1], model(y, physics))
        early = model.iterates(y, physics, [1, 0])
        assert len(early) == 1
        assert not torch.allclose(early[0], images[0])  # the gains know how long the pass is
    model.train()
    seen = {len(model.iterates(y, physics)) for _ in range(30)}
    assert seen == {2, 3, 4}


@pytest.mark.parametrize("name", NAMES[1:])
def test_quiet_networks_begin_near_the_data(name: str) -> None:
    """Their first image is that of gradient descent, nearly; the same random numbers otherwise."""
    _, y, physics = measured()
    images = []
    for quiet in (False, True):
        torch.manual_seed(0)
        images.append(registry[name](phases=1, quiet=quiet)(y, physics, [1]).detach())
    torch.manual_seed(0)
    descent = still(registry[name](phases=1))
    with torch.no_grad():
        descent.blocks[0].step.fill_(0.5)
        expected = descent(y, physics, [1])
    loud, low = (float((image - expected).norm()) for image in images)
    assert low == pytest.approx(0.1 * loud, rel=1e-3)


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


def still(model: nn.Module) -> nn.Module:
    """A network whose prior does nothing: gradient descent with steps of rho over the squared norm."""
    with torch.no_grad():
        for block in model.blocks:
            last = block.G if hasattr(block, "G") else block.tail
            last.weight.zero_()
            if last.bias is not None:
                last.bias.zero_()
            block.step.fill_(1.0)
    return model.eval()


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
    from recon.physics import MultiCoilMRI

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
        r = out - block.step / 1.02 * (normal(out) - back)
        s = reference.soft(block.H(block.D(r)), block.threshold)
        out = r + block.G(block.inverse(s))
    start_scaled = model(y, physics)[:, :1].detach()
    assert float((start_scaled - out.detach()).norm() / out.detach().norm()) < 0.05  # the start is over 1.02 too


# --- symmetry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry_vanishes_where_the_transforms_are_inverses(name: str) -> None:
    _, y, physics = measured()
    model = tiny(name, features=1, scale="none").eval()
    delta = torch.zeros(1, 1, 3, 3)
    delta[0, 0, 1, 1] = 1
    with torch.no_grad():
        for block in model.blocks:
            for part in ("transform", "H", "inverse"):
                for layer in getattr(block, part, ()):
                    if isinstance(layer, nn.Conv2d):
                        layer.weight.copy_(delta)
            if hasattr(block, "D"):
                block.D.weight.copy_(delta)
        for unit in getattr(model, "modulation", ()):
            constant(unit, torch.ones(1))
    x, told = model.with_losses(y.abs() * 0 + physics.A(torch.ones(1, 1, 13, 18)), physics, ("symmetry",))
    positive = model.iterates(physics.A(torch.ones(1, 1, 13, 18)), physics)
    assert torch.equal(x, positive[-1])
    with torch.no_grad():
        r = torch.rand(2, 1, SIDE, SIDE)
        _, residual = model.blocks[0](r, torch.ones(2, 1), True)
    assert not residual.any()
    assert told["symmetry"].ndim == 0


def test_without_symmetry_nothing_is_told() -> None:
    _, y, physics = measured()
    x, told = tiny("coast").eval().with_losses(y, physics, ())
    assert not told
    assert x.shape == (1, 1, 13, 18)
    assert not registry["coast"].own_losses


# --- linear start ---------------------------------------------------------------------------------------------------


def test_linear_start_is_stored_and_belongs_to_its_matrix(tmp_path: Path) -> None:
    _, y, physics = measured()
    model = tiny("recursive-ista-net-plus", pixels=SIDE**2)
    adjoint = model.eval()(y, physics)
    model.fit_start(physics.matrix, moment()[1])
    started = model(y, physics)
    assert not torch.allclose(adjoint, started)
    from recon.cards import Card
    from recon.checkpoint import load_checkpoint, save_checkpoint

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
    with pytest.raises(ShapeError):
        tiny(name)(y[..., :-1], physics)
    with pytest.raises(OptionError):
        registry[name](features=0)
    with pytest.raises(OptionError):
        registry[name](phases=0)
    with pytest.raises(OptionError):
        registry[name](scale="peak")


def test_options_that_do_not_exist() -> None:
    with pytest.raises(OptionError, match="modulation"):
        RecursiveISTANetPlus(modulation="after")
    with pytest.raises(OptionError, match="measurements"):
        ISTANetPlus(measurements=1090)
    with pytest.raises(OptionError):
        RecursiveCOAST(recursions=0)
