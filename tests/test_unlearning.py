"""Sets of examples, budgets and the methods' registry; fine-tuning and retraining on a linear network."""

from __future__ import annotations

import copy
import dataclasses
from itertools import chain

import pytest
import torch
from unlearning_problems import Ridge, fitted, linear_examples, ridge_solution

from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples, check_disjoint
from recon.unlearning.layers import captured, flat, fresh, layer, weighted_layers
from recon.unlearning.registry import methods


def test_disjoint_sets_pass_and_others_are_named() -> None:
    forget, retain = linear_examples(4, seed=1), linear_examples(6, seed=2)
    check_disjoint(forget, retain)
    with pytest.raises(DataError, match=r"overlap.*set 1, example 2"):
        check_disjoint(forget, retain + forget.subset([2]))
    with pytest.raises(DataError, match="are the same"):
        check_disjoint(forget, forget.subset([3, 2, 1, 0]))
    with pytest.raises(OptionError, match="nothing to forget"):
        check_disjoint(forget.subset([]), retain)


def test_sets_that_share_a_file_overlap() -> None:
    forget, retain = linear_examples(4, seed=1), linear_examples(6, seed=2)
    with pytest.raises(DataError, match="overlap"):
        check_disjoint(Examples(list(forget), files={"a.h5": "same"}), Examples(list(retain), files={"b.h5": "same"}))


def test_batches_hold_one_group_and_every_item_once() -> None:
    items = [dataclasses.replace(item, group=(i % 2,)) for i, item in enumerate(linear_examples(7))]
    examples = Examples(items, collate=linear_examples(1)._collate)
    names = [batch.names for batch in examples.batches(3)]
    assert sorted(chain(*names)) == sorted(examples.names)
    odd = {item.name for item in items if item.group == (1,)}
    assert all(set(part) <= odd or not set(part) & odd for part in names)
    endless = examples.endless(3, torch.Generator().manual_seed(0))
    first = [next(endless).names for _ in range(3)]
    assert sorted(chain(*first)) == sorted(examples.names)


def test_finetune_and_retrain_reach_the_closed_form() -> None:
    forget, retain = linear_examples(10, seed=1), linear_examples(20, seed=2)
    joint = fitted(forget + retain)
    wanted = ridge_solution(retain)
    for name in ("finetune", "retrain"):
        budget = Budget(steps=800, batch_size=20, lr=0.03, objective=Ridge(), clip=1e6)
        model = methods[name].function(copy.deepcopy(joint), forget, retain, budget)
        assert (model.layers[0].weight - wanted).norm() < 0.02 * (joint.layers[0].weight - wanted).norm()
        assert budget.meter.samples == 800 * 20
        assert not model.training


def test_sharpness_takes_the_gradient_uphill() -> None:
    """On a quadratic the step of SAM is that at w + r |w| g / |g|."""
    examples = linear_examples(8)
    model = fitted(examples)
    with torch.no_grad():
        model.layers[0].weight.mul_(1.5)
    w = model.layers[0].weight.detach().clone()
    batch = examples.batch(range(8))
    seen: list[torch.Tensor] = []

    def project(weights: list[torch.nn.Parameter]) -> None:
        seen.append(weights[0].grad.clone())

    budget = Budget(steps=1, objective=Ridge(), sharpness=0.1)
    descend(model, budget, lambda _step, rng: budget.loss(model, batch, rng), project=project)
    y, x = batch.y, batch.target[:, 0, 0]

    def gradient(weights: torch.Tensor) -> torch.Tensor:
        return (y @ weights.T - x).T @ y / len(y) + 1e-2 * weights

    g = gradient(w)
    torch.testing.assert_close(seen[0], gradient(w + 0.1 * w.norm() * g / g.norm()))


def test_a_loss_that_is_not_finite_is_told() -> None:
    model, budget = fitted(linear_examples(4)), Budget(steps=3)
    with pytest.raises(DataError, match="not finite at step 0"):
        descend(model, budget, lambda _step, _rng: model.layers[0].weight.sum() * float("nan"))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": float("nan")}, {"batch_size": 0}, {"sharpness": -1.0}])
def test_bad_budgets(bad: dict) -> None:
    with pytest.raises(OptionError):
        Budget(**bad)


def test_layers() -> None:
    model = fitted(linear_examples(4))
    assert list(weighted_layers(model)) == ["layers.0"]
    with pytest.raises(OptionError, match="no such layer"):
        layer(model, "encoder")
    batch = linear_examples(4).batch([0, 1])
    with captured(model, ["layers.0"]) as found:
        x = model(batch.y, batch.physics())
    torch.testing.assert_close(found["layers.0"][0], x[:, 0, 0])
    other = fresh(model, 3)
    assert not torch.equal(other.layers[0].weight, model.layers[0].weight)
    torch.testing.assert_close(other.layers[0].weight, fresh(model, 3).layers[0].weight)


def test_weights_in_any_memory_format_are_one_vector() -> None:
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    layers[1].load_state_dict(layers[0].state_dict())
    assert not layers[1].weight.is_contiguous()
    torch.testing.assert_close(flat(layers[1].parameters()), flat(layers[0].parameters()))
    assert flat(layers[1].parameters()).requires_grad


def test_unknown_method() -> None:
    with pytest.raises(OptionError, match="no such method"):
        methods["amnesia"]
