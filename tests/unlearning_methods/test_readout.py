"""Least squares in the read-out: what is taken out of it is as if it had never been in."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from networks import tiny
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from unlearning_problems import (
    LinearNetwork,
    budget,
    fitted,
    hidden,
    inputs,
    linear_examples,
    ridge_solution,
    targets,
)

from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.methods.analytic import AnalyticReadout, fit_readout
from recon.unlearning.objectives import SelfSupervised, Supervised
from recon.unlearning.readout import _of_measurements, _of_target, _split_of, find_readout, statistics
from recon.unlearning.registry import methods
from recon.unlearning.tensor_files import write_tensors


def test_analytic_is_ridge_regression_without_what_is_forgotten_after_each_of_five_requests() -> None:
    everything = linear_examples(30, seed=3)
    model = hidden()
    known = fit_readout(model, everything, budget(), penalty=1e-2)
    assert known.layer == "layers.1"
    encoder = model.layers[0].weight.detach()

    def solution(kept: Examples) -> Tensor:
        h, x = inputs(kept) @ encoder.T, targets(kept)
        gram = h.T @ h / len(kept) + 1e-2 * torch.eye(4, dtype=torch.float64)
        return torch.linalg.solve(gram, h.T @ x / len(kept)).T

    torch.testing.assert_close(model.layers[1].weight, solution(everything), rtol=1e-11, atol=1e-11)
    requests = [everything.subset(range(5 * i, 5 * i + 5)) for i in range(5)]
    own, left = copy.deepcopy(model), known
    for i, request in enumerate(requests):
        left = left.forget(own, request, budget())
        kept = everything.subset(range(5 * i + 5, 30))
        torch.testing.assert_close(own.layers[1].weight, solution(kept), rtol=1e-10, atol=1e-10)
    assert torch.equal(own.layers[0].weight, encoder)
    assert not torch.equal(model.layers[1].weight, own.layers[1].weight)
    with pytest.raises(DataError, match="only what was learned"):
        left.forget(own, requests[0], budget())
    with pytest.raises(DataError, match="nothing would be left"):
        left.forget(own, everything.subset(range(25, 30)), budget())


def test_analytic_by_name_is_exact_with_and_without_what_the_fit_kept() -> None:
    forget, retain = linear_examples(8, seed=1), linear_examples(12, seed=2)
    model = fitted(linear_examples(5, seed=9))
    known = fit_readout(model, forget + retain, budget(), penalty=0.1)
    torch.testing.assert_close(model.layers[0].weight, ridge_solution(forget + retain, 0.1))
    wanted = ridge_solution(retain, 0.1)
    from_fit = methods["analytic"].function(copy.deepcopy(model), forget, retain.subset([]), budget(), fitted=known)
    anew = methods["analytic"].function(copy.deepcopy(model), forget, retain, budget(), penalty=0.1)
    torch.testing.assert_close(from_fit.layers[0].weight, wanted, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(anew.layers[0].weight, wanted, rtol=1e-11, atol=1e-11)


def test_what_a_fit_kept_is_saved(tmp_path) -> None:
    everything = linear_examples(10, seed=3)
    model = hidden()
    known = fit_readout(model, everything, budget())
    known.save(tmp_path / "readout.safetensors")
    read = AnalyticReadout.load(tmp_path / "readout.safetensors")
    other = copy.deepcopy(model)
    known.forget(model, everything.subset([0, 4]), budget())
    read.forget(other, everything.subset([0, 4]), budget())
    assert torch.equal(model.layers[1].weight, other.layers[1].weight)
    with pytest.raises(OptionError, match="another network"):
        read.apply(LinearNetwork(5, 3, hidden=6).double())
    with pytest.raises(CheckpointError, match="no such file"):
        AnalyticReadout.load(tmp_path / "none.safetensors")
    write_tensors(tmp_path / "other.safetensors", "another kind", {"gram": known.statistics.gram}, {})
    with pytest.raises(CheckpointError, match="another kind of file"):
        AnalyticReadout.load(tmp_path / "other.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(CheckpointError, match="not a whole file"):
        AnalyticReadout.load(tmp_path / "bad.safetensors")


def scans_in_double(scans: Examples) -> Examples:
    return Examples(
        [
            dataclasses.replace(
                item,
                content=dataclasses.replace(
                    item.content,
                    y=item.content.y.to(torch.complex128),
                    coil_maps=item.content.coil_maps.to(torch.complex128),
                    target=item.content.target.to(torch.complex128),
                ),
            )
            for item in scans
        ]
    )


@pytest.mark.parametrize("name", ["unet", "ista-net", "recurrentvarnet"])
@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["supervised", "self-supervised"])
def test_the_read_out_of_networks_is_the_least_squares_solution(name: str, objective, scans: Examples) -> None:
    """At the solution the gradient of the squared residual, by plain backpropagation, is the penalty's."""
    model = tiny(name, **({"channels": 2} if name == "ista-net" else {})).double()
    doubled = scans_in_double(scans)
    how = Budget(objective=objective)
    known = fit_readout(model, doubled, how, penalty=0.1)
    total = torch.zeros((), dtype=torch.float64)
    for i, item in enumerate(doubled):
        batch = doubled.batch([i])
        r = (
            _of_target(model, batch)
            if objective.needs_truth
            else _of_measurements(model, batch, _split_of(item.digest, 0))
        )
        total = total + 0.5 * r.square().sum() / len(doubled)
    weights = list(dict(model.named_modules())[known.layer].parameters(recurse=False))
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, weights)])
    assert (gradient + 0.1 * parameters_to_vector(weights)).norm() < 1e-7 * known.statistics.moment.norm()


def test_networks_that_share_all_weights_have_no_read_out(scans: Examples) -> None:
    with pytest.raises(OptionError, match="no read-out"):
        find_readout(tiny("recurrentvarnet", share_weights=True, initialiser="none"), scans.batch([0]))


def test_statistics_refuse_examples_twice() -> None:
    model, examples = hidden(), linear_examples(4)
    part = statistics(model, examples, "layers.1", budget())
    with pytest.raises(DataError, match="learned once"):
        part + part
    with pytest.raises(DataError, match="learned once"):
        statistics(model, examples + examples.subset([1]), "layers.1", budget())
    with pytest.raises(OptionError, match="penalty"):
        part.solve(0.0)
