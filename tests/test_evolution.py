"""Evolution strategies: unbiased, of the variance that theory gives, of constant memory; and of low rank."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections
from recon.models import registry
from recon.onebit import Quantisation, quantise, quantised_weights
from recon.onebit.gradients import signs
from recon.physics.errors import DataError, OptionError
from recon.physics.matrix import MatrixOperator
from recon.training.evolution import (
    PES,
    Dense,
    Eggroll,
    ESSingle,
    LowRank,
    ThresholdingUnroll,
    TruncatedES,
    Unroll,
    member_losses,
)

STRATEGIES = [ESSingle, PES, TruncatedES]
D = 6


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*(shape or (D,)), generator=torch.Generator().manual_seed(seed)).double())


class Quadratic:
    """One truncation, of loss 1/2 p'Hp + b'p."""

    truncations = 1

    def __init__(self) -> None:
        root = parameter(D, D, seed=1).detach()
        self.H, self.b = root @ root.T, parameter(seed=2).detach()

    def start(self):
        return torch.zeros(1, dtype=torch.float64)

    def advance(self, parameters, state, index):
        p = parameters["p"]
        return 0.5 * p @ self.H @ p + self.b @ p, state


class Influence:
    """State s <- 0.9 s + p * g_k in truncation k; the loss is 1/2 |s|^2 after the last one, and 0 before."""

    def __init__(self, truncations: int) -> None:
        self.truncations = truncations
        self.g = torch.linspace(1, 2, truncations, dtype=torch.float64)

    def start(self):
        return torch.zeros(D, dtype=torch.float64)

    def advance(self, parameters, state, index):
        state = 0.9 * state + parameters["p"] * self.g[index]
        return (0.5 * state.square().sum() if index + 1 == self.truncations else 0 * state.sum()), state

    def gradient(self, p):
        """The state is c p, with c this."""
        c = sum(0.9 ** (self.truncations - 1 - k) * float(g) for k, g in enumerate(self.g))
        return c * c * p


class Apart:
    """Loss g_k'p of truncation k, where g_k has some of the coordinates of g: no truncation matters for another."""

    def __init__(self, truncations: int, g) -> None:
        self.truncations = truncations
        part = torch.arange(len(g)) * truncations // len(g)
        self.g = torch.stack([g * (part == k) for k in range(truncations)])

    def start(self):
        return torch.zeros(1, dtype=torch.float64)

    def advance(self, parameters, state, index):
        return self.g[index] @ parameters["p"], state


def episode(strategy) -> torch.Tensor:
    """The sum of the estimates over an unroll."""
    p = strategy.parameters["p"]
    p.grad = None
    for _ in range(strategy.unroll.truncations):
        strategy.backward()
    return p.grad


