"""One-bit weights: gradients, scales, masks, and which weights are chosen."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import sparse_problem, tiny
from onebit_networks import LAYERS, LEVELS, lista, weights

from recon.onebit import Quantisation, quantise, quantised_weights, remove
from recon.onebit.gradients import eight_bit, straight_through_sign, tanh_sign, ternary
from recon.physics.errors import OptionError

# --- gradients ------------------------------------------------------------------------------------------------


def test_straight_through_is_the_identity_inside_the_clip_and_zero_outside() -> None:
    w = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.4, 1.0, 1.01], requires_grad=True)
    upstream = torch.arange(1.0, 8.0)
    value = straight_through_sign(w)
    assert value.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (gradient,) = torch.autograd.grad(value, w, upstream)
    assert gradient.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_gradient_of_tanh(beta: float) -> None:
    w = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor(beta, dtype=torch.float64)
    (ours,) = torch.autograd.grad(tanh_sign(w, slope).sum(), w)
    (theirs,) = torch.autograd.grad(torch.tanh(slope * w).sum(), w)
    torch.testing.assert_close(ours, theirs)
    assert tanh_sign(w, slope).abs().eq(1).all()


def test_ternary_and_eight_bits() -> None:
    w = torch.tensor([-0.9, -0.2, 0.1, 0.5, 2.0], requires_grad=True)
    value = ternary(w, torch.tensor(0.3))
    assert value.tolist() == [-1, 0, 0, 1, 1]
    assert torch.autograd.grad(value.sum(), w)[0].tolist() == [1, 1, 1, 1, 0]

    scale = torch.tensor(0.01, requires_grad=True)
    value = scale * eight_bit(w, scale)
    torch.testing.assert_close(value.detach(), torch.tensor([-0.9, -0.2, 0.1, 0.5, 1.27]))
    to_w, to_scale = torch.autograd.grad(value.sum(), (w, scale))
    assert to_w.tolist() == [1, 1, 1, 1, 0]
    torch.testing.assert_close(
        to_scale, torch.tensor(127.0)
    )  # of the clipped weight; the others have no rounding error


def test_gradients_reach_latent_weights_and_scale() -> None:
    """Of W = lambda sign(W_r): dL/dW_r = lambda dL/dW, and dL/dlog(lambda) = <dL/dW, W>."""
    model = lista()
    w = model.layers[0].weight
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    latent = next(quantised_weights(model))
    to_latent, to_scale = torch.autograd.grad((w * upstream).sum(), (latent.latent, latent.quantiser.scale.log_factor))
    torch.testing.assert_close(to_latent, latent.quantiser.scale().detach() * upstream)
    torch.testing.assert_close(to_scale, (w * upstream).sum().detach())


# --- scales, masks, what is chosen ----------------------------------------------------------------------------


def test_scale_starts_as_least_squares() -> None:
    model, plain = lista(), lista(None)
    everything = torch.stack(weights(plain))
    assert len({w.quantiser.scale for w in quantised_weights(model)}) == 1
    scale = next(quantised_weights(model)).quantiser.scale()
    torch.testing.assert_close(scale, everything.abs().mean())

    def error(factor: float) -> float:
        return sum(
            float((w - factor * scale * w.sign()).square().sum().detach()) for w in weights(plain)
        )  # not below at either side

    assert error(1.0) < min(error(0.99), error(1.01))


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
def test_a_scale_for_each_matrix(levels: str) -> None:
    plain = lista(None)
    with torch.no_grad():
        plain.layers[1].weight.mul_(10)
    quantise(plain, Quantisation(patterns=LAYERS, levels=levels, scale="matrix"))
    first, second, _ = (float(w.quantiser.scale().detach()) for w in quantised_weights(plain))
    assert 7 < second / first < 14
    if levels == "8-bit":
        original = lista(None).layers[1].weight * 10
        assert (plain.layers[1].weight - original).abs().max() <= 0.5001 * second


@pytest.mark.parametrize("levels", LEVELS)
def test_structural_zeros_are_zero_and_no_gradient_reaches_them(levels: str) -> None:
    model = lista(levels, blocks=4)
    off = ~torch.block_diag(*[torch.ones(8, 4, dtype=torch.bool)] * 4).bool()
    y, physics = sparse_problem(16, 32, batch=4)
    model(y, physics).square().sum().backward()
    for weight, found in zip(weights(model), quantised_weights(model), strict=True):
        assert not weight[off].any()
        assert weight[~off].count_nonzero() > 0.3 * (~off).sum()
        assert not found.latent.grad[off].any()
        assert found.latent.grad[~off].any()


def test_one_bit_weights_take_two_values() -> None:
    for options in ({}, {"gradient": "tanh"}):
        values = torch.stack(weights(lista(**options))).unique()
        assert len(values) == 2
        assert values[0] == -values[1]
    assert len(torch.stack(weights(lista("ternary"))).unique()) == 3
    assert len(torch.stack(weights(lista("one-bit", blocks=2))).unique()) == 3  # and the structural zeros


def test_weights_of_any_registered_network_are_chosen_by_pattern() -> None:
    model = tiny("unet")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    quantise(model, Quantisation(patterns=("network.unet.down.*.weight", "*.bottom.?.weight")))
    chosen = {w.name for w in quantised_weights(model)}
    assert chosen == {n for n in before if n.endswith(".weight") and (".down." in n or ".bottom." in n)}
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value) if name not in chosen else True
    for name in chosen:
        place, _, attribute = name.rpartition(".")
        assert len(getattr(model.get_submodule(place), attribute).unique()) == 2


def test_copies_share_their_scale_and_are_apart() -> None:
    model = lista()
    other = copy.deepcopy(model)
    assert len({id(w.quantiser.scale) for w in quantised_weights(other)}) == 1
    with torch.no_grad():
        next(quantised_weights(other)).quantiser.scale.log_factor.add_(1)
    assert not torch.equal(model.layers[2].weight, other.layers[2].weight)
    assert sum(1 for name, _ in model.named_parameters() if "log_factor" in name) == 1


def test_plain_weights_of_the_same_values() -> None:
    model = lista("ternary", blocks=2)
    before = weights(model)
    remove(model)
    assert not list(quantised_weights(model))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in lista(None).named_parameters()]


def test_a_copy_made_plain_leaves_the_original() -> None:
    model = lista()
    before = weights(model)
    remove(copy.deepcopy(model))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    remove(model)


def test_quantising_what_is_quantised_changes_nothing() -> None:
    model = lista()
    before = weights(model)
    remove(model)
    quantise(model, Quantisation(patterns=LAYERS))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_double_precision() -> None:
    model = lista().double()
    assert weights(model)[0].dtype == torch.float64
    assert len(weights(model)[0].unique()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ()}, "a pattern"),
        ({"patterns": ("nothing.*",)}, "no weight of the network is called 'nothing"),
        ({"patterns": ("log_thresholds",)}, "no matrix"),
        ({"patterns": LAYERS, "blocks": 3}, "3 blocks do not divide"),
        ({"patterns": LAYERS, "start": 5, "freeze": 4}, "freeze after the start"),
        ({"patterns": LAYERS, "rate": 0.0}, "rate above 0"),
        ({"patterns": LAYERS, "beta": (2.0, 1.0)}, "slope of tanh"),
    ],
    ids=str,
)
def test_what_cannot_be_quantised(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quantise(lista(None), Quantisation(**options))


def test_once_is_enough() -> None:
    with pytest.raises(OptionError, match="already"):
        quantise(lista(), Quantisation(patterns=LAYERS))
