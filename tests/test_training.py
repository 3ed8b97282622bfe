"""Training: resuming is exact, two processes are one, nothing is lost when something goes wrong."""

from __future__ import annotations

import errno
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import log, state, write_config

from recon import load_model
from recon.datasets.atomic import OutputError
from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.training.checkpointing import AtomicCheckpointIO
from recon.training.data.base import EpochSampler, ExampleData, TrainingSet
from recon.training.data.sample import SimulatedData
from recon.training.data.simulated import Acquisition
from recon.training.ema import ExponentialAverage
from recon.training.module import ReconstructionModule
from recon.training.network import build
from recon.training.run import train

FEW_COILS = Acquisition(coils=(2, 3))


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def same(a: Any, b: Any) -> bool:
    """Whether two trees of values are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(one: Path, other: Path) -> None:
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(state(one)[part], state(other)[part]), part
    assert state(one)["global_step"] == state(other)["global_step"]
    assert log(one) == log(other)
    assert same(load_file(one / "best.safetensors"), load_file(other / "best.safetensors"))


# --- exact resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_cut_off_goes_on_as_if_nothing_had_been(
    config: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = ["--trainer.max_steps", "6", "--data.init_args.workers", str(workers)]
    whole = train(config, [*options, "--name", "whole"])

    step = ReconstructionModule.training_step

    def cut_off(self: ReconstructionModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 5:  # in the middle of the third epoch
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ReconstructionModule, "training_step", cut_off)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, [*options, "--name", "cut"])
    assert state(Path("runs/cut"))["global_step"] == 4
    torch.rand(7)  # whatever the generator did meanwhile
    cut = train(config, [*options, "--name", "cut", "--ckpt_path", "last"])
    assert_same_run(whole, cut)


def test_a_run_that_was_ended_goes_on(config: Path) -> None:
    whole = train(config, ["--trainer.max_steps", "6", "--name", "whole"])
    part = train(config, ["--trainer.max_steps", "4", "--name", "part"])
    train(config, ["--trainer.max_steps", "6", "--name", "part", "--ckpt_path", "last"])
    assert_same_run(whole, part)


def test_time_budget_ends_an_epoch(config: Path) -> None:
    run = train(config, ["--minutes", "0.0001", "--trainer.max_steps", "100"])
    assert state(run)["global_step"] == 2


def test_examples_depend_on_seed_epoch_and_index_only() -> None:
    data = SimulatedData(matrix=(32, 32), examples=4, acquisition=FEW_COILS)
    one, other = data.training_set(), data.training_set()
    one.set_epoch(3)
    other[0]
    other.set_epoch(3)
    assert torch.equal(one[2].y, other[2].y)
    other.set_epoch(4)
    assert one[2].name != other[2].name
    data.seed = 1
    assert one[0].scale != data.training_set()[0].scale != data.validation_set()[0].scale


def test_processes_share_an_epoch() -> None:
    examples = SimulatedData(examples=10).training_set()
    samplers = [EpochSampler(examples, processes=2, rank=rank) for rank in range(2)]
    orders = []
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in samplers]
        assert sorted(parts[0] + parts[1]) == list(range(10))
        assert examples.epoch == epoch
        orders.append(parts)
    assert orders[0] != orders[1]


# --- average of weights ---------------------------------------------------------------------------------------------


def test_average_of_weights(config: Path) -> None:
    """A constant decay below the warm-up's: the average is computed by hand from the weights of each step."""
    weights: list[torch.Tensor] = []
    update = ExponentialAverage.on_train_batch_end

    def watched(self: ExponentialAverage, trainer: Any, module: Any, *rest: Any) -> None:
        weights.append(module.network.step_sizes.detach().clone())
        update(self, trainer, module, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExponentialAverage, "on_train_batch_end", watched)
        run = train(config, ["--ema", "0.15"])
    average = weights[0]
    for n, current in enumerate(weights[1:], start=1):
        decay = min(0.15, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * current
    assert len(weights) == 4
    torch.testing.assert_close(state(run)["state_dict"]["network.step_sizes"], average)
    assert torch.equal(state(run)["current_model_state"]["network.step_sizes"], weights[-1])
    assert not torch.equal(weights[0], weights[-1])


def test_best_weights_are_the_averaged_ones_and_reconstruct(config: Path) -> None:
    run = train(config, [])
    best = max(log(run), key=lambda row: float(row["val/psnr"] or "-inf"))
    model = load_model(run / "best.safetensors")
    module = ReconstructionModule("recurrentvarnet", model.arguments)
    module.network = model
    data = SimulatedData(matrix=(32, 32), examples=4, validation=1, acquisition=FEW_COILS)
    (batch,) = data.val_dataloader()
    from recon.metrics import psnr

    with torch.no_grad():
        x, target = (torch.linalg.vector_norm(a[0], dim=0) for a in (module(batch), batch.target))
    assert psnr(x, target) == pytest.approx(float(best["val/psnr"]), abs=1e-3)


# --- several processes, precision, memory format --------------------------------------------------------------------


def test_two_processes_have_the_gradients_of_one(config: Path) -> None:
    one = train(config, ["--trainer.max_steps", "1", "--data.init_args.batch_size", "4", "--name", "one"])
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_steps", "1", "--name", "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE", "PL_GLOBAL_SEED"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "recon", "train", str(config), *options]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    moments = [state(run)["optimizer_states"][0]["state"] for run in (one, Path("runs/two"))]
    assert moments[0].keys() == moments[1].keys()
    for key, moment in moments[0].items():  # a tenth of the gradient after one step of Adam
        scale = float(moment["exp_avg"].abs().max())
        torch.testing.assert_close(moments[1][key]["exp_avg"], moment["exp_avg"], atol=1e-4 * scale, rtol=1e-4)
    assert max(float(moment["exp_avg"].abs().max()) for moment in moments[0].values()) > 1e-5


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        ("recurrentvarnet", {"steps": 2, "hidden": 8, "layers": 2}),
        ("unet", {"features": 8, "pools": 2}),
        ("varnet", {"cascades": 2, "features": 4, "pools": 2}),
    ],
)
def test_bfloat16_and_memory_format_change_little(network: str, arguments: dict[str, int]) -> None:
    data = SimulatedData(matrix=(32, 32), examples=2, batch_size=2, acquisition=FEW_COILS)
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    module = ReconstructionModule(network, arguments)
    last = ReconstructionModule(network, arguments, channels_last=True)
    last.load_state_dict(module.state_dict())
    expected = module.loss(module(batch), batch)[0].detach()
    assert float(last.loss(last(batch), batch)[0].detach()) == pytest.approx(float(expected), rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = module.loss(module(batch), batch)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected), rel=2e-2)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


