"""The search for options of methods."""

from __future__ import annotations

import copy

import pytest
import torch
from unlearning_problems import Ridge, fitted, linear_examples, ridge_solution

from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.registry import Method, methods
from recon.unlearning.search import distance_to_oracle, mean_psnr, search


def _scaled(model, forget, retain, budget, /, *, factor=1.0):
    if factor < 0:
        raise DataError("the loss is not finite")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


def _judge(model) -> float:
    return abs(next(model.parameters()).norm().item() - 2.0)


def test_the_best_of_the_grid_is_found_and_the_model_left_as_it_was() -> None:
    model = fitted(linear_examples(6))
    with torch.no_grad():
        model.layers[0].weight.div_(model.layers[0].weight.norm())
    before = copy.deepcopy(model.state_dict())
    method = Method(name="scaled", function=_scaled, search={"factor": (-1.0, 1.9, 3.0)})
    best, trials = search(method, model, linear_examples(2), linear_examples(2), Budget(), _judge, trials=9)
    assert best.options == {"factor": 1.9}
    assert best.distance == pytest.approx(0.1)
    assert trials[0].options == {}
    assert sorted(t.distance for t in trials)[-1] == float("inf")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_no_more_trials_than_asked_for() -> None:
    method = Method(name="scaled", function=_scaled, search={"factor": (0.1, 0.2, 0.3)})
    trials = search(method, fitted(linear_examples(6)), *[linear_examples(2)] * 2, Budget(), _judge, trials=2)[1]
    assert len(trials) == 2
    with pytest.raises(OptionError):
        search(method, fitted(linear_examples(6)), *[linear_examples(2)] * 2, Budget(), _judge, trials=0)
    failing = Method(name="scaled", function=lambda *a, **k: _scaled(*a, factor=-1.0))
    with pytest.raises(OptionError, match="failed with all"):
        search(failing, fitted(linear_examples(6)), *[linear_examples(2)] * 2, Budget(), _judge, trials=2)


def test_options_that_a_network_does_not_fit_count_as_failed() -> None:
    def picky(model, forget, retain, budget, /, *, layer="none"):
        if layer == "none":
            raise OptionError("no read-out")
        return _scaled(model, forget, retain, budget, factor=1.5)

    method = Method(name="picky", function=picky, search={"layer": ("last",)})
    best, trials = search(method, fitted(linear_examples(6)), *[linear_examples(2)] * 2, Budget(), _judge, trials=2)
    assert best.options == {"layer": "last"}
    assert "no read-out" in trials[0].failed


def test_distance_to_the_oracle_is_zero_for_the_oracle() -> None:
    forget, retain = linear_examples(10, seed=1), linear_examples(20, seed=2)
    oracle, joint = fitted(retain), fitted(forget + retain)
    judge = distance_to_oracle(oracle, retain, forget)
    assert judge(oracle) == 0
    assert judge(joint) > 0
    budget = Budget(steps=200, batch_size=20, lr=0.03, objective=Ridge(), clip=1e6)
    best, _ = search(methods["finetune"], joint, forget, retain, budget, judge, trials=3)
    assert best.distance < judge(joint)


def test_psnr_is_of_magnitudes() -> None:
    examples = linear_examples(3, noise=0.0)
    exact = fitted(examples)
    with torch.no_grad():
        exact.layers[0].weight.copy_(ridge_solution(linear_examples(50, noise=0.0), 1e-12))
    assert mean_psnr(exact, examples) > 60
