"""Ascent, wrong labels, sparsity, dampening, orthogonal steps, single layers, influence: closed forms, networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import tiny
from unlearning_problems import LinearNetwork, Ridge, fitted, linear_examples, ridge_solution

from recon.datasets.anatomy import Planes, Variation, Volume
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.unlearning.budget import Budget
from recon.unlearning.curvature import fisher_solution, hessian_product, hessian_solution, length_along
from recon.unlearning.examples import Examples, item_of
from recon.unlearning.gradients import batch_gradient, example_gradients, mean_gradient, mean_loss, trainable
from recon.unlearning.independence import chosen, conditional_layers, dependence
from recon.unlearning.journal import Journal
from recon.unlearning.layers import weighted_layers
from recon.unlearning.methods.noisy_labels import wrong
from recon.unlearning.methods.slug import Candidate, candidates, front
from recon.unlearning.methods.uno import across
from recon.unlearning.objectives import SelfSupervised, Supervised
from recon.unlearning.registry import methods

MINE = ("gradient_ascent", "ga_finetune", "noisy_labels", "l1_sparse", "ssd", "uno", "slug", "influence")


def whole(count: int, **options: object) -> Budget:
    """A budget whose batches are whole sets, of quadratic losses."""
    return Budget(**{"batch_size": count, "objective": Ridge(), "clip": 1e6, **options})


def run(name: str, model, forget, retain, budget: Budget, **options):
    return methods[name].function(copy.deepcopy(model), forget, retain, budget, **options)


def weight(model) -> torch.Tensor:
    return model.layers[0].weight.detach()


@pytest.fixture
def sets() -> tuple[Examples, Examples]:
    return linear_examples(12, seed=1), linear_examples(20, seed=2)


@pytest.fixture
def joint(sets) -> LinearNetwork:
    forget, retain = sets
    return fitted(forget + retain)


def with_inputs(examples: Examples, change) -> Examples:
    """The same examples, their inputs changed; the collation of the linear problem."""
    items = [replace(item, content=(change(item.content[0], i), *item.content[1:])) for i, item in enumerate(examples)]
    return Examples(items, collate=examples._collate)


# Gradients ------------------------------------------------------------------------------------------------------------


def test_gradients_of_sets_are_those_of_the_closed_form(sets, joint) -> None:
    forget, _ = sets
    y = torch.stack([item.content[0] for item in forget])
    x = torch.stack([item.content[1] for item in forget])
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


@pytest.mark.parametrize("name", ["ssd", "uno", "slug", "influence"])
def test_a_loss_that_is_not_finite_is_told(sets, joint, name) -> None:
    forget = with_inputs(sets[0], lambda y, i: y * float("inf") if i == 3 else y)
    with pytest.raises(DataError, match="not finite"):
        run(name, joint, forget, sets[1], whole(12, steps=3))


# Gradient ascent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.5, 4.0])
def test_ascent_comes_to_its_bound_and_stays(sets, joint, bound) -> None:
    forget, retain = sets
    start = mean_loss(joint, forget, whole(12))
    for steps in (150, 300):
        nothing = retain.subset([])
        model = run("gradient_ascent", joint, forget, nothing, whole(12, steps=steps, lr=0.01), bound=bound, rate=1.0)
        assert mean_loss(model, forget, whole(12)) == pytest.approx(bound * start, rel=0.02)


def test_a_constraint_holds_what_is_kept(sets, joint) -> None:
    forget, retain = sets
    moved = {}
    for hold in (0.0, 30.0):
        model = run("gradient_ascent", joint, forget, retain, whole(20, steps=150, lr=0.01), bound=2.0, hold=hold)
        y = torch.stack([item.content[0] for item in retain])
        moved[hold] = float(((weight(model) - weight(joint)) @ y.T).norm())
    assert moved[30.0] < 0.5 * moved[0.0]


@pytest.mark.parametrize("together", [False, True])
def test_the_repair_after_ascent_lowers_the_loss_of_what_is_kept(sets, joint, together) -> None:
    forget, retain = sets
    budget = whole(20, steps=200, lr=0.01)
    options = {"bound": 3.0, "rate": 1.0, "together": together}
    broken, mended = (
        run("ga_finetune", joint, forget, retain, budget, **options, repair=repair) for repair in (0.0, 0.5)
    )
    assert mean_loss(mended, retain, budget) < min(mean_loss(m, retain, budget) for m in (broken, joint))
    assert mean_loss(mended, forget, budget) > mean_loss(joint, forget, budget)


# Noisy labels ---------------------------------------------------------------------------------------------------------


def test_noise_labels_lead_to_the_fit_of_their_mean(sets, joint) -> None:
    """Noise of the target's mean teaches the mean: each output becomes the mean of the outputs."""
    forget, retain = sets
    budget = whole(12, steps=500, lr=0.05)
    model = run("noisy_labels", joint, forget, retain, budget, label="noise", repair=0.0)
    means = [
        replace(item, content=(item.content[0], item.content[1].mean().expand(3), item.content[2])) for item in forget
    ]
    expected = ridge_solution(Examples(means))
    assert (weight(model) - expected).norm() < 0.1 * (weight(joint) - expected).norm()


