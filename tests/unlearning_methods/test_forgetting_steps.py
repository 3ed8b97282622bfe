"""Ascent, wrong labels and orthogonal steps: bounds, and what they do to a linear network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from unlearning_problems import (
    fitted,
    inputs,
    linear_examples,
    ridge_solution,
    run,
    weight,
    whole,
)

from recon.physics.errors import ShapeError
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import mean_loss
from recon.unlearning.methods.noisy_labels import wrong
from recon.unlearning.methods.uno import across


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
        y = inputs(retain)
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


def test_zero_filled_labels_are_the_adjoint(scans) -> None:
    batch = scans.batch([0, 1])
    label = wrong(batch, batch.target, "zero_filled", 1.0, torch.Generator())
    torch.testing.assert_close(label, batch.physics().A_adjoint(batch.y))


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
