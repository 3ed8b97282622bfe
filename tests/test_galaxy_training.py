"""Training on simulated galaxies: losses, batches, data that are split by galaxy, and a step of each network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from galaxies import gaussian, observation
from torch import Tensor
from training_runs import log

import recon
from recon.cli import main
from recon.cli.train import packaged
from recon.datasets.galaxies import GalaxyShards
from recon.models.galaxy_admm import GalaxyADMM
from recon.physics.errors import OptionError, OutputError, ShapeError
from recon.training.data.galaxies import GalaxyData
from recon.training.galaxies import GalaxyBatch, GalaxyExample, collate_galaxies, turned
from recon.training.losses import LOSSES, WeightedLoss

NETWORKS = {
    "galaxy-admm-light": {"iterations": 1, "widths": [2, 3], "blocks": 1},
    "tikhonet": {"width": 2, "growth": 2, "layers": [1, 1]},
    "shapenet": {"width": 2, "growth": 2, "layers": [1, 1]},
}


def batch(target: Tensor, sigma: float = 1.0) -> GalaxyBatch:
    b = len(target)
    return GalaxyBatch(
        y=target, psf=torch.ones(b, 1, 1, 1), target=target, sigma=torch.full((b,), sigma), names=("a",) * b
    )


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a few stamps."""
    folder = tmp_path_factory.mktemp("galaxies")
    GalaxyData(str(folder), train=12, validation=3, batch_size=4).prepare_data()
    return folder


def data(folder: Path, **arguments: object) -> GalaxyData:
    return GalaxyData(str(folder), **{"train": 12, "validation": 3, "batch_size": 4, **arguments})


# --- losses ---------------------------------------------------------------------------------------------------


def test_losses_by_their_formulae(generator: torch.Generator) -> None:
    target = torch.randn(2, 1, 16, 20, generator=generator)
    x = target + 0.3 * torch.randn(2, 1, 16, 20, generator=generator)
    d = ((x - target) / 0.5)[:, 0]
    half = d.reshape(2, 8, 2, 10, 2).mean((2, 4))
    quarter = d.reshape(2, 4, 4, 5, 4).mean((2, 4))
    expected = d.abs().mean() + half.abs().mean() / 2 + quarter.abs().mean() / 4
    found = LOSSES["multi_scale"](x, batch(target, 0.5))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(LOSSES["mse"](x, batch(target, 0.5))) == pytest.approx(float(d.square().mean()), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, math.nan])
def test_unit_without_noise_is_the_targets(sigma: float, generator: torch.Generator) -> None:
    target = torch.randn(2, 1, 8, 8, generator=generator)
    x = target + 1
    for name in ("multi_scale", "mse", "shape"):
        loss = LOSSES[name](x, batch(target, sigma))
        assert float(loss) > 0
        torch.testing.assert_close(LOSSES[name](7 * x, batch(7 * target, sigma)), loss)


def test_shape_loss_sees_shear_size_and_place_and_has_derivatives() -> None:
    sigma = 2.0
    round_ = gaussian(40, sigma)
    losses = {}
    for name, x in {
        "same": round_,
        "fainter": 0.9 * round_,
        "larger": gaussian(40, 1.1 * sigma),
        "sheared": gaussian(40, sigma, q=0.9),
        "sheared more": gaussian(40, sigma, q=0.8),
        "sheared aside": gaussian(40, sigma, q=0.9, angle=math.pi / 4),
        "moved": gaussian(40, sigma, dx=0.3),
    }.items():
        image = x.clone().requires_grad_()
        loss = LOSSES["shape"](image, batch(round_))
        loss.backward()
        losses[name] = float(loss.detach())
        assert torch.isfinite(image.grad).all()
        assert bool(image.grad.any()) == (name != "same")
    assert losses["same"] == 0
    assert min(value for name, value in losses.items() if name != "same") > 1e-4
    assert losses["sheared more"] > 3 * losses["sheared"]
    assert losses["sheared aside"] == pytest.approx(losses["sheared"], rel=0.05)
    # noise that is spread evenly over a pixel and its neighbours counts less than the same noise in the shape
    with torch.no_grad():
        flux = LOSSES["shape"](0.9 * round_, batch(round_))
    assert float(flux) == pytest.approx(0.01 * 2 / 6, rel=0.01)  # moments 1 and r^2, each 10 % off