def test_wrong_targets_have_the_level_that_was_asked_for() -> None:
    batch = linear_examples(3).batch([0, 1, 2])
    target = 2 + torch.arange(2.0)[None, :, None, None] * torch.ones(3, 2, 60, 60)
    rng = torch.Generator().manual_seed(0)
    noisy = wrong(batch, target, "noisy", 0.5, rng) - target
    assert float(noisy.std()) == pytest.approx(0.5 * 6.5**0.5, rel=0.02)
    assert not torch.allclose(noisy[0], noisy[1])
    shaded = target + torch.linspace(-1, 1, 60)
    noise = wrong(batch, shaded, "noise", 0.5, rng)
    torch.testing.assert_close(noise.mean((2, 3)), shaded.mean((2, 3)), atol=0.05, rtol=0)
    torch.testing.assert_close(noise.std((2, 3)), shaded.std((2, 3)), atol=0.05, rtol=0)


def test_zero_filled_labels_must_fit(sets, joint) -> None:
    with pytest.raises(ShapeError, match="zero-filled"):
        run("noisy_labels", joint, *sets, whole(12), label="zero_filled")


# Sparsity -------------------------------------------------------------------------------------------------------------


def test_l1_reaches_the_lasso_of_orthogonal_inputs(sets, joint) -> None:
    """There it is the soft threshold of the least squares, which is 0 for small weights."""
    retain = with_inputs(sets[1], lambda y, i: 5**0.5 * torch.eye(5, dtype=y.dtype)[i % 5])
    least_squares = ridge_solution(retain, penalty=0.0)
    strength = float(least_squares.abs().median() * weight(joint).abs().sum())  # so that half of the weights are gone
    budget = whole(20, steps=400, lr=0.03, objective=Ridge(0.0))
    model = run("l1_sparse", joint, sets[0], retain, budget, strength=strength, decay=False)
    expected = least_squares.sign() * (least_squares.abs() - least_squares.abs().median()).clamp_min(0)
    assert int((expected == 0).sum()) == 8
    torch.testing.assert_close(weight(model), expected, atol=4e-3, rtol=0)
    decayed = run("l1_sparse", joint, sets[0], retain, budget, strength=strength, decay=True)
    assert (weight(decayed) - least_squares).norm() < 0.3 * (expected - least_squares).norm()


def test_pruned_weights_stay_zero(sets, joint) -> None:
    budget = whole(20, steps=50, lr=0.01)
    model = run("l1_sparse", joint, *sets, budget, strength=0.0, prune=0.4)
    smallest = weight(joint).abs() <= weight(joint).abs().flatten().kthvalue(6).values
    assert torch.equal(weight(model) == 0, smallest)
    with torch.no_grad():
        joint.layers[0].weight[smallest] = 0
    assert mean_loss(model, sets[1], budget) < mean_loss(joint, sets[1], budget)


# Dampening ------------------------------------------------------------------------------------------------------------


