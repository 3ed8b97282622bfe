"""Noisy descent: the statement of deletion, where it holds, and the noise that it needs."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from unlearning_problems import (
    Ridge,
    budget,
    fitted,
    hidden,
    inputs,
    linear_examples,
    ridge_solution,
)

from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.deletion import divergence, epsilon_of, noise_for
from recon.unlearning.examples import Examples
from recon.unlearning.registry import methods


def test_the_divergence_is_exact_where_curvature_is_the_same_in_all_directions() -> None:
    """Two Gaussians of covariance S^2, a distance d apart: alpha d^2 / (2 S^2)."""
    distance, steps, noise, c = 1.7, 5, 0.3, 0.8
    apart = c**steps * distance
    variance = noise**2 * sum(c ** (2 * t) for t in range(steps))
    rho = divergence(distance=distance, steps=steps, noise=noise, contraction=c)
    assert rho == pytest.approx(apart**2 / (2 * variance), rel=1e-12)
    # other curvatures contract more: the exact divergence in each direction is below
    for own in (0.0, 0.3, 0.79):
        exact = (own**steps * distance) ** 2 / (2 * noise**2 * sum(own ** (2 * t) for t in range(steps)))
        assert exact < rho


def test_the_divergence_of_any_loss_grows_with_what_the_gradients_may_differ() -> None:
    """With no start apart and one step, the gradients' difference alone: b^2 / (2 s^2)."""
    assert divergence(distance=0, steps=1, noise=2.0, contraction=0.9, drift=3.0) == pytest.approx(9 / 8)
    limit = divergence(distance=1, steps=7, noise=2.0, contraction=1 - 1e-9, drift=3.0)
    assert divergence(distance=1, steps=7, noise=2.0, contraction=1, drift=3.0) == pytest.approx(limit, rel=1e-6)


def test_epsilon_is_the_least_over_all_orders_and_noise_gives_it() -> None:
    rho, delta = 0.37, 1e-5
    orders = 1 + np.logspace(-3, 4, 200_001)
    assert epsilon_of(rho, delta) == pytest.approx(
        float((rho * orders + math.log(1 / delta) / (orders - 1)).min()), rel=1e-6
    )
    noise = noise_for(2.0, delta, distance=3.0, steps=4, contraction=0.9, drift=0.1)
    rho = divergence(distance=3.0, steps=4, noise=noise, contraction=0.9, drift=0.1)
    assert epsilon_of(rho, delta) == pytest.approx(2.0)
    with pytest.raises(OptionError, match="epsilon"):
        noise_for(0.0, delta, distance=1, steps=1, contraction=0.5)
    with pytest.raises(OptionError, match="delta"):
        epsilon_of(1.0, 0.0)


def test_noisy_descent_states_deletion_of_the_read_out_only_where_it_holds(retain: Examples, forget: Examples) -> None:
    run = methods["noisy_descent"].function
    whole = run(fitted(retain + forget), forget, retain, budget(20), epsilon=1.0)
    assert whole.deletion.holds
    assert whole.deletion.epsilon == pytest.approx(1.0)
    assert "deletion of the network" in str(whole.deletion)
    half = run(hidden(), forget, retain, budget(20), epsilon=1.0)
    assert not half.deletion.holds
    assert "no statement" in str(half.deletion)
    assert "never saw what is deleted" in str(half.deletion)
    clean = run(hidden(), forget, retain, budget(20), epsilon=1.0, clean_features=True)
    assert clean.deletion.holds
    assert "the read-out layers.1" in str(clean.deletion)
    everything = run(hidden(), forget, retain, Budget(steps=5, objective=Ridge()), layers="all", epsilon=5.0)
    assert everything.deletion.holds
    assert everything.deletion.drift > 0
    part = hidden()
    part.layers[0].requires_grad_(False)
    partly = run(part, forget, retain, Budget(steps=5, objective=Ridge()), layers="all", epsilon=5.0)
    assert not partly.deletion.holds
    assert "not changed" in str(partly.deletion)
    assert everything.deletion.epsilon == pytest.approx(5.0)


def test_noise_of_the_descent_is_as_stated_and_its_mean_is_the_solution() -> None:
    """At its end the read-out is normal around the descent without noise, with the variance of the sum of noise."""
    forget, retain = linear_examples(6, seed=1), linear_examples(12, seed=2)
    model, penalty, steps = fitted(forget + retain), 1e-2, 12
    y = inputs(retain)
    hessian = y.T @ y / 12 + penalty * torch.eye(5, dtype=torch.float64)
    values, axes = torch.linalg.eigh(hessian)
    factor = 1 - 2 / (values[0] + values[-1]) * values
    mean = ridge_solution(retain) + ((model.layers[0].weight - ridge_solution(retain)) @ axes * factor**steps) @ axes.T
    ends = []
    for seed in range(40):
        own = methods["noisy_descent"].function(
            copy.deepcopy(model), forget, retain, budget(steps, seed=seed), epsilon=1e5, radius=10.0
        )
        ends.append((own.layers[0].weight - mean).detach() @ axes)
    ends = torch.stack(ends)
    deviation = own.deletion.noise * torch.stack([factor ** (2 * t) for t in range(steps)]).sum(0).sqrt()
    torch.testing.assert_close(ends.square().mean((0, 1)).sqrt(), deviation, rtol=0.3, atol=0)
    assert bool((ends.mean((0, 1)).abs() < 4 * deviation / 120**0.5).all())


def test_noisy_descent_of_all_weights_that_breaks_the_network_is_told(retain: Examples, forget: Examples) -> None:
    class Brittle(Ridge):
        def __call__(self, model, batch, rng):
            return super().__call__(model, batch, rng) / 0.0

    with pytest.raises(DataError, match="raise epsilon"):
        methods["noisy_descent"].function(hidden(), forget, retain, budget(3, objective=Brittle()), layers="all")
