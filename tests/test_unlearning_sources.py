"""Sets of examples from files, folders, scans and batches."""

from __future__ import annotations

import hashlib

import nibabel
import numpy as np
import pytest
import torch
from cli_scans import kspace, phantom, save
from galaxies import observation
from networks import sparse_problem
from unlearning_problems import linear_examples

import recon
from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.training.data.simulated import Acquisition
from recon.training.data.slices import Sampling
from recon.training.examples import collate
from recon.training.operator_batch import OperatorBatch
from recon.unlearning.examples import check_disjoint
from recon.unlearning.sources import Reading, examples_of

HOW = Reading(
    sampling=Sampling(masks=("random",), accelerations=(2.0,), center=8),
    acquisition=Acquisition(coils=(3, 3), calibration=(10, 10), field_of_view=(1.0, 1.0)),
    matrix=(32, 32),
)


def full(n=2, seed=0):
    return kspace(n, seed=seed, mask=np.ones((48, 40), bool))


def volume(path, n=3, shape=(48, 56)):
    nibabel.save(nibabel.Nifti1Image(phantom(n, shape).T, np.diag([1.0, 1.0, 5.0, 1.0])), path)
    return path


def test_full_kspace_is_undersampled_by_the_seed_and_has_a_target(tmp_path):
    path = save(tmp_path / "a.npz", full())
    found = examples_of(path, how=HOW)
    assert found.files == {"a.npz": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert found.names == ("a.npz, slice 0", "a.npz, slice 1")
    assert {item.origin for item in found} == {"a.npz"}
    batch = found.batch([0, 1])
    assert batch.target.shape == (2, 2, 32, 32)
    assert 0.35 < float(batch.mask.float().mean()) < 0.65
    assert not torch.equal(batch.mask[0], batch.mask[1])
    alone = examples_of(path, how=Reading(sampling=HOW.sampling, matrix=(32, 32), slices=(1,)))
    assert torch.equal(alone.batch([0]).mask[0], batch.mask[1])  # whatever else is in the set
    other = examples_of(path, how=Reading(sampling=HOW.sampling, matrix=(32, 32), seed=1))
    assert not torch.equal(other.batch([0]).mask, batch.mask[:1])
    assert other.digests == found.digests  # before mask and noise


def test_undersampled_kspace_keeps_its_mask_and_has_no_target(tmp_path):
    data = kspace(2)
    found = examples_of(save(tmp_path / "a.npz", data), how=HOW)
    batch = found.batch([0, 1])
    assert batch.target is None
    assert torch.equal(batch.mask[:, 0], torch.from_numpy((data != 0).any(1)))
    assert found[0].group == (48, 40)


def test_volumes_are_simulated_as_in_training(tmp_path):
    path = volume(tmp_path / "a.nii")
    found = examples_of(path, how=HOW)
    assert len(found) == 3
    batch = found.batch([0, 1, 2])
    assert batch.y.shape == (3, 3, 32, 32)
    error = batch.physics().A(batch.target) - batch.y
    assert float((error * batch.mask).abs().square().mean().sqrt()) < 0.1  # the noise, and maps that are estimated
    again = examples_of(path, how=HOW).batch([0, 1, 2])
    assert torch.equal(again.y, batch.y)
    own = examples_of(path, how=Reading(acquisition=HOW.acquisition))
    assert own[0].group == (48, 56) == tuple(own.batch([0]).y.shape[2:])
    assert own.digests == found.digests
    chosen = examples_of(path, how=Reading(matrix=(32, 32), slices=(0, 2)))
    assert chosen.digests == {found[0].digest, found[2].digest}
    assert chosen.files == {}  # the file is not in it as a whole


def test_isotropic_volumes_give_planes_across_every_axis(tmp_path):
    cube = np.random.default_rng(0).random((48, 64, 56), dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(cube, np.eye(4)), tmp_path / "cube.nii")
    found = examples_of(tmp_path / "cube.nii", how=Reading(most=7))
    assert len(found) == 7
    assert [name[-8:] for name in found.names if "across" in name] == ["across y"] * 3 + ["across x"] * 2
    assert {item.group for item in found} == {(64, 48), (56, 48), (56, 64)}


def test_folders_are_searched_and_what_is_no_data_is_named(tmp_path):
    (tmp_path / "sub").mkdir()
    save(tmp_path / "a10.npz", full(1))
    save(tmp_path / "a2.npz", full(1, seed=1))
    save(tmp_path / "sub" / "a2.npz", full(1, seed=2))
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "README.txt").write_text("about the data")
    with pytest.warns(UserWarning, match=r"left out: .*README.txt"):
        found = examples_of(tmp_path, how=HOW)
    assert list(found.files) == ["a2.npz", "a10.npz", "sub/a2.npz"]
    assert len(found.digests) == 3
    assert found.batch([0, 1, 2]).y.shape[0] == 3
    several = examples_of([tmp_path / "a2.npz", tmp_path / "sub" / "a2.npz"], how=HOW)
    assert list(several.files) == ["a2.npz", str(tmp_path / "sub" / "a2.npz")]