def test_dampening_only_where_fisher_says_so() -> None:
    """What is forgotten lives in the first two inputs, and hardly there what is kept; a third is in both alike."""
    scale = {"forget": torch.tensor([1.0, 1, 1, 0, 0]), "retain": torch.tensor([0.0, 0.1, 1, 1, 1])}
    forget = with_inputs(linear_examples(30, seed=1), lambda y, _: y * scale["forget"])
    retain = with_inputs(linear_examples(30, seed=2), lambda y, _: y * scale["retain"])
    model = fitted(linear_examples(10, seed=3))
    budget = whole(30, objective=Ridge(0.0))
    found = run("ssd", model, forget, retain, budget, selection=5.0, dampening=0.5)
    fishers = []
    for examples in (forget, retain):
        y = torch.stack([item.content[0] for item in examples])
        x = torch.stack([item.content[1] for item in examples])
        fishers.append(torch.einsum("bi,bj->bij", y @ weight(model).T - x, y).square().mean(0))
    assert torch.equal(weight(found)[:, 0], torch.zeros(3, dtype=torch.float64))
    ratio = 0.5 * fishers[1][:, 1] / fishers[0][:, 1]
    assert float(ratio.max()) < 0.1
    torch.testing.assert_close(weight(found)[:, 1], weight(model)[:, 1] * ratio)
    assert torch.equal(weight(found)[:, 2:], weight(model)[:, 2:])


def test_dampening_never_enlarges(sets, joint) -> None:
    found = run("ssd", joint, *sets, whole(20, objective=Ridge(0.0)), selection=0.01, dampening=1.0)
    assert bool((weight(found).abs() <= weight(joint).abs()).all())
    assert bool((weight(found).abs() < weight(joint).abs()).any())


# Orthogonal steps -----------------------------------------------------------------------------------------------------


def test_an_orthogonal_step_leaves_what_is_kept_to_first_order(sets) -> None:
    forget, retain = sets
    model = fitted(linear_examples(30, seed=3))  # far from the minimum of either, so that there is a first order
    budgets = [whole(20, steps=1, lr=lr) for lr in (2e-3, 1e-3)]
    before = [mean_loss(model, s, budgets[0]) for s in sets]
    changes = []
    for budget in budgets:
        found = run("uno", model, forget, retain, budget, repair=0.0, bound=2.0)
        assert float((weight(found) - weight(model)).square().mean().sqrt()) == pytest.approx(budget.lr)
        changes.append([mean_loss(found, s, budget) - b for s, b in zip(sets, before, strict=True)])
    (of_forget, of_retain), (of_forget_half, of_retain_half) = changes
    assert of_forget > 0
    assert of_forget / of_forget_half == pytest.approx(2, rel=0.05)  # first order
    assert of_retain / of_retain_half == pytest.approx(4, rel=0.01)  # second


def test_orthogonal_ascent_is_bounded_and_may_alternate(sets) -> None:
    forget, retain = sets
    model = fitted(forget + retain.subset(range(10)))  # with the whole of it the gradients would be opposite
    start = mean_loss(model, forget, whole(20))
    budget = whole(20, steps=200, lr=5e-3)
    found = run("uno", model, forget, retain, budget, repair=0.0, bound=1.5)
    assert mean_loss(found, forget, budget) == pytest.approx(1.5 * start, rel=0.02)
    other = run("uno", model, forget, retain, budget, repair=0.0, bound=1.5, alternating=True)
    assert mean_loss(other, retain, budget) < min(mean_loss(m, retain, budget) for m in (model, found))


def test_opposite_gradients_leave_no_orthogonal_step(sets, joint) -> None:
    found = run("uno", joint, *sets, whole(20, steps=3), repair=0.0)
    torch.testing.assert_close(weight(found), weight(joint))


def test_across_is_orthogonal_to_all() -> None:
    rng = torch.Generator().manual_seed(0)
    vector, *others = torch.randn(4, 50, generator=rng, dtype=torch.float64)
    part = across(vector, [*others, 2 * others[0], torch.zeros_like(vector)])
    for other in others:
        assert abs(float(part @ other)) < 1e-12
    assert float((vector - part).norm()) > 0
    q = torch.linalg.qr(torch.stack(others, 1)).Q
    torch.testing.assert_close(part, vector - q @ (q.T @ vector))
    assert not across(others[0] + others[1], others).any()


# One layer ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_layers(sets) -> LinearNetwork:
    model = LinearNetwork(5, 3, hidden=3).double()
    with torch.no_grad():
        model.layers[0].weight.copy_(ridge_solution(sets[0] + sets[1]))
        model.layers[1].weight.copy_(torch.eye(3) + 0.1)
    return model


