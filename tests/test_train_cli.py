"""``recon train`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import CONFIG, log, state, write_config

from recon.cli import main
from recon.datasets.simulate import simulate_mri
from recon.training.data.phantoms import random_head


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run, expect exit status 2 and one line on standard error, and return it."""
    assert main(["train", *(str(a) for a in arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("recon: ")
    return lines[0]


def test_trains_and_reconstructs(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--trainer.max_steps", "3", "--model.lr", "2e-3"]) == 0
    run = tmp_path / "runs" / "tiny"
    assert capsys.readouterr().out.strip() == "best weights: runs/tiny/best.safetensors"
    assert {path.name for path in run.iterdir()} == {
        "best.json",
        "best.safetensors",
        "checkpoints",
        "config.yaml",
        "log.csv",
        "tensorboard",
    }
    assert state(run)["global_step"] == 3
    assert [row["step"] for row in log(run)] == ["0", "1", "2"]
    assert "lr: 0.002" in (run / "config.yaml").read_text()
    card = json.loads((run / "best.json").read_text())
    assert card["command"] == f"recon train {config} --trainer.max_steps 3 --model.lr 2e-3"
    assert card["covers"]["coils"] == [2, 3]
    assert card["figures"]["validation"]["psnr"] > 5

    scan = simulate_mri(random_head((32, 32)), coils=3, mask="gaussian", acceleration=3, center=8).scan
    np.savez("scan.npz", kspace=np.asarray(scan.slice(0))[None], mask=scan.mask)
    weights = run / "best.safetensors"
    assert main(["reconstruct", "scan.npz", "--model", str(weights), "--trust", "none", "--out", "image.npz"]) == 0
    assert Path("image.npz").exists()


def test_goes_on_and_keeps_runs_apart(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--trainer.max_steps", "2"]) == 0
    capsys.readouterr()
    assert "a run of this name exists" in refused(capsys, config)
    assert main(["train", str(config), "--ckpt_path", "last"]) == 0
    assert [row["step"] for row in log(tmp_path / "runs" / "tiny")] == ["0", "1", "2", "3"]
    assert main(["train", str(config), "--overwrite", "true", "--trainer.max_steps", "1"]) == 0
    assert [row["step"] for row in log(tmp_path / "runs" / "tiny")] == ["0"]
    # the configuration that a run saved trains the same again
    assert main(["train", "runs/tiny/config.yaml", "--name", "again"]) == 0
    assert log(tmp_path / "runs" / "again") == log(tmp_path / "runs" / "tiny")


def test_pictures_are_logged(config: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["train", str(config), "--trainer.max_steps", "2"]) == 0
    events = EventAccumulator(str(tmp_path / "runs" / "tiny" / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("val/example")
    assert (picture.height, picture.width) == (32, 4 * 32)
    assert {"train/loss", "val/psnr"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hidden: 4", "hiden: 4", "recurrentvarnet takes no argument 'hiden'; expected some of steps, hidden"),
        ("lr: 1.0e-2", "lrr: 1.0e-2", "does not accept option 'lrr'"),
        ("lr: 1.0e-2", "lr: high", "model.lr"),
        ("lr: 1.0e-2", "loss: {l3: 1.0}", "some of l1, ssim"),
        ("max_steps", "max_step", "does not accept option 'max_step'"),
        ("data:", "dota:", "'dota"),
        ("examples", "exampls", "Option 'exampls' is not accepted"),
        ("network: recurrentvarnet", "network: recurentvarnet", "no model is called 'recurentvarnet'"),
        ("trainer: {", "trainer: [", "cannot be trained"),
        ("accelerator: cpu", "accelerator: abacus", "abacus"),
    ],
)
def test_misspelt_configuration(
    config: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    write_config(config.parent, text=CONFIG.replace(old, new, 1))
    assert says in refused(capsys, config)
    assert not Path("runs").exists()


def test_misspelt_options_and_files(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model.lrr" in refused(capsys, config, "--model.lrr", "1")
    assert "expected a file, or one of coast, " in refused(capsys, "recurrentvarnet-tyni")
    assert "no such training state" in refused(capsys, config, "--ckpt_path", "last")
    assert not Path("runs").exists()


def test_empty_data_folder(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = """data:
  class_path: recon.training.data.volumes.VolumeData
  init_args: {folder: nothing, train: [a.nii.gz], validation: [b.nii.gz]}
"""
    Path("nothing").mkdir()
    write_config(config.parent, text=CONFIG.split("data:")[0] + data)
    assert "nothing" in refused(capsys, config)


def test_packaged_configurations_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys of all of them exist; nothing is trained."""
    from importlib.resources import files

    from recon.cli.train import packaged
    from recon.training.run import TrainingCLI

    monkeypatch.chdir(tmp_path)
    assert {"recurrentvarnet-tiny", "recurrentvarnet-cvpr2022", "unet", "varnet"} <= set(packaged())
    for name in packaged():
        cli = TrainingCLI(Path(str(files("recon.configs") / f"{name}.yaml")), ["--trainer.precision", "32"])
        assert cli.folder == Path("runs") / name
    assert not Path("runs").exists()


def test_packaged_configuration_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["matrix=[32,32]", "examples=2", "validation=1", "workers=0"]
    options = [f"--data.init_args.{option}" for option in small]
    assert main(["train", "recurrentvarnet-tiny", "--trainer.max_steps", "1", *options]) == 0
    assert (tmp_path / "runs" / "recurrentvarnet-tiny" / "best.safetensors").exists()


def test_help_is_light() -> None:
    code = (
        "import sys; from recon.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "recurrentvarnet-tiny" in done.stdout
    assert "--ckpt_path" in done.stdout


def test_full_help_and_print_config(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", str(config), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("--trainer.max_steps", "--model.lr", "--model.schedule.warmup", "--minutes"))


def test_ctrl_c_ends_with_130(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import signal

    from recon.training.module import ReconstructionModule

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ReconstructionModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(["train", str(config)]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones while it ends
    assert "interrupted" in capsys.readouterr().err
    assert Path("runs/tiny/config.yaml").exists()
