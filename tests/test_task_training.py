"""Training on many tasks: operators as they say, batches that anyone makes alike, a run that resumes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import GaussianNoise, PoissonGaussianNoise
from torch import Tensor
from training_runs import log, write_config

import recon
from recon.cli import main
from recon.physics.denoising import Denoising
from recon.physics.errors import DataError, OptionError
from recon.physics.linalg import max_eigenvalue
from recon.training.batches import TrainingBatch
from recon.training.data.base import EpochSampler
from recon.training.data.images import Attenuation, Mixture, Photographs, decoded, image_files, window
from recon.training.data.tasks import VALIDATION_PICTURES, TaskBatches, TaskData
from recon.training.losses import LOSSES
from recon.training.task_batches import TaskBatch, measured
from recon.training.tasks import TASKS, draw_noise

SMALL = {"size": 36, "validation_size": 36, "length": 4, "validation_length": 1, "batch_size": 2}
CONFIG = """
trainer: {max_steps: 4, log_every_n_steps: 1, accelerator: cpu, gradient_clip_val: 1.0}
model:
  network: ram-light
  arguments: {widths: [16, 16], blocks: [1, 1], questions: [1]}
  loss: {weighted_l1: 1.0}
  lr: 1.0e-2
  schedule: {warmup: 2}
data:
  class_path: recon.training.data.tasks.TaskData
  init_args: {size: 36, validation_size: 36, length: 2, validation_length: 1, tasks: {denoising: 1, mri: 1}}
