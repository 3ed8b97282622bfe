"""Evolution strategies: unbiased, of the variance that theory gives, and of constant memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from perturbed import D, parameter
from torch import nn

from recon.physics.errors import DataError, OptionError
from recon.training.evolution import PES, ESSingle, TruncatedES, Unroll

STRATEGIES = [ESSingle, PES, TruncatedES]


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
    beyond = nn.Parameter(torch.full((D,), float("inf"), dtype=torch.float64))
    strategy = ESSingle({"p": beyond}, Quadratic(), pairs=4)
    with pytest.raises(DataError, match="8 of 8 particles"):
        strategy.backward()


# --- memory -----------------------------------------------------------------------------------------------------


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