def test_one_layer_alone_comes_to_the_bound(sets, two_layers) -> None:
    budget = whole(20)
    start = mean_loss(two_layers, sets[0], budget)
    found = run("slug", two_layers, *sets, budget, bound=1.5, trials=20)
    changed = [i for i in (0, 1) if not torch.equal(found.layers[i].weight, two_layers.layers[i].weight)]
    assert len(changed) == 1
    assert mean_loss(found, sets[0], budget) == pytest.approx(1.5 * start, rel=1e-3)
    # Along the gradient of the loss of what is forgotten.
    before, after = two_layers.layers[changed[0]].weight, found.layers[changed[0]].weight
    _, g = batch_gradient(two_layers, [before], sets[0].batch(range(12)), budget, budget.rng(0))
    step = (after - before).detach().flatten()
    assert float(step @ g / (step.norm() * g.norm())) == pytest.approx(1)


def test_the_layer_is_of_the_front_and_harms_least(sets, two_layers) -> None:
    budget = whole(20)
    weights = trainable(two_layers)
    gradients = [
        dict(
            zip(
                weights, torch.split(mean_gradient(two_layers, list(weights.values()), s, budget), [15, 9]), strict=True
            )
        )
        for s in sets
    ]
    possible = [c.name for c in front(candidates(weights, *gradients))]
    harm = {
        name: mean_loss(run("slug", two_layers, *sets, budget, layer=name, bound=1.5, trials=20), sets[1], budget)
        for name in possible
    }
    found = run("slug", two_layers, *sets, budget, bound=1.5, trials=20)
    assert mean_loss(found, sets[1], budget) == pytest.approx(min(harm.values()))


def test_importance_and_alignment_are_of_the_forget_sets_gradient() -> None:
    a, b = torch.nn.Parameter(torch.full((2, 2), 2.0)), torch.nn.Parameter(torch.ones(2))
    of_forget = {"a": torch.tensor([[3.0, 0], [0, 0]]), "b": torch.tensor([0.0, 2])}
    of_retain = {"a": torch.tensor([[-1.0, 1], [0, 0]]), "b": torch.tensor([5.0, 0])}
    first, second = candidates({"a": a, "b": b}, of_forget, of_retain)
    assert (first.importance, second.importance) == (pytest.approx(3 / 4), pytest.approx(2 / 2**0.5))
    assert (first.alignment, second.alignment) == (pytest.approx(0.5**0.5), pytest.approx(0.0))
    assert front([first, second]) == [second]
    assert front([Candidate("x", 1, 0.5), Candidate("y", 2, 0.7), Candidate("z", 0.9, 0.6)]) == [
        Candidate("x", 1, 0.5),
        Candidate("y", 2, 0.7),
    ]


# Influence ------------------------------------------------------------------------------------------------------------


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


# Conditional dependence -----------------------------------------------------------------------------------------------


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


