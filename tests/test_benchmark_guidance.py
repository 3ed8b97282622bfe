"""`benchmarks/guidance.py`: search on one volume, test on another, and a coverage that is one."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from networks import tiny

from recon.guidance import Posterior

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "classical", "guidance"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("guidance")
    monkeypatch.setattr(module, "SIDE", 32)
    yield module
    for name in ("common", "classical", "guidance"):
        sys.modules.pop(name, None)


def test_search_and_test_see_different_volumes(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def volume(path: Path) -> SimpleNamespace:
        opened.append(path.name)
        return SimpleNamespace(pixels=torch.rand(9, 40, 30, generator=torch.Generator().manual_seed(len(opened))))

    monkeypatch.setattr(bench, "load_volume", volume)
    options = argparse.Namespace(
        data=Path("nowhere"), images=2, validation=1, samples=2, steps=2, rounds=1, verbose=False
    )
    result = bench.measure("MRI 4x", tiny("diffusion-denoiser").eval(), options)
    assert opened == ["brain-MR_Gd.nii.gz", "brain-chris_t1.nii.gz"]
    assert set(result["figures"]) == {"tfg", "dps", "diffpir", "dpir", "pnp-admm", "red", "tv"}
    for table in result["figures"].values():
        mean, low, high = table["psnr"]
        assert low <= mean <= high
    assert "steps=2" in result["numbers"]["tfg"]


def test_slices_are_of_magnitude_one_and_measured_alike(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = 5 * torch.rand(9, 40, 30, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(bench, "load_volume", lambda _: SimpleNamespace(pixels=pixels))
    for task, kind in bench.TASKS.items():
        first, again = (bench.examples(task, Path("x"), 1)[0] for _ in range(2))
        assert first.truth.shape == (1, kind.channels, 32, 32)
        assert float(torch.linalg.vector_norm(first.truth, dim=1).max()) == pytest.approx(1, abs=1e-5)
        residual = (first.y - first.physics.A(first.truth))[first.y != 0]
        assert float(residual.std()) == pytest.approx(bench.SIGMA, rel=0.15)
        assert torch.equal(again.y, first.y)


def test_coverage_of_the_right_spread_is_nine_tenths(bench: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    middle = 1 + torch.rand(1, 1, 100, 100, generator=generator)
    samples = middle + 0.05 * torch.randn(64, 1, 1, 100, 100, generator=generator)
    truth = middle + 0.05 * torch.randn(1, 1, 100, 100, generator=generator)
    posterior = Posterior(samples, samples.mean(0), samples.std(0))
    assert bench.coverage(posterior, truth) == pytest.approx(0.9, abs=0.02)
    assert bench.coverage(posterior, middle + 0.1 * torch.randn(1, 1, 100, 100, generator=generator)) < 0.7
