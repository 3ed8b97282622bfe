"""`benchmarks/mri.py`: its cases and figures, with methods that take no time."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from recon.training.examples import collate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "classical", "mri"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("mri")
    monkeypatch.setattr(importlib.import_module("common"), "RESULTS", tmp_path / "results")
    yield module
    for name in ("common", "classical", "mri"):
        sys.modules.pop(name, None)


def test_real_cases_are_those_of_the_classical_benchmark(bench: ModuleType, shared_data: Path) -> None:
    case = next(bench.real_cases(shared_data, "5x Poisson", 1))
    y, mask = case.example.y, case.example.mask
    assert y.shape == (8, 230, 180)
    assert mask[103:127, 78:102].all()
    assert mask.numel() / mask.sum() == pytest.approx(5, rel=0.1)
    k = bench.brain(shared_data)[0]
    torch.testing.assert_close(y * case.example.scale, k * mask)
    figures = bench.evaluate(bench.reconstruct(bench.recon.load_model("zero-filled"), case.example), case)
    assert figures["inside"] == pytest.approx(27.193, abs=3 * 0.294), "as recorded for five seeds"
    assert figures["masked"] - figures["inside"] == pytest.approx(28.796 - 27.193, abs=0.01)
    assert 0 < figures["vif"] < 1
    perfect = bench.evaluate(case.reference, case)
    assert (perfect["ssim"], perfect["nmse"], perfect["hfen"]) == pytest.approx((1, 0, 0))
    assert perfect["vif"] == pytest.approx(1)


def test_simulated_cases_share_planes_and_differ_in_masks(bench: ModuleType, shared_data: Path) -> None:
    lines, discs = (
        list(bench.simulated_cases(shared_data, bench.VOLUMES["test"], setting, 2))
        for setting in ("8x random", "10x Poisson")
    )
    for a, b in zip(lines, discs, strict=True):
        assert a.example.y.shape == b.example.y.shape
        columns = a.example.mask.float().mean(0)
        assert set(columns.unique().tolist()) == {0.0, 1.0}
        assert b.example.mask.numel() / b.example.mask.sum() == pytest.approx(10, rel=0.15)
        assert "chris" in a.example.name
    again = next(bench.simulated_cases(shared_data, bench.VOLUMES["test"], "8x random", 2))
    assert torch.equal(again.example.y, lines[0].example.y)
    batch = collate([lines[0].example])
    assert batch.physics().noise_model.sigma > 0


def test_figures_of_one_image(bench: ModuleType) -> None:
    rng = torch.Generator().manual_seed(0)
    reference = torch.rand(48, 50, generator=rng) + 0.5
    inside = torch.zeros(48, 50, dtype=torch.bool)
    inside[8:40, 8:42] = True
    case = bench.Case(None, reference * inside, inside)
    image = reference + 0.1 * torch.randn(48, 50, generator=rng)
    figures = bench.evaluate(image, case)
    a, b = reference[inside].numpy(), image[inside].numpy()
    assert figures["inside"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=a.max()), abs=1e-3)
    assert figures["nmse"] == pytest.approx(float(((a - b) ** 2).sum() / (a**2).sum()), rel=1e-4)
    assert figures["frame"] < figures["masked"], "outside there is an error too"


def test_rows_are_kept_with_intervals_and_gains(
    bench: ModuleType, shared_data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Better(torch.nn.Module):
        learned = True

        def forward(self, y, physics):
            return bench.recon.load_model("cg-sense")(y, physics)

    real = bench.recon.load_model
    monkeypatch.setattr(bench.recon, "load_model", lambda name: Better() if name == "better" else real(name))
    words = ["--data", str(shared_data), "--model", "zero-filled", "no.safetensors", "better", "--seeds", "2"]
    words += ["--only", "real", "hold-out", "--setting", "5x Poisson", "--figure", str(tmp_path / "a.png")]
    assert bench.main(words) == 0
    out = capsys.readouterr().out
    assert "skipped: no.safetensors" in out
    lines = [json.loads(line) for line in (tmp_path / "results/mri.jsonl").read_text().splitlines()]
    zero, better, gain = lines[0]["rows"]
    for row in (zero, better):
        mean, low, high = row["inside"]
        assert low <= mean <= high
        assert mean == pytest.approx(sum(row["inside_all"]) / 2, abs=1e-4)
    assert gain["over"] == "zero-filled"
    assert gain["gain"][0] == pytest.approx(better["inside"][0] - zero["inside"][0], abs=1e-3)
    assert gain["gain"][1] > 5
    held_out = {row["method"]: row["error"][0] for row in lines[1]["rows"]}
    assert held_out["better"] < held_out["zero-filled"] / 2
    assert 0 < (tmp_path / "a.png").stat().st_size < 300_000


def test_no_model_at_all(bench: ModuleType, tmp_path: Path, capsys) -> None:
    assert bench.main(["--model", "nothing", "--data", str(tmp_path)]) == 2
    assert "none of the models can be used" in capsys.readouterr().err
