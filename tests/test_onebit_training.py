"""One-bit weights through `recon train`, in ISTA-Net+ and in products of integers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from networks import sparse_problem
from safetensors import safe_open
from torch import nn
from training_runs import state, write_config

from recon.checkpoint import load_checkpoint
from recon.cli import main
from recon.models.ista_net_plus import ISTANetPlus
from recon.models.lista import LISTA
from recon.onebit import Quantisation, count_links, integer_inference, quantise, quantised_weights, set_stage
from recon.onebit.integers import IntegerLinear
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.errors import OptionError
from recon.training.module import ReconstructionModule

CONFIG = """
trainer: {max_steps: 8, log_every_n_steps: 1, accelerator: cpu}
model:
  network: lista
  arguments: {measurements: 24, unknowns: 64, layers: 2}
  loss: {squared_error: 1.0}
  lr: 1.0e-2
  schedule: {warmup: 0}
  quantisation: {patterns: ["layers.*.weight"], blocks: 2, start: 4, rate: 0.5}
ema: 0.5
data:
  class_path: recon.training.data.sparse.SparseData
  init_args: {shape: [8, 8], measurements: 24, train: 8, validation: 4, batch_size: 4}
"""


def train(folder: Path, *options: str) -> Path:
    config = write_config(folder, text=CONFIG)
    assert main(["train", str(config), "--runs", str(folder / "runs"), *options]) == 0
    return folder / "runs" / "tiny"


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_training_ends_with_packed_one_bit_weights(tmp_path: Path) -> None:
    run = train(tmp_path)
    table = json.loads(metadata(run / "best.safetensors")["quantised"])
    assert [(entry["name"], entry["levels"], entry["blocks"]) for entry in table] == [
        (f"layers.{i}.weight", "one-bit", 2) for i in range(2)
    ]
    loaded, card = load_checkpoint(run / "best.safetensors")
    assert len(torch.stack([layer.weight for layer in loaded.layers]).unique()) == 3  # one scale, structural zeros
    assert card is not None
    assert card.figures["steps"] > 4  # real weights of the first stage may be better, and are not what was asked for
    assert card.figures["bits_per_link"] == pytest.approx(0.5, abs=0.04)


def test_a_resumed_training_is_that_which_was_not_broken_off(tmp_path: Path) -> None:
    """Broken off in the first stage, resumed into the second."""
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole")
    parts = train(tmp_path / "parts", "--trainer.max_steps", "2")
    assert "quantised" not in metadata(parts / "best.safetensors")
    train(tmp_path / "parts", "--ckpt_path", "last")
    ours, theirs = state(whole)["state_dict"], state(parts)["state_dict"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(float(value.detach()) for name, value in ours.items() if name.endswith("log_factor"))  # it was learned


def test_the_rate_of_the_second_stage() -> None:
    quantisation = Quantisation(patterns=("layers.*.weight",), start=4, rate=0.25)
    arguments = {"measurements": 4, "unknowns": 6, "layers": 1}
    module = ReconstructionModule("lista", arguments, lr=0.1, quantisation=quantisation)
    factors = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
    plain = ReconstructionModule("lista", arguments, lr=0.1).schedule
    assert [factors[0](step) / plain(step) for step in (3, 4)] == [1.0, 0.25]


# --- ISTA-Net+ ------------------------------------------------------------------------------------------------

TRANSFORMS = ("blocks.*.H.*.weight", "blocks.*.inverse.*.weight")


def test_bits_of_ista_net_plus() -> None:
    """336,978 weights of 9 phases: 36,864 of each phase in H and its inverse, 576 in D and G."""
    model = ISTANetPlus()
    assert count_links(model).bits == 32 * 336_978
    quantise(model, Quantisation(patterns=TRANSFORMS))
    links = count_links(model)
    assert links.links == 336_978
    assert links.bits == 9 * (36_864 + 578 * 32) + 32
    assert links.per_link == pytest.approx(1.48, abs=5e-3)

    model = ISTANetPlus()
    quantise(model, Quantisation(patterns=(*TRANSFORMS, "blocks.*.[DG].weight"), scale="matrix"))
    assert count_links(model).bits == 9 * (37_440 + 2 * 32 + 6 * 32)
    model = ISTANetPlus()
    quantise(model, Quantisation(patterns=(*TRANSFORMS, "blocks.*.[DG].weight")))
    assert count_links(model).bits == 9 * (37_440 + 2 * 32) + 32
    assert count_links(model).per_link == pytest.approx(1.002, abs=1e-3)


def test_ista_net_plus_of_one_bit_trains_and_is_stored(tmp_path: Path) -> None:
    from recon.cards import Card
    from recon.checkpoint import save_checkpoint
    from recon.onebit import payload_bits

    torch.manual_seed(0)
    physics = BlockCompressedSensing(torch.linalg.qr(torch.randn(81, 27)).Q.T, (18, 18), (9, 9))
    x = torch.rand(2, 1, 18, 18)
    model = ISTANetPlus(phases=2, features=8)
    quantise(model, Quantisation(patterns=TRANSFORMS))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = (model(physics.A(x), physics) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool(w.latent.grad.any()) for w in quantised_weights(model))
    save_checkpoint(tmp_path / "a.safetensors", model.eval(), Card())
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(physics.A(x), physics), model(physics.A(x), physics))
    assert payload_bits(tmp_path / "a.safetensors") == count_links(model).stored_bits


# --- products of integers -------------------------------------------------------------------------------------


def test_products_of_integers_are_exact_where_inputs_are_integers() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (24, 40), generator=generator).to(torch.int8)
    x = torch.randint(-127, 128, (3, 2, 40), generator=generator).float()
    x[..., 0] = 127
    bias = torch.arange(24.0)
    out = IntegerLinear(codes, torch.tensor(0.25), bias)(x)
    assert torch.equal(out, 0.25 * x @ codes.float().T + bias)


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
def test_rounded_inputs_change_outputs_by_no_more_than_they_may(levels: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24)
    network = nn.Sequential(layer)
    quantise(network, Quantisation(patterns=("*.weight",), levels=levels))
    fast = integer_inference(network)
    x = torch.randn(5, 40)
    with torch.no_grad():
        error = (fast(x) - network(x)).abs()
        bound = x.abs().amax(1, keepdim=True) / 127 / 2 * layer.weight.abs().sum(1)
    assert (error <= 1.001 * bound + 1e-6).all()
    assert error.any()
    assert not list(quantised_weights(fast))
    assert list(quantised_weights(network))
    assert not fast(torch.zeros(1, 40)).sub(layer.bias).any()


def test_lista_by_integers() -> None:
    y, physics = sparse_problem(32, 64, batch=64)
    model = LISTA(32, 64, 4).train()
    model(y, physics)
    quantise(model, Quantisation(patterns=("layers.*.weight",)))
    with torch.no_grad():
        exact, fast = model.eval()(y, physics), integer_inference(model)(y, physics)
    assert 0 < (fast - exact).norm() < 0.02 * exact.norm()


def test_nothing_to_multiply_by_integers() -> None:
    model = LISTA(8, 16, 2)
    with pytest.raises(OptionError, match="no linear layer"):
        integer_inference(model)
    quantise(model, Quantisation(patterns=("layers.*.weight",)))
    set_stage(model, active=False, beta=1.0)
    with pytest.raises(OptionError, match="no linear layer"):
        integer_inference(model)
