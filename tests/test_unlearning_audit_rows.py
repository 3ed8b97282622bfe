"""The rows of the audit of unlearning: each one's mathematics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from audit_problems import QUICK, linear, mri, networks, sets
from unlearning_problems import Ridge, fitted, linear_examples

from recon.hallucination import null_part
from recon.physics.errors import DataError
from recon.unlearning.audit import Effort, audit
from recon.unlearning.audit.features import Probe, layer_groups, linear_cka
from recon.unlearning.audit.hallucination import hallucination, structures
from recon.unlearning.audit.leak import expected_best, leak, with_noise
from recon.unlearning.audit.membership import area, attack, membership, roc
from recon.unlearning.audit.relearning import area_under, quantised, relearning, relearning_curve
from recon.unlearning.audit.restoration import corrupted, restoration
from recon.unlearning.audit.shadow import halves, shadow_levels, shadow_membership, unseen_level
from recon.unlearning.audit.subjects import CannotError, Subjects, by_volume, example_losses
from recon.unlearning.audit.training import trained
from recon.unlearning.audit.worst_case import capped_simplex, hardest
from recon.unlearning.examples import Examples

# Closed forms


def test_area_counts_pairs_and_ties_half() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 13).tolist(), rng.integers(-2, 7, 17).tolist()
    pairs = np.subtract.outer(members, others)
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert area(members, others) == pytest.approx(expected)
    false, true = roc(members, others)
    assert np.trapezoid(true, false) == pytest.approx(expected)  # the same area, by the curve
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_true_positives_are_told_at_one_percent_of_false_ones() -> None:
    found = attack([3.0, 5.0, 0.5, 0.4], [1.0, 4.0, *[0.0] * 198])
    assert found["tpr"] == 0.5  # the threshold may let in 2 of 200 others, and lets in 1.0 and 4.0 above 0.5
    assert attack([3.0, 5.0], [4.0] * 20)["tpr"] == 0.5  # one of 20 is more than 1 %: none may pass
    assert attack([2.0, 2.0], [1.0] * 5)["auc"] == 1


def test_cka_ignores_rotations_scale_and_shift_and_is_the_formula() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=g), torch.randn(50, 4, generator=g)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g))[0]
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1, abs=1e-6)
    centre = torch.eye(50, dtype=torch.float64) - 1 / 50
    k, m = (centre @ (v.double() @ v.double().T) @ centre for v in (x, y))
    assert linear_cka(x, y) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), rel=1e-9)  # by HSIC
    assert np.isnan(linear_cka(x, torch.ones(50, 2)))


def test_probe_is_weighted_ridge_regression_and_shifts_do_not_matter() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=g) + torch.tensor([4.0, 0, 0]), torch.randn(40, 3, generator=g)
    predict = Probe(a, b)
    assert (predict(a) > 0).all()
    assert (predict(b) < 0).float().mean() > 0.8
    torch.testing.assert_close(Probe(9 * a + 5, 9 * b + 5)(9 * a + 5), predict(a))
    x = torch.cat([a, b]).double()
    z = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(45, 1, dtype=x.dtype)], 1)
    w = torch.cat([torch.full((5,), 4.5), torch.full((40,), 45 / 80)]).double()
    t = torch.cat([torch.ones(5), -torch.ones(40)]).double()
    expected = torch.linalg.solve(z.T @ (w[:, None] * z) + 45 * torch.eye(4), z.T @ (w * t))
    torch.testing.assert_close(predict.weights, expected)


def test_expected_best_is_the_mean_over_all_subsets() -> None:
    from itertools import combinations

    values = torch.tensor([[0.3, -1.0, 2.0, 0.7, 0.1], [1.0, 1.0, 0.0, 5.0, 2.0]], dtype=torch.float64)
    for k in (1, 2, 4, 5):
        expected = [np.mean([max(c) for c in combinations(row.tolist(), k)]) for row in values]
        torch.testing.assert_close(expected_best(values, k), torch.tensor(expected, dtype=torch.float64))


def test_structures_are_connected_regions_of_five_pixels() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[0, :5] = True
    mask[3:7, 3:7] = np.eye(4, dtype=bool)  # a diagonal of four is too small
    mask[8, 8:12], mask[9, 7] = True, True  # five, one of them by a corner
    assert structures(mask) == 2


def test_capped_simplex_is_the_nearest_point() -> None:
    g = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(9, generator=g, dtype=torch.float64)
    found = capped_simplex(x, 3.0)
    assert float(found.sum()) == pytest.approx(3, abs=1e-9)
    assert found.min() >= 0
    assert found.max() <= 1
    for _ in range(50):
        other = capped_simplex(torch.randn(9, generator=g, dtype=torch.float64), 3.0)
        assert float((x - found) @ (other - found)) <= 1e-8  # the variational inequality of a projection


def test_area_under_a_curve() -> None:
    assert area_under([0, 1, 5], [4.0, 2.0, 2.0]) == pytest.approx((3 + 8) / 5)


def test_quantised_weights_have_255_levels_a_row_and_the_original_stays() -> None:
    model = networks()["joint"]
    before = copy.deepcopy(model.state_dict())
    own = quantised(model)
    for name, weight in own.named_parameters():
        old = before[name]
        if weight.ndim < 2:
            torch.testing.assert_close(weight.detach(), old, rtol=0, atol=0)
            continue
        step = old.flatten(1).abs().amax(1, keepdim=True) / 127
        levels = weight.detach().flatten(1) / step
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
        assert ((weight - old).flatten(1).abs() <= 0.501 * step).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_groups_of_layers_are_their_modules() -> None:
    names = ["net.down.0.0", "net.down.0.3", "net.bottom.0", "net.up.0.0", "net.last"]
    assert layer_groups(names) == {
        "down.0": names[:2],
        "bottom": names[2:3],
        "up.0": names[3:4],
        "last": names[4:],
    }
    many = [f"net.{i // 4}.part.{i}.conv" for i in range(40)]
    assert len(layer_groups(many)) == 10


# Rows on ridge regression


def test_membership_and_its_distance_to_the_oracle() -> None:
    subjects = linear()
    row = membership(subjects)
    assert row.figures["distance to oracle"] == 0  # it is the oracle
    assert row.figures["joint"]["auc"] > row.figures["oracle"]["auc"]
    losses = example_losses(subjects.models["joint"], subjects.sets["forget"], Ridge(), 0)
    y, x = (torch.stack([item.content[i] for item in subjects.sets["forget"]]) for i in (0, 1))
    w = subjects.models["joint"].layers[0].weight
    expected = 0.5 * (y @ w.T - x).square().sum(1) + 0.5e-2 * w.square().sum()
    torch.testing.assert_close(losses, expected.detach())


def test_members_are_told_from_the_non_members_that_were_given() -> None:
    subjects = linear()
    subjects.sets["non-members"] = linear_examples(30, seed=1)[20:]
    joint = membership(subjects).figures["joint"]
    losses = [example_losses(subjects.models["joint"], e, Ridge(), 0).tolist()
              for e in (subjects.sets["forget"], subjects.sets["non-members"])]  # fmt: skip
    assert joint["auc"] == area([-x for x in losses[0]], [-x for x in losses[1]])
    assert joint["others"] == 10
    with pytest.raises(DataError, match="non-members set holds examples"):
        audit(fitted(subjects.sets["forget"]), fitted(subjects.sets["forget"]), forget=subjects.sets["forget"],
              non_members=subjects.sets["forget"][:3], objective=Ridge())  # fmt: skip


def test_losses_from_images_are_those_of_the_objective() -> None:
    subjects = mri()
    expected = example_losses(subjects.models["joint"], subjects.sets["retain test"], subjects.objective, 0)
    torch.testing.assert_close(subjects.losses("joint", "retain test"), expected, rtol=1e-5, atol=0)


def test_relearning_of_the_oracle_is_the_oracles_and_of_the_joint_network_faster() -> None:
    subjects = linear(effort=Effort(relearn_steps=(1, 5, 20), lr=0.02))
    row = relearning(subjects)
    assert row.figures["as it is"]["area over the oracle's"] == 1
    assert row.figures["as it is"]["area"]["joint"] < row.figures["as it is"]["area"]["oracle"]
    assert "third organ" in row.cannot["after a third organ"]
    curve = row.figures["as it is"]["curves"]["oracle"]
    assert len(curve) == len(row.figures["steps"]) == 4
    assert curve[-1] < curve[0]
    before = copy.deepcopy(subjects.models["oracle"].state_dict())
    assert relearning_curve(subjects, subjects.models["oracle"]) == curve  # the same seed, the same curve
    assert all(torch.equal(v, before[k]) for k, v in subjects.models["oracle"].state_dict().items())


def test_a_third_organ_is_trained_on_before() -> None:
    subjects = linear()
    subjects.sets["third organ"] = linear_examples(8, seed=3)
    curves = relearning(subjects).figures["after a third organ"]["curves"]
    plain = relearning(subjects).figures["as it is"]["curves"]
    assert curves["unlearned"] == curves["oracle"]
    assert curves["oracle"][0] != plain["oracle"][0]


def test_shadow_models_see_halves_and_others_tell_the_level() -> None:
    examples = linear_examples(10)
    seen = halves(examples, 4, seed=0, volumes=False)
    assert (seen.sum(0) == 2).all()
    assert (seen.sum(1) == 5).all()
    by_file = halves(sets()["forget"], 2, seed=0, volumes=True)
    for members in by_volume(sets()["forget"]).values():
        assert by_file[0, members].all() or not by_file[0, members].any()  # whole volumes
    losses = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    mask = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1]]).bool()
    assert unseen_level(losses, mask).tolist() == [(3 + 9) / 2, (1 + 7) / 2, (2 + 5) / 2]


def test_shadow_models_tell_members_apart_where_the_loss_alone_does_not() -> None:
    """Members whose slices are hard: their loss is above that of easy others, but far below what it should be."""
    subjects = linear(effort=Effort(shadows=2, train_steps=30, lr=0.05))
    hard = [dataclass_item(item, 5.0) for item in subjects.sets["forget"]]
    subjects.sets["forget"] = Examples(hard, collate=subjects.sets["retain"].batch_of)
    subjects.models["joint"] = fitted(subjects.sets["forget"])
    by_loss = membership(subjects).figures["joint"]["auc"]
    by_shadows = shadow_membership(subjects).figures["joint"]["auc"]
    assert by_loss < 0.3
    assert by_shadows > 0.7
    assert len(shadow_levels(subjects)[0]) == len(hard)


def dataclass_item(item, factor):
    import dataclasses

    y, x, name = item.content
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(name)), dtype=x.dtype)
    return dataclasses.replace(item, content=(factor * y, factor * x + noise, name))


def test_noise_is_added_at_the_level_of_the_measurements_where_they_are() -> None:
    examples = sets()["forget"]
    batch = examples.batch([0, 1])
    noisy = with_noise(batch, torch.Generator().manual_seed(0))
    change = (noisy.y - batch.y)[batch.y != 0]
    assert torch.equal(noisy.y == 0, batch.y == 0)
    sigma = batch.sigma.mean()
    assert float(change.real.std() / sigma) == pytest.approx(1, rel=0.1)
    assert float(change.imag.std() / sigma) == pytest.approx(1, rel=0.1)
    unknown = with_noise(linear_examples(400).batch(range(400)), torch.Generator().manual_seed(0))
    change = unknown.y - linear_examples(400).batch(range(400)).y
    assert float(change.std() / unknown.y.std()) == pytest.approx(0.01, rel=0.1)


def test_leak_of_the_oracle_is_nothing_and_of_the_joint_network_something() -> None:
    subjects = linear()
    same = leak(subjects).figures
    assert set(same["leak at k, dB"].values()) == {0.0}
    joint = leak(subjects.about(subjects.models["joint"], None, None)).figures
    assert joint["leak at k, dB"]["3"] > 1
    best = joint["quality of the best of k, dB"]["unlearned"]
    assert best["1"] < best["2"] < best["3"]


def test_the_worst_case_finds_what_unlearning_leaves() -> None:
    """Examples of what is kept, hidden among those to be forgotten, cannot be forgotten: keeping defends them."""
    subjects = linear()
    hidden = linear_examples(30, seed=2)[24:27]
    subjects.sets["forget"] = linear_examples(9, seed=1) + hidden
    subjects.models["joint"] = fitted(subjects.sets["forget"] + subjects.sets["retain"])
    weights = hardest(subjects, subjects.sets["forget"], 3)
    assert float(weights.sum()) == pytest.approx(3, abs=1e-6)
    assert set(weights.topk(3).indices.tolist()) == {9, 10, 11}


def test_corrupted_targets_are_those_of_other_slices_of_the_group() -> None:
    examples = sets()["forget"]
    bad = corrupted(examples, 0)
    assert bad.digests == examples.digests
    batch = bad.batch(range(len(bad)))
    truth = {item.name: examples.batch([i]) for i, item in enumerate(examples)}
    for i, name in enumerate(batch.names):
        torch.testing.assert_close(batch.y[i], truth[name].y[0])
        matches = [n for n, b in truth.items() if torch.equal(b.target[0], batch.target[i])]
        assert len(matches) == 1
        assert matches[0] != name
    with pytest.raises(CannotError, match="one example"):
        corrupted(examples[:1], 0)


def test_restoration_is_1_for_going_back_and_0_for_doing_nothing() -> None:
    effort = Effort(train_steps=30, lr=0.05)
    subjects = linear(effort=effort, method=lambda model, _forget, _retain: model)
    found = restoration(subjects).figures
    assert found["forget test"]["share restored"] == pytest.approx(0)
    joint = subjects.models["joint"]
    back = subjects.about(subjects.models["unlearned"], lambda *_: copy.deepcopy(joint), None)
    assert restoration(back).figures["forget test"]["share restored"] == pytest.approx(1)
    with pytest.raises(CannotError, match="method"):
        restoration(linear())


def test_training_in_the_audit_leaves_the_network_and_looks_when_told() -> None:
    subjects, seen = linear(), []
    model = subjects.models["joint"]
    before = model.layers[0].weight.detach().clone()
    other = trained(
        subjects, model, [subjects.sets["forget"]], 4, purpose=1, looks=(2, 4), look=lambda m: seen.append(m.training)
    )
    assert torch.equal(model.layers[0].weight, before)
    assert not torch.equal(other.layers[0].weight, before)
    assert seen == [False, False]


# Rows on MRI


def test_null_space_energy_is_that_of_the_projected_error() -> None:
    subjects = mri()
    row = hallucination(subjects)
    total, truth = 0.0, 0.0
    test = subjects.sets["retain test"]
    for batch in test.batches(1):
        with torch.no_grad():
            error = subjects.models["joint"](batch.y, batch.physics()) - batch.target
        total += float(null_part(error, batch.physics()).square().sum())
        truth += float(batch.target.square().sum())
    assert row.figures["null-space energy"]["joint"] == pytest.approx(total / truth, rel=1e-3)
    kinds = [picture.kind for picture in row.pictures]
    assert kinds == ["reconstruction", "null space"] * 3
    assert list(row.pictures[0].images) == ["truth", "unlearned", "joint", "oracle"]


def test_response_to_a_hidden_piece_is_1_for_a_network_that_paints_it() -> None:
    """A least-squares solver hardly moves; one that scales up what it hardly sees completes the piece."""
    from deepinv.models import Reconstructor

    class Amplifier(Reconstructor):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, y, physics):
            x = physics.A_adjoint(y)
            return x + self.gain * null_part(x, physics)

    subjects = mri()
    names = {"unlearned": Amplifier(30.0), "joint": Amplifier(3.0), "oracle": Amplifier(0.0)}
    found = hallucination(Subjects(models=names, sets=subjects.sets, effort=QUICK)).figures
    response = found["response to a piece in the null space"]
    assert response["worst"]["unlearned"] > 0.5 > response["worst"]["joint"] > response["worst"]["oracle"]
    assert response["energy seen"] < 0.1
    assert all(response["worst"][name] >= response["mean"][name] for name in names)


def test_hallucination_needs_truth_and_mri() -> None:
    with pytest.raises(CannotError, match="MRI only"):
        hallucination(linear())
