"""Layers of one-bit weights as products of integers."""

from __future__ import annotations

import pytest
import torch
from networks import sparse_problem
from onebit_networks import LAYERS
from torch import nn

from recon.models.lista import LISTA
from recon.onebit import Quantisation, integer_inference, quantise, quantised_weights, set_stage
from recon.onebit.integers import IntegerLinear
from recon.physics.errors import OptionError


def test_products_of_integers_are_exact_where_inputs_are_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (24, 40), generator=generator).to(torch.int8)
    x = torch.randint(-127, 128, (3, 2, 40), generator=generator).float()
    x[..., 0] = 127
    bias = torch.arange(24.0)
    out = IntegerLinear(codes, torch.tensor(0.25), bias)(x)
    assert torch.equal(out, 0.25 * x @ codes.float().T + bias)


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
def test_rounded_inputs_change_outputs_by_no_more_than_they_may(levels: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24)
    network = nn.Sequential(layer)
    quantise(network, Quantisation(patterns=("*.weight",), levels=levels))
    fast = integer_inference(network)
    x = torch.randn(5, 40)
    with torch.no_grad():
        error = (fast(x) - network(x)).abs()
        bound = x.abs().amax(1, keepdim=True) / 127 / 2 * layer.weight.abs().sum(1)
    assert (error <= 1.001 * bound + 1e-6).all()
    assert error.any()
    assert not list(quantised_weights(fast))
    assert list(quantised_weights(network))
    assert not fast(torch.zeros(1, 40)).sub(layer.bias).any()


def test_lista_by_integers() -> None:
    y, physics = sparse_problem(32, 64, batch=64)
    model = LISTA(32, 64, 4).train()
    model(y, physics)
    quantise(model, Quantisation(patterns=LAYERS))
    with torch.no_grad():
        exact, fast = model.eval()(y, physics), integer_inference(model)(y, physics)
    assert 0 < (fast - exact).norm() < 0.02 * exact.norm()


def test_nothing_to_multiply_by_integers() -> None:
    model = LISTA(8, 16, 2)
    with pytest.raises(OptionError, match="no linear layer"):
        integer_inference(model)
    quantise(model, Quantisation(patterns=LAYERS))
    set_stage(model, active=False, beta=1.0)
    with pytest.raises(OptionError, match="no linear layer"):
        integer_inference(model)
