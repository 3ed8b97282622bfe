"""Methods that change features, distil, repel, subtract or solve: each against what a linear network must give."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from networks import tiny
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from unlearning_problems import LinearNetwork, Ridge, fitted, linear_examples, ridge_solution

from recon.models.learned import LearnedReconstructor
from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.unlearning.budget import Budget
from recon.unlearning.coreset import core_set, isolation, mean_length
from recon.unlearning.deletion import divergence, epsilon_of, noise_for
from recon.unlearning.examples import Examples, item_of
from recon.unlearning.features import feature_layer, features, frozen
from recon.unlearning.layers import fresh
from recon.unlearning.methods.adapt_then_unlearn import repelled
from recon.unlearning.methods.analytic import AnalyticReadout, fit_readout, forget_in_turn
from recon.unlearning.methods.logit_difference import Difference
from recon.unlearning.objectives import Objective, SelfSupervised, Supervised
from recon.unlearning.readout import find_readout, statistics
from recon.unlearning.registry import methods
from recon.unlearning.sharded import Plan, train_sharded
from recon.unlearning.sharded_files import load_sharded, save_sharded

MINE = ("i2i", "opc", "duck", "adapt_then_unlearn", "logit_difference", "bad_teacher", "noisy_descent", "analytic")
OPTIONS: dict[str, dict] = {"noisy_descent": {"epsilon": 1e6}}


def only(examples: Examples, kept: slice) -> Examples:
    """The same examples, zero but for some entries, and with targets of what is left."""
    items = []
    for item in examples:
        y, x, name = item.content
        masked = torch.zeros_like(y)
        masked[kept] = y[kept]
        items.append(dataclasses.replace(item, content=(masked, x, name)))
    return Examples(items, collate=examples._collate)


A, B = slice(0, 3), slice(3, 5)


@pytest.fixture
def retain() -> Examples:
    return only(linear_examples(12, seed=2), A)


@pytest.fixture
def forget() -> Examples:
    return only(linear_examples(8, seed=1), B)


def hidden(seed: int = 0) -> LinearNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LinearNetwork(5, 3, hidden=4).double()


def budget(steps: int = 300, lr: float = 0.03, objective: Objective | None = None, **more: object) -> Budget:
    return Budget(steps=steps, batch_size=12, lr=lr, objective=objective or Ridge(), clip=1e6, **more)


def inputs(examples: Examples) -> Tensor:
    return torch.stack([item.content[0] for item in examples])


def targets(examples: Examples) -> Tensor:
    return torch.stack([item.content[1] for item in examples])


# --- features -----------------------------------------------------------------------------------------------------


def test_i2i_leaves_the_features_of_a_and_makes_those_of_b_noise(retain: Examples, forget: Examples) -> None:
    """A and B are of inputs that are orthogonal: the encoder's columns of A must not move, those of B go to 0."""
    for noise in ("features", "measurements"):
        model = hidden()
        first, last = (p.detach().clone() for p in model.parameters())
        methods["i2i"].function(model, forget, retain, budget(120, 0.1, Supervised()), alpha=1.0, noise=noise)
        now, decoder = model.parameters()
        assert torch.equal(decoder, last)
        assert torch.equal(now[:, A], first[:, A])
        assert now[:, B].norm() < 0.25 * first[:, B].norm()


def test_opc_contracts_the_features_of_b_and_fits_a(retain: Examples, forget: Examples) -> None:
    model = hidden()
    before = torch.linalg.vector_norm(inputs(forget) @ model.layers[0].weight.T, dim=1)
    methods["opc"].function(model, forget, retain, budget(150, 0.1, Ridge(1e-6)), weight=3.0)
    after = torch.linalg.vector_norm(inputs(forget) @ model.layers[0].weight.T, dim=1)
    assert bool((after < 0.05 * before).all())
    product = model.layers[1].weight @ model.layers[0].weight
    torch.testing.assert_close(product[:, A], ridge_solution(retain, 1e-6)[:, A], rtol=0.02, atol=0.02)


