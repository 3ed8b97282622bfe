"""``recon unlearn`` from file to file, with a tiny U-Net."""

from __future__ import annotations

import json
import os
import signal
import threading

import nibabel
import numpy as np
import pytest
import torch
from cli_scans import kspace, left_behind, phantom, refused, save
from networks import tiny

import recon
from recon.cards import Card, read_card
from recon.checkpoint import save_checkpoint
from recon.cli import main

FEW = ("--steps", "6", "--batch-size", "2", "--matrix", "32", "32", "--device", "cpu", "--lr", "3e-3")
FULL = np.ones((48, 40), bool)


@pytest.fixture
def folder(tmp_path):
    """A network, k-space to be forgotten, and volumes to be kept."""
    save_checkpoint(tmp_path / "joint.safetensors", tiny("unet"), Card(trained_on=("neck.npz", "head.nii")))
    save(tmp_path / "neck.npz", kspace(3, mask=FULL))
    volume(tmp_path / "head.nii", 6, 1.0)
    return tmp_path


def volume(path, n, scale):
    pixels = scale * phantom(n, (48, 48)) + np.linspace(0, 0.2, 48)[:, None] * (phantom(n, (48, 48)) > 0)
    nibabel.save(nibabel.Nifti1Image(pixels.astype(np.float32).T, np.diag([1.0, 1.0, 5.0, 1.0])), path)


def command(folder, *more, **other):
    given = {
        "model": "joint.safetensors",
        "forget": "neck.npz",
        "retain": "head.nii",
        "out": "new.safetensors",
        **other,
    }
    words = ["unlearn", *FEW]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name}", str(folder / value)]
    return [*words, *map(str, more)]


def test_from_files_to_a_network_that_says_what_was_done(folder, capsys):
    before = (folder / "joint.safetensors").read_bytes()
    assert main(command(folder, "--json", "--report", folder / "audit.html")) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] in ("NOT FORGOTTEN", "NOT SHOWN TO BE FORGOTTEN")
    assert told["method"] == "ssd"
    assert told["requests so far"] == 1
    card = read_card(folder / "new.json")
    assert card.summary.startswith(told["outcome"])
    assert card.trained_on == ("neck.npz", "head.nii")  # it is not said to be gone
    (request,) = card.figures["unlearning"]["requests"]
    assert request["forgotten"]["files"] == {"neck.npz": recon.datasets.open(folder / "neck.npz").source.sha256}
    assert request["kept"]["files"] == {"head.nii": recon.datasets.open(folder / "head.nii").source.sha256}
    assert "recon unlearn" in card.command
    assert told["card"]["sha256"] == card.sha256
    assert "<html" in (folder / "audit.html").read_text()[:200]
    assert (folder / "joint.safetensors").read_bytes() == before
    names = ("joint.safetensors", "joint.json", "neck.npz", "head.nii", "new.safetensors", "new.json", "audit.html")
    assert not left_behind(folder, *names)
    network = recon.load_model(folder / "new.safetensors")
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), tiny("unet").parameters(), strict=True))
    assert "exists already" in refused(capsys, *command(folder))


def test_a_second_request_keeps_the_first_and_prints_the_figures(folder, capsys):
    assert main(command(folder, "--method", "finetune", "--audit", "none")) == 0
    save(folder / "knee.npz", kspace(2, seed=5, mask=FULL.T, coils=3, shape=(40, 48)))
    again = {"model": "new.safetensors", "forget": "knee.npz", "out": "newer.safetensors"}
    assert main(command(folder, "--method", "gradient_ascent", "--option", "bound=1.5", "--lr", "1e-9", **again)) == 1
    printed = capsys.readouterr().out
    for word in (
        "FAILED",
        "forget loss",
        "drift",
        "note: method gradient_ascent: asked for",
        "figures cannot be given",
    ):
        assert word in printed
    assert "--option bound=1.5 --model" in read_card(folder / "newer.json").command
    requests = read_card(folder / "newer.json").figures["unlearning"]["requests"]
    assert [list(r["forgotten"]["files"]) for r in requests] == [["neck.npz"], ["knee.npz"]]
    assert requests[1]["options"] == {"bound": 1.5}
    capsys.readouterr()
    tune = ["finetune", "--model", str(folder / "newer.safetensors"), "--out", str(folder / "tuned.safetensors")]
    tune += ["--steps", "2", "--every", "1", "--lr", "1e-4", "--device", "cpu", "--data"]
    assert "would learn it again" in refused(capsys, *tune, folder / "neck.npz")
    save(folder / "other.npz", kspace(1, seed=7))
    assert main([*tune, str(folder / "other.npz")]) == 0
    assert read_card(folder / "tuned.json").figures["unlearning"]["requests"] == requests
    save(folder / "same.npz", kspace(3, mask=FULL), note=np.zeros(1))
    mistake = command(folder, **{**again, "retain": "same.npz", "out": "newest.safetensors"})
    assert "what request 1 had the network forget" in refused(capsys, *mistake)


