"""Influence: gradients, curvature and the Newton step against closed forms; which layers the loss depends on."""

from __future__ import annotations

import pytest
import torch
from networks import tiny
from unlearning_problems import (
    LinearNetwork,
    inputs,
    ridge_solution,
    run,
    targets,
    weight,
    whole,
)

from recon.unlearning.budget import Budget
from recon.unlearning.curvature import fisher_solution, hessian_product, hessian_solution, length_along
from recon.unlearning.gradients import example_gradients, mean_gradient, mean_loss, trainable
from recon.unlearning.independence import chosen, conditional_layers, dependence
from recon.unlearning.layers import weighted_layers


def test_gradients_of_sets_are_those_of_the_closed_form(sets, joint) -> None:
    forget, _ = sets
    y = inputs(forget)
    x = targets(forget)
    w = weight(joint)
    each = torch.einsum("bi,bj->bij", y @ w.T - x, y) + 1e-2 * w
    weights, budget = list(trainable(joint).values()), whole(5)  # batches of 5, 5 and 2
    torch.testing.assert_close(mean_gradient(joint, weights, forget, budget), each.mean(0).flatten())
    found = torch.stack(list(example_gradients(joint, weights, forget, budget)))
    torch.testing.assert_close(found, each.flatten(1))
    loss = 0.5 * (y @ w.T - x).square().sum(1).mean() + 0.5e-2 * w.square().sum()
    assert mean_loss(joint, forget, budget) == pytest.approx(float(loss))
    assert budget.meter.samples == 24
    assert budget.meter.forward == 12


def test_influence_with_the_hessian_is_retraining(sets, joint) -> None:
    budget = whole(20, steps=1000)
    found = run("influence", joint, *sets, budget, curvature="hessian", damping=0.0, radius=10.0)
    torch.testing.assert_close(weight(found), ridge_solution(sets[1]), atol=1e-8, rtol=0)
    less = run("influence", joint, *sets, budget, curvature="hessian", damping=0.0, radius=10.0, scale=0.5)
    torch.testing.assert_close(weight(less), (weight(joint) + ridge_solution(sets[1])) / 2, atol=1e-8, rtol=0)


def test_influence_with_fisher_information_comes_nearer_to_retraining(sets, joint) -> None:
    found = run("influence", joint, *sets, whole(20, steps=10), radius=10.0)
    oracle = ridge_solution(sets[1])
    assert (weight(found) - oracle).norm() < 0.5 * (weight(joint) - oracle).norm()


def test_a_step_is_no_longer_than_its_radius(sets, joint) -> None:
    found = run("influence", joint, *sets, whole(20), curvature="fisher", radius=0.01)
    assert float((weight(found) - weight(joint)).norm()) == pytest.approx(0.01 * float(weight(joint).norm()))


def test_without_curvature_the_step_is_along_the_gradients(sets, joint) -> None:
    budget = whole(20, lr=1e-3)
    found = run("influence", joint, *sets, budget, curvature="none")
    weights = list(trainable(joint).values())
    g = [mean_gradient(joint, weights, s, budget) for s in sets]
    step = (weight(found) - weight(joint)).flatten()
    assert float(step.square().mean().sqrt()) == pytest.approx(1e-3)
    torch.testing.assert_close(step / step.norm(), (g[0] - g[1]) / (g[0] - g[1]).norm())


@pytest.mark.parametrize("count", [20, 6])
def test_fisher_information_is_solved_block_by_block(sets, two_layers, count) -> None:
    budget, weights, examples = whole(20), list(trainable(two_layers).values()), sets[1].subset(range(count))
    v = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fisher_solution(two_layers, weights, examples, budget, v, damping=0.3)
    g = torch.stack(list(example_gradients(two_layers, weights, examples, budget)))
    for part in (slice(0, 15), slice(15, 24)):
        f = g[:, part].T @ g[:, part] / count
        dense = f + 0.3 * f.trace() / min(count, len(f)) * torch.eye(len(f), dtype=f.dtype)
        torch.testing.assert_close(found[part], torch.linalg.solve(dense, v[part]))


