"""The command as a user runs it, the whole way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_scans import MODEL, kspace, left_behind, phantom, save

from recon.cli import main


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    np.savez(path, kspace=kspace(2))
    return path


def test_simulate_info_reconstruct_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "head.npy"
    np.save(image, phantom(2))
    raw = tmp_path / "raw.h5"
    flags = ["--coils", "4", "--acceleration", "2", "--center", "16", "--snr", "50", "--json"]
    assert main(["simulate", "mri", str(image), "--out", str(raw), *flags]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape (slice, coil, ...)"] == [2, 4, 48, 40]

    assert main(["info", str(raw), "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert (info["coils"], info["slices"], info["mask"]) == (4, 2, "in the file")
    assert info["acceleration"] == pytest.approx(2, rel=0.1)

    out = tmp_path / "out.nii.gz"
    assert main(["reconstruct", str(raw), "--out", str(out), "--report", "--json", "--trust", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == "l1-wavelet"
    assert row["psnr"] > 23
    assert 0 < row["hold_out_error"] < 1
    assert (tmp_path / "out.html").read_text().count("data:image/png") > 0

    assert main(["evaluate", str(out), "--reference", str(tmp_path / "raw-truth.h5"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["psnr"] == pytest.approx(row["psnr"], abs=1.5)
    assert figures["psnr_low"] < figures["psnr"] < figures["psnr_high"]


@pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".dcm", ".fits", ".npz", ".png", ".cfl"])
def test_every_ending_is_written(scan: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "out"
    assert main(["reconstruct", str(scan), "--out", str(out), "--ending", ending, "--slices", "0", *MODEL]) == 0
    assert (out / f"scan-recon{ending}").exists()


def test_result_carries_its_provenance(scan: Path, tmp_path: Path) -> None:
    import recon

    out = tmp_path / "out.h5"
    assert main(["reconstruct", str(scan), "--out", str(out), *MODEL]) == 0
    written = recon.datasets.open(out)
    provenance = written.header["provenance"]
    assert provenance["input"]["sha256"] == recon.datasets.open(scan).source.sha256
    assert provenance["model"]["name"] == "cg-sense"
    assert written.pixels.shape == (2, 48, 40)


def test_two_processes_give_the_image_of_one(scan: Path, tmp_path: Path) -> None:
    from recon.datasets import open as open_file

    images = []
    for jobs in ("1", "2"):
        out = tmp_path / f"jobs-{jobs}.npz"
        assert main(["reconstruct", str(scan), "--out", str(out), "--jobs", jobs, *MODEL]) == 0
        images.append(np.stack([open_file(out).pixels[i] for i in range(2)]))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5 * np.abs(images[0]).max())


def test_models_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    names = {card["name"] for card in json.loads(capsys.readouterr().out)}
    assert {"zero-filled", "rss", "cg-sense", "l1-wavelet", "tv", "tgv", "grappa", "pocs"} <= names
    assert main(["models", "l1-wavelet"]) == 0
    assert "wavelet" in capsys.readouterr().out


def test_every_model_makes_an_image_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import recon
    from recon import models

    lines = save(tmp_path / "lines.npz", kspace(mask="equispaced", center=16))
    single = save(tmp_path / "single.npz", kspace(coils=1, mask="partial_fourier", acceleration=1.6, center=None))
    untrained = {name for name in models.registry if models.source_of_weights(name) is not None}
    for name in recon.models():
        source = single if name == "pocs" else lines
        out = tmp_path / f"{name}.npz"
        status = main(["reconstruct", str(source), "--model", name, "--out", str(out), "--trust", "none"])
        complaint = capsys.readouterr().err
        if models.takes_stamps(name):
            assert status == 2, name
            assert "weights" in complaint or "galaxy stamps, not k-space" in complaint, name
            continue
        if name == "fbp":
            assert status == 2
            assert "is for CT" in complaint
            continue
        assert status == 0 or (name in untrained and f"no weights for {name!r}" in complaint), name


def test_an_interrupted_run_goes_on_where_it_was(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recon import pipeline, slices

    out = tmp_path / "out.npz"
    run, seen = pipeline.Plan.run, []

    def stop_at_the_second(self: pipeline.Plan, index: int) -> slices.SliceResult:
        seen.append(index)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return run(self, index)

    monkeypatch.setattr(pipeline.Plan, "run", stop_at_the_second)
    arguments = ["reconstruct", str(scan), "--out", str(out), *MODEL]
    assert main(arguments) == 130
    assert capsys.readouterr().err.strip() == "recon: interrupted"
    assert not out.exists()
    assert main(arguments) == 0
    assert seen == [0, 1, 1]  # the first slice was kept
    assert not left_behind(tmp_path, "out.npz", "scan.npz")


def test_other_options_do_not_take_up_the_old_slices(scan: Path, tmp_path: Path) -> None:
    from recon.datasets import open as open_file
    from recon.pipeline import Plan
    from recon.prepare import Preparation
    from recon.slices import BASIC
    from recon.spool import Spool

    opened = open_file(scan)
    plans = [Plan(opened, model, Preparation(), None, BASIC, 0) for model in ("zero-filled", "cg-sense")]
    Spool(tmp_path / "spool", plans[0].key()).put(0, plans[0].run(0))
    assert Spool(tmp_path / "spool", plans[0].key()).get(0) is not None
    assert Spool(tmp_path / "spool", plans[1].key()).get(0) is None


def test_help_needs_no_torch() -> None:
    code = "import sys, recon.cli\ntry:\n recon.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().endswith("False")


def test_unknown_verbs_and_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["paint"], ["reconstruct"], ["info", "x", "--colour"], []):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
