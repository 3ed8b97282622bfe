"""`recon.unlearning.attribution.run.attribute` and ``recon attribute``."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from cli_scans import kspace, phantom, refused, save
from networks import tiny
from test_attribution import mri_examples

from recon.cards import Card
from recon.checkpoint import save_checkpoint
from recon.cli import main
from recon.physics.errors import OptionError
from recon.unlearning.attribution.run import _segments, attribute
from recon.unlearning.budget import Budget, descend
from recon.unlearning.objectives import Supervised

FEW = ("--matrix", "32", "32", "--acceleration", "2")


@pytest.fixture(scope="module")
def trained():
    """A network that was trained on three of six slices, and one from the middle of its training."""
    train, model, states = mri_examples(6), tiny("unet"), []
    budget = Budget(steps=30, batch_size=3, lr=1e-2, progress=lambda *_: states.append(
        {key: value.clone() for key, value in model.state_dict().items()}
    ))  # fmt: skip
    batches = train.subset([0, 1, 2]).endless(3, budget.rng(0))
    descend(model, budget, lambda _step, rng: budget.loss(model, next(batches), rng))
    middle = tiny("unet").eval()
    middle.load_state_dict(states[14])
    return model, middle, train


@pytest.mark.parametrize("method", ["source", "influence", "tracin"])
def test_a_slice_that_was_trained_on_helps_itself_most(trained, method) -> None:
    model, middle, train = trained
    told = []
    found = attribute(
        model,
        train.subset([1]),
        train.subset([0, 1, 2]),
        method=method,
        figure="loss",
        checkpoints=[middle],
        steps=30,
        lr=5e-3,
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert found.method == method
    assert found.helpful(1) == [1]
    assert found.values == pytest.approx([Supervised()(model, train.batch([1]), torch.Generator()).item()])
    torch.testing.assert_close(found.mean, found.scores[0] / found.values[0])
    assert told[-1][0] == told[-1][1] == len(told)
    assert found.files == pytest.approx({
        "file0": float(found.mean[:2].sum()), "file1": float(found.mean[2])
    })  # fmt: skip


def test_both_ends_are_sorted_and_of_one_sign(trained) -> None:
    model, _, train = trained
    found = attribute(model, train.subset([3]), train)
    assert (found.method, found.figure) == ("influence", "hallucination")
    harmful, helpful = found.harmful(10), found.helpful(10)
    assert sorted(harmful + helpful) == list(range(6))
    assert [float(found.mean[i]) for i in harmful] == sorted(v for v in found.mean.tolist() if v < 0)
    assert [float(found.mean[i]) for i in helpful] == sorted((v for v in found.mean.tolist() if v > 0), reverse=True)
    assert not model.training


def test_every_module_keeps_its_mode(trained, tmp_path) -> None:
    model, _, train = trained
    model = copy.deepcopy(model).train()
    list(model.modules())[-1].eval()  # as a layer that is held fixed
    before = [module.training for module in model.modules()]
    found = attribute(model, train.subset([0]), train.subset([0, 1]), method="influence")
    found.report(tmp_path / "a.html")
    assert [module.training for module in model.modules()] == before


def test_segments_share_the_steps() -> None:
    networks = [tiny("unet") for _ in range(4)]
    found = _segments(networks, 10, [4.0, 2.0, 1.0, 0.5])
    assert [segment.steps for segment in found] == [5, 3, 2]
    assert [segment.lr for segment in found] == [3.0, 1.0, 0.5]
    assert [len(segment.models) for segment in found] == [2, 1, 1]
    assert [s.steps for s in _segments(networks[:1], 7, 0.1)] == [7]
    with pytest.raises(OptionError, match="a learning rate for"):
        _segments(networks, 10, [1.0, 2.0])


def test_bad_calls(trained) -> None:
    model, _, train = trained
    with pytest.raises(OptionError, match="asks for the steps"):
        attribute(model, train, train, method="source")
    with pytest.raises(OptionError, match="no such method"):
        attribute(model, train, train, method="oracle")
    with pytest.raises(OptionError, match=r"empty set.*0 queries"):
        attribute(model, train.subset([]), train)
    with pytest.raises(OptionError, match=r"empty set.* 0 to train"):
        attribute(model, train, train.subset([]))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "train"
    folder.mkdir()
    for i in range(2):
        save(folder / f"scan{i}.npz", kspace(2, seed=i, mask=np.ones((48, 40), bool)))
    save_checkpoint(tmp_path / "old.safetensors", tiny("unet", features=7), Card())
    save_checkpoint(tmp_path / "net.safetensors", tiny("unet"), Card())
    image = nibabel.Nifti1Image(phantom(2, (48, 56)).T, np.diag([1.0, 1.0, 5.0, 1.0]))
    nibabel.save(image, tmp_path / "query.nii")
    return {"train": folder, "model": tmp_path / "net.safetensors", "query": tmp_path / "query.nii"}


def command(files: dict[str, Path], *more: str | Path) -> list[str]:
    given = [f"--{name}={path}" for name, path in files.items()]
    return ["attribute", *given, *FEW, *map(str, more)]


def test_from_files_to_a_page(files, tmp_path, capsys) -> None:
    page = tmp_path / "a.html"
    assert main(command(files, "--slices", "1", "--top", "2", "--out", page)) == 0
    out = capsys.readouterr().out
    assert "harm most" in out
    assert "scan0.npz, slice" in out
    assert "scan1.npz" in out
    assert "hallucination" in out
    html = page.read_text()
    assert 4 < html.count("<img") == 4 + html.count("%</figcaption>") <= 8
    assert "http" not in html.replace("http-equiv", "")
    assert "query.nii, slice 1" in html
    assert "exists already" in refused(capsys, *command(files, "--out", page))


def test_json_and_the_steps_of_the_training(files, tmp_path, capsys) -> None:
    out = tmp_path / "a.json"
    more = ("--checkpoints", files["model"], "--steps", "20", "--lr", "1e-3", "5e-4", "--json", "--out", out)
    assert main(command(files, "--most", "1", "--figure", "error", *more)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"] == "source"
    assert told["figure"] == "error"
    assert [one["name"] for one in told["queries"]] == ["query.nii, slice 0", "query.nii, slice 1"]
    assert [one["file"] for one in told["examples"]] == ["scan0.npz", "scan1.npz"]
    assert all(len(one["scores"]) == 2 for one in told["examples"])
    stored = json.loads(out.read_text())
    assert stored == {key: value for key, value in told.items() if key != "output"}


def test_data_without_truth_are_judged_by_themselves(files, tmp_path, capsys) -> None:
    files["query"] = save(tmp_path / "scan.npz", kspace(1))
    assert main(command(files, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["figure"] == "loss"
    assert "compares with a target" in refused(capsys, *command(files, "--figure", "hallucination"))


def test_bad_commands(files, tmp_path, capsys) -> None:
    assert "FILE.html or FILE.json" in refused(capsys, *command(files, "--out", tmp_path / "a.pdf"))
    assert "no such file of weights" in refused(capsys, *command(files, "--checkpoints", tmp_path / "no.safetensors"))
    assert "at least one slice" in refused(capsys, *command(files, "--top", "0"))
    assert "other structure" in refused(capsys, *command(files, "--checkpoints", tmp_path / "old.safetensors",
                                                        "--steps", "9", "--lr", "1e-3"))  # fmt: skip