def test_opc_contracts_to_the_point_of_the_features_that_are_kept(retain: Examples, forget: Examples) -> None:
    """All B at one point of A's: with inputs in a line that point can be met; its features are the mean of A's."""
    line = forget.subset([0])
    model = hidden()
    mean = (inputs(retain) @ model.layers[0].weight.T).mean(0).detach()
    methods["opc"].function(model, line, retain, budget(150, 0.1, Ridge(1e-6)), weight=3.0, point="retain")
    after = inputs(line)[0] @ model.layers[0].weight.T
    assert (after - mean).norm() < 0.05 * mean.norm()


def test_duck_turns_features_towards_the_nearest_centroid(retain: Examples, forget: Examples) -> None:
    """Seen from half way between the means, features of B point away from A's centroid, and then towards it."""
    model = hidden()
    # inputs of one sign along a line: features of one sign, so that one column can turn all of them
    line = [dataclasses.replace(i, content=(i.content[0].abs(), *i.content[1:])) for i in forget.subset([0, 1, 2, 3])]
    forget = only(Examples(line, collate=forget._collate), slice(3, 4))
    centroid, middle = ((inputs(e) @ model.layers[0].weight.T).mean(0).detach() for e in (retain, forget))
    origin = (centroid + middle) / 2

    def cosines() -> Tensor:
        moved = inputs(forget) @ model.layers[0].weight.T - origin
        return torch.nn.functional.cosine_similarity(moved, (centroid - origin)[None], dim=1)

    assert float(cosines().mean()) < -0.5
    methods["duck"].function(model, forget, retain, budget(150, 0.1, Ridge(1e-6)), weight=1.0)
    assert float(cosines().min()) > 0.9
    product = model.layers[1].weight @ model.layers[0].weight
    torch.testing.assert_close(product[:, A], ridge_solution(retain, 1e-6)[:, A], rtol=0.03, atol=0.03)


def test_ducks_centroids_are_those_of_clusters(retain: Examples) -> None:
    from recon.unlearning.methods.duck import centroids_of

    far = Examples(
        [
            dataclasses.replace(item, content=(item.content[0] + 50.0 * (i % 2), *item.content[1:]))
            for i, item in enumerate(retain)
        ],
        collate=retain._collate,
    )
    model = hidden()
    found = centroids_of(model, far, "layers.1", 2, budget())
    values = inputs(far) @ model.layers[0].weight.T
    wanted = torch.stack([values[0::2].mean(0), values[1::2].mean(0)])
    order = torch.cdist(wanted, found).argmin(1)
    torch.testing.assert_close(found[order], wanted.detach())


def test_feature_layers() -> None:
    batch = linear_examples(3).batch([0, 1])
    model = hidden()
    assert [feature_layer(model, batch, which, budget().meter) for which in ("deepest", "last", "output")] == [
        "layers.1",
        "layers.1",
        "output",
    ]
    with pytest.raises(OptionError, match="do not change what this layer sees"):
        feature_layer(model, batch, "layers.0", budget().meter)
    with pytest.raises(OptionError, match="no such layer"):
        feature_layer(model, batch, "encoder", budget().meter)
    with pytest.raises(OptionError, match="no layer"):
        feature_layer(fitted(linear_examples(4)), batch, "deepest", budget().meter)


def test_the_deepest_layer_of_a_u_net_is_where_its_encoder_ends(scans: Examples) -> None:
    model = tiny("unet")
    name = feature_layer(model, scans.batch([0]), "deepest", budget().meter)
    assert name == "network.unet.up.0.0"
    (value,) = features(model, scans.batch([0]).y, scans.batch([0]).physics(), name, budget().meter)
    assert value.shape[1] == 32
    assert value.shape[-1] == 8


# --- distillation, repulsion, subtraction ---------------------------------------------------------------------------


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
    from recon.unlearning.methods.adapt_then_unlearn import adapted

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


