"""One-bit weights in numbers of bits and in files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from networks import sparse_problem, tiny
from onebit_networks import LAYERS, LEVELS, lista, weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import recon
from recon.cards import Card
from recon.checkpoint import load_checkpoint, save_checkpoint
from recon.cli import main
from recon.models.lista import LISTA
from recon.onebit import Quantisation, count_links, payload_bits, quantise, quantised_weights
from recon.onebit.packing import pack, packed_bytes, unpack
from recon.onebit.storage import packed
from recon.physics.errors import CheckpointError


@pytest.mark.parametrize(
    ("levels", "blocks", "bits"),
    [
        ("one-bit", 1, 512),
        ("one-bit", 4, 128),
        ("ternary", 1, 512 * math.log2(3)),
        ("8-bit", 2, 2048),
        ("full", 4, 4096),
    ],
)
def test_bits_by_hand(levels: str, blocks: int, bits: float) -> None:
    """Three matrices of 16 x 32, three thresholds, one scale."""
    links = count_links(lista(levels, blocks=blocks))
    assert links.links == 3 * 512 + 3
    assert links.bits == pytest.approx(3 * bits + 32 * (3 + (levels != "full")))
    assert links.per_link == links.bits / links.links
    assert links.compression == 1 - links.per_link / 32


def test_less_than_one_bit_where_structure_allows() -> None:
    model = lista(m=128, n=256, layers=4)
    assert 1 < count_links(model).per_link < 1.01
    assert count_links(lista(m=128, n=256, layers=4, blocks=4)).per_link == pytest.approx(1 / 4, abs=2e-3)
    dense = count_links(lista(None))
    assert (dense.per_link, dense.compression) == (32, 0)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("options", [{}, {"blocks": 4}, {"scale": "matrix"}, {"m": 5, "n": 7}], ids=str)
def test_file_size_is_the_formula_and_the_file_is_exact(
    levels: str, options: dict[str, object], tmp_path: Path
) -> None:
    model = lista(levels, **options)
    path = tmp_path / "small.safetensors"
    card = save_checkpoint(path, model, Card())
    links = count_links(model)
    assert payload_bits(path) == links.stored_bits
    if levels != "ternary" and "m" not in options:
        assert payload_bits(path) == links.bits  # whole bytes, so that nothing is lost
    assert 0 <= links.stored_bits - links.bits < 0.03 * links.bits + 8 * 3
    assert card.figures["bits_per_link"] == links.per_link

    loaded, _ = load_checkpoint(path)
    assert not list(quantised_weights(loaded))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(loaded), strict=True))
    y, physics = sparse_problem(model.measurements, model.unknowns, batch=3)
    with torch.no_grad():
        assert torch.equal(loaded(y, physics), model(y, physics))
    if levels == "one-bit":
        assert weights(loaded)[0][weights(loaded)[0] != 0].unique().numel() == 2


def test_other_networks_pack_too(tmp_path: Path) -> None:
    model = tiny("unet").eval()
    quantise(model, Quantisation(patterns=("*.0.weight", "*.3.weight"), scale="matrix"))
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, model, Card())
    loaded, _ = load_checkpoint(path)
    x = torch.randn(1, 2, 24, 24)
    with torch.no_grad():
        assert torch.equal(loaded.network(x), model.network(x))
    assert payload_bits(path) == count_links(model).stored_bits


def test_shared_modules_are_packed_once(tmp_path: Path) -> None:
    model = tiny("deepinv-varnet").eval()
    convolutions = [name for name, p in model.named_parameters() if p.ndim == 4]
    quantise(model, Quantisation(patterns=tuple(convolutions)))
    save_checkpoint(tmp_path / "a.safetensors", model, Card())
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert {name for name, _ in loaded.named_parameters()} >= set(convolutions)
    for name in convolutions:
        assert len(loaded.get_parameter(name).unique()) == 2


def test_other_parametrizations_are_stored_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    quantise(network, Quantisation(patterns=("0.weight",)))
    stored, table = packed(network, network.state_dict())
    assert [entry["name"] for entry in table] == ["0.weight"]
    own = {name for name in network.state_dict() if name.startswith("1.")}
    assert any("parametrizations" in name for name in own)
    assert stored.keys() == own | {"0.weight", "0.bias", "quantised.scale.0"}


def test_the_first_stage_is_saved_plain(tmp_path: Path) -> None:
    model = lista(None)
    quantise(model, Quantisation(patterns=LAYERS, blocks=2), active=False)
    path = tmp_path / "a.safetensors"
    assert "bits_per_link" not in save_checkpoint(path, model, Card()).figures
    loaded, _ = load_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(loaded), strict=True))
    assert count_links(model).per_link == 32


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
@pytest.mark.parametrize("count", [1, 7, 8, 40, 41])
def test_codes_come_back(levels: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    low, high = {"one-bit": (0, 2), "ternary": (-1, 2), "8-bit": (-127, 128)}[levels]
    codes = torch.randint(low, high, (count,), generator=generator)
    codes = (2 * codes - 1 if levels == "one-bit" else codes).to(torch.int8)
    stored = pack(codes, levels)
    assert stored.numel() == packed_bytes(count, levels)
    assert torch.equal(unpack(stored, count, levels), codes.float())


def test_models_and_load_model_take_packed_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, lista(), Card(summary="a test"))
    assert isinstance(recon.load_model(path), LISTA)
    assert main(["models", str(path)]) == 0
    assert "bits_per_link 1.08" in " ".join(capsys.readouterr().out.split())


def rewritten(path: Path, entry: dict[str, object]) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    table = json.loads(metadata["quantised"])
    metadata["quantised"] = json.dumps([{**table[0], **entry}, *table[1:]])
    path.with_suffix(".json").unlink()
    save_file(load_file(path), path, metadata)
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"levels": "two-bit"}, "unknown kind"),
        ({"levels": "8-bit"}, "do not fit their shape; found 64 bytes; expected 512"),
        ({"shape": [32, 17]}, "do not fit their shape"),
        ({"shape": [-32, -16]}, "unknown kind"),
        ({"shape": "many"}, "does not say how"),
        ({"blocks": 3}, "3 blocks do not divide"),
        ({"scale": "nothing"}, "does not say how"),
        ({"name": "log_thresholds"}, "do not fit their shape|no matrix"),
        ({"name": "nothing"}, "does not say how"),
    ],
    ids=str,
)
def test_metadata_that_do_not_fit(entry: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, lista(), Card())
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(rewritten(path, entry))
    assert str(path) in str(error.value)
