"""Evolution strategies on long unfolded iterations."""

from __future__ import annotations

import pytest
import torch

from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections
from recon.models import registry
from recon.physics.errors import OptionError
from recon.physics.matrix import MatrixOperator
from recon.training.evolution import PES, ESSingle, ThresholdingUnroll


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