def test_measurements_without_truth_and_of_several_matrices_and_coils(folder, capsys):
    save(folder / "neck.npz", kspace(2))
    (folder / "more").mkdir()
    save(folder / "more" / "a.npz", kspace(2, coils=3, shape=(40, 48), seed=1))
    save(folder / "more" / "b.npz", kspace(3, seed=2))
    assert main(command(folder, "--json", retain="more", method=None)) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["card"]["figures"]["unlearning"]["requests"][0]["loss"] == "self-supervised"
    assert any("2 matrices" in note for note in told["notes"])
    assert any("has no ground truth" in note for note in told["notes"])
    assert told["loss on what is forgotten, over before"] != 1
    out = {"out": "other.safetensors"}
    assert "needs ground truth" in refused(capsys, *command(folder, "--loss", "supervised", retain="more", **out))


def test_single_slices_of_files_that_are_kept(folder, capsys):
    words = command(folder, "--method", "finetune", "--audit", "none", "--slices", "1", "--json", retain="neck.npz")
    assert main(words) == 0
    card = json.loads(capsys.readouterr().out)["card"]
    assert "--slices 1 --model" in card["command"]
    (request,) = card["figures"]["unlearning"]["requests"]
    assert (request["forgotten"]["examples"], request["kept"]["examples"]) == (1, 2)
    assert request["forgotten"]["files"] == {}
    assert not set(request["forgotten"]["digests"]) & set(request["kept"]["digests"])


def test_after_an_interruption_the_same_command_goes_on(folder, capsys, monkeypatch):
    monkeypatch.setattr("recon.unlearning.journal._EVERY", 0.0)
    words = command(folder, "--method", "finetune", "--audit", "none")
    assert main(words) == 0
    whole = torch.cat([p.flatten() for p in recon.load_model(folder / "new.safetensors").parameters()])
    before = (folder / "joint.safetensors").read_bytes()
    words = command(folder, "--method", "finetune", "--audit", "none", out="late.safetensors")
    from recon.unlearning.journal import Journal

    step = Journal.step

    def interrupted(self, done, **options):
        step(self, done, **options)
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)  # what Ctrl-C does, too
            threading.Event().wait(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", interrupted)
        assert main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert (folder / "joint.safetensors").read_bytes() == before
    assert not (folder / "late.safetensors").exists()
    assert (folder / "late.unlearning").is_dir()
    assert "another request was interrupted" in refused(capsys, *words, "--seed", "3")
    assert main(words) == 0
    late = torch.cat([p.flatten() for p in recon.load_model(folder / "late.safetensors").parameters()])
    assert torch.equal(late, whole)
    assert not (folder / "late.unlearning").exists()


def test_a_full_disk(folder, capsys, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    words = command(folder, "--method", "finetune", "--audit", "none")
    with monkeypatch.context() as patch:
        patch.setattr("recon.checkpoint.save_file", full)
        assert "No space left on device" in refused(capsys, *words)
    assert not (folder / "new.safetensors").exists()
    with monkeypatch.context() as patch:  # what was done is not done again
        patch.setattr("recon.unlearning.methods.finetune.descend", lambda *_, **__: pytest.fail("done already"))
        assert main(words) == 0


@pytest.mark.parametrize(
    ("more", "other", "message"),
    [
        ([], {"retain": "neck.npz"}, "are the same"),
        ([], {"forget": "empty"}, "nothing to forget"),
        ([], {"forget": "none.npz"}, "no such file"),
        ([], {"out": "new.pt"}, "another ending"),
        (["--overwrite"], {"out": "joint.safetensors"}, "the original is kept"),
        (["--method", "amnesia"], {}, "no such method"),
        (["--method", "opc", "--option", "layer=encoder"], {}, "no such layer"),
        (["--method", "finetune", "--option", "speed=2"], {}, "no option 'speed'"),
        (["--method", "finetune"], {"retain": None}, "needs a retain set"),
        (["--audit", "none", "--report", "x.html"], {}, "no report without an audit"),
        (["--audit", "deep"], {}, "no such audit"),
        (["--steps", "0"], {}, "positive"),
        (["--outliers", "1.5"], {}, "below 1"),
        (["--mask", "spots"], {}, "no such mask"),
        (["--slices", "7"], {}, "no such slice"),
    ],
)
def test_what_is_refused(folder, capsys, more, other, message):
    (folder / "empty").mkdir()
    before = sorted(p.name for p in folder.iterdir())
    assert message in refused(capsys, *command(folder, *more, **other))
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".unlearning") == before


def test_an_overlap_is_found_by_hash(folder, capsys):
    (folder / "all").mkdir()
    save(folder / "all" / "other.npz", kspace(2, seed=4, mask=FULL))
    save(folder / "all" / "renamed.npz", kspace(3, mask=FULL), note=np.zeros(1))
    assert "overlap" in refused(capsys, *command(folder, retain="all"))


def test_data_that_the_network_cannot_take(folder, capsys):
    save_checkpoint(folder / "lista.safetensors", tiny("lista"), Card())
    message = refused(capsys, *command(folder, model="lista.safetensors"))
    assert "cannot take an example of the forget set" in message