def test_products_and_lengths_are_of_the_dense_hessian(sets, two_layers) -> None:
    budget, weights, batch = whole(20), list(trainable(two_layers).values()), sets[1].batch(range(20))
    v, x = torch.randn(2, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(*values):
        outputs = batch.y @ values[0].T @ values[1].T
        error = (outputs - batch.target[:, 0, 0]).square().sum(1).mean()
        return 0.5 * error + 0.5e-2 * sum(w.square().sum() for w in values)

    blocks = torch.autograd.functional.hessian(loss, tuple(w.detach() for w in weights))
    rows = [
        torch.cat([h.reshape(a, b) for h, b in zip(row, (15, 9), strict=True)], 1)
        for row, a in zip(blocks, (15, 9), strict=True)
    ]
    dense = torch.cat(rows)
    found = hessian_product(two_layers, weights, sets[1], budget, v)
    torch.testing.assert_close(found, dense @ v, rtol=1e-4, atol=1e-4)
    length = length_along(two_layers, weights, sets[1], budget, x, v)
    assert length == pytest.approx(float(x @ v / (x @ dense @ x).abs()), rel=1e-4)


def test_conjugate_gradients_solve_and_end_at_negative_curvature() -> None:
    a = torch.diag(torch.tensor([1.0, 2, 5], dtype=torch.float64))
    v = torch.tensor([1.0, 1, 1], dtype=torch.float64)
    x, used = hessian_solution(lambda p: a @ p, v, damping=0.5, iterations=10)
    added = 0.5 * float(v @ a @ v / 3)
    torch.testing.assert_close(x, torch.linalg.solve(a + added * torch.eye(3, dtype=a.dtype), v))
    assert used == 3
    x, used = hessian_solution(lambda p: -(a @ p), v, damping=0.0, iterations=10)
    assert used == 1
    assert float(x @ v) > 0
    assert not hessian_solution(lambda p: a @ p, 0 * v, damping=0.0, iterations=3)[0].any()


def test_only_the_layers_asked_for_are_changed(sets, two_layers) -> None:
    found = run("influence", two_layers, *sets, whole(20), layers="layers.1")
    assert torch.equal(found.layers[0].weight, two_layers.layers[0].weight)
    assert not torch.equal(found.layers[1].weight, two_layers.layers[1].weight)
    both = run("influence", two_layers, *sets, whole(20), layers=["layers.0", "layers.1"])
    everything = run("influence", two_layers, *sets, whole(20))
    assert all(torch.equal(a, b) for a, b in zip(both.parameters(), everything.parameters(), strict=True))
    assert not torch.equal(both.layers[0].weight, two_layers.layers[0].weight)


def test_predicted_reconstructions_are_matched(sets, joint) -> None:
    """Of a linear network with the Hessian they are the oracle's."""
    budget = whole(20, steps=800, lr=0.05)
    found = run("influence", joint, *sets, budget, curvature="hessian", damping=0.0, radius=10.0, datamodel=True)
    oracle = ridge_solution(sets[1])
    assert (weight(found) - oracle).norm() < 0.02 * (weight(joint) - oracle).norm()
    assert budget.meter.samples <= 2 * budget.steps * budget.batch_size


def test_dependence_tells_functions_from_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    z, other, noise = torch.randn(3, 600, 1, generator=rng, dtype=torch.float64)
    assert dependence((3 * z).sin()[:, 0], z) > 0.9
    assert abs(dependence(noise[:, 0], z)) < 0.15
    total = (z + other)[:, 0]
    assert dependence(total, z) < 0.6
    assert dependence(total, other, z) > 0.75
    assert dependence(z[:, 0], other, z) < 0.15


def test_features_are_chosen_until_the_rest_says_nothing() -> None:
    rng = torch.Generator().manual_seed(1)
    a, b, c = torch.randn(3, 300, 1, generator=rng, dtype=torch.float64)
    y = (a.sign() * b.abs())[:, 0]
    names = chosen(y, {"c": c, "a": a, "b": b})
    assert set(names[:2]) == {"a", "b"}
    assert chosen(a[:, 0] ** 3, {"a": a, "b": b, "c": c})[0] == "a"


class Branches(LinearNetwork):
    """One of two branches is not used."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.idle = torch.nn.Linear(5, 3, bias=False)

    def forward(self, y, physics):
        return super().forward(y, physics) + 0 * self.idle(y)[:, None, None]


def test_layers_that_tell_nothing_of_the_loss_are_not_chosen(sets) -> None:
    model = Branches().double()
    with torch.no_grad():
        model.idle.weight.zero_()
    names = conditional_layers(model, sets[0].batch([0]), whole(1), draws=200)
    assert names == ["layers.0"]
    found = run("influence", model, *sets, whole(12), layers="conditional")
    assert torch.equal(found.idle.weight, model.idle.weight)


def test_layers_of_a_network_are_chosen(scans) -> None:
    model = tiny("unet")
    names = conditional_layers(model, scans.batch([0]), Budget(batch_size=1), draws=12)
    assert 1 <= len(names) < len(weighted_layers(model))
    assert names == conditional_layers(model, scans.batch([0]), Budget(batch_size=1), draws=12)