# --- least squares --------------------------------------------------------------------------------------------------


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
    again, _ = forget_in_turn(model, known, requests, budget())
    assert torch.equal(again.layers[1].weight, own.layers[1].weight)
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
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(CheckpointError, match="not a whole file"):
        AnalyticReadout.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("name", ["unet", "ista-net", "recurrentvarnet"])
@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["supervised", "self-supervised"])
def test_the_read_out_of_networks_is_the_least_squares_solution(name: str, objective, scans: Examples) -> None:
    """At the solution the gradient of the squared residual, by plain backpropagation, is the penalty's."""
    from recon.unlearning.readout import _of_measurements, _of_target, _split_of

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


# --- noise ----------------------------------------------------------------------------------------------------------


def test_the_divergence_is_exact_where_curvature_is_the_same_in_all_directions() -> None:
    """Two Gaussians of covariance S^2, a distance d apart: alpha d^2 / (2 S^2)."""
    distance, steps, noise, c = 1.7, 5, 0.3, 0.8
    apart = c**steps * distance
    variance = noise**2 * sum(c ** (2 * t) for t in range(steps))
    rho = divergence(distance=distance, steps=steps, noise=noise, contraction=c)
    assert rho == pytest.approx(apart**2 / (2 * variance), rel=1e-12)
    # other curvatures contract more: the exact divergence in each direction is below
    for own in (0.0, 0.3, 0.79):
        exact = (own**steps * distance) ** 2 / (2 * noise**2 * sum(own ** (2 * t) for t in range(steps)))
        assert exact < rho


def test_the_divergence_of_any_loss_grows_with_what_the_gradients_may_differ() -> None:
    """With no start apart and one step, the gradients' difference alone: b^2 / (2 s^2)."""
    assert divergence(distance=0, steps=1, noise=2.0, contraction=0.9, drift=3.0) == pytest.approx(9 / 8)
    limit = divergence(distance=1, steps=7, noise=2.0, contraction=1 - 1e-9, drift=3.0)
    assert divergence(distance=1, steps=7, noise=2.0, contraction=1, drift=3.0) == pytest.approx(limit, rel=1e-6)


def test_epsilon_is_the_least_over_all_orders_and_noise_gives_it() -> None:
    rho, delta = 0.37, 1e-5
    orders = 1 + np.logspace(-3, 4, 200_001)
    assert epsilon_of(rho, delta) == pytest.approx(
        float((rho * orders + math.log(1 / delta) / (orders - 1)).min()), rel=1e-6
    )
    noise = noise_for(2.0, delta, distance=3.0, steps=4, contraction=0.9, drift=0.1)
    rho = divergence(distance=3.0, steps=4, noise=noise, contraction=0.9, drift=0.1)
    assert epsilon_of(rho, delta) == pytest.approx(2.0)
    with pytest.raises(OptionError, match="epsilon"):
        noise_for(0.0, delta, distance=1, steps=1, contraction=0.5)
    with pytest.raises(OptionError, match="delta"):
        epsilon_of(1.0, 0.0)


def test_noisy_descent_states_deletion_of_the_read_out_only_where_it_holds(retain: Examples, forget: Examples) -> None:
    run = methods["noisy_descent"].function
    whole = run(fitted(retain + forget), forget, retain, budget(20), epsilon=1.0)
    assert whole.deletion.holds
    assert whole.deletion.epsilon == pytest.approx(1.0)
    assert "deletion of the network" in str(whole.deletion)
    half = run(hidden(), forget, retain, budget(20), epsilon=1.0)
    assert not half.deletion.holds
    assert "no statement" in str(half.deletion)
    assert "never saw what is deleted" in str(half.deletion)
    clean = run(hidden(), forget, retain, budget(20), epsilon=1.0, clean_features=True)
    assert clean.deletion.holds
    assert "the read-out layers.1" in str(clean.deletion)
    everything = run(hidden(), forget, retain, Budget(steps=5, objective=Ridge()), layers="all", epsilon=5.0)
    assert everything.deletion.holds
    assert everything.deletion.drift > 0
    part = hidden()
    part.layers[0].requires_grad_(False)
    partly = run(part, forget, retain, Budget(steps=5, objective=Ridge()), layers="all", epsilon=5.0)
    assert not partly.deletion.holds
    assert "not changed" in str(partly.deletion)
    assert everything.deletion.epsilon == pytest.approx(5.0)


