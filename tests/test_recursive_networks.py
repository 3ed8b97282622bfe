"""Recursive ISTA-Net+ and R-COAST: turns, what tells blocks of them, early output."""

from __future__ import annotations

import compressed_reference as reference
import pytest
import torch
from compressed_problems import SIDE, constant, measured
from networks import tiny

from recon.models.recursive_coast import RecursiveCOAST
from recon.models.recursive_ista_net_plus import RecursiveISTANetPlus
from recon.physics.errors import OptionError


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


def test_options_that_do_not_exist() -> None:
    with pytest.raises(OptionError, match="modulation"):
        RecursiveISTANetPlus(modulation="after")
    with pytest.raises(OptionError, match="a block a turn"):
        RecursiveCOAST(recursions=0)
