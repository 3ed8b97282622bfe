"""Weights of DIRECT, fastMRI and deepinv: the same numbers come out, and no file of weights runs code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_weights import random_state
from networks import problem, tiny
from safetensors.torch import save_file

import recon
from recon.cards import read_card
from recon.cli import main
from recon.foreign import converters
from recon.models.learned import LearnedReconstructor
from recon.models.unet import UNet
from recon.physics import MultiCoilMRI

STORED = Path(__file__).parent / "data" / "networks.npz"
NETWORKS = ("recurrentvarnet", "unet", "varnet")


def foreign(name: str) -> dict[str, torch.Tensor]:
    """Weights as the other package has them."""
    with np.load(STORED) as stored:
        return random_state(json.loads(str(stored[f"{name}.shapes"])))


def imported(folder: Path, content: object, name: str, *options: str) -> LearnedReconstructor:
    """The way of a user: a file of the other package, the command, the model."""
    torch.save(content, folder / "foreign.pt")
    out = folder / "ours.safetensors"
    command = ["import-weights", str(folder / "foreign.pt"), "--model", name, "--out", str(out), "--overwrite"]
    assert main([*command, *options]) == 0
    return recon.load_model(out)


def refused(capsys: pytest.CaptureFixture[str], path: Path, name: str, *options: str) -> str:
    out = path.parent / "refused.safetensors"
    assert main(["import-weights", str(path), "--model", name, "--out", str(out), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert not out.exists()
    return line


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        torch.save(content, tmp_path / "foreign.pt")
        return tmp_path / "foreign.pt"

    return write


# --- the same numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_that_of_the_published_code(name: str, tmp_path: Path) -> None:
    with np.load(STORED) as stored:
        y, mask, maps = (torch.from_numpy(stored[key]) for key in ("y", "mask", "maps"))
        expected = torch.from_numpy(stored[f"{name}.output"])
    with torch.no_grad():
        x = imported(tmp_path, foreign(name), name)(y, MultiCoilMRI(maps, mask))
    assert torch.linalg.vector_norm(x - expected) < 1e-5 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_a_place(name: str, tmp_path: Path) -> None:
    """A change of any foreign weight changes some weight of ours, and as much."""
    state = foreign(name)
    before = imported(tmp_path, state, name).state_dict()
    for key in state:
        changed = imported_by_converter({**state, key: state[key] + 1}, name)
        difference = sum(float((changed[k] - before[k]).abs().sum()) for k in before)
        assert difference == pytest.approx(state[key].numel(), rel=1e-3), key


def imported_by_converter(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return converters[name](state).weights


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {
            "state_dict": {f"unet.{k}": v for k, v in state.items()} | {"loss.w": torch.ones(1)},
            "epoch": 3,
        },
        lambda state: {"model": state, "optimizer": {"state": {}}, "__author__": "someone"},
        lambda state: {"state_dict": {f"model.module.{k}": v.double() for k, v in state.items()}},
        lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    ],
    ids=["lightning", "training state", "nested", "compiled"],
)
def test_wrapped_weights(wrapped: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path) -> None:
    plain = imported(tmp_path, foreign("unet"), "unet").state_dict()
    other = imported(tmp_path, wrapped(foreign("unet")), "unet").state_dict()
    assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(foreign("varnet"), path)
    out = tmp_path / "ours.safetensors"
    assert main(["import-weights", str(path), "--model", "varnet", "--out", str(out)]) == 0
    assert recon.load_model(out).arguments["cascades"] == 2


def test_sizes_are_read_off_the_weights(tmp_path: Path) -> None:
    arguments = {name: imported(tmp_path, foreign(name), name).arguments for name in NETWORKS}
    assert arguments["unet"] == {"features": 4, "pools": 2, "magnitude": True}
    expected = {"cascades": 2, "features": 4, "pools": 2, "estimate_maps": True, "map_features": 4, "map_pools": 2}
    assert arguments["varnet"] == {**expected, "recursions": 1, "output": "rss"}
    recurrent = arguments["recurrentvarnet"]
    assert (recurrent["steps"], recurrent["hidden"], recurrent["layers"]) == (2, 4, 2)
    assert (recurrent["initialiser"], recurrent["initialiser_scales"]) == ("kspace-corner", 3)


def test_variants_of_the_recurrent_network(tmp_path: Path) -> None:
    state = foreign("recurrentvarnet")
    without = {key: value for key, value in state.items() if not key.startswith("initializer")}
    assert imported(tmp_path, without, "recurrentvarnet").arguments["initialiser"] == "none"
    centred = imported(tmp_path, state, "recurrentvarnet", "--set", "initialiser=kspace")
    assert centred.arguments["initialiser"] == "kspace"
    y, physics = problem()
    assert not torch.equal(centred(y, physics), imported(tmp_path, state, "recurrentvarnet")(y, physics))


def test_complex_unet_of_two_channels(tmp_path: Path) -> None:
    shapes = {key: tuple(value.shape) for key, value in foreign("unet").items()}
    shapes["down_sample_layers.0.layers.0.weight"] = (4, 2, 3, 3)
    shapes["up_conv.1.1.weight"], shapes["up_conv.1.1.bias"] = (2, 4, 1, 1), (2,)
    model = imported(tmp_path, random_state(shapes), "unet")
    assert not model.arguments["magnitude"]
    y, physics = problem()
    assert model(y, physics).shape == (1, 2, 24, 24)


def test_drunet_of_deepinv(tmp_path: Path) -> None:
    ours = tiny("drunet-pnp", features=4, blocks=2)
    model = imported(tmp_path, ours.denoiser.state_dict(), "drunet-pnp")
    assert model.arguments == {"features": 4, "blocks": 2}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), ours.parameters(), strict=True))


def test_card_says_where_the_weights_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path, foreign("unet"), "unet", "--licence", "MIT", "--json")
    printed = json.loads(capsys.readouterr().out)
    card = read_card(tmp_path / "ours.json")
    assert printed["card"]["sha256"] == card.sha256
    assert card.licence == "MIT"
    assert "foreign.pt" in card.summary
    assert card.command.startswith("recon import-weights")


def test_the_network_for_coil_maps_comes_along(
    tmp_path: Path, save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = UNet(2, 2, 4, 4)
    theirs = {}
    for name, value in ours.state_dict().items():
        for pattern, replacement in (
            (r"^down\.(\d)\.", r"down_sample_layers.\1."),
            (r"^bottom\.", "conv."),
            (r"^merge\.(\d)\.", r"up_conv.\1."),
            (r"^up\.(\d)\.0\.", r"up_transpose_conv.\1.conv."),
            (r"^last\.", "conv_out."),
            (r"\.0\.weight$", ".layer_1.conv.weight"),
            (r"\.3\.weight$", ".layer_2.conv.weight"),
        ):
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        theirs[name] = value
    content = {"model": foreign("recurrentvarnet"), "sensitivity_model": theirs}
    model = imported(tmp_path, content, "recurrentvarnet")
    assert model.arguments["refine_maps"] == 4
    assert all(torch.equal(a, b) for a, b in zip(model.maps.parameters(), ours.parameters(), strict=True))
    content["sensitivity_model"] = {"conv_out.bias": torch.zeros(2)}
    assert "initialiser=kspace" in capsys.readouterr().err
    assert "U-Net for coil maps" in refused(capsys, save(content), "recurrentvarnet")


# --- bad files ------------------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["alone", "beside", "inside"])
def test_a_pickle_with_code_runs_nothing(
    place: str, legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, path = tmp_path / "made-by-the-pickle", tmp_path / "evil.pt"
    state = foreign("unet")
    content = {
        "alone": Evil(made),
        "beside": {"state_dict": state, "callbacks": Evil(made)},
        "inside": {**state, "conv.layers.0.weight": Evil(made)},
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert "could run code" in refused(capsys, path, "unet")
    assert not made.exists()
    torch.load(path, weights_only=False)  # the test can fail: unpickling does make the file
    assert made.exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + b"\0" * 50], ids=["empty", "text", "zip"])
@pytest.mark.parametrize("name", ["foreign.pt", "foreign.safetensors"])
def test_files_that_are_none(content: bytes, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert str(path) in refused(capsys, path, "unet")


def test_truncated_and_absent_files(
    save: Callable[[object], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = save(foreign("unet"))
    path.write_bytes(path.read_bytes()[:-300])
    assert "cannot be read" in refused(capsys, path, "unet")
    assert "no such file" in refused(capsys, tmp_path / "absent.pt", "unet")


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], "text"], ids=["tensor", "list", "text"])
def test_no_named_weights(content: object, save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "no named weights" in refused(capsys, save(content), "unet")


def test_weights_of_another_model(save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name in NETWORKS:
        for other in {*NETWORKS, "drunet-pnp"} - {name}:
            assert "does not hold the weights of" in refused(capsys, save(foreign(name)), other)
    assert "does not hold" in refused(capsys, save({}), "unet")


@pytest.mark.parametrize("name", NETWORKS)
def test_one_weight_missing_unknown_or_misshapen(
    name: str, save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state = foreign(name)
    assert "does not have" in refused(capsys, save({**state, "extra.weight": torch.zeros(1)}), name)
    for key in state:
        assert refused(capsys, save({k: v for k, v in state.items() if k != key}), name)
        assert refused(capsys, save({**state, key: torch.zeros(0)}), name)
        assert refused(capsys, save({**state, key: torch.zeros(1, 1)}), name)
    assert "not finite" in refused(capsys, save({**state, key: torch.full_like(state[key], torch.nan)}), name)


def test_gap_in_the_cascades(save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]) -> None:
    state = {key.replace("cascades.1.", "cascades.7."): value for key, value in foreign("varnet").items()}
    assert "lacks weights" in refused(capsys, save(state), "varnet")


def test_normalised_recurrent_network_is_refused(
    save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state = {k.replace("regularizer.", "regularizer.convgru."): v for k, v in foreign("recurrentvarnet").items()}
    assert "normalised" in refused(capsys, save(state), "recurrentvarnet")


def test_options_that_do_not_exist(save: Callable[[object], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = save(foreign("unet"))
    assert "no argument 'depth'" in refused(capsys, path, "unet", "--set", "depth=3")
    assert "one of" in refused(capsys, path, "l1-wavelet")
    with pytest.raises(SystemExit):
        main(["import-weights", str(path), "--model", "unet", "--out", "x.safetensors", "--set", "depth"])
    assert "NAME=VALUE" in capsys.readouterr().err