def test_noise_of_the_descent_is_as_stated_and_its_mean_is_the_solution() -> None:
    """At its end the read-out is normal around the descent without noise, with the variance of the sum of noise."""
    forget, retain = linear_examples(6, seed=1), linear_examples(12, seed=2)
    model, penalty, steps = fitted(forget + retain), 1e-2, 12
    y = inputs(retain)
    hessian = y.T @ y / 12 + penalty * torch.eye(5, dtype=torch.float64)
    values, axes = torch.linalg.eigh(hessian)
    factor = 1 - 2 / (values[0] + values[-1]) * values
    mean = ridge_solution(retain) + ((model.layers[0].weight - ridge_solution(retain)) @ axes * factor**steps) @ axes.T
    ends = []
    for seed in range(40):
        own = methods["noisy_descent"].function(
            copy.deepcopy(model), forget, retain, budget(steps, seed=seed), epsilon=1e5, radius=10.0
        )
        ends.append((own.layers[0].weight - mean).detach() @ axes)
    ends = torch.stack(ends)
    deviation = own.deletion.noise * torch.stack([factor ** (2 * t) for t in range(steps)]).sum(0).sqrt()
    torch.testing.assert_close(ends.square().mean((0, 1)).sqrt(), deviation, rtol=0.3, atol=0)
    assert bool((ends.mean((0, 1)).abs() < 4 * deviation / 120**0.5).all())


def test_noisy_descent_of_all_weights_that_breaks_the_network_is_told(retain: Examples, forget: Examples) -> None:
    class Brittle(Ridge):
        def __call__(self, model, batch, rng):
            return super().__call__(model, batch, rng) / 0.0

    with pytest.raises(DataError, match="raise epsilon"):
        methods["noisy_descent"].function(hidden(), forget, retain, budget(3, objective=Brittle()), layers="all")


# --- sharded training -----------------------------------------------------------------------------------------------


def slices_of(*seeds: int) -> list[Examples]:
    return [linear_examples(6, seed=seed) for seed in seeds]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(p, theirs[name]) for name, p in ours.items())


@pytest.mark.parametrize("rank", [1, None])
def test_deleting_a_slice_is_training_without_it_bit_for_bit(rank: int | None) -> None:
    one, two, three, four = slices_of(1, 2, 3, 4)
    plan, how = Plan(stages=2, sequences=2, rank=rank), budget(15)
    base = hidden()
    weights = parameters_to_vector(base.parameters()).detach().clone()
    trained = train_sharded(base, [[one, two], [three, four]], how, plan=plan)
    assert torch.equal(parameters_to_vector(base.parameters()), weights)
    assert not torch.equal(parameters_to_vector(trained.model.models[0].parameters()), weights)
    without = train_sharded(base, [[one, two.subset([])], [three, four]], how, plan=plan)
    left = trained.delete(two.digests)
    assert (left.cost.deactivated, left.cost.trained) == (
        3,
        0,
    )  # after one, and all of the sequence that starts with two
    assert same(left.model, without.model)
    done = left.go_on()
    assert same(done.model, without.model)
    for mine, wanted in zip(done.networks[0], without.networks[0], strict=True):
        assert mine.order == wanted.order == (0,)
        assert all(torch.equal(v, wanted.stages[0][name]) for name, v in mine.stages[0].items())
    assert (done.cost.trained, done.cost.of) == (1, 8)
    assert done.cost.samples == 15 * 6
    assert trained.price(two.digests) == dataclasses.replace(left.cost, trained=1)


