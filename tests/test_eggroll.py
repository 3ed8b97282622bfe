"""Evolution strategies of low rank."""

from __future__ import annotations

import pytest
import torch
from perturbed import parameter
from torch import nn

from recon.onebit import Quantisation, quantise, quantised_weights
from recon.onebit.gradients import signs
from recon.physics.errors import DataError, OptionError
from recon.training.evolution import Dense, Eggroll, LowRank, member_losses


def quadratic_in_a_matrix(W):
    """Of each of a population, and the gradient of one."""
    X = parameter(9, 5, seed=3).detach()
    Y = parameter(9, 6, seed=4).detach()
    residual = X @ W.mT - Y
    return 0.5 * residual.square().sum((-2, -1)), residual.mT @ X


@pytest.mark.parametrize("rank", [1, 3, None])
def test_of_any_rank_it_is_the_gradient_in_expectation(rank: int | None) -> None:
    W = parameter(6, 5)
    _, exact = quadratic_in_a_matrix(W.detach())
    estimates = []
    for seed in range(20):
        W.grad = None
        strategy = Eggroll({"W": W}, pairs=1000, rank=rank, sigma=0.5, seed=seed)
        strategy.backward(lambda population: quadratic_in_a_matrix(population["W"].dense())[0])
        estimates.append(W.grad)
    estimates = torch.stack(estimates)
    error = estimates.std(0) / 20**0.5
    assert bool(((estimates.mean(0) - exact).abs() < 5 * error).all())
    assert float((estimates.mean(0) - exact).norm() / exact.norm()) < 0.1


def test_low_rank_layer_is_that_of_its_matrices() -> None:
    weight, x = parameter(6, 5).detach(), parameter(8, 7, 5, seed=1).detach()
    strategy = Eggroll({"W": nn.Parameter(weight), "b": parameter(6)}, pairs=4, rank=2, sigma=0.3)
    population = strategy.population()
    W, b = population["W"], population["b"]
    assert isinstance(W, LowRank)
    assert isinstance(b, Dense)
    assert b.dense().shape == (8, 6)
    matrices = W.dense()
    torch.testing.assert_close(W.linear(x), torch.einsum("pbn,pmn->pbm", x, matrices))
    torch.testing.assert_close(matrices[:4] + matrices[4:], 2 * weight.expand(4, -1, -1))  # antithetic
    E = (matrices[:4] - weight) / 0.3
    assert int(torch.linalg.matrix_rank(E[0])) == 2
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(W.weighted_sum(weights), torch.tensordot(weights, E, dims=1))
    full = Eggroll({"W": nn.Parameter(weight)}, pairs=4, rank=None).population()["W"]
    assert isinstance(full, Dense)
    torch.testing.assert_close(full.linear(x), torch.einsum("pbn,pmn->pbm", x, full.dense()))


def test_entries_of_a_perturbation_have_variance_one_and_no_correlation() -> None:
    E = Eggroll({"W": parameter(3, 4)}, pairs=20_000, rank=1, sigma=1.0).population()["W"]
    noise = (E.dense()[:20_000] - E.weight).flatten(1)
    torch.testing.assert_close(noise.T @ noise / 20_000, torch.eye(12, dtype=torch.float64), rtol=0, atol=0.08)


class Square(nn.Module):
    """Mean square of what a network makes of x, less a target."""

    def __init__(self, net: nn.Module, target: torch.Tensor | float) -> None:
        super().__init__()
        self.net, self.target = net, target

    def forward(self, x):
        return (self.net(x) - self.target).square().mean()


def test_members_one_after_the_other_give_the_same() -> None:
    loss, x = Square(nn.Linear(4, 1).double(), 0.5), parameter(7, 4).detach()
    population = Eggroll(dict(loss.named_parameters()), pairs=3).population()
    together, alone = (member_losses(loss, x, vectorise=v)(population) for v in (True, False))
    assert together.shape == (6,)
    torch.testing.assert_close(together, alone)


def test_trains_one_bit_weights_without_their_gradient() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 6, bias=False))
    quantise(net, Quantisation(patterns=("0.weight",)))
    weight = next(quantised_weights(net))
    teacher, x = signs(torch.randn(6, 10)), torch.randn(64, 10)
    scale = float(weight.quantiser.scale().detach())
    loss = Square(net, scale * x @ teacher.T)
    name = next(n for n, p in loss.named_parameters() if p is weight.latent)
    strategy = Eggroll({name: weight.latent}, pairs=64, rank=1, sigma=0.3)

    def losses(population):
        """Those of all members, whose signs are taken at once."""
        return (x @ (scale * signs(population[name].dense())).mT - loss.target).square().mean((1, 2))

    population = strategy.population()
    torch.testing.assert_close(losses(population), member_losses(loss, x, vectorise=False)(population).detach())
    assert float((signs(weight.latent) == teacher).float().mean()) < 0.75
    optimiser = torch.optim.Adam([weight.latent], lr=0.05)
    for _ in range(120):
        optimiser.zero_grad()
        strategy.backward(losses)
        optimiser.step()
    assert float((signs(weight.latent) == teacher).float().mean()) > 0.95
    assert float(loss(x).detach()) < 0.1 * float(loss.target.square().mean())


def test_refuses() -> None:
    with pytest.raises(OptionError, match="rank"):
        Eggroll({"p": parameter()}, rank=0)
    beyond = nn.Parameter(torch.full((3,), float("inf")))
    with pytest.raises(DataError, match="not finite; found 128 of 128"):
        Eggroll({"p": beyond}).backward(lambda population: population["p"].dense().sum(1))
