"""One-bit weights in training: through `recon train`, by step, and in ISTA-Net+."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from networks import sparse_problem
from onebit_networks import LAYERS, lista, weights
from safetensors import safe_open
from training_runs import state, write_config

from recon.cards import Card
from recon.checkpoint import load_checkpoint, save_checkpoint
from recon.cli import main
from recon.datasets.sparse import bernoulli_gaussian
from recon.models.ista_net_plus import ISTANetPlus
from recon.models.lista import LISTA
from recon.onebit import (
    Quantisation,
    count_links,
    drop_frozen_gradients,
    payload_bits,
    quantise,
    quantised_weights,
    to_step,
)
from recon.physics.compressed_sensing import BlockCompressedSensing
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
    quantisation = Quantisation(patterns=LAYERS, start=4, rate=0.25)
    arguments = {"measurements": 4, "unknowns": 6, "layers": 1}
    module = ReconstructionModule("lista", arguments, lr=0.1, quantisation=quantisation)
    factors = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
    plain = ReconstructionModule("lista", arguments, lr=0.1).schedule
    assert [factors[0](step) / plain(step) for step in (3, 4)] == [1.0, 0.25]


# --- stages ----------------------------------------------------------------------------------------------------


def test_stages_by_step() -> None:
    quantisation = Quantisation(patterns=LAYERS, gradient="tanh", start=3, anneal=10, beta=(1.0, 16.0), freeze=5)
    model = lista(None)
    real = weights(lista(None))
    quantise(model, quantisation, active=False)
    to_step(model, quantisation, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), real, strict=True))
    with torch.no_grad():
        for weight in quantised_weights(model):
            weight.latent.mul_(3)
    to_step(model, quantisation, 3)  # the scale has followed
    quantiser = next(quantised_weights(model)).quantiser
    torch.testing.assert_close(quantiser.scale().detach(), 3 * torch.stack(real).abs().mean())
    assert len(weights(model)[0].unique()) == 2
    with torch.no_grad():
        quantiser.scale.log_factor.add_(0.5)
    for step, beta in ((4, 16.0**0.1), (8, 4.0), (13, 16.0), (40, 16.0)):
        to_step(model, quantisation, step)
        assert float(quantiser.beta) == pytest.approx(beta)
    assert quantiser.scale.log_factor.item() == 0.5  # learned from here on


def test_frozen_codes_stay() -> None:
    quantisation = Quantisation(patterns=LAYERS, freeze=2)
    model = lista().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    y, physics = sparse_problem(16, 32, batch=8)
    codes, scales = [], []
    for step in range(5):
        to_step(model, quantisation, step)
        optimizer.zero_grad()
        model(y, physics).square().mean().backward()
        drop_frozen_gradients(model, quantisation, step)
        optimizer.step()
        codes.append(torch.stack(weights(model)).sign())
        scales.append(float(next(quantised_weights(model)).quantiser.scale().detach()))
    assert not torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1], codes[4])
    assert scales[1] != scales[4]


def fit(levels: str | None, layers: int, *, steps: int = 240) -> float:
    """NMSE of unseen signals in dB after a short training in two stages."""
    torch.manual_seed(0)
    model = LISTA(24, 48, layers).train()
    y, physics = sparse_problem(24, 48, batch=512, rate=0.08)
    x = signals(512, 1)
    quantisation = Quantisation(patterns=LAYERS, levels=levels or "one-bit", start=steps // 2)
    model(y[:1], physics)
    if levels is not None:
        quantise(model, quantisation, active=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        to_step(model, quantisation, step)
        chosen = torch.randperm(512)[:128]
        loss = (model(y[chosen], physics) - x[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = signals(512, 7)
    with torch.no_grad():
        error = model.eval()(physics.A(test), physics) - test
    return 10 * math.log10(float(error.square().sum() / test.square().sum()))


def signals(count: int, seed: int) -> torch.Tensor:
    return bernoulli_gaussian((count, 48), 0.08, seed=seed)


def test_error_falls_with_depth_and_one_bit_is_within_a_few_decibels() -> None:
    real = [fit(None, layers) for layers in (1, 8)]
    one_bit = [fit("one-bit", layers) for layers in (1, 8)]
    assert real[1] < real[0] - 2
    assert one_bit[1] < one_bit[0] - 2
    assert one_bit[1] < real[1] + 8


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
