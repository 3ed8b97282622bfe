"""Sharded training: deletion is training without what is deleted, bit for bit; files; bad shards."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from unlearning_problems import (
    budget,
    fitted,
    hidden,
    linear_examples,
)

from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.unlearning.examples import Examples
from recon.unlearning.sharded import Plan, train_sharded
from recon.unlearning.sharded_files import load_sharded, save_sharded


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