def test_bfloat16_by_the_trainer(config: Path) -> None:
    run = train(config, ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "0.5"])
    assert all(math.isfinite(float(row["train/loss"])) for row in log(run))
    assert all(value.dtype != torch.bfloat16 for value in load_file(run / "best.safetensors").values())


@pytest.mark.slow
def test_compiled_network_trains(config: Path) -> None:
    network = ["--model.network", "varnet", "--model.arguments", "{cascades: 1, features: 4, pools: 1}"]
    plain = train(config, ["--name", "plain", *network])
    compiled = train(config, ["--name", "compiled", "--model.compile", "true", *network])
    for a, b in zip(log(plain), log(compiled), strict=True):
        assert float(a["train/loss"]) == pytest.approx(float(b["train/loss"]), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "regularisers_and_initialiser"),
    [("recurrentvarnet-cvpr2022", 6_918_424), ("recurrentvarnet-challenge", 10_303_780)],
)
def test_one_step_at_the_published_size(name: str, regularisers_and_initialiser: int) -> None:
    from importlib.resources import files

    small = ["--data.init_args.matrix=[32,32]", "--data.init_args.examples=1", "--data.init_args.validation=1"]
    source = "recon.training.data.sample.SimulatedData"
    text = (files("recon.configs") / f"{name}.yaml").read_text().split("data:")[0]
    config = write_config(Path(), name, f"{text}data: {source}\n")
    run = train(config, ["--trainer.max_steps", "1", "--data.init_args.batch_size=1", *small])
    moments = state(run)["optimizer_states"][0]["state"]
    weights = {key: value for key, value in state(run)["state_dict"].items() if not key.startswith("network.maps.")}
    assert sum(value.numel() for value in weights.values()) == regularisers_and_initialiser
    assert sum(bool((m["exp_avg"] != 0).any()) for m in moments.values()) > 0.9 * len(moments)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite_stops_with_the_batch_saved(config: Path) -> None:
    with pytest.raises(DataError, match=r"bad-batch-rank0\.pt: the loss is not finite at step 1") as caught:
        train(config, ["--model.lr", "1e30", "--model.schedule.warmup", "0"])
    assert "simulated head, example" in str(caught.value)
    saved = torch.load("runs/tiny/bad-batch-rank0.pt", weights_only=True)
    assert saved["y"].shape[0] == 2
    assert torch.isfinite(saved["y"]).all()


def test_full_disk_leaves_the_state_before(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(config, [])
    before = (run / "checkpoints" / "last.ckpt").read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    more = ["--trainer.max_steps", "6", "--ckpt_path", "last"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match=r"No space left.*--ckpt_path last"):
            train(config, more)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    train(config, more)
    assert state(run)["global_step"] == 6


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (shutil.copy, ("tiny.yaml", "ran"))


def test_states_are_read_without_running_anything(tmp_path: Path, config: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({"loops": _Evil()}))
    with pytest.raises(CheckpointError, match=r"evil\.ckpt: not a training state that can be read safely"):
        train(config, ["--ckpt_path", str(path)])
    assert not Path("ran").exists()
    assert not Path("runs").exists()
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="not a training state"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_training_starts_from_given_weights(config: Path) -> None:
    first = train(config, []) / "best.safetensors"
    given = ["--model.weights", str(first), "--trainer.max_steps", "1", "--model.lr", "1e-12", "--ema", "0"]
    second = train(config, ["--name", "second", *given])
    for one, other in zip(load_file(first).values(), load_file(second / "best.safetensors").values(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(CheckpointError, match="not those of the model"):
        train(config, ["--name", "third", *given, "--model.arguments.layers", "2"])


def test_networks_by_name() -> None:
    assert isinstance(build("unet", {"features": 4, "pools": 1}), nn.Module)
    with pytest.raises(OptionError, match="no model is called 'unett'"):
        build("unett", {})
    with pytest.raises(OptionError, match="takes no argument 'featurs'; expected some of features"):
        build("unet", {"featurs": 4})
    with pytest.raises(OptionError, match="nothing to train"):
        build("zero-filled", {})


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"matrix": (8, 8)}, {"examples": 0}],
)
def test_data_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        SimulatedData(**options)


def test_an_epoch_needs_a_batch(config: Path) -> None:
    with pytest.raises(OptionError, match=r"fewer examples than one step needs; found 4; expected at least .* = 8"):
        train(config, ["--data.init_args.batch_size", "8"])


def test_data_without_their_sets_or_card_cannot_be_made() -> None:
    class Half(ExampleData):
        def training_set(self) -> TrainingSet:
            raise AssertionError

    with pytest.raises(TypeError, match=r"abstract methods.*card.*validation_set"):
        Half()
