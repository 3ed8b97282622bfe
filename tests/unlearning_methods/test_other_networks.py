"""Methods that need other networks: teachers, copies to keep away from, an assistant to subtract."""

from __future__ import annotations

import copy

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from networks import tiny
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from unlearning_problems import (
    A,
    B,
    Ridge,
    budget,
    fitted,
    inputs,
    linear_examples,
    only,
    ridge_solution,
    targets,
)

from recon.unlearning.examples import Examples
from recon.unlearning.layers import fresh
from recon.unlearning.methods.adapt_then_unlearn import adapted, repelled
from recon.unlearning.methods.logit_difference import Difference
from recon.unlearning.registry import methods


def test_bad_teacher_is_random_on_b_and_old_on_a(retain: Examples, forget: Examples) -> None:
    model = fitted(linear_examples(20, seed=5))
    old = model.layers[0].weight.detach().clone()
    how = budget(200, 0.1)
    random = fresh(model, how.rng(2).initial_seed() % 2**31).layers[0].weight.detach()
    methods["bad_teacher"].function(model, forget, retain, how, weight=1.0)
    now = model.layers[0].weight
    torch.testing.assert_close(now[:, A], old[:, A], rtol=0, atol=1e-6)
    assert (now[:, B] - random[:, B]).norm() < 0.01 * (old[:, B] - random[:, B]).norm()


def test_repulsion_moves_the_minimum_as_far_as_the_quadratic_says(retain: Examples) -> None:
    r"""The minimum of L_A - gamma |w - p|^2 / |w_0 - p|^2 solves (H - 2 gamma / u) w = b - 2 gamma p / u."""
    model, gamma, penalty = fitted(linear_examples(20, seed=5)), 0.02, 0.1
    start = parameters_to_vector(model.parameters()).detach().clone()
    point = start + torch.randn(15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = (start - point).square().sum()
    repelled(model, [point], retain, budget(400, 0.1, Ridge(penalty)), gamma, "negative", 0, 0.1)
    y, x = inputs(retain), targets(retain)
    hessian = y.T @ y / 12 + (penalty - 2 * gamma / unit) * torch.eye(5, dtype=torch.float64)
    right = x.T @ y / 12 - 2 * gamma / unit * point.view(3, 5)
    wanted = torch.linalg.solve(hessian, right.T).T
    torch.testing.assert_close(model.layers[0].weight, wanted, rtol=1e-3, atol=1e-3)


def test_adaptation_is_to_b_and_unlearning_goes_away_from_it() -> None:
    """Where A says nothing of a weight, repulsion alone decides: away from the weights that fit B."""
    retain, forget = only(linear_examples(12, seed=2), A), only(linear_examples(8, seed=1), B)
    model = fitted(retain + forget, 1e-6)
    with torch.no_grad():
        model.layers[0].weight[:, B] *= 0.5
    start = model.layers[0].weight.detach().clone()
    wanted = ridge_solution(forget, 1e-6)[:, B]
    for repulsion in ("exp", "inverse"):
        own = copy.deepcopy(model)
        methods["adapt_then_unlearn"].function(
            own, forget, retain, budget(60, 0.05, Ridge(1e-9)), gamma=1.0, repulsion=repulsion, copies=2
        )
        now = own.layers[0].weight
        assert (now[:, B] - wanted).norm() > 1.2 * (start[:, B] - wanted).norm()


def test_elastic_adaptation_keeps_what_a_needs() -> None:
    retain, forget = only(linear_examples(12, seed=2), A), linear_examples(8, seed=1)
    model = fitted(retain, 1e-3)
    moved = []
    for elastic in (0.0, 1e4):
        w = adapted(model, forget, retain, budget(100, 0.05, Ridge(1e-9)), 100, elastic, 0, 0.05).view(3, 5)
        change = w - model.layers[0].weight.detach()
        moved.append((float(change[:, A].norm()), float(change[:, B].norm())))
    assert moved[1][0] < 0.1 * moved[0][0]
    assert moved[1][1] > 0.5 * moved[0][1]


def test_the_assistants_residual_is_subtracted(retain: Examples, forget: Examples) -> None:
    """The assistant fits B and is 0 on A: what is left is the old network on A, and (1 - w) of it on B."""
    model = fitted(retain + forget, 1e-9)
    old = model.layers[0].weight.detach().clone()
    how = budget(300, 0.1, Ridge(1e-9))
    pair = methods["logit_difference"].function(copy.deepcopy(model), forget, retain, how, weight=0.25, share=1.0)
    assert isinstance(pair, Difference)
    assistant = pair.assistant.layers[0].weight
    torch.testing.assert_close(assistant[:, A], torch.zeros_like(assistant[:, A]), rtol=0, atol=1e-3)
    torch.testing.assert_close(assistant[:, B], ridge_solution(forget, 1e-9)[:, B], rtol=1e-2, atol=1e-2)
    batch = (retain + forget).batch(range(20))
    x = pair(batch.y, batch.physics())[:, 0, 0]
    torch.testing.assert_close(x, batch.y @ (old - 0.25 * assistant).T)


def test_the_difference_is_distilled_into_the_network(retain: Examples, forget: Examples) -> None:
    model = fitted(retain + forget, 1e-9)
    old = model.layers[0].weight.detach().clone()
    methods["logit_difference"].function(model, forget, retain, budget(500, 0.1, Ridge(1e-9)), weight=0.25)
    wanted = old.clone()
    wanted[:, B] -= 0.25 * ridge_solution(forget, 1e-9)[:, B]
    torch.testing.assert_close(model.layers[0].weight, wanted, rtol=0.02, atol=0.02)


def test_a_pair_of_an_mri_network_is_the_network_where_the_assistant_adds_nothing(scans: Examples) -> None:
    class ZeroFilled(Reconstructor):
        def forward(self, y: Tensor, physics: LinearPhysics) -> Tensor:
            return physics.A_adjoint(y)

    model, batch = tiny("unet").eval(), scans.batch([0])
    x = model(batch.y, batch.physics())
    torch.testing.assert_close(Difference(model, ZeroFilled(), 0.7)(batch.y, batch.physics()), x)
    half = Difference(model, model, 0.5)(batch.y, batch.physics())
    torch.testing.assert_close(half, 0.5 * (x + batch.physics().A_adjoint(batch.y)))
