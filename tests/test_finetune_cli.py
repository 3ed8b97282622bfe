"""``recon finetune`` from file to file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_scans import kspace, left_behind, refused, save
from galaxies import observation
from networks import tiny

import recon
from recon.cards import Card, read_card
from recon.checkpoint import save_checkpoint
from recon.cli import main
from recon.compressed import prepare_compressed
from recon.finetuning.data import measurements_of
from recon.finetuning.loop import Descent, descend
from recon.physics import BlockCompressedSensing
from recon.prepare import Preparation, prepare

FEW = ("--steps", "6", "--every", "2", "--lr", "5e-3", "--device", "cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny("recurrentvarnet"), Card(trained_on=("heads",)))
    return path


def test_from_a_scan_to_weights_that_reconstruct_it(tmp_path, weights, capsys):
    scan, out, image = save(tmp_path / "scan.npz", kspace(2)), tmp_path / "new.safetensors", tmp_path / "image.npz"
    arguments = ["finetune", "--model", str(weights), "--data", str(scan), "--out", str(out), *FEW]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["held-out error after"] < told["held-out error before"]
    assert told["improved"]
    assert [step for step, _ in told["history"]] == [2, 4, 6]
    card = read_card(out.with_suffix(".json"))
    done = card.figures["fine-tuning"]
    assert done["data"] == {"scan.npz": recon.datasets.open(scan).source.sha256}
    assert done["measurements"] == 2
    assert done["loss"].startswith("ssdu: ")
    assert card.trained_on[0] == "heads"
    assert card.command.startswith("recon finetune --data")
    assert "--lr 0.005" in card.command
    assert main(["reconstruct", str(scan), "--model", str(out), "--out", str(image), "--trust", "none"]) == 0
    before = out.read_bytes()
    assert "exists already" in refused(capsys, *arguments)
    assert out.read_bytes() == before
    assert main([*arguments, "--overwrite", "--rank", "2"]) == 0
    assert "held-out error" in capsys.readouterr().out
    assert not left_behind(
        tmp_path, "scan.npz", "tiny.safetensors", "tiny.json", "new.safetensors", "new.json", "image.npz"
    )


def test_slices_are_prepared_as_for_a_reconstruction(tmp_path):
    scan = recon.datasets.open(save(tmp_path / "scan.npz", kspace(3)))
    how = Preparation(device="cpu")
    found = measurements_of(scan, how=how, most=2)
    assert len(found) == 2
    for measurement, index in zip(found, (0, 2), strict=True):
        problem = prepare(scan, index, how)
        assert torch.equal(measurement.y, problem.y)
        assert float(measurement.physics.noise_model.sigma) == pytest.approx(problem.sigma)


def test_folders_and_lists_are_gone_through(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.npz", kspace())
    found = measurements_of(tmp_path, how=Preparation(device="cpu"))
    assert [origin.name for origin in found.origins] == ["a.npz", "b.npz"]
    assert len(measurements_of([tmp_path / "a.npz", tmp_path / "b.npz", tmp_path])) == 4


def test_stamps_are_taken_with_their_psf(tmp_path):
    _, y, physics = observation(20)
    stamps = recon.datasets.Stamps(
        pixels=y[:, 0].numpy(),
        psf=physics.psf[:, 0].numpy(),
        source=recon.datasets.Source("array"),
        sigma=physics.noise_model.sigma.numpy(),
    )
    found = measurements_of(stamps, how=Preparation(device="cpu"))
    assert [len(m.y) for m in found] == [16, 4]
    assert torch.allclose(found[0].y, y[:16])
    spread = measurements_of(stamps, how=Preparation(device="cpu"), most=1)
    assert [len(m.y) for m in spread] == [16]
    path = tmp_path / "shapes.safetensors"
    save_checkpoint(path, tiny("galaxy-admm"), Card())
    tuned = recon.finetune(path, stamps, descent=Descent(steps=2, every=2))
    assert tuned.card.figures["fine-tuning"]["loss"].startswith("sure: ")


@pytest.mark.parametrize("peak", [None, 255.0])
def test_compressed_measurements_are_prepared_as_for_a_reconstruction(peak):
    x = 255 * torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    matrix = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0][:20]
    y = BlockCompressedSensing(matrix, (16, 24), (8, 8)).A(x)
    scan = recon.datasets.CompressedScan(
        measurements=y.numpy(),
        matrix=matrix.numpy(),
        size=(16, 24),
        block=(8, 8),
        source=recon.datasets.Source("array"),
        sigma=2.0,
        colour="channels",
        peak=peak,
    )
    (found,) = measurements_of(scan, how=Preparation(device="cpu"))
    problem = prepare_compressed(scan, 0)
    assert found.y.shape[:2] == (3, 1)
    assert torch.equal(found.y[:, 0], problem.y[0])
    assert 100 < problem.peak <= 255
    assert float(found.physics.noise_model.sigma) == pytest.approx(2 / problem.peak)


def test_what_cannot_be_used_is_told_in_a_line_and_leaves_nothing(tmp_path, weights, capsys):
    scan, out = save(tmp_path / "scan.npz", kspace()), tmp_path / "out" / "new.safetensors"
    start = ("finetune", "--model", weights, "--out", out, *FEW)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no measurements" in refused(capsys, *start, "--data", empty)
    assert "no loss is called 'nothing'" in refused(capsys, *start, "--data", scan, "--loss", "nothing")
    assert "no such null-space term" in refused(capsys, *start, "--data", scan, "--null-space", "moon")
    assert "positive" in refused(capsys, *start, "--data", scan, "--lr", "0")
    picture = tmp_path / "image.npy"
    np.save(picture, np.ones((1, 32, 32), np.float32))
    assert "image.npy" in refused(capsys, *start, "--data", picture)
    assert "another ending" in refused(capsys, *start, "--data", scan, "--out", tmp_path / "new.pt")
    assert "no model is called" in refused(capsys, *start, "--data", scan, "--model", "nobody")
    bad = kspace()
    bad[0, 0, 20, 20] = np.nan
    assert "not finite" in refused(capsys, *start, "--data", save(tmp_path / "bad.npz", bad))
    assert not out.parent.exists()


def test_a_terminated_run_writes_its_best_weights(tmp_path, weights, capsys, monkeypatch):
    scan, out = save(tmp_path / "scan.npz", kspace()), tmp_path / "new.safetensors"

    def killed(*arguments, progress, **options):
        def tell(step, *figures):
            progress(step, *figures)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        return descend(*arguments, progress=tell, **options)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("recon.finetuning.run.descend", killed)
    arguments = ["finetune", "--model", str(weights), "--data", str(scan), "--out", str(out), *FEW]
    assert main(arguments) == 130
    assert "best weights so far were written" in capsys.readouterr().err
    done = read_card(out.with_suffix(".json")).figures["fine-tuning"]
    assert (done["stopped"], done["steps"]) == ("interrupted", 2)
    recon.load_model(out)
    assert signal.getsignal(signal.SIGTERM) is before