# Interruption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINE)
def test_an_interrupted_run_goes_on_where_it_was(sets, joint, name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("recon.unlearning.journal._EVERY", 0.0)
    options = {"repair": 0.5} if name in {"ssd", "uno", "slug", "influence", "ga_finetune", "noisy_labels"} else {}
    options |= {"memory": 3} if name == "uno" else {}
    steps = []

    def told(step: int, _all: int) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    plain, interrupted, resumed = (whole(4, steps=8, progress=p) for p in (None, told, lambda s, _: steps.append(s)))
    expected = run(name, joint, *sets, plain, **options)
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path, interrupted.meter).kept():
        run(name, joint, *sets, interrupted, **options)
    steps.clear()
    with Journal(tmp_path, resumed.meter).kept():
        found = run(name, joint, *sets, resumed, **options)
    assert torch.equal(weight(found), weight(expected))
    assert len(steps) < 8
    assert resumed.meter.samples == plain.meter.samples


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gradient_ascent", {"bound": 0.9}, "bound"),
        ("gradient_ascent", {"hold": -1.0}, "weight"),
        ("ga_finetune", {"repair": 1.2}, "share"),
        ("noisy_labels", {"label": "shuffled"}, "no such label"),
        ("noisy_labels", {"level": 0.0}, "level"),
        ("l1_sparse", {"strength": -1.0}, "strength"),
        ("l1_sparse", {"prune": 1.0}, "share"),
        ("ssd", {"selection": 0.0}, "positive"),
        ("uno", {"memory": 0}, "memory"),
        ("uno", {"bound": 0.5}, "bound"),
        ("slug", {"layer": "encoder"}, "no such layer.*layers.0.weight"),
        ("slug", {"bound": 1.0}, "bound"),
        ("influence", {"curvature": "kfac"}, "no such curvature"),
        ("influence", {"layers": "encoder"}, "no such layer"),
        ("influence", {"layers": ()}, "no weights"),
        ("influence", {"damping": 0.0}, "damping"),
    ],
)
def test_bad_options(sets, joint, name, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        run(name, joint, *sets, whole(12, steps=4), **options)


@pytest.mark.parametrize("name", [name for name in MINE if name != "gradient_ascent"])
def test_a_retain_set_is_needed(sets, joint, name) -> None:
    assert methods[name].needs_retain
    with pytest.raises(OptionError, match="empty set"):
        run(name, joint, sets[0], sets[1].subset([]), whole(12, steps=4))


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans() -> tuple[Examples, Examples]:
    y, x = np.mgrid[-1:1:64j, -1:1:60j]
    found = []
    for seed, rate in enumerate((9, 5)):
        rings = (np.cos(rate * np.hypot(y, x)) + 1.5) * (np.hypot(y, x) < 0.8)
        volume = Volume(torch.from_numpy(rings / rings.max()).float().expand(3, 64, 60), (0,), (torch.arange(3),), "v")
        data = SimulatedScans(
            Planes([volume], [1.0], Variation()),
            length=2,
            acquisition=Acquisition(coils=(3, 4), calibration=(8, 8), masks={"gaussian": 1.0}),
            seed=seed,
            matrix=(32, 32),
        )
        found.append(Examples([item_of(data[i], origin=f"organ {seed}", index=i) for i in range(2)]))
    return found[0], found[1]


@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["supervised", "self-supervised"])
@pytest.mark.parametrize("network", ["unet", "recurrentvarnet", "ista-net"])
def test_all_networks_and_objectives(scans, network, objective) -> None:
    forget, retain = scans
    model = tiny(network, channels=2) if network == "ista-net" else tiny(network)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    if not objective.needs_truth:
        # Nobody may look at what is not there.
        forget, retain = (
            Examples([replace(item, content=replace(item.content, target=None)) for item in s]) for s in scans
        )
    for name in MINE:
        budget = Budget(steps=2, batch_size=2, objective=objective)
        found = run(name, model, forget, retain, budget, **({"trials": 3} if name == "slug" else {}))
        assert not found.training
        values = dict(found.named_parameters())
        assert all(bool(torch.isfinite(p).all()) and p.requires_grad for p in values.values()), name
        assert any(not torch.equal(values[key], start[key]) for key in start), name
        assert all(torch.equal(p, start[key]) for key, p in model.named_parameters())
        assert 0 < budget.meter.samples <= 2 * budget.steps * budget.batch_size, name
    found = run("influence", model, forget, retain, budget, curvature="hessian", iterations=2, datamodel=True)
    assert all(bool(torch.isfinite(p).all()) for p in found.parameters())


def test_layers_of_a_network_are_chosen(scans) -> None:
    model = tiny("unet")
    names = conditional_layers(model, scans[0].batch([0]), Budget(batch_size=1), draws=12)
    assert 1 <= len(names) < len(weighted_layers(model))
    assert names == conditional_layers(model, scans[0].batch([0]), Budget(batch_size=1), draws=12)


def test_same_seed_same_network(scans) -> None:
    model = tiny("unet")
    for name, options in (
        ("noisy_labels", {"label": "zero_filled", "together": True}),
        ("uno", {"memory": 2, "alternating": True}),
    ):
        first, second, other = (
            run(name, model, *scans, Budget(steps=2, batch_size=1, seed=seed, objective=SelfSupervised()), **options)
            for seed in (1, 1, 2)
        )
        pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b, _ in pairs)
        assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_zero_filled_labels_are_the_adjoint(scans) -> None:
    batch = scans[0].batch([0, 1])
    label = wrong(batch, batch.target, "zero_filled", 1.0, torch.Generator())
    torch.testing.assert_close(label, batch.physics().A_adjoint(batch.y))
