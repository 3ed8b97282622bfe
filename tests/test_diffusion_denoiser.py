"""The denoiser of diffusion models: what it is by construction, what it is trained on, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from deepinv.physics import GaussianNoise, ZeroNoise
from networks import problem as kspace
from networks import tiny
from training_runs import log

import recon
from recon.cli import main
from recon.models.noise_unet import DiffusionDenoiser, NoiseUNet
from recon.physics.denoising import Denoising
from recon.physics.errors import OptionError, ShapeError
from recon.training.data.denoising import DenoisingData
from recon.training.losses import LOSSES

SMALL = {"size": 32, "length": 2, "validation_length": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def network() -> NoiseUNet:
    return tiny("diffusion-denoiser").eval().denoiser


def test_it_has_the_weights_that_the_card_will_say() -> None:
    assert sum(p.numel() for p in DiffusionDenoiser().parameters()) == 1_327_971


@pytest.mark.parametrize("channels", [1, 2])
def test_little_noise_changes_nothing_and_much_noise_gives_an_image_of_unit_scale(
    network: NoiseUNet, channels: int
) -> None:
    x = torch.rand(3, channels, 13, 18, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(network(x, 1e-4), x, atol=2e-3)
        loud = network(1000 * torch.randn(x.shape), 1000.0)
    assert loud.shape == x.shape
    assert float(loud.abs().max()) < 10


def test_levels_go_with_their_images(network: NoiseUNet) -> None:
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = network(x, torch.tensor([0.1, 0.4]))
        for index, level in enumerate((0.1, 0.4)):
            assert torch.allclose(both[index], network(x[index : index + 1], level)[0], atol=1e-5)
        assert not torch.allclose(network(x, 0.1), network(x, 0.4), atol=1e-3)


def test_preconditioning_is_that_of_the_paper() -> None:
    """Where F is zero, what is left is the best linear denoiser of images of root mean square s."""
    silent = tiny("diffusion-denoiser").denoiser
    with torch.no_grad():
        for layer in silent.tail:
            layer.weight.zero_()
            layer.bias.zero_()
        x = torch.rand(1, 2, 16, 16)
        assert torch.allclose(silent(x, 0.5), x * silent.deviation**2 / (silent.deviation**2 + 0.25), atol=1e-6)


def test_it_keeps_double_precision_and_refuses_what_it_does_not_know(network: NoiseUNet) -> None:
    assert network(torch.rand(1, 1, 16, 16, dtype=torch.float64), 0.1).dtype == torch.float64
    with pytest.raises(ShapeError, match="3 channels"):
        network(torch.rand(1, 3, 16, 16), 0.1)
    with pytest.raises(ShapeError):
        network(torch.rand(2, 1, 16, 16), torch.rand(3))
    with pytest.raises(ShapeError, match="white"):
        network(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
    for arguments in ({"widths": (8, 16), "blocks": (1, 1)}, {"blocks": (1,)}, {"deviation": 0.0}, {"channels": (0,)}):
        with pytest.raises(OptionError, match="no denoiser"):
            NoiseUNet(**arguments)


def test_as_a_model_it_denoises_only(network: NoiseUNet) -> None:
    model = tiny("diffusion-denoiser").eval()
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(model(x, Denoising(GaussianNoise(0.2))), network(x, 0.2))
        with pytest.raises(OptionError, match="noise level"):
            model(x, Denoising(ZeroNoise()))
        with pytest.raises(OptionError, match="images in noise"):
            model(*kspace())


def test_batches_are_of_one_kind_and_the_same_for_a_seed() -> None:
    first, again = (DenoisingData(**SMALL, seed=3).training_set() for _ in range(2))
    kinds = set()
    for index in range(2):
        a, b = first[index], again[index]
        assert torch.equal(a.y, b.y)
        assert a.y.shape[0] == 4
        kinds.add(a.y.shape[1])
        noise = (a.y - a.target).flatten(1).std(1)
        assert torch.allclose(noise, a.sigma, rtol=0.2)
        assert 0.7 < float(a.target.abs().max()) < 1.4
    again.set_epoch(1)
    assert not torch.equal(first[0].y, again[0].y)
    only = DenoisingData(**SMALL, complex_share=1.0)
    assert {only.training_set()[i].y.shape[1] for i in range(2)} == {2}
    assert {batch.y.shape[1] for batch in only.val_dataloader()} == {2}
    with pytest.raises(IndexError):
        first[2]


def test_all_levels_count_alike() -> None:
    """The loss of a denoiser that shrinks each image as if it had no structure is the same at every level."""
    batch = DenoisingData(**{**SMALL, "batch_size": 24}).training_set()[0]
    s = batch.target.flatten(1).square().mean(1).sqrt()
    shrunk = (s**2 / (s**2 + batch.sigma**2)).reshape(-1, 1, 1, 1) * batch.y
    each = batch.weight * (shrunk - batch.target).square().flatten(1).mean(1)
    usual = each[(batch.sigma > 0.01) & (s > 0.1)] / 0.01 / s[(batch.sigma > 0.01) & (s > 0.1)] ** 2
    assert len(usual) > 10
    assert float((usual - 1).abs().max()) < 0.5
    assert float(LOSSES["weighted_squared_error"](shrunk, batch)) == pytest.approx(float(each.mean()), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 16},
        {"sigma": (0.0, 1.0)},
        {"sigma": (2.0, 1.0)},
        {"complex_share": 1.5},
        {"length": 0},
        {"volumes": (Path("a.nii"),), "validation_volumes": (Path("a.nii"),)},
        {"volumes": (Path("a.nii"),), "weights": (1.0, 2.0)},
    ],
    ids=str,
)
def test_data_that_cannot_be_trained_on(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        DenoisingData(**options)


def test_a_few_steps_teach_it_something() -> None:
    """Adam on one batch: the loss falls below half."""
    batch = DenoisingData(**SMALL, sigma=(0.1, 0.5)).training_set()[0]
    network = tiny("diffusion-denoiser").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = LOSSES["weighted_squared_error"](network(batch.y, batch.physics()), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_configuration_trains(tmp_path: Path) -> None:
    small = [f"--data.init_args.{key}={value}" for key, value in {**SMALL, "length": 2}.items()]
    small += [f"--data.init_args.{key}=[]" for key in ("volumes", "validation_volumes")]
    small += ["--data.init_args.weights=null", "--trainer.check_val_every_n_epoch=1"]
    options = ["--model.arguments", "{widths: [16, 32], blocks: [1, 1]}", "--trainer.max_steps=2"]
    assert main(["train", "diffusion-brain-light.yaml", "--runs", str(tmp_path), *small, *options]) == 0
    model = recon.load_model(tmp_path / "diffusion-brain-light" / "best.safetensors")
    assert isinstance(model, DiffusionDenoiser)
    figures = log(tmp_path / "diffusion-brain-light")[-1]
    assert math.isfinite(float(figures["val/psnr/noise 0.1"]))