def test_losses_refuse_other_shapes() -> None:
    for name in ("multi_scale", "mse", "shape"):
        with pytest.raises(ShapeError, match="does not fit"):
            LOSSES[name](torch.zeros(1, 2, 8, 8), batch(torch.zeros(1, 1, 8, 8)))


# --- batches --------------------------------------------------------------------------------------------------


def test_batch_makes_its_operator_and_moves() -> None:
    truth, y, physics = observation(3)
    examples = [
        GalaxyExample(y=a[0], psf=p[0], target=t[0], sigma=float(s), name=str(i))
        for i, (a, p, t, s) in enumerate(zip(y, physics.psf, truth, physics.noise_model.sigma, strict=True))
    ]
    made = collate_galaxies(examples).to("cpu")
    assert len(made) == 3
    assert made.names == ("0", "1", "2")
    torch.testing.assert_close(made.physics().A(truth), physics.A(truth))
    torch.testing.assert_close(made.physics().noise_model.sigma, physics.noise_model.sigma)
    with pytest.raises(ShapeError, match="several sizes"):
        collate_galaxies(
            [examples[0], GalaxyExample(**{**vars(examples[1]), "y": torch.zeros(3, 3), "target": torch.zeros(3, 3)})]
        )


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("element", range(8))
def test_turned_examples_obey_their_equation(n: int, element: int) -> None:
    """And the centre stays at n // 2, so that a delta PSF stays the identity."""
    truth = gaussian(n, 1.5, q=0.7, angle=0.4, dx=1.0, dy=-2.0)
    _, _, physics = observation(1)
    psf = physics.psf[..., :24, :24]  # an even one
    y = type(physics)(psf).A(truth)
    example = turned(GalaxyExample(y=y[0, 0], psf=physics.psf[0, 0, :24, :24], target=truth[0, 0], sigma=1.0), element)
    torch.testing.assert_close(
        type(physics)(example.psf[None, None]).A(example.target[None, None])[0, 0], example.y, rtol=0, atol=1e-5
    )
    delta = torch.zeros(n, n)
    delta[n // 2, n // 2] = 1
    assert torch.equal(turned(GalaxyExample(y=delta, psf=delta, target=delta, sigma=1.0), element).psf, delta)


def test_symmetries_are_eight() -> None:
    x = torch.arange(25.0).reshape(5, 5)
    made = {turned(GalaxyExample(y=x, psf=x, target=x, sigma=1.0), k).y.numpy().tobytes() for k in range(8)}
    assert len(made) == 8


# --- data -----------------------------------------------------------------------------------------------------


def test_stamps_are_those_of_the_simulation(stamps: Path) -> None:
    examples = data(stamps, augment=False).training_set()
    shards = GalaxyShards(stamps / "train")
    assert len(examples) == 12
    for index in (0, 11):
        example = examples[index]
        torch.testing.assert_close(example.target, torch.from_numpy(shards.read("truth", [index])[0]))
        assert example.sigma == pytest.approx(float(shards.catalogue["sigma"][index]))
        snr = float(torch.linalg.vector_norm(example.target)) / example.sigma
        assert snr == pytest.approx(float(shards.catalogue["snr"][index]), rel=1e-4)
        physics = collate_galaxies([example]).physics()
        residual = (physics.A(example.target[None, None])[0, 0] - example.y) / example.sigma
        assert 0.9 < float(residual.std()) < 1.1  # noise, and nothing else


def test_epochs_go_through_all_stamps_and_are_reproducible(stamps: Path) -> None:
    examples = data(stamps, length=5).training_set()
    seen = []
    for epoch in range(3):
        examples.set_epoch(epoch)
        assert len(examples) == 5
        seen += [examples[i].name for i in range(5)]
    assert len(set(seen)) == 12
    again = data(stamps, length=5).training_set()
    again.set_epoch(2)
    assert torch.equal(again[3].y, examples[3].y)
    other = data(stamps, length=5, seed=1)
    with pytest.raises(OutputError, match="another recipe"):
        other.prepare_data()


def test_no_galaxy_is_in_both_parts(stamps: Path) -> None:
    made = data(stamps)
    train, validation = made.training_set(), made.validation_set()
    assert len(validation) == 3
    truths = [validation[i].target for i in range(3)]
    assert not any(torch.allclose(train[i].target, t) for i in range(12) for t in truths)
    assert made.card().split == "by galaxy"


def test_data_that_cannot_be(tmp_path: Path) -> None:
    for arguments, says in (
        ({"train": 0}, "too little"),
        ({"validation": 0}, "too little"),
        ({"length": 13}, "at most all"),
        ({"survey": "hubble"}, "no such survey"),
    ):
        with pytest.raises(OptionError, match=says):
            data(tmp_path, **arguments)


# --- training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", NETWORKS)
def test_a_step_of_each_configuration(
    config: str, stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"folder": stamps, "train": 12, "validation": 3, "length": 8, "batch_size": 4}
    options = [f"--data.init_args.{name}={value}" for name, value in small.items()]
    options += ["--model.arguments", json.dumps(NETWORKS[config]), "--trainer.accelerator", "cpu"]
    assert main(["train", config, "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1", *options]) == 0
    run = tmp_path / "runs" / config
    losses = [float(row["train/loss"]) for row in log(run) if row.get("train/loss")]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    card = json.loads((run / "best.json").read_text())
    assert card["split"] == "by galaxy"
    assert card["figures"]["steps"] == 2
    model = recon.load_model(run / "best.safetensors")
    _, y, physics = observation(2)
    assert torch.isfinite(model(y, physics)).all()
    assert model.card is not None


def test_a_step_of_the_published_network() -> None:
    """One optimiser step of the 17.1 million weights, on one small stamp."""
    assert "galaxy-admm" in packaged()
    from importlib.resources import files

    import yaml

    config = yaml.safe_load(files("recon.configs").joinpath("galaxy-admm.yaml").read_text())
    arguments = config["model"]["arguments"]
    assert config["model"]["network"] == "galaxy-admm"
    model = GalaxyADMM(**arguments).train()
    assert sum(p.numel() for p in model.parameters()) == 17_087_980
    truth, y, physics = observation(2, 16)
    made = GalaxyBatch(y=y, psf=physics.psf, target=truth, sigma=physics.noise_model.sigma, names=("a", "b"))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)  # Adam's averages would triple the memory of the test
    loss = WeightedLoss(config["model"]["loss"])
    before, _ = loss(model(made.y, made.physics()), made)
    before.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config["trainer"]["gradient_clip_val"])
    optimiser.step()
    with torch.no_grad():
        after, _ = loss(model(made.y, made.physics()), made)
    assert 0 < float(after) < float(before.detach())


def test_training_lowers_the_error() -> None:
    """Thirty steps on a few galaxies, and the network does better than a new one on other noise."""
    truth, y, physics = observation(16, 24, snr=20.0)
    _, other, _ = observation(16, 24, snr=20.0, seed=1)
    made = GalaxyBatch(y=y, psf=physics.psf, target=truth, sigma=physics.noise_model.sigma, names=("a",) * 16)
    torch.manual_seed(0)
    model = GalaxyADMM(2, (4, 8), 1)
    loss = WeightedLoss({"multi_scale": 1.0, "shape": 1.0})

    def error() -> float:
        with torch.no_grad():
            return float(loss(model.eval()(other, physics), made)[0])

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = error()
    for _ in range(30):
        optimiser.zero_grad()
        loss(model.train()(y, physics), made)[0].backward()
        optimiser.step()
    assert error() < 0.5 * before