def mean_and_error(strategy, episodes: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    estimates = torch.stack([episode(strategy) for _ in range(episodes)])
    return estimates.mean(0), estimates.std(0) / episodes**0.5


# --- unbiased -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", STRATEGIES)
@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_unbiased_on_a_quadratic(cls: type, sigma: float) -> None:
    unroll, p = Quadratic(), parameter()
    assert isinstance(unroll, Unroll)
    mean, error = mean_and_error(cls({"p": p}, unroll, pairs=500, sigma=sigma))
    exact = unroll.H @ p.detach() + unroll.b
    assert bool(((mean - exact).abs() < 5 * error).all())
    assert float(error.max()) < 0.1 * float(exact.norm())  # or the line above would say nothing


@pytest.mark.parametrize("cls", STRATEGIES)
def test_truncations_bias_all_but_two(cls: type) -> None:
    unroll, p = Influence(5), parameter()
    mean, error = mean_and_error(cls({"p": p}, unroll, pairs=1000, sigma=0.1))
    exact = unroll.gradient(p.detach())
    off = float((mean - exact).norm() / exact.norm())
    if cls is TruncatedES:  # it sees what the last truncation does to the loss, g_5 / c of the whole
        assert off > 0.5
    else:
        assert off < 0.1
        assert bool(((mean - exact).abs() < 5 * error).all())


def test_single_is_the_whole_unroll_cut_up() -> None:
    p, g = {"p": parameter()}, torch.arange(1.0, 7).double()
    whole = episode(ESSingle(p, Apart(1, g), seed=3))
    torch.testing.assert_close(episode(ESSingle(p, Apart(3, g), seed=3)), whole)
    torch.testing.assert_close(episode(TruncatedES(p, Apart(1, g), seed=3)), whole)


# --- variance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncations", [1, 6])
def test_variance_is_that_of_theory(truncations: int) -> None:
    """Of a linear loss whose truncations have gradients at right angles, over |g|^2, with one pair."""
    g = torch.ones(D, dtype=torch.float64)
    expected = {ESSingle: D + 1, PES: D + 1 + D * (truncations - 1) / 2}
    for cls, theory in expected.items():
        strategy = cls({"p": parameter()}, Apart(truncations, g), pairs=1, sigma=0.3, vectorise=False)
        estimates = torch.stack([episode(strategy) for _ in range(400)])
        found = float(estimates.var(0).sum() / g.square().sum())
        assert found == pytest.approx(theory, rel=0.3), cls


def test_more_pairs_have_less_variance() -> None:
    g = torch.ones(D, dtype=torch.float64)

    def spread(pairs: int) -> float:
        p = {"p": parameter()}
        strategies = [ESSingle(p, Apart(2, g), pairs=pairs, seed=seed, vectorise=False) for seed in range(200)]
        return float(torch.stack([episode(strategy) for strategy in strategies]).var())

    assert spread(1) / spread(8) == pytest.approx(8, rel=0.35)


# --- the interface --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", STRATEGIES)
def test_one_particle_after_the_other_gives_the_same(cls: type) -> None:
    p = {"p": parameter()}
    together, alone = (cls(p, Influence(3), pairs=3, seed=5, vectorise=v) for v in (True, False))
    torch.testing.assert_close(episode(together), episode(alone))


def test_adds_to_the_gradient_and_returns_the_loss() -> None:
    unroll, p = Quadratic(), parameter()
    strategy = ESSingle({"p": p}, unroll, pairs=4, sigma=1e-4, seed=1)
    loss = strategy.backward()
    once = p.grad.clone()
    torch.testing.assert_close(loss, unroll.advance({"p": p}, None, 0)[0].detach(), rtol=1e-5, atol=1e-5)
    again = ESSingle({"p": p}, unroll, pairs=4, sigma=1e-4, seed=1)
    again.backward()
    torch.testing.assert_close(p.grad, 2 * once)
    assert not p.grad.requires_grad


def test_an_optimiser_finds_the_minimum() -> None:
    unroll, p = Quadratic(), parameter()
    strategy = PES({"p": p}, unroll, pairs=16, sigma=0.1)
    optimiser = torch.optim.Adam([p], lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        strategy.backward()
        optimiser.step()
    best = -torch.linalg.solve(unroll.H, unroll.b)
    value, least = (float(unroll.advance({"p": q}, None, 0)[0].detach()) for q in (p, best))
    start = float(unroll.advance({"p": parameter()}, None, 0)[0].detach())
    assert value - least < 0.05 * (start - least)


def test_refuses() -> None:
    with pytest.raises(OptionError, match="pairs"):
        ESSingle({"p": parameter()}, Quadratic(), pairs=0)
    with pytest.raises(OptionError, match="sigma 0"):
        PES({"p": parameter()}, Quadratic(), sigma=0.0)
    with pytest.raises(OptionError, match="0 parameters"):
        TruncatedES({}, Quadratic())
    with pytest.raises(OptionError, match="rank"):
        Eggroll({"p": parameter()}, rank=0)
    beyond = nn.Parameter(torch.full((D,), float("inf"), dtype=torch.float64))
    strategy = ESSingle({"p": beyond}, Quadratic(), pairs=4)
    with pytest.raises(DataError, match="8 of 8 particles"):
        strategy.backward()
    with pytest.raises(DataError, match="not finite"):
        Eggroll({"p": beyond}).backward(lambda population: population["p"].dense().sum(1))


# --- long unfolded iterations ---------------------------------------------------------------------------------


def unfolded(network: str, iterations: int, truncations: int, **options: object):
    physics = MatrixOperator(gaussian_projections(12, 24, seed=0))
    y = physics.A(bernoulli_gaussian((8, 24), 0.1, seed=1))
    model = registry[network](iterations, relative=0.05, **options)
    problem = model.problem(y, physics)
    unroll = ThresholdingUnroll(
        model, lambda: problem, truncations=truncations, loss=lambda p, x: p.relative_objective(x).mean()
    )
    return model, problem, unroll


@pytest.mark.parametrize("network", ["unfolded-ista", "unfolded-fista", "unfolded-iht"])
def test_pieces_of_an_unfolded_iteration_make_the_whole(network: str) -> None:
    model, problem, unroll = unfolded(network, 12, 3)
    parameters, state, total = dict(model.named_parameters()), unroll.start(), 0.0
    for index in range(3):
        loss, state = unroll.advance(parameters, state, index)
        total = total + loss
    images = list(model.trajectory(problem))
    torch.testing.assert_close(state.x, images[-1])
    ends = torch.stack([problem.relative_objective(images[k]).mean() for k in (3, 7, 11)])
    torch.testing.assert_close(total, ends.mean())
    with pytest.raises(OptionError, match="a divisor of 12"):
        ThresholdingUnroll(model, lambda: problem, truncations=5, loss=lambda p, x: x.sum())


def test_estimates_the_gradient_of_back_propagation() -> None:
    model, _, unroll = unfolded("unfolded-ista", 20, 4, knots=3)
    parameters, state, total = dict(model.named_parameters()), unroll.start(), 0.0
    for index in range(4):
        loss, state = unroll.advance(parameters, state, index)
        total = total + loss
    (exact,) = torch.autograd.grad(total, [model.step])
    for cls in (ESSingle, PES):
        model.step.grad = None
        strategy = cls(parameters, unroll, pairs=400, sigma=0.02)
        for _ in range(4):
            strategy.backward()
        assert float((model.step.grad - exact).norm() / exact.norm()) < 0.35, cls


def test_learns_thresholds_that_have_no_derivative() -> None:
    model, problem, unroll = unfolded("unfolded-iht", 20, 2, knots=2, learn_thresholds=True)
    before = float(problem.relative_objective(model(problem.y, problem.physics)).mean().detach())
    strategy = ESSingle(dict(model.named_parameters()), unroll, pairs=8, sigma=0.1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        strategy.backward()
        assert bool(model.threshold.grad.any())
        optimiser.step()
    after = float(problem.relative_objective(model(problem.y, problem.physics)).mean().detach())
    assert after < before


class Watched:
    """An unroll that counts how many of its states are alive."""

    def __init__(self, unroll) -> None:
        self.unroll, self.truncations, self.states = unroll, unroll.truncations, []

    def start(self):
        return self._watch(self.unroll.start())

    def advance(self, parameters, state, index):
        loss, state = self.unroll.advance(parameters, state, index)
        return loss, self._watch(state)

    def _watch(self, state):
        self.states.append(weakref.ref(state))
        return state

    def alive(self) -> int:
        gc.collect()
        return sum(ref() is not None for ref in self.states)


@pytest.mark.parametrize("cls", STRATEGIES)
def test_memory_does_not_grow_with_the_iterations(cls: type) -> None:
    alive, saved = {}, []
    for truncations in (2, 16):
        watched = Watched(Influence(truncations))
        strategy = cls({"p": parameter()}, watched, pairs=3, vectorise=False)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            episode(strategy)
        assert len(watched.states) > 6 * truncations
        alive[truncations] = watched.alive()
    assert alive[2] == alive[16] <= 7  # one of each particle, and the start
    assert not saved  # for back-propagation


# --- low rank -------------------------------------------------------------------------------------------------


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
