"""Requests to forget on a linear network: choice, verdict, history, drift, interruption, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from unlearning_problems import LinearNetwork, Ridge, fitted, linear_examples

import recon
from recon.cards import Card, card_of
from recon.physics.errors import DataError, OptionError, OutputError, ShapeError
from recon.unlearning import registry
from recon.unlearning.audit import Audit, Check
from recon.unlearning.budget import Budget
from recon.unlearning.choice import choose
from recon.unlearning.examples import Examples
from recon.unlearning.registry import methods
from recon.unlearning.sources import Reading
from recon.unlearning.verdict import FORGOTTEN, NOT_FORGOTTEN, NOT_SHOWN, Losses, judge

QUICK = Budget(steps=30, batch_size=8, lr=0.02, objective=Ridge(), clip=1e6)


@pytest.fixture
def problem():
    """A joint network, what it should forget, what is kept, and others of both kinds."""
    forget, retain = linear_examples(20, seed=1), linear_examples(40, seed=2)
    more, others = linear_examples(60, seed=1).subset(range(20, 60)), linear_examples(80, seed=2).subset(range(40, 80))
    return fitted(forget + retain), forget, retain, more, others


def weights(model):
    return model.layers[0].weight.detach()


def request(problem, **options):
    model, forget, retain, *_ = problem
    given = {"forget": forget, "retain": retain, "budget": QUICK, "audit": "none", **options}
    return recon.unlearn(model, **given)


# What comes out ---------------------------------------------------------------------------------------------------


def test_retraining_is_called_forgotten_and_the_original_is_left_alone(problem):
    model, forget, retain, more, others = problem
    start = weights(model).clone()
    oracle = fitted(retain)
    budget = Budget(steps=150, batch_size=40, lr=0.1, objective=Ridge(), clip=1e6)
    told = []
    done = recon.unlearn(
        model, forget=forget, retain=retain, method="retrain", budget=budget, oracle=oracle, forget_test=more,
        retain_test=others, audit=("forgetting", "membership"), seed=3, progress=lambda *news: told.append(news),
    )  # fmt: skip
    assert torch.equal(weights(model), start)
    assert (weights(done.model) - weights(oracle)).norm() < 0.05 * (start - weights(oracle)).norm()
    assert done.forgotten, done.verdict
    assert {check.name for check in done.verdict.checks} >= {"membership", "retain loss", "drift"}
    assert told[0][0] == "unlearning"
    assert told[-1] == ("auditing", 2, 2)
    (record,) = done.card.requests
    assert (record["method"], record["seed"], record["steps"]) == ("retrain", 3, 150)
    assert record["forgotten"]["digests"] == [item.digest for item in forget]
    assert record["cost"]["samples"] == 150 * 32
    assert record["verdict"]["outcome"] == "forgotten"
    assert json.loads(done.card.as_json())["figures"]["unlearning"]["requests"][0]["method"] == "retrain"
    assert "forgotten by retrain" in done.card.summary


def test_nothing_done_is_not_called_forgotten_and_the_figure_is_named(problem):
    _, _, retain, more, others = problem
    idle = Budget(steps=1, lr=1e-12, objective=Ridge())
    done = request(
        problem, method="finetune", budget=idle, oracle=fitted(retain), forget_test=more, retain_test=others,
        audit=("membership", "cka"),
    )  # fmt: skip
    assert not done.forgotten
    assert done.verdict.outcome == NOT_FORGOTTEN
    assert "forget loss" in done.verdict.failed
    assert done.card.summary.startswith("NOT FORGOTTEN (")
    for name in done.verdict.failed:
        assert name in done.verdict.why
        assert name in done.card.requests[0]["verdict"]["failed"]
    assert any("NOT FORGOTTEN" in note for note in done.notes)


def test_without_an_audit_nothing_is_claimed(problem):
    done = request(problem, method="finetune", budget=Budget(steps=200, batch_size=20, lr=0.03, objective=Ridge()))
    assert done.audit is None
    assert done.verdict.outcome == NOT_SHOWN
    assert "nothing compares it" in done.card.summary


def test_a_set_that_was_not_trained_on_is_warned_of(problem):
    _, _, retain, more, _ = problem
    model = fitted(retain)  # never saw the forget set
    with pytest.warns(UserWarning, match="do not show that the forget set was part"):
        done = request((model, *problem[1:]), forget_test=more, audit=("membership",))
    assert any("was part of its training" in note for note in done.notes)
    unknown = request(problem, audit=("cka",))
    assert any("was not tested" in note for note in unknown.notes)


class Spy(Ridge):
    """Notes what is trained on."""

    def __init__(self):
        super().__init__()
        self.seen, self.steps = set(), 0

    def __call__(self, model, batch, rng):
        if torch.is_grad_enabled():
            self.seen.update(batch.names)
            self.steps += 1
        return super().__call__(model, batch, rng)


def test_a_part_of_the_retain_set_is_held_out(problem):
    spy, retain = Spy(), problem[2]
    done = request(problem, method="finetune", audit=("cka",), budget=Budget(steps=8, objective=spy))
    (record,) = done.card.requests
    assert record["kept"]["examples"] == 32
    assert any("held out, in place of test data: 8" in note for note in done.notes)
    assert spy.seen == {item.name for item in retain if item.digest in record["kept"]["digests"]}
    assert len(spy.seen) == 32
    spy.seen.clear()
    request(problem, method="finetune", budget=Budget(steps=10, objective=spy))  # nobody asks for figures
    assert len(spy.seen) == 40


def test_same_seed_same_weights(problem):
    first, same, other = (request(problem, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))


# Several requests -------------------------------------------------------------------------------------------------


def test_five_requests_in_a_row_drift_no_further_than_allowed():
    sets = [linear_examples(6, seed=seed) for seed in range(1, 6)]
    retain, others = linear_examples(40, seed=9), linear_examples(80, seed=9).subset(range(40, 80))
    model = first = fitted(sum(sets[1:], sets[0]) + retain)
    drifts = []
    for number, forget in enumerate(sets, 1):
        done = recon.unlearn(
            model, forget=forget, retain=retain, method="gradient_ascent", options={"bound": 3.0, "rate": 3.0},
            drift=0.1, budget=QUICK, audit="none",
        )  # fmt: skip
        model = done.model
        assert len(done.card.requests) == number
        drifts.append(done.card.requests[-1]["drift"])
    assert max(drifts) <= 0.1

    def change(examples):
        batch = examples.batch(range(40))
        before, after = (Ridge()(m, batch, None).item() for m in (first, model))
        return after / before - 1

    assert change(retain) == pytest.approx(drifts[-1], abs=1e-6)  # the factors of all requests multiply up
    assert change(others) <= 0.1
    assert [check.passed for check in done.verdict.checks if check.name == "drift"] == [True]
    gone = [digest for record in done.card.requests for digest in record["forgotten"]["digests"]]
    assert gone == [item.digest for forget in sets for item in forget]


def test_too_much_drift_is_repaired_or_told(problem):
    bold = {"method": "gradient_ascent", "options": {"bound": 10.0, "rate": 10.0}}
    free = request(problem, drift=1e6, **bold)
    assert free.card.requests[0]["retain loss"] > 2
    held = request(problem, drift=0.5, **bold)
    assert held.card.requests[0]["retain loss"] <= 1.5
    once = held.card.requests[0]["cost"]["samples"] / free.card.requests[0]["cost"]["samples"]
    assert 1 < once <= 4  # rounds of repair are counted
    alone = request(problem, retain=None, retain_test=problem[4], drift=0.0, **bold)  # with nothing to repair on
    assert alone.verdict.outcome == NOT_FORGOTTEN
    assert "drift" in alone.verdict.failed


def test_what_was_forgotten_may_not_come_back(problem):
    _, forget, retain, *_ = problem
    model = request(problem).model
    with pytest.raises(DataError, match=r"the retain set holds what request 1 .*set 1, example 3"):
        recon.unlearn(model, forget=linear_examples(5, seed=7), retain=retain + forget.subset([3]), budget=QUICK)


# Verdicts ---------------------------------------------------------------------------------------------------------

GOOD = Losses(1.0, 1.5, 1.0, 1.01)
BROKEN = ("retain loss", "forget loss", "drift")


def audited(*checks, membership=None):
    figures = {} if membership is None else {"membership": {"unlearned": membership, "joint": membership}}
    return Audit(figures=figures, cannot={}, checks=checks, score={})


def test_bars_of_the_audit_decide_where_there_are_some():
    good = [Check("retain PSNR", 0.0, "bar", passed=True), Check("forget side", 0.0, "bar", passed=True)]
    assert judge(audited(*good), GOOD, drift=0.0, most=0.1).outcome == FORGOTTEN
    bad = judge(audited(*good, Check("CKA", 0.5, "nearer", passed=False)), GOOD, drift=0.0, most=0.1)
    assert (bad.outcome, bad.failed) == (NOT_FORGOTTEN, ("CKA",))
    assert "CKA is 0.5, to be nearer" in bad.why
    dear = judge(audited(*good, Check("samples", 0.5, "bar", passed=False)), GOOD, drift=0.0, most=0.1)
    assert dear.outcome == FORGOTTEN  # what it cost says nothing of forgetting


@pytest.mark.parametrize(
    ("losses", "membership", "drift", "outcome", "failed"),
    [
        (GOOD, {"auc": 0.52, "error": 0.02}, 0.0, FORGOTTEN, ()),
        (GOOD, {"auc": 0.60, "error": 0.02}, 0.0, NOT_FORGOTTEN, ("membership, to chance",)),
        (
            GOOD,
            {"auc": 0.40, "error": 0.02},
            0.0,
            NOT_FORGOTTEN,
            ("membership, to chance",),
        ),  # so bad that it tells, too
        (GOOD, {"auc": 0.55, "error": 0.20}, 0.0, NOT_SHOWN, ()),  # too few examples to tell
        (GOOD, None, 0.0, NOT_SHOWN, ()),
        (Losses(1.0, 1.0, 1.0, 1.0), {"auc": 0.5, "error": 0.02}, 0.0, NOT_FORGOTTEN, ("forget loss",)),
        (Losses(1.0, 2.0, 1.0, 1.2), {"auc": 0.5, "error": 0.02}, 0.0, NOT_FORGOTTEN, ("retain loss",)),
        (Losses(1.0, 1.01, 1.0, 1.04), {"auc": 0.5, "error": 0.02}, 0.0, NOT_FORGOTTEN, ("forget loss",)),
        (Losses(1.0, 2.0, math.nan, math.nan), {"auc": 0.5, "error": 0.02}, math.nan, FORGOTTEN, ()),
        (Losses(1.0, 2.0, 1.0, math.nan), {"auc": 0.5, "error": 0.02}, math.nan, NOT_FORGOTTEN, BROKEN),
        (Losses(1.0, math.nan, 1.0, 1.0), {"auc": 0.5, "error": 0.02}, 0.0, NOT_FORGOTTEN, ("forget loss",)),
        (GOOD, {"auc": 0.5, "error": 0.02}, math.log(1.2), NOT_FORGOTTEN, ("drift",)),
    ],
)
def test_without_an_oracle(losses, membership, drift, outcome, failed):
    found = judge(audited(membership=membership), losses, drift=drift, most=0.1)
    assert (found.outcome, found.failed) == (outcome, failed)


# Choice -----------------------------------------------------------------------------------------------------------


def test_the_method_fits_budget_and_data():
    def chosen(steps, *, retain):
        return choose("auto", {}, Budget(steps=steps), retain=retain, truth=True)

    assert not chosen(100, retain=False).method.needs_retain
    assert "no retain set" in chosen(100, retain=False).why
    few, many = chosen(5, retain=True), chosen(100, retain=True)
    assert few.method.name == "ssd"
    assert "5 steps" in few.why
    assert many.method.name == "ga_finetune"
    assert choose("auto", {"bound": 2.0}, Budget(), retain=True, truth=True).options == {"bound": 2.0}
    asked = choose("finetune", {"rate": 2.0}, Budget(), retain=True, truth=True)
    assert (asked.method.name, asked.why, asked.options) == ("finetune", "asked for", {"rate": 2.0})


def test_no_retain_set(problem):
    alone = request(problem, retain=None)
    assert alone.card.requests[0]["method"] == "gradient_ascent"
    assert (weights(alone.model) - weights(problem[0])).norm() > 0


# Interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "at"),
    [("finetune", 3), ("ga_finetune", 5), ("ga_finetune", 12), ("ga_finetune", 29), ("noisy_labels", 17)],
)
def test_an_interrupted_run_goes_on_and_ends_as_if_it_was_not(problem, tmp_path, monkeypatch, method, at):
    monkeypatch.setattr("recon.unlearning.journal._EVERY", 0.0)
    whole = request(problem, method=method)
    start, state = weights(problem[0]).clone(), tmp_path / "state"

    def interrupt(_what, done, _count):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        request(problem, method=method, state=state, progress=interrupt)
    assert torch.equal(weights(problem[0]), start)
    spy = Spy()
    again = request(problem, method=method, state=state, budget=replace(QUICK, objective=spy))
    assert spy.steps == 30 - at
    assert torch.equal(weights(again.model), weights(whole.model))
    spent, wanted = (one.card.requests[0]["cost"] for one in (again, whole))
    assert spent["samples"] == wanted["samples"]
    third = request(problem, method=method, state=state, progress=lambda *_: pytest.fail("nothing is left to be done"))
    assert torch.equal(weights(third.model), weights(whole.model))


def test_the_state_of_another_request_is_not_taken_up(problem, tmp_path):
    request(problem, state=tmp_path / "state")
    others = ({"seed": 1}, {"method": "finetune"}, {"how": Reading(matrix=(32, 32))})
    for other in (*others, {"forget": problem[1].subset(range(5))}):
        with pytest.raises(OptionError, match="another request was interrupted"):
            request(problem, state=tmp_path / "state", **other)
    for mistake in ("encoder", "decoder"):  # of which nothing was done
        with pytest.raises(OptionError, match="no such layer"):
            request(problem, method="opc", options={"layer": mistake}, state=tmp_path / "other")


def test_a_full_disk_is_told_in_one_line_and_the_original_stays(problem, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    start = weights(problem[0]).clone()
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*Free some space"):
        request(problem, state=tmp_path / "state")
    assert torch.equal(weights(problem[0]), start)
    monkeypatch.undo()
    assert request(problem, state=tmp_path / "state").card  # goes on when there is space again


# Requests that are refused ----------------------------------------------------------------------------------------


def test_bad_sets(problem):
    _, forget, retain, _, others = problem
    with pytest.raises(OptionError, match="nothing to forget"):
        request(problem, forget=[])
    with pytest.raises(DataError, match="are the same"):
        request(problem, retain=forget)
    with pytest.raises(DataError, match=r"overlap.*set 1, example 4"):
        request(problem, retain=retain + forget.subset([4]))
    with pytest.raises(DataError, match=r"the forget test set holds training examples.*set 1, example 0"):
        request(problem, forget_test=forget)
    with pytest.raises(DataError, match=r"the retain test set holds training examples.*set 2, example 7"):
        request(problem, retain_test=others + retain.subset([7]))
    with pytest.raises(ShapeError, match="the network cannot take an example of the forget set"):
        request(problem, forget=linear_examples(4, n=7, seed=5))
    broken = fitted(retain)
    with torch.no_grad():
        broken.layers[0].weight.fill_(math.nan)
    with pytest.raises(DataError, match="not finite"):
        request((broken, *problem[1:]))


def test_bad_options(problem):
    with pytest.raises(OptionError, match="no such method"):
        request(problem, method="amnesia")
    with pytest.raises(OptionError, match="finetune has no option 'speed'"):
        request(problem, method="finetune", options={"speed": 1})
    with pytest.raises(OptionError, match=r"finetune needs a retain set.*gradient_ascent"):
        request(problem, method="finetune", retain=None)
    with pytest.raises(OptionError, match=r"no such layer.*encoder"):
        request(problem, method="opc", options={"layer": "encoder"})
    with pytest.raises(OptionError, match="no such audit"):
        request(problem, audit="superficial")
    with pytest.raises(OptionError, match="no such loss"):
        request(problem, loss="l3")
    with pytest.raises(OptionError, match="drift"):
        request(problem, drift=-0.1)
    with pytest.raises(OptionError, match="without weights"):
        recon.unlearn("cg-sense", forget=problem[1])
    with pytest.raises(OptionError, match="registered networks"):
        request(problem).save("x.safetensors")


def test_truth_that_is_not_there(problem, monkeypatch):
    forget = problem[1]
    blind = Examples(list(forget), collate=lambda contents: without_target(forget, contents))
    with pytest.raises(OptionError, match=r"supervised loss needs ground truth.*set 1, example 0"):
        request(problem, forget=blind, loss="supervised")
    monkeypatch.setitem(registry._METHODS, "finetune", replace(methods["finetune"], needs_truth=True))
    with pytest.raises(OptionError, match=r"finetune needs ground truth.*set 1, example 0"):
        request(problem, forget=blind, method="finetune")


def without_target(examples, contents):
    batch = examples.batch_of(contents)
    object.__setattr__(batch, "target", None)
    return batch


def test_a_network_without_a_card_has_forgotten_nothing():
    assert card_of(LinearNetwork(5, 3)) == Card()
    assert Card().requests == []