"""


@pytest.fixture(scope="module")
def data() -> TaskData:
    return TaskData(**SMALL)


def of_task(data: TaskData, name: str, **changes: object) -> TaskBatches:
    made = data.training_set()
    made.order = [name]
    for key, value in changes.items():
        setattr(made, key, value)
    return made


# --- tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_task_measures_what_it_says(name: str, data: TaskData) -> None:
    batches = of_task(data, name)
    for index in range(2):
        batch = batches[index]
        assert isinstance(batch, TrainingBatch)
        assert (len(batch), batch.task) == (2, name)
        physics, x = batch.physics(), batch.target
        kinds = {1: {"grey", "attenuation"}, 2: {"complex"}, 3: {"colour"}}
        assert kinds[x.shape[1]] & set(TASKS[name].images)
        exact = physics.A(x)
        wide = (-1, *(1,) * (exact.ndim - 1))
        variance = batch.sigma.square().reshape(wide) + batch.gain.reshape(wide) * exact.abs()
        if hasattr(physics, "mask") and isinstance(physics.mask, Tensor) and physics.mask.shape[2:] == exact.shape[2:]:
            variance = variance * physics.mask
        noise = (batch.y - exact).abs().square().sum() / variance.expand(exact.shape).sum()
        assert float(noise) == pytest.approx(2.0 if exact.is_complex() else 1.0, rel=0.25)
        # its norm is what the networks are told
        start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        norm = float(max_eigenvalue(physics.A_adjoint_A, start, max_iter=60).max())
        assert 0.8 < norm / float(getattr(physics, "sqnorm", 1.0)) < 1.01
        assert isinstance(physics.noise_model, PoissonGaussianNoise if name == "poisson" else GaussianNoise)


def test_operators_differ_from_batch_to_batch(data: TaskData) -> None:
    for name in ("inpainting", "motion-blur", "mri", "multicoil-mri"):
        batches = of_task(data, name)
        a, b = batches[0], batches[1]
        physics = b.physics()
        same = a.y.shape == b.y.shape and torch.allclose(a.physics().A(a.target), physics.A(a.target))
        assert not same, name


def test_noise_is_drawn_from_its_range(generator: torch.Generator) -> None:
    x = 3 * torch.rand(64, 1, 8, 8, generator=generator)
    sigma, gain = draw_noise(TASKS["poisson"], x, generator)
    low, high = TASKS["poisson"].sigma
    relative = sigma / x.flatten(1).square().mean(1).sqrt()
    assert low <= relative.min() < 2 * low
    assert high / 2 < relative.max() <= high
    assert gain is not None
    assert draw_noise(TASKS["denoising"], x, generator)[1] is None


def test_weights_are_those_of_the_paper(generator: torch.Generator) -> None:
    """Norm of the back-projection over the noise level, to a power, and bounded."""
    x = torch.rand(3, 1, 16, 16, generator=generator) * torch.tensor([1.0, 1.0, 5.0]).reshape(-1, 1, 1, 1)
    sigma = torch.tensor([0.2, 0.4, 1e-6])

    def batch(power: float, **more: Tensor) -> TaskBatch:
        g = torch.Generator().manual_seed(0)
        return measured(x, Denoising(), x, sigma=sigma, task="t", names=("a",) * 3, power=power, generator=g, **more)

    def weights(power: float, **more: Tensor) -> Tensor:
        return batch(power, **more).weight

    y = batch(1.0).y
    expected = 0.1 * y.flatten(1).square().mean(1).sqrt() / sigma
    torch.testing.assert_close(weights(1.0)[:2], expected[:2])
    assert float(weights(1.0)[2]) == pytest.approx(10)
    torch.testing.assert_close(weights(0.5), weights(1.0).sqrt())
    assert torch.equal(weights(0.0), torch.ones(3))
    assert float(weights(1.0, gain=torch.full((3,), 0.5))[0]) < 0.6 * float(weights(1.0)[0])


def test_loss_weighs_examples(data: TaskData) -> None:
    batch = of_task(data, "denoising")[0]
    x = batch.target + torch.tensor([1.0, -3.0]).reshape(-1, 1, 1, 1)
    expected = float((batch.weight * torch.tensor([1.0, 3.0])).mean())
    assert float(LOSSES["weighted_l1"](x, batch)) == pytest.approx(expected, rel=1e-5)


# --- batches ---------------------------------------------------------------------------------------------------


def same(a: TaskBatch, b: TaskBatch) -> bool:
    return a.task == b.task and torch.equal(a.y, b.y) and torch.equal(a.target, b.target) and a.names == b.names


def test_epoch_and_index_determine_a_batch() -> None:
    one, other = TaskData(**SMALL).training_set(), TaskData(**SMALL).training_set()
    other[3], other[0]  # order does not matter
    assert all(same(one[i], other[i]) for i in range(4))
    assert not same(one[0], one[1])
    other.set_epoch(1)
    assert not same(one[0], other[0])
    one.set_epoch(1)
    assert same(one[0], other[0])
    assert not same(TaskData(**SMALL, seed=1).training_set()[0], TaskData(**SMALL).training_set()[0])
    with pytest.raises(IndexError):
        one[4]


def test_processes_have_one_task_in_a_step_and_other_images(data: TaskData) -> None:
    made = data.training_set()
    made.length, made.together = 60, 3
    ranks = []
    for rank in range(3):
        sampler = EpochSampler(made, processes=3, rank=rank)
        sampler.shuffle = False
        ranks.append(list(sampler))
    assert sorted(index for of_rank in ranks for index in of_rank) == list(range(60))
    tasks = [[made.task(index) for index in of_rank] for of_rank in ranks]
    assert tasks[0] == tasks[1] == tasks[2]
    assert len(set(tasks[0])) > 5


def test_tasks_are_drawn_by_their_weights() -> None:
    made = TaskData(**SMALL, tasks={"denoising": 3, "ct": 1, "mri": 0}).training_set()
    made.length = 400
    drawn = [made.task(i) for i in range(400)]
    assert set(drawn) == {"denoising", "ct"}
    assert drawn.count("denoising") / 400 == pytest.approx(0.75, abs=0.07)


def test_validation_has_every_task_and_other_images(data: TaskData) -> None:
    made = data.validation_set()
    assert [made.task(i) for i in range(len(made))] == list(TASKS)
    photographs = {name for kind in ("colour",) for draw in made.images[kind].draws for name in draw.pictures}
    trained = {name for draw in data.images["colour"].draws for name in draw.pictures}
    assert photographs
    assert not photographs & trained
    assert photographs <= set(VALIDATION_PICTURES)


def test_batches_move(data: TaskData) -> None:
    batch = of_task(data, "mri")[0]
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert moved.y.is_meta
    assert moved.operator.mask.is_meta
    assert not batch.operator.mask.is_meta


# --- images ----------------------------------------------------------------------------------------------------


def pictures(folder: Path, *, colour: bool = False, count: int = 3) -> Path:
    from PIL import Image

    for i in range(count):
        shape = (40, 50, 3) if colour else (40, 50)
        pixels = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
        (folder / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i % 2}" / f"{i}.png")
    return folder


def test_folders_of_photographs(tmp_path: Path, generator: torch.Generator) -> None:
    files = image_files([pictures(tmp_path / "colour", colour=True), pictures(tmp_path / "grey")])
    assert len(files) == 6
    grey, colour = Photographs(files, colour=False), Photographs(files, colour=True)
    for _ in range(4):
        assert grey(generator, (32, 36))[0].shape == (1, 32, 36)
        assert colour(generator, (32, 36))[0].shape == (3, 32, 36)
    assert 0 <= decoded(files[0]).min() < 0.05
    assert 0.95 < decoded(files[0]).max() <= 1
    data = TaskData(**SMALL, folders=(tmp_path / "colour",), pictures=False, tasks={"demosaicing": 1})
    assert str(tmp_path) in data.training_set()[0].names[0]


def test_pictures_of_any_depth_end_at_one(tmp_path: Path) -> None:
    from PIL import Image

    ramp = np.arange(64).reshape(8, 8)
    for name, pixels in (("a.png", (4 * ramp).astype(np.uint8)), ("b.png", (1000 * ramp).astype(np.uint16))):
        Image.fromarray(pixels).save(tmp_path / name)
    first, deep = decoded(tmp_path / "a.png"), decoded(tmp_path / "b.png")
    torch.testing.assert_close(first[0], torch.from_numpy(ramp).float() * 4 / 255)
    torch.testing.assert_close(deep[0], torch.from_numpy(ramp).float() / 63)


def test_attenuation_of_water_and_air(generator: torch.Generator) -> None:
    draw = Attenuation([torch.tensor([[-1000.0, 0.0]]).repeat_interleave(20, 1).repeat(20, 1)], ["a"])
    x, name = draw(generator, (16, 16))
    assert (name, x.shape) == ("a", (1, 16, 16))
    assert torch.all((x > -0.05) & (x < 0.55))
    values = torch.cat([draw(generator, (16, 16))[0].flatten() for _ in range(8)])
    assert ((values.abs() < 0.01) | ((values - 0.5).abs() < 0.01)).float().mean() > 0.7


def test_window_of_small_images_has_air_around(generator: torch.Generator) -> None:
    x = window(torch.ones(1, 5, 20), (9, 10), generator)
    assert x.shape == (1, 9, 10)
    assert x.sum() == 50
    with pytest.raises(DataError, match="without contrast"):
        Mixture([(1.0, lambda rng, size: (torch.ones(1, *size), "flat"))])(generator, (8, 8))


def test_real_sources(shared_data: Path) -> None:
    data = TaskData(
        **SMALL,
        folders=(shared_data / "natural" / "train400",),
        volumes=(shared_data / "mri" / "volumes" / "neck-t1w.nii.gz",),
        ct=(shared_data / "ct" / "osirix-goudurix.dcm",),
        pictures=False,
        tasks={"ct": 1, "mri": 1, "denoising": 1},
    )
    assert set(data.images) == {"grey", "complex", "attenuation"}
    names = {name for i in range(4) for name in data.training_set()[i].names}
    assert names
    assert data.card().trained_on == ("train400", "neck-t1w.nii.gz", "osirix-goudurix.dcm")
    with pytest.raises(DataError, match="Hounsfield"):
        TaskData(**SMALL, ct=(shared_data / "ct" / "gdcm-CT-MONO2-8-abdo.dcm",)).images  # noqa: B018


def test_bad_options(tmp_path: Path) -> None:
    for wrong in (
        {"tasks": {"sharpening": 1}},
        {"tasks": {"ct": 0}},
        {"size": 8},
        {"length": 0},
        {"pictures": False},
        {"folders": (tmp_path,), "validation_folders": (tmp_path,)},
    ):
        with pytest.raises(OptionError):
            TaskData(**{**SMALL, **wrong})
    with pytest.raises(DataError, match="without images"):
        TaskData(**SMALL, folders=(tmp_path,)).images  # noqa: B018
    grey = pictures(tmp_path / "grey")
    with pytest.raises(OptionError, match="no images for demosaicing"):
        TaskData(**SMALL, folders=(grey,), pictures=False).training_set()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        TaskData(**SMALL, folders=(tmp_path,)).images  # noqa: B018


# --- runs ------------------------------------------------------------------------------------------------------


def test_a_run_resumes_exactly_and_names_each_task(tmp_path: Path) -> None:
    config = write_config(tmp_path, text=CONFIG)
    whole = ["train", str(config), "--runs", str(tmp_path)]
    assert main([*whole, "--name", "whole"]) == 0
    assert main([*whole, "--name", "halves", "--trainer.max_steps", "2"]) == 0
    assert main([*whole, "--name", "halves", "--ckpt_path", "last"]) == 0
    models = [recon.load_model(tmp_path / name / "best.safetensors") for name in ("whole", "halves")]
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)
    figures = log(tmp_path / "whole")[-1]
    for task in ("denoising", "mri"):
        assert math.isfinite(float(figures[f"val/psnr/{task}"]))
    assert figures["val/psnr/denoising"] != figures["val/psnr/mri"]


@pytest.mark.parametrize("name", ["ram", "ram-light-builtin"])
def test_configurations_train_a_small_network(name: str, tmp_path: Path) -> None:
    arguments = {
        "ram": "{widths: [4, 6], blocks: 1}",
        "ram-light-builtin": "{widths: [16, 16], blocks: [1, 1], questions: [1]}",
    }
    small = [f"--data.init_args.{key}={value}" for key, value in {**SMALL, "length": 1, "workers": 0}.items()]
    options = ["--model.arguments", arguments[name], "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
    assert main(["train", f"{name}.yaml", "--runs", str(tmp_path), *small, *options]) == 0
    assert (tmp_path / name / "best.safetensors").exists()


@pytest.mark.slow
def test_a_step_at_the_published_size(tmp_path: Path) -> None:
    """And the loss falls on the batch that it was taken for."""
    from recon.models.ram import RAM

    batch = TaskData(**{**SMALL, "size": 64}).training_set()[0]
    torch.manual_seed(0)
    network = RAM()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            x = network(batch.y, batch.physics())
        loss = LOSSES["weighted_l1"](x.float(), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
