"""Weights and their card: written whole, read back exactly, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from networks import TINY, problem, problem_of, tiny
from safetensors.torch import load_file, save_file

import recon
from recon import cards, checkpoint, zoo
from recon.cards import Card, Covers, read_card
from recon.checkpoint import load_checkpoint, save_checkpoint, sha256
from recon.cli import main
from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import CheckpointError, OptionError, OutputError

FULL = Card(
    summary="a test",
    licence="BSD-3-Clause",
    command="recon train",
    trained_on=("one", "two"),
    split="by subject",
    covers=Covers(organs=("brain",), coils=(1.0, 16.0), acceleration=(3.0, 12.0), matrix=(64.0, 320.0)),
    figures={"psnr": {"5x": 36.5}},
    calibration={"method": "another", "scale": 1.7},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, tiny("unet"), FULL)
    return path


@pytest.fixture
def shipped_unet(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the file came with the package."""
    for module in (zoo, checkpoint):
        monkeypatch.setattr(module, "shipped", lambda: {"small": saved})
    monkeypatch.setattr("recon.cards.shipped", lambda: {"small": saved})
    return saved


def rewritten(path: Path, metadata: dict[str, str] | None = None, **weights: torch.Tensor | None) -> Path:
    """Write the file anew with other metadata or weights, without its card."""
    entries = {**load_file(path), **weights}
    with checkpoint.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **(metadata or {})}
    path.with_suffix(".json").unlink(missing_ok=True)
    save_file({key: value for key, value in entries.items() if value is not None}, path, metadata)
    return path


# --- there and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TINY))
def test_every_learned_model_comes_back(name: str, tmp_path: Path) -> None:
    model = tiny(name).eval()
    path = tmp_path / "weights.safetensors"
    written = save_checkpoint(path, model, Card())
    loaded, card = load_checkpoint(path)
    assert type(loaded) is type(model)
    assert loaded.arguments == model.arguments
    assert not loaded.training
    assert card == written
    y, physics = problem_of(name)
    with torch.no_grad():
        assert torch.equal(loaded(y, physics), model(y, physics))


def test_all_learned_models_are_tested() -> None:
    learned = {name for name, cls in registry.items() if issubclass(cls, LearnedReconstructor)}
    assert learned == set(TINY)


def test_card_says_what_the_file_is(saved: Path) -> None:
    card = read_card(saved.with_suffix(".json"))
    assert card.name == "small"
    assert card.model == "unet"
    assert card.arguments == {"features": 8, "pools": 2, "magnitude": False}
    assert card.parameters == sum(p.numel() for p in tiny("unet").parameters())
    assert card.sha256 == sha256(saved)
    assert card.covers == FULL.covers
    assert card.trained_on == ("one", "two")
    assert card.created


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    """deepinv's VarNet has one denoiser in all cascades."""
    sizes = {}
    for cascades in (1, 8):
        path = tmp_path / f"{cascades}.safetensors"
        save_checkpoint(path, tiny("deepinv-varnet", cascades=cascades), Card())
        sizes[cascades] = sum(value.numel() for value in load_file(path).values())
        loaded, _ = load_checkpoint(path)
        assert len({id(block.denoiser) for block in loaded.network.backbone_net}) == 1
    assert sizes[8] == sizes[1] + 7  # step sizes


def test_half_precision_is_half_the_size_and_loads_as_single(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, tiny("unet"), Card(), half=True)
    assert path.stat().st_size < 0.6 * saved.stat().st_size
    loaded, _ = load_checkpoint(path)
    for ours, exact in zip(loaded.parameters(), tiny("unet").parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-6)


def test_weights_of_other_widths_load_as_single(saved: Path) -> None:
    doubled = {key: value.double() for key, value in load_file(saved).items()}
    loaded, card = load_checkpoint(rewritten(saved, **doubled))
    assert card is None
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_copies_and_defaults_keep_their_arguments() -> None:
    import copy

    model = registry["varnet"](2, features=4, pools=1)
    assert model.arguments["cascades"] == 2
    assert model.arguments["output"] == "combined"
    assert copy.deepcopy(model).arguments == pickle.loads(pickle.dumps(model)).arguments == model.arguments


# --- writing --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        save_checkpoint(saved, tiny("unet", features=4), Card())
    assert saved.read_bytes() == before
    save_checkpoint(saved, tiny("unet", features=4), Card(), overwrite=True)
    assert load_checkpoint(saved)[0].arguments["features"] == 4


