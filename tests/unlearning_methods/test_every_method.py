"""What every method must do, by its name: networks and objectives, the same again, interruption, bad input."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from networks import tiny
from torch.nn.utils import parameters_to_vector
from unlearning_problems import LinearNetwork, hidden, run, whole, with_inputs

from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.journal import Journal
from recon.unlearning.objectives import Objective, SelfSupervised, Supervised
from recon.unlearning.registry import methods

OPTIONS: dict[str, dict] = {"noisy_descent": {"epsilon": 1e6}, "slug": {"trials": 3}}
NEED_FEATURES = {"i2i", "opc", "duck"}


@pytest.mark.parametrize("network", ["unet", "recurrentvarnet", "ista-net"])
@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["supervised", "self-supervised"])
@pytest.mark.parametrize("name", methods)
def test_every_method_on_mri(name: str, objective: Objective, network: str, scans: Examples) -> None:
    """It runs without targets where the objective needs none, and changes the network and no more than its own copy."""
    if not objective.needs_truth:
        scans = Examples([replace(item, content=replace(item.content, target=None)) for item in scans])
    forget, retain = scans[:2], scans[2:]
    model = tiny(network, **({"channels": 2} if network == "ista-net" else {}))
    before = copy.deepcopy(model.state_dict())
    told: list[int] = []
    budget = Budget(steps=2, batch_size=2, objective=objective, progress=lambda done, _all: told.append(done))
    new = run(name, model, forget, retain, budget, **OPTIONS.get(name, {}))
    assert type(new) is type(model)
    assert not new.training
    assert all(bool(torch.isfinite(p).all()) and p.requires_grad for p in new.parameters())
    assert not torch.equal(parameters_to_vector(new.parameters()), parameters_to_vector(model.parameters()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert told == sorted(told)
    assert told[-1:] == ([] if name == "analytic" else [2])
    assert budget.meter.samples > 0
    if network != "unet":
        return
    again = run(name, model, forget, retain, replace(budget), **OPTIONS.get(name, {}))
    assert torch.equal(parameters_to_vector(new.parameters()), parameters_to_vector(again.parameters()))


@pytest.mark.parametrize(
    "name", ["gradient_ascent", "ga_finetune", "noisy_labels", "l1_sparse", "ssd", "uno", "slug", "influence"]
)
def test_each_example_costs_two_passes_a_step_at_most(name: str, scans: Examples) -> None:
    budget = Budget(steps=2, batch_size=2)
    run(name, tiny("unet"), scans[:2], scans[2:4], budget, **OPTIONS.get(name, {}))
    assert 0 < budget.meter.samples <= 2 * budget.steps * budget.batch_size


@pytest.mark.parametrize("network", ["unet", "recurrentvarnet", "ista-net"])
def test_reconstructions_after_a_step_of_the_hessian_are_matched(network: str, scans: Examples) -> None:
    model = tiny(network, **({"channels": 2} if network == "ista-net" else {}))
    budget = Budget(steps=2, batch_size=2, objective=SelfSupervised())
    found = run("influence", model, scans[:2], scans[2:4], budget, curvature="hessian", iterations=2, datamodel=True)
    assert all(bool(torch.isfinite(p).all()) for p in found.parameters())


def test_same_seed_same_network(scans: Examples) -> None:
    model = tiny("unet")
    for name, options in (
        ("noisy_labels", {"label": "zero_filled", "together": True}),
        ("uno", {"memory": 2, "alternating": True}),
    ):
        first, second, other = (
            run(
                name,
                model,
                scans[:2],
                scans[2:4],
                Budget(steps=2, batch_size=1, seed=seed, objective=SelfSupervised()),
                **options,
            )
            for seed in (1, 1, 2)
        )
        pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b, _ in pairs)
        assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize("name", methods)
def test_an_interrupted_run_goes_on_where_it_was(sets, joint, two_layers, name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("recon.unlearning.journal._EVERY", 0.0)
    model = two_layers if name in NEED_FEATURES else joint
    searched = methods[name].search
    options = {"repair": 0.5} if "repair" in searched else {}
    options |= {"memory": 3} if "memory" in searched else {}
    options |= {"layers": "all"} if name == "noisy_descent" else {}  # the read-out alone is solved for at once
    steps = []

    def told(step: int, _all: int) -> None:
        steps.append(step)
        if len(steps) == 5:
            raise KeyboardInterrupt

    plain, interrupted, resumed = (whole(4, steps=8, progress=p) for p in (None, told, lambda s, _: steps.append(s)))
    expected = run(name, model, *sets, plain, **options)
    if name == "analytic":
        return  # it has no steps that could be interrupted
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path, interrupted.meter).kept():
        run(name, model, *sets, interrupted, **options)
    steps.clear()
    with Journal(tmp_path, resumed.meter).kept():
        found = run(name, model, *sets, resumed, **options)
    assert torch.equal(parameters_to_vector(found.parameters()), parameters_to_vector(expected.parameters()))
    assert len(steps) < 8
    assert resumed.meter.samples == plain.meter.samples


@pytest.mark.parametrize("name", ["ssd", "uno", "slug", "influence"])
def test_a_loss_that_is_not_finite_is_told(sets, joint, name) -> None:
    forget = with_inputs(sets[0], lambda y, i: y * float("inf") if i == 3 else y)
    with pytest.raises(DataError, match="not finite"):
        run(name, joint, forget, sets[1], whole(12, steps=3))


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
        ("i2i", {"noise": "pink"}, "no such noise"),
        ("opc", {"point": "elsewhere"}, "no such point"),
        ("duck", {"centroids": 0}, "at least one centroid"),
        ("adapt_then_unlearn", {"repulsion": "magnetic"}, "no such repulsion"),
        ("adapt_then_unlearn", {"share": 1.0}, "at least one each"),
        ("logit_difference", {"share": 0.0}, "at least one"),
        ("noisy_descent", {"layers": "some"}, "no such layers"),
        ("noisy_descent", {"radius": 0.0}, "above 0"),
        ("noisy_descent", {"layers": "all", "penalty": 1e6}, "below 1"),
    ],
)
def test_bad_options(sets, name: str, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(name, hidden(), *sets, whole(12, steps=4), **options)


@pytest.mark.parametrize("name", [name for name, method in methods.items() if method.needs_retain])
def test_a_retain_set_is_needed(sets, two_layers: LinearNetwork, name: str) -> None:
    with pytest.raises(OptionError, match="empty set"):
        run(name, two_layers, sets[0], sets[1].subset([]), whole(12, steps=4))


@pytest.mark.parametrize("name", [name for name, method in methods.items() if not method.exact])
def test_searches_name_options_that_there_are(name: str) -> None:
    assert methods[name].search
    assert methods[name].search.keys() <= inspect.signature(methods[name].function).parameters.keys()