def test_copies_under_other_names_are_found(tmp_path):
    save(tmp_path / "a.npz", full())
    save(tmp_path / "b.npz", full(), comment=np.zeros(1))  # the same slices, another file
    forget, retain = (examples_of(tmp_path / f"{name}.npz", how=HOW) for name in "ab")
    assert not set(forget.files.values()) & set(retain.files.values())
    with pytest.raises(DataError, match="are the same"):
        check_disjoint(forget, retain)
    half = examples_of(tmp_path / "b.npz", how=Reading(slices=(1,)))
    with pytest.raises(DataError, match=r"overlap.*a.npz, slice 1"):
        check_disjoint(forget, half)
    check_disjoint(examples_of(tmp_path / "a.npz", how=Reading(slices=(0,))), half)  # other slices of one scan


def test_scans_images_examples_and_batches_come_as_they_are(tmp_path):
    path = save(tmp_path / "a.npz", full(3))
    scan = recon.datasets.open(path)
    from_file = examples_of(path, how=HOW)
    from_scan = examples_of([scan], how=HOW)
    assert from_scan.digests == from_file.digests
    array = recon.datasets.Image(pixels=phantom(2, (48, 48)), source=recon.datasets.Source("array"))
    assert len(examples_of(array, how=HOW)) == 2
    batch = from_file.batch([0, 1, 2])
    examples = [item.content() for item in from_file]
    again = examples_of(batch)
    assert again.digests == examples_of(examples).digests
    assert torch.equal(again.batch([2, 0]).target, batch.target[[2, 0]])
    few = collate([examples[0], examples_of(kspace_of(2), how=HOW)[0].content()])
    assert examples_of(few)[1].content.y.shape[0] == 2  # coils that were filled in go
    assert examples_of(from_file) is from_file
    assert examples_of(list(from_file)).digests == from_file.digests


def kspace_of(coils):
    data = kspace(1, coils=coils, shape=(32, 32), mask=np.ones((32, 32), bool))
    return recon.datasets.Scan(kspace=data, source=recon.datasets.Source("array"))


def test_rows_of_batches_with_an_operator():
    y, physics = sparse_problem(batch=5)
    x = torch.randn(5, 1, 1, 8)
    batch = OperatorBatch(y=y, target=x, operator=physics, sigma=torch.ones(5), names=tuple("abcde"))
    found = examples_of([batch])
    assert found.names == tuple("abcde")
    assert len(found.digests) == 5
    part = found.batch([3, 1])
    assert torch.equal(part.target, x[[3, 1]])
    assert part.names == ("d", "b")
    assert part.operator is physics


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("recon.unlearning.sources._MEMORY", 60_000)  # one example of 32 x 32 and 3 coils
    found = examples_of(volume(tmp_path / "a.nii"), how=HOW)
    first, other = (found[i].content for i in (0, 1))
    assert first() is first()
    made = other()
    assert other() is not made
    assert torch.equal(other().y, made.y)


def test_bad_data(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        examples_of(tmp_path / "none.npz")
    (tmp_path / "text.txt").write_text("no data")
    with pytest.raises(FileFormatError, match="no known format"):
        examples_of(tmp_path / "text.txt")
    with pytest.raises(OptionError, match="nothing is known of"):
        examples_of([3])
    with pytest.raises(OptionError, match="no such slice"):
        examples_of(save(tmp_path / "a.npz", full()), how=Reading(slices=(5,)))
    with pytest.raises(OptionError, match="pixels"):
        Reading(matrix=(4, 4))
    with pytest.raises(OptionError, match="at least one"):
        Reading(most=0)
    data = full()
    data[0] = 0
    with pytest.warns(UserWarning, match=r"1 of 2 slices left out: .*all zero"):
        assert len(examples_of(save(tmp_path / "b.npz", data), how=HOW)) == 1
    data[1] = np.nan
    with pytest.raises(DataError, match="no slice can be used"):
        examples_of(save(tmp_path / "c.npz", data), how=HOW)
    assert len(examples_of([])) == 0
    with pytest.raises(OptionError, match="nothing to forget"):
        check_disjoint(examples_of([]), linear_examples(3))
    _, y, physics = observation(2)
    with pytest.raises(OptionError, match="nothing is known of"):
        examples_of((y, physics))