def test_deleting_some_examples_of_a_slice_is_training_without_these() -> None:
    one, two = slices_of(1, 2)
    gone = two.subset([1, 3])
    plan, how = Plan(stages=2, rank=1), budget(15)
    base = hidden()
    trained = train_sharded(base, [[one, two]], how, plan=plan)
    rest = two.subset([0, 2, 4, 5])
    wanted = train_sharded(base, [[one, rest]], how, plan=plan)
    left = trained.delete(gone.digests)
    assert same(left.model, train_sharded(base, [[one]], how, plan=plan).model)
    assert not same(left.model, trained.model)
    assert same(left.go_on().model, wanted.model)


def test_stages_change_the_last_layers_first_and_nothing_else() -> None:
    one, two = slices_of(1, 2)
    trained = train_sharded(hidden(), [[one, two]], budget(5), plan=Plan(stages=2, rank=1))
    first, second = trained.networks[0][0].stages
    assert list(first) == ["layers.1.weight"]
    assert list(second) == ["layers.0.weight"]


def test_the_image_is_the_mean_of_shards() -> None:
    one, two = slices_of(1, 2)
    both = train_sharded(hidden(), [[one], [two]], budget(5), plan=Plan(stages=1, rank=1)).model
    batch = one.batch([0])
    images = [model(batch.y, batch.physics()) for model in both.models]
    assert not torch.equal(*images)
    torch.testing.assert_close(both(batch.y, batch.physics()), (images[0] + images[1]) / 2)


def test_a_sharded_training_goes_on_from_its_file(tmp_path) -> None:
    one, two, three = slices_of(1, 2, 3)
    plan, how, base = Plan(stages=2, sequences=2, rank=1), budget(8), hidden()
    left = train_sharded(base, [[one, two], [three]], how, plan=plan).delete(one.digests)
    save_sharded(tmp_path / "training.safetensors", left)
    shards = [[one.subset([]), two], [three]]
    read = load_sharded(tmp_path / "training.safetensors", base, shards, how)
    assert same(read.model, left.model)
    again, wanted = read.go_on(), left.go_on()
    assert again.cost.trained == wanted.cost.trained == 1
    assert again.cost.of == 5
    assert same(again.model, wanted.model)
    with pytest.raises(DataError, match="not the shards"):
        load_sharded(tmp_path / "training.safetensors", base, [[one, two], [three]], how)
    with pytest.raises(CheckpointError, match="another network"):
        load_sharded(tmp_path / "training.safetensors", hidden(1), shards, how)
    with pytest.raises(CheckpointError, match="no such file"):
        load_sharded(tmp_path / "none.safetensors", base, shards, how)


def test_bad_shards() -> None:
    one, two = slices_of(1, 2)
    with pytest.raises(DataError, match="disjoint"):
        train_sharded(hidden(), [[one, one]], budget(2))
    with pytest.raises(OptionError, match="at most a slice a stage"):
        train_sharded(hidden(), [[one, two]], budget(2), plan=Plan(stages=1))
    with pytest.raises(OptionError, match="some have examples"):
        train_sharded(hidden(), [[one.subset([])]], budget(2))
    with pytest.raises(OptionError, match="at least as many layers"):
        train_sharded(fitted(one), [[one, two]], budget(2), plan=Plan(stages=2, rank=1))
    trained = train_sharded(hidden(), [[one]], budget(2), plan=Plan(stages=1, rank=1))
    with pytest.raises(DataError, match="only what was trained on"):
        trained.delete(two.digests)
    with pytest.raises(DataError, match="deactivated"):
        _ = trained.delete(one.digests).model


# --- core-set -------------------------------------------------------------------------------------------------------


def test_an_isolation_forest_finds_what_lies_apart() -> None:
    points = np.random.default_rng(0).normal(size=(60, 4))
    points[[7, 23, 41]] += 9.0
    scores = isolation(points, seed=1)
    assert set(np.argsort(scores)[-3:]) == {7, 23, 41}
    assert scores[[7, 23, 41]].min() > 0.6 > np.median(scores)
    np.testing.assert_array_equal(scores, isolation(points, seed=1))
    np.testing.assert_allclose(isolation(np.zeros((8, 2))), 0.5)  # nothing to cut: all are as the mean


