"""Training on blocks: places and matrices from seeds, the linear start, losses, runs that resume to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import write_mat73
from scipy.io import savemat
from training_runs import log, state, write_config

from recon import load_model
from recon.datasets.simulate_compressed import make_matrix
from recon.models.recursive_ista_net_plus import RecursiveISTANetPlus
from recon.models.unrolled import linear_estimate
from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.training.data.blocks import BlockData
from recon.training.operator_batch import OperatorBatch
from recon.training.run import train

SIDE = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, one of them in colour and one too small; every pixel of a picture tells where it is."""
    out = tmp_path / "pictures"
    out.mkdir()
    rng = np.random.default_rng(0)
    for index, size in enumerate([(20, 24), (9, 30), (6, 6), (16, 16, 3), (20, 20)]):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(out / f"{index}.png")
    return out


def data(folder: Path | None, **options: object) -> BlockData:
    given = {"block": SIDE, "blocks": 50, "batch_size": 4, "ratios": (0.25,), "validation": 1, **options}
    return BlockData(None if folder is None else [str(folder)], **given)


def batches(source: BlockData, epoch: int = 0) -> list[OperatorBatch]:
    loader = source.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_blocks_are_cut_from_the_pictures(folder: Path) -> None:
    source = data(folder)
    pictures = source.pictures
    assert [tuple(x.shape) for x in pictures.training] == [(20, 24), (9, 30), (16, 16)]
    assert [tuple(x.shape) for x in pictures.validation] == [(20, 20)]
    colour = np.asarray(Image.open(folder / "3.png"), dtype=np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(pictures.training[2], colour, atol=1e-6)
    examples = source.training_set()
    windows = {
        picture[y : y + SIDE, x : x + SIDE].numpy().tobytes()
        for picture in pictures.training
        for y in range(picture.shape[0] - SIDE + 1)
        for x in range(picture.shape[1] - SIDE + 1)
    }
    cut = [examples[index].pixels.numpy().tobytes() for index in range(50)]
    assert all(block in windows for block in cut)
    assert len(set(cut)) > 40
    share = torch.bincount(data(folder, blocks=20_000).training_set().which) / 20_000
    torch.testing.assert_close(share, torch.tensor([221, 46, 81]) / 348, atol=0.02, rtol=0)


def test_scarce_data_are_a_part_of_all_and_fill_an_epoch(folder: Path) -> None:
    every, few = data(folder).training_set(), data(folder, share=0.1).training_set()
    assert len(few) == len(every) == 50
    assert {few[index].name for index in range(50)} == {f"block {k}" for k in range(5)}
    for index in range(5):
        assert torch.equal(few[index].pixels, every[index].pixels)
    assert torch.equal(few[5].pixels, every[0].pixels)
    short = data(folder, length=20).training_set()
    short.set_epoch(1)
    assert torch.equal(short[0].pixels, every[20].pixels)


def test_the_matrix_is_that_of_the_simulation(folder: Path) -> None:
    """So that measurements by ``recon simulate cs`` suit a network that was trained with its seed."""
    source = data(folder, block=33, ratios=(0.1,), matrix_seed=3)
    assert torch.equal(source.matrix(0, 0), make_matrix("gaussian", 0.1, (33, 33), seed=3))
    sizes = [data(folder, block=33, ratios=(0.5,), rounding=r).measurements for r in ("half-up", "up", "half-even")]
    assert sizes == [[545], [545], [544]]


def test_batches_of_a_bank(folder: Path) -> None:
    """Ratio and matrix are drawn for each batch; the same in another process, others in another epoch."""
    options = {"ratios": (0.25, 0.5), "matrices": 3, "blocks": 400}
    first, again, later = (batches(data(folder, **options), epoch) for epoch in (0, 0, 1))
    drawn = [batch.operator.matrix for batch in first]
    assert all(torch.equal(a, b.operator.matrix) for a, b in zip(drawn, again, strict=True))
    assert not all(a.shape == b.operator.matrix.shape for a, b in zip(drawn, later, strict=True))
    assert {len(matrix) for matrix in drawn} == {16, 32}
    assert len({float(matrix[0, 0]) for matrix in drawn}) == 6
    for batch in first[:3]:
        assert batch.operator.orthonormal
        torch.testing.assert_close(batch.y[:, 0, :, 0, 0], batch.target.flatten(1) @ batch.operator.matrix.T)
        assert not batch.sigma.any()
    (one, two) = data(folder, **options).val_dataloader()
    assert {one.y.shape[2], two.y.shape[2]} == {16, 32}
    assert all(float(matrix[0, 0]) != float(batch.operator.matrix[0, 0]) for matrix in drawn for batch in (one, two))


def test_one_operator_serves_all_batches(folder: Path) -> None:
    first, second = batches(data(folder))[:2]
    assert first.operator is second.operator
    assert first.to("cpu").operator is first.operator
    moved = first.to("meta")
    assert moved.operator.matrix.is_meta
    assert not first.operator.matrix.is_meta


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_stored_blocks(version: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((200, SIDE**2))
    write_mat73(tmp_path / "Training_Data.mat", labels=rows)
    if version == "5":
        savemat(tmp_path / "Training_Data.mat", {"labels": rows})
    source = data(tmp_path / "Training_Data.mat", blocks=198)
    examples = source.training_set()
    found = torch.stack([examples[k].pixels.flatten() for k in range(198)])
    np.testing.assert_allclose(found, np.delete(rows, [0, 100], 0), atol=1e-6)  # each once, in their order
    assert len(source.validation_set()) == 2
    second = examples.second_moment()
    torch.testing.assert_close(second, (found.T @ found / 198).double(), atol=1e-5, rtol=1e-5)


def test_pictures_that_come_along() -> None:
    source = data(None, block=33)
    assert len(source.pictures.training) > 8
    assert all(0 <= float(x.min()) <= float(x.max()) <= 1 for x in source.pictures.training)
    assert source.card().licence == "BSD-3-Clause"


def test_data_that_cannot_be_used(tmp_path: Path, folder: Path) -> None:
    for options, says in (
        ({"ratios": (0.0,)}, "ratio"),
        ({"ratios": (1.5,)}, "ratio"),
        ({"ratios": ()}, "a ratio"),
        ({"share": 0.0}, "share"),
        ({"share": 1.1}, "share"),
        ({"matrices": 0}, "matrices 0"),
        ({"rounding": "none"}, "rounding"),
        ({"blocks": 0}, "blocks 0"),
    ):
        with pytest.raises(OptionError, match=says):
            data(folder, **options)
    with pytest.raises(DataError, match="not enough pictures"):
        data(folder, block=21).training_set()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="without images"):
        data(tmp_path / "empty").training_set()
    savemat(tmp_path / "other.mat", {"labels": np.ones((5, 9))})
    savemat(tmp_path / "none.mat", {"blocks": np.ones((5, 64))})
    (tmp_path / "damaged.mat").write_bytes(b"nothing")
    for name, says in (("other", "5 x 9"), ("none", "no labels"), ("damaged", "damaged"), ("absent", "no such")):
        with pytest.raises(FileFormatError, match=says):
            data(tmp_path / f"{name}.mat").training_set()


# --- training ---------------------------------------------------------------------------------------------------------

CONFIG = """
trainer: {{max_epochs: 3, log_every_n_steps: 1, accelerator: cpu}}
model:
  network: {network}
  arguments: {{phases: 2, recursions: 3, features: 8}}
  loss: {loss}
  lr: 3.0e-3
  schedule: {{kind: constant, warmup: 0}}
ema: 0.5
data:
  class_path: recon.training.data.blocks.BlockData
  init_args: {{images: [{folder}], block: 8, blocks: 40, batch_size: 10, ratios: {ratios}, matrices: {matrices}}}
"""
ISTA = {"network": "recursive-ista-net-plus", "loss": "{squared_error: 1.0, symmetry: 0.01}"}
COAST = {"network": "recursive-coast", "loss": "{squared_error: 1.0}"}


@pytest.fixture
def smooth(tmp_path: Path) -> Path:
    out = tmp_path / "smooth"
    out.mkdir()
    rng = np.random.default_rng(1)
    for index in range(4):
        pixels = rng.random((40, 40)).cumsum(0).cumsum(1)
        Image.fromarray((255 * pixels / pixels.max()).astype(np.uint8)).save(out / f"{index}.png")
    return out


def run(
    folder: Path, images: Path, name: str, *options: str, ratios: str = "[0.25]", matrices: int = 1, **what: str
) -> Path:
    text = CONFIG.format(folder=images, ratios=ratios, matrices=matrices, **what)
    return train(write_config(folder, name, text), ["--runs", str(folder / "runs"), "--name", name, *options])


def test_a_run_starts_from_the_linear_estimate_and_resumes_to_the_bit(tmp_path: Path, smooth: Path) -> None:
    """The same draws of recursions in the unbroken run and in the resumed one."""
    whole = run(tmp_path, smooth, "whole", **ISTA)
    run(tmp_path, smooth, "parts", "--trainer.max_epochs", "1", **ISTA)
    parts = run(tmp_path, smooth, "parts", "--ckpt_path", "last", **ISTA)
    one, two = state(whole)["state_dict"], state(parts)["state_dict"]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    model = load_model(whole / "best.safetensors")
    assert isinstance(model, RecursiveISTANetPlus)
    source = data(smooth, blocks=40, validation=2)
    q = linear_estimate(source.matrix(0, 0), source.training_set().second_moment())
    torch.testing.assert_close(model.initial, q.float(), atol=1e-4, rtol=1e-4)
    table = log(whole)
    losses = [float(row["train/squared_error"]) for row in table if row.get("train/squared_error")]
    assert losses
    assert all(np.isfinite(losses))
    assert any(row.get("train/symmetry") for row in table)


def test_training_improves(tmp_path: Path, smooth: Path) -> None:
    out = run(tmp_path, smooth, "coast", "--trainer.max_epochs", "6", ratios="[0.25, 0.5]", matrices=2, **COAST)
    values = [float(row["val/loss"]) for row in log(out) if row.get("val/loss")]
    assert values[-1] < 0.7 * values[0]
    model = load_model(out / "best.safetensors")
    assert "initial" not in model.state_dict()


def test_a_network_without_transform_has_no_symmetry(tmp_path: Path, smooth: Path) -> None:
    with pytest.raises(OptionError, match="symmetry"):
        run(tmp_path, smooth, "wrong", network="recursive-coast", loss="{symmetry: 1.0}")


@pytest.mark.parametrize(
    "name", ["ista-net-plus", "ista-net-plus-3", "recursive-ista-net-plus", "coast", "recursive-coast"]
)
def test_published_configurations(name: str) -> None:
    """They say what the papers say: settings of the optimiser, sizes, ratios."""
    import yaml

    import recon.configs

    folder = Path(recon.configs.__file__).parent
    config = yaml.safe_load((folder / f"{name}.yaml").read_text())
    assert config["model"]["lr"] == 1e-4
    init = config["data"]["init_args"]
    source = BlockData(**init)
    assert source.batch_size == 64
    assert source.length == 88_912
    if "coast" in name:
        assert source.measurements == [109, 218, 327, 436, 544 if "recursive" in name else 545]
        assert config["model"]["loss"] == {"squared_error": 1.0}
    else:
        assert source.measurements == [109]
        assert config["model"]["loss"] == {"squared_error": 1.0, "symmetry": 0.01}
        assert config["trainer"]["max_epochs"] == 200


@pytest.mark.parametrize(
    "pair", [("ista-net-plus-light", "recursive-ista-net-plus-light"), ("coast-light", "recursive-coast-light")]
)
def test_plain_and_recursive_are_compared_fairly(pair: tuple[str, str]) -> None:
    """They differ in the network only."""
    import yaml

    import recon.configs
    from recon.training.network import build

    folder = Path(recon.configs.__file__).parent
    plain, recursive = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in pair)
    built = [build(config["model"].pop("network"), config["model"].pop("arguments")) for config in (plain, recursive)]
    assert plain == recursive
    turns = [model.recursion.blocks * model.recursion.most for model in built]
    assert turns[0] == turns[1]
