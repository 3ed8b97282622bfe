"""Sparsity, dampening and single layers: which weights change, and by how much."""

from __future__ import annotations

import pytest
import torch
from unlearning_problems import (
    Ridge,
    fitted,
    inputs,
    linear_examples,
    ridge_solution,
    run,
    targets,
    weight,
    whole,
    with_inputs,
)

from recon.unlearning.gradients import batch_gradient, mean_gradient, mean_loss, trainable
from recon.unlearning.methods.slug import Candidate, candidates, front


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
        y = inputs(examples)
        x = targets(examples)
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