def test_mean_length_of_paths() -> None:
    """2 H(n - 1) - 2 (n - 1) / n with the asymptotic harmonic number, and 1 for two points."""
    assert mean_length(1) == 0
    assert mean_length(2) == 1
    harmonic = sum(1 / i for i in range(1, 256))
    assert mean_length(256) == pytest.approx(2 * harmonic - 2 * 255 / 256, rel=1e-3)


def test_the_core_set_is_without_outliers_in_the_same_order() -> None:
    examples = linear_examples(20, seed=1)
    odd = [3, 11]
    items = [
        dataclasses.replace(item, content=(item.content[0] + 30.0 * (i in odd), *item.content[1:]))
        for i, item in enumerate(examples)
    ]
    core = core_set(hidden(), Examples(items, collate=examples._collate), budget(), outliers=0.1)
    assert core.names == tuple(name for i, name in enumerate(examples.names) if i not in odd)
    assert len(core_set(hidden(), examples, budget(), outliers=0.0)) == 20
    with pytest.raises(OptionError, match="share"):
        core_set(hidden(), examples, budget(), outliers=1.0)


# --- all of them on MRI ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans() -> Examples:
    def image(rng: torch.Generator) -> tuple[Tensor, str]:
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        inside = ((rows / 0.8) ** 2 + (columns / 0.7) ** 2 < 1).float()
        return inside * (0.5 + 0.5 * torch.rand(32, 32, generator=rng)), "phantom"

    how = Acquisition(coils=(3, 3), calibration=(8, 8), layers=0.0)
    data = SimulatedScans(image, length=6, acquisition=how, matrix=(32, 32))
    return Examples([item_of(data[i], origin=f"phantom{i}", index=i) for i in range(6)])


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


@pytest.mark.parametrize("network", ["unet", "recurrentvarnet", "ista-net"])
@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["supervised", "self-supervised"])
@pytest.mark.parametrize("name", MINE)
def test_every_method_on_mri(name: str, objective: Objective, network: str, scans: Examples) -> None:
    """It runs without targets where the objective needs none, changes the network and no more than its own copy."""
    if not objective.needs_truth:
        scans = Examples([dataclasses.replace(i, content=dataclasses.replace(i.content, target=None)) for i in scans])
    model = tiny(network, **({"channels": 2} if network == "ista-net" else {}))
    assert isinstance(model, LearnedReconstructor)
    told: list[int] = []
    how = Budget(steps=2, batch_size=2, objective=objective, progress=lambda done, _all: told.append(done))
    before = frozen(model)
    forget, retain = scans.subset([0, 1]), scans.subset([2, 3, 4, 5])
    new = methods[name].function(copy.deepcopy(model), forget, retain, how, **OPTIONS.get(name, {}))
    assert type(new) is type(model)
    assert not new.training
    assert all(bool(torch.isfinite(p).all()) for p in new.parameters())
    assert not torch.equal(parameters_to_vector(new.parameters()), parameters_to_vector(before.parameters()))
    assert told == ([] if name == "analytic" else [1, 2])
    if network != "unet":
        return
    again = methods[name].function(
        copy.deepcopy(model), forget, retain, dataclasses.replace(how), **OPTIONS.get(name, {})
    )
    assert torch.equal(parameters_to_vector(new.parameters()), parameters_to_vector(again.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
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
def test_bad_options(name: str, options: dict, match: str, retain: Examples, forget: Examples) -> None:
    with pytest.raises(OptionError, match=match):
        methods[name].function(hidden(), forget, retain, budget(4), **options)


def test_searches_name_options_that_there_are() -> None:
    import inspect

    for name in MINE:
        assert methods[name].search.keys() <= inspect.signature(methods[name].function).parameters.keys()
        assert methods[name].search, name
