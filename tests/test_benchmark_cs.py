"""`benchmarks/cs.py`: figures of a test set, and published files under their authors' names."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from recon.metrics import picture_figures
from recon.models import registry
from recon.physics import BlockCompressedSensing
from recon.physics.measurement_matrices import gaussian_matrix

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "cs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("cs")
    monkeypatch.setattr(importlib.import_module("common"), "RESULTS", tmp_path / "results")
    yield module
    for name in ("common", "cs"):
        sys.modules.pop(name, None)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "Set11"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        smooth = np.cumsum(np.cumsum(rng.normal(size=(40, 50)), 0), 1)
        grey = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
        Image.fromarray(np.stack([grey, grey, grey // 2], -1)).save(folder / f"{number}.png")
    return folder


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cs.py", *map(str, arguments)])
    return int(bench.main())


def test_figures_of_a_set(bench, pictures, tmp_path, monkeypatch, capsys):
    assert run(bench, monkeypatch, pictures, "--models", "minimum-norm", "cg-sense", "--ratios", 25) == 0
    (line,) = (tmp_path / "results" / "cs.jsonl").read_text().splitlines()
    (row,) = json.loads(line)["rows"]
    physics = BlockCompressedSensing(bench.make_matrix("gaussian", 0.25, (33, 33)), (40, 50))
    expected = []
    for path in sorted(pictures.iterdir()):
        y = np.asarray(Image.open(path).convert("YCbCr"))[..., 0].astype(np.float32)
        x = torch.from_numpy(y)[None, None]
        expected.append(picture_figures(physics.A_dagger(physics.A(x))[0, 0], y)["psnr"])
    assert row["psnr_each"] == pytest.approx(expected, abs=0.05)  # pillow rounds Y another way
    assert row["psnr"] == pytest.approx(np.mean(row["psnr_each"]))
    assert row["psnr_low"] <= row["psnr"] <= row["psnr_high"]
    assert row["seconds"] > 0
    assert "published" not in row
    told = capsys.readouterr().out
    assert "left out: cg-sense" in told
    assert f"| {row['psnr']:.2f} |" in told


def coast_state(recursive: bool) -> dict[str, torch.Tensor]:
    """Random weights under the names of the published files."""
    rng, state = torch.Generator().manual_seed(0), {}
    scale = {"0": (32, 3), "2": (32, 32)} if recursive else {"": (32, 1)}
    for k in range(2):
        state[f"module.fcs.{k}.lambda_step"] = torch.tensor([0.5])
        for name, shape in (("head_conv", (32, 1, 3, 3)), ("tail_conv", (1, 32, 3, 3))):
            state[f"module.fcs.{k}.{name}.weight"] = 0.05 * torch.randn(shape, generator=rng)
            state[f"module.fcs.{k}.{name}.bias"] = torch.zeros(shape[0])
        for j in range(3):
            unit = f"module.fcs.{k}.ResidualBlocks.{j}"
            for name in ("conv1", "conv2"):
                state[f"{unit}.{name}.weight"] = 0.05 * torch.randn(32, 32, 3, 3, generator=rng)
                state[f"{unit}.{name}.bias"] = torch.zeros(32)
            for place, shape in scale.items():
                dot = f".{place}" if place else ""
                state[f"{unit}.res_scale{dot}.weight"] = torch.full(shape, 0.1)
                state[f"{unit}.res_scale{dot}.bias"] = torch.zeros(shape[0])
    return state


def ista_state() -> dict[str, torch.Tensor]:
    rng, state = torch.Generator().manual_seed(0), {}
    for k in range(2):
        state[f"module.fcs.{k}.lambda_step"], state[f"module.fcs.{k}.soft_thr"] = torch.ones(1), torch.full((1,), 0.01)
        for name, shape in (("conv_D", (32, 1, 3, 3)), ("conv_G", (1, 32, 3, 3))):
            state[f"module.fcs.{k}.{name}"] = 0.01 * torch.randn(shape, generator=rng)
        for name in ("conv1_forward", "conv2_forward", "conv1_backward", "conv2_backward"):
            state[f"module.fcs.{k}.{name}"] = 0.01 * torch.randn(32, 32, 3, 3, generator=rng)
    return state


def test_published_files_are_found_under_their_names(bench, pictures, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "weights"
    phi = gaussian_matrix(109, 1089, torch.Generator().manual_seed(3))
    for name, state in (
        ("model/CS_ISTA_Net_plus_layer_9_group_1_ratio_10_lr_0.0001/net_params_200.pkl", ista_state()),
        ("model/CS_ISTA_Net_plus_layer_9_group_1_ratio_25_lr_0.0001/net_params_200.pkl", ista_state()),
        ("model/MRI_CS_ISTA_Net_plus_layer_9_group_1_ratio_10/net_params_200.pkl", ista_state()),
        ("model/COAST_layer_20_group_1_ratio_all_lr_0.00001/net_params_800.pkl", {}),
        ("model/COAST_layer_20_group_1_ratio_all_lr_0.00001/net_params_810.pkl", coast_state(False)),
        ("model/Full_Data/R-COAST_layer_5_IPL_4_lr_1/epoch=400_IPL=4_checkpoint.pkl", {}),
        ("model/Full_Data/R-COAST_layer_5_IPL_4_lr_1/Best_PSNR/epoch=368_checkpoint.pkl", {"model": coast_state(True)}),
        ("model/Full_Data/COAST_layer_5_IPL_4_lr_1/epoch=400_checkpoint.pkl", {}),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / name)
    (folder / "sampling_matrix").mkdir()
    savemat(folder / "sampling_matrix" / "phi_0_10_1089.mat", {"phi": phi.numpy()})
    savemat(folder / "sampling_matrix" / "Initialization_Matrix_10.mat", {"Qinit": phi.T.numpy()})
    for bank in (1, 50):
        np.save(folder / "sampling_matrix" / f"phi_sampling_{bank}_109x1089.npy", np.stack([phi.numpy()] * 2))
    monkeypatch.setitem(bench.PUBLISHED, ("set11", "coast"), {10: 1.0})
    assert run(bench, monkeypatch, pictures, "--weights", folder, "--ratios", 10) == 1
    rows = {
        row["model"].split("_layer")[0]: row
        for row in json.loads((tmp_path / "results" / "cs.jsonl").read_text())["rows"]
    }
    assert list(rows) == ["COAST", "CS_ISTA_Net_plus", "R-COAST"]
    assert rows["COAST"]["published"] == 1.0
    assert rows["R-COAST"]["published"] == 28.5
    assert "not the published figure: Set11 COAST_layer_20" in capsys.readouterr().out

    entry = next(entry for entry in bench.published(folder, [10]) if entry.name == "ista-net-plus")
    model = entry.load()
    assert isinstance(model, registry["ista-net-plus"])
    torch.testing.assert_close(model.initial, phi.T)
    torch.testing.assert_close(entry.matrix(), phi)
    (folder / "sampling_matrix" / "phi_0_10_1089.mat").unlink()
    with pytest.raises(SystemExit, match=r"phi_0_10_1089\.mat"):
        list(bench.published(folder, [10]))


def test_a_figure_within_the_tolerance_passes(bench, pictures, tmp_path, monkeypatch):
    found = {"psnr": [28.685, 28.675], "ssim": [0.86, 0.87], "seconds": [0.1, 0.2], "processor_seconds": [0.1, 0.2]}
    entry = bench.Entry(label="x", name="coast", percent=10, load=None, matrix=None, published=True)
    assert bench.row(entry, "Set11", found)["published"] == 28.69
    monkeypatch.setattr(bench, "published", lambda *_: [entry])
    monkeypatch.setattr(bench, "measure", lambda *_: found)
    assert run(bench, monkeypatch, pictures, "--weights", tmp_path) == 0
    found["psnr"] = [28.60, 28.60]
    assert run(bench, monkeypatch, pictures, "--weights", tmp_path) == 1
