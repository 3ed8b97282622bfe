"""Muon: orthogonal steps for matrices, Adam for the rest, and a state that survives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from recon.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (12, 40), (40, 12)])
def test_singular_values_become_one_and_their_vectors_stay(generator, shape):
    g = torch.randn(*shape, generator=generator)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    x = orthogonalised(g)
    values = torch.linalg.svdvals(x)
    assert float(values.min()) > 0.3  # the weakest of a random square matrix may lag behind
    assert float(values.max()) < 1.3
    turned = u.mT @ x @ v.mT
    assert float((turned - torch.diag(turned.diagonal())).abs().max()) < 1e-3
    torch.testing.assert_close(orthogonalised(1e3 * g), x, rtol=1e-3, atol=1e-4)
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0
    assert s[0] > 1.3  # it was not so before


def test_what_is_no_matrix_is_trained_by_adam(generator):
    ours = nn.ParameterList([torch.randn(5, generator=generator), torch.randn(3, 4, generator=generator)])
    theirs = copy.deepcopy(ours)
    optimizers = (Muon(ours, lr=0.05, betas=(0.8, 0.9)), torch.optim.Adam(theirs, lr=0.05, betas=(0.8, 0.9)))
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            sum((p * (p + step)).square().sum() for p in parameters).backward()
            optimizer.step()
    torch.testing.assert_close(list(ours), list(theirs))


def test_kernels_move_by_the_same_rate_in_every_direction(generator):
    layer = nn.Conv2d(8, 16, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = Muon(layer.parameters(), matrix_lr=0.1)
    layer(torch.randn(2, 8, 9, 9, generator=generator)).square().sum().backward()
    optimizer.step()
    moved = torch.linalg.svdvals((layer.weight - before).flatten(1).detach()) / 0.1
    assert float(moved.max() / moved.min()) < 4
    assert 0.5 < float(moved.median()) < 1.3


def test_a_network_is_fitted_and_goes_on_from_its_state(generator):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))

    x = torch.randn(64, 10, generator=generator)
    target = torch.tanh(x @ torch.randn(10, 8, generator=generator))

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    whole = network()
    optimizer = Muon(whole.parameters())
    first = train(whole, optimizer, 1)
    assert train(whole, optimizer, 99) < 0.2 * first

    part = network()
    optimizer = Muon(part.parameters())
    train(part, optimizer, 20)
    resumed = Muon(part.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(part, resumed, 80)
    torch.testing.assert_close(list(part.parameters()), list(whole.parameters()))
