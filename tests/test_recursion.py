"""The engine of recursion: draws, order of turns, conditions; and the networks that existed before it."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from networks import problem, problem_of, tiny
from torch import nn

from recon.models.recursion import FeatureModulation, Recursion, Turn, conditions
from recon.physics.errors import OptionError


def test_order_and_conditions_of_turns() -> None:
    recursion = Recursion(3, 2).eval()
    assert [turn.block for turn in recursion.turns()] == [0, 0, 1, 1, 2, 2]
    turns = recursion.turns([2, 0, 1])
    assert turns == [Turn(0, 1, 3, 6), Turn(0, 2, 3, 6), Turn(2, 3, 3, 6)]
    expected = torch.tensor([[0.2, 3 / 6, n / 6] for n in (1, 2, 3)], dtype=torch.float64)
    assert torch.equal(conditions(turns, torch.zeros(1, dtype=torch.float64), 0.2), expected)


def test_draws_are_uniform_and_of_each_block_by_itself() -> None:
    recursion = Recursion(2, 3)
    drawn = Counter(recursion.counts() for _ in range(9000))
    assert set(drawn) == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in drawn.values()), drawn


def test_draws_depend_on_seed_and_pass_only() -> None:
    """Every process of a training has its own generators of PyTorch, but must do the same turns."""
    one, other = Recursion(5, 4, seed=1), Recursion(5, 4, seed=1)
    first = []
    for _ in range(20):
        torch.manual_seed(len(first))
        first.append(one.counts())
    torch.manual_seed(77)
    assert [other.counts() for _ in range(20)] == first
    assert [Recursion(5, 4, seed=2).counts() for _ in range(1)] != first[:1]
    going_on = copy.deepcopy(one)
    assert going_on.counts() == one.counts()
    one.reseed(1)
    assert [one.counts() for _ in range(20)] == first


def test_evaluation_and_plain_networks_draw_nothing() -> None:
    recursion = Recursion(3, 4)
    assert recursion.eval().counts() == (4, 4, 4)
    assert Recursion(3).train().counts() == (1, 1, 1)
    before = copy.deepcopy(recursion).train().counts()
    assert recursion.train().counts() == before
    assert not recursion.state_dict()


@pytest.mark.parametrize("wanted", [[1, 1], [1, 1, 1, 1], [1, -1, 1], [0, 0, 0]])
def test_turns_that_do_not_fit(wanted: list[int]) -> None:
    with pytest.raises(OptionError, match="3 numbers"):
        Recursion(3, 4).turns(wanted)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_no_blocks_or_no_turns(sizes: tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="a block at least"):
        Recursion(*sizes)


def test_feature_modulation_has_the_published_size_and_starts_near_one() -> None:
    unit = FeatureModulation(3, 32)
    assert sum(p.numel() for p in unit.parameters()) == 1184
    assert sum(p.numel() for p in FeatureModulation(2, 32).parameters()) * 2 == 2304
    with torch.no_grad():
        gains = unit.start_near_one()(torch.rand(50, 3, generator=torch.Generator().manual_seed(0)))
    assert 0.9 < float(gains.min()) < 1 < float(gains.max()) < 1.1


# --- networks of one turn a block that may have more ----------------------------------------------------------------

EXISTING = {  # by what their constructors call the number of blocks
    "recurrentvarnet": "steps",
    "varnet": "cascades",
    "galaxy-admm": "iterations",
}
each = pytest.mark.parametrize("name", list(EXISTING))


@each
def test_more_turns_need_no_more_weights(name: str) -> None:
    argument, blocks = EXISTING[name], 3
    plain, recursive = tiny(name, **{argument: blocks}), tiny(name, **{argument: blocks}, recursions=4)
    more = sum(p.numel() for p in recursive.parameters()) - sum(p.numel() for p in plain.parameters())
    seen = 2 * 25 * 8 * blocks if name == "recurrentvarnet" else 0  # two more channels into its 5x5 convolutions
    assert more == seen
    assert list(recursive.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("varnet", {}),
        ("galaxy-admm", {"share_denoiser": False, "subnet": False}),
        ("galaxy-admm", {"share_denoiser": False, "subnet": False, "split": 3}),
    ],
)
def test_recursions_are_an_unrolled_network_with_tied_weights(name: str, options: dict[str, object]) -> None:
    """Outputs, and gradients summed over the copies."""
    argument = EXISTING[name]
    recursive = tiny(name, **{argument: 2}, recursions=2, **options).eval()
    unrolled = tiny(name, **{argument: 4}, **options).eval()
    tie(recursive, unrolled, [0, 0, 1, 1])
    y, physics = problem_of(name)
    out, expected = recursive(y, physics), unrolled(y, physics)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    for key, p in recursive.named_parameters():
        copies = [q.grad for other, q in unrolled.named_parameters() if came_from(other, [0, 0, 1, 1]) == key]
        assert copies, key
        if p.grad is None:
            assert copies == [None]
            continue
        total = sum(copies)
        if total.shape != p.shape:  # one number an iteration
            total = total.reshape(-1, 2, 2).sum(2).flatten()
        torch.testing.assert_close(p.grad, total, rtol=1e-3, atol=1e-5 * float(total.abs().max()))


def came_from(name: str, order: list[int]) -> str:
    """The name in the recursive network of a weight of the unrolled one."""
    head, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    return f"{head}.{order[int(number)]}.{tail}" if number.isdigit() and head in ("cascades", "denoisers") else name


def tie(recursive: nn.Module, unrolled: nn.Module, order: list[int]) -> None:
    source = recursive.state_dict()
    state = {}
    for key, value in unrolled.state_dict().items():
        held = source[came_from(key, order)]
        if held.shape != value.shape:  # one number a block, once for each penalty
            held = held.reshape(-1, 2)[:, order].flatten()
        state[key] = held
    unrolled.load_state_dict(state)


@each
def test_anytime_and_training(name: str) -> None:
    argument, blocks = EXISTING[name], 3
    model = tiny(name, **{argument: blocks}, recursions=2)
    y, physics = problem_of(name)
    model.eval()
    with torch.no_grad():
        whole, early = model(y, physics), model(y, physics, [1] * blocks)
        assert torch.equal(model(y, physics, [2] * blocks), whole)
    assert early.shape == whole.shape
    assert not torch.allclose(early, whole)
    model.train()
    used = set()
    for _ in range(4):
        counts = copy.deepcopy(model.recursion).counts()
        used.add(counts)
        with torch.no_grad():
            drawn = model(y, physics)
            torch.testing.assert_close(drawn, model(y, physics, counts))
    assert len(used) > 1
    with pytest.raises(OptionError, match="turns that do not fit"):
        model(y, physics, [1] * (blocks + 1))


def test_recurrentvarnet_knows_where_it_is() -> None:
    """The same step in a longer pass has another update."""
    model = tiny("recurrentvarnet", steps=1, recursions=3).eval()
    y, physics = problem()
    with torch.no_grad():
        before = model(y, physics)
        model.regularisers[0].convolutions[0].weight[:, 2:].zero_()
        assert not torch.allclose(model(y, physics), before)


def test_published_galaxy_weights_have_no_recursions() -> None:
    with pytest.raises(OptionError, match="no recursions"):
        tiny("galaxy-admm", as_published=True, recursions=2)
