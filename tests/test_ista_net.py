"""ISTA-Net, ISTA-Net+, COAST and their recursive versions: sizes, parts, symmetry residuals."""

from __future__ import annotations

import compressed_reference as reference
import pytest
import torch
from compressed_problems import NAMES, SIDE, constant, measured, still
from networks import tiny
from torch import nn

from recon.models import registry
from recon.models.ista_net import modulated, soft_threshold

SYMMETRIC = NAMES[:3]


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


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry_vanishes_where_the_transforms_are_inverses(name: str) -> None:
    _, _, physics = measured()
    y = physics.A(torch.ones(1, 1, 13, 18))
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
    x, told = model.with_losses(y, physics, ("symmetry",))
    assert torch.equal(x, model.iterates(y, physics)[-1])
    with torch.no_grad():
        r = torch.rand(2, 1, SIDE, SIDE)
        _, residual = model.blocks[0](r, torch.ones(2, 1), True)
    assert not residual.any()
    assert told["symmetry"].ndim == 0


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry_is_the_same_in_validation(name: str) -> None:
    """More blocks than go through the network at once where there is no gradient."""
    _, y, physics = measured((30, 40))
    model = tiny(name).eval()
    trained = model.with_losses(y, physics, ("symmetry",))[1]["symmetry"]
    with torch.no_grad():
        validated = model.with_losses(y, physics, ("symmetry",))[1]["symmetry"]
    torch.testing.assert_close(validated, trained.detach())


def test_without_symmetry_nothing_is_told() -> None:
    _, y, physics = measured()
    x, told = tiny("coast").eval().with_losses(y, physics, ())
    assert not told
    assert x.shape == (1, 1, 13, 18)
    assert not registry["coast"].own_losses