def test_a_full_disk_leaves_the_old_pair(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(weights: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(saved, tiny("unet", features=4), Card(), overwrite=True)
    loaded, card = load_checkpoint(saved)
    assert loaded.arguments["features"] == 8
    assert card is not None
    assert {path.name for path in saved.parent.iterdir()} == {"small.safetensors", "small.json"}


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = tiny("unet")
    next(model.parameters()).data[0, 0, 0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(tmp_path / "a.safetensors", model, Card())
    large = tiny("unet")
    next(large.parameters()).data.fill_(1e6)
    with pytest.raises(CheckpointError, match="not finite in 16 bits"):
        save_checkpoint(tmp_path / "a.safetensors", large, Card(), half=True)
    assert list(tmp_path.iterdir()) == []


def test_other_endings_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ending"):
        save_checkpoint(tmp_path / "a.pt", tiny("unet"), Card())

    class Mine(LearnedReconstructor):
        def __init__(self) -> None:
            super().__init__()

    with pytest.raises(CheckpointError, match="not a registered model"):
        save_checkpoint(tmp_path / "a.safetensors", Mine(), Card())


# --- reading what is wrong ------------------------------------------------------------------------------------


def test_changed_weights_are_told(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not those of the card beside them.*sha256"):
        load_checkpoint(saved)


def test_packaged_card_is_found_by_the_content(shipped_unet: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copied = elsewhere / "other-name.safetensors"
    copied.write_bytes(shipped_unet.read_bytes())
    _, card = load_checkpoint(copied)
    assert card is not None
    assert card.name == "small"


def test_missing_unknown_and_misshapen_weights(saved: Path) -> None:
    name = "network.unet.bottom.0.weight"
    with pytest.raises(CheckpointError, match=f"missing 1, as {name}"):
        load_checkpoint(rewritten(saved, **{name: None}))
    with pytest.raises(CheckpointError, match="unknown 1, as extra"):
        load_checkpoint(rewritten(saved, extra=torch.zeros(1), **{name: torch.zeros(32, 16, 3, 3)}))
    with pytest.raises(CheckpointError, match=r"another shape.*\(3,\).*\(32, 16, 3, 3\)"):
        load_checkpoint(rewritten(saved, extra=None, **{name: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(rewritten(saved, **{name: torch.full((32, 16, 3, 3), torch.inf)}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "pt"}, "does not say which model"),
        ({"model": "nonesuch"}, "no model is called 'nonesuch'"),
        ({"model": "cg-sense", "arguments": "{}"}, "not learned"),
        ({"arguments": "{"}, "not JSON"),
        ({"arguments": '{"depth": 3}'}, "does not know"),
        ({"arguments": '{"features": {"a": 1}}'}, "does not know"),
        ({"arguments": "[1]"}, "does not know"),
        ({"arguments": '{"features": -1}'}, "cannot be built"),
        ({"arguments": '{"features": "many"}'}, "cannot be built"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_used(saved: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(rewritten(saved, metadata))
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100], ids=["empty", "text", "noise"])
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole file of safetensors"):
        load_checkpoint(path)


def test_a_truncated_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole file"):
        load_checkpoint(saved)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(tiny("unet").state_dict(), path)
    with pytest.raises(CheckpointError, match="import-weights"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": ""}, "no sha256"),
        ({"colour": "red"}, "unknown entries; found colour"),
        ({"figures": 3}, "'figures' is of the wrong kind"),
        ({"trained_on": "brain"}, "'trained_on' is of the wrong kind"),
        ({"covers": {"organs": ["brain"]}}, "'covers' cannot be used"),
        ({"covers": {"organs": ["a"], "coils": [1], "acceleration": [1, 2], "matrix": [1, 2]}}, "'covers'"),
    ],
    ids=str,
)
def test_cards_that_cannot_be_used(saved: Path, change: dict[str, object], message: str) -> None:
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_cards_that_are_no_json(saved: Path, text: str) -> None:
    saved.with_suffix(".json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="card is not"):
        load_checkpoint(saved)


# --- by name --------------------------------------------------------------------------------------------------


def test_names_and_paths(shipped_unet: Path) -> None:
    for name in ("unet", "small", shipped_unet, str(shipped_unet)):
        assert recon.load_model(name).arguments["features"] == 8
    assert type(recon.load_model("zero-filled")) is registry["zero-filled"]


def test_names_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights for 'deepinv-varnet'.*recon train"):
        recon.load_model("deepinv-varnet")
    with pytest.raises(OptionError, match="no model is called 'resnet'"):
        recon.load_model("resnet")
    with pytest.raises(CheckpointError, match="no such file"):
        recon.load_model(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        recon.load_model("absent.safetensors")


def test_what_ships_has_cards_that_fit() -> None:
    for path in cards.shipped().values():
        assert load_checkpoint(path)[1] == read_card(path.with_suffix(".json"))


def test_command_prints_the_card(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(saved), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["card"]["covers"]["acceleration"] == [3.0, 12.0]
    assert main(["models", str(saved)]) == 0
    text = capsys.readouterr().out
    assert "BSD-3-Clause" in text
    assert "3 to 12" in text
    saved.with_suffix(".json").unlink()
    assert main(["models", str(saved)]) == 2
    assert "no card" in capsys.readouterr().err


def test_weights_reconstruct_a_scan(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    y, _ = problem(shape=(32, 32))
    np.savez(tmp_path / "scan.npz", kspace=y.numpy())
    out = tmp_path / "out.npz"
    command = ["reconstruct", str(tmp_path / "scan.npz"), "--model", str(saved), "--out", str(out), "--trust", "none"]
    assert main(command) == 0, capsys.readouterr().err
    assert out.exists()
