"""`benchmarks/new_scanner.py`: what it keeps apart, and that it goes on where it was."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from networks import tiny

from recon.cards import Card
from recon.checkpoint import save_checkpoint
from recon.finetuning.holding_out import HeldOut
from recon.finetuning.loop import Descent

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LOADED = ("common", "classical", "new_scanner")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("new_scanner")
    monkeypatch.setattr(importlib.import_module("common"), "RESULTS", tmp_path / "results")
    monkeypatch.setattr(
        module, "QUICK", replace(module.QUICK, scans=(1,), tested=1, descent=Descent(steps=1), largest=64)
    )
    yield module
    for name in LOADED:
        sys.modules.pop(name, None)


def test_planes_that_are_tuned_and_tested_on_differ(bench: ModuleType, shared_data: Path) -> None:
    volume = bench.Scanner(shared_data, bench.SHIFTS["anatomy"], bench.QUICK).volume
    halves = [bench.half_of(volume, first).planes for first in (0, 1)]
    for tuned, tested, every in zip(*halves, volume.planes, strict=True):
        assert set(tuned.tolist()).isdisjoint(tested.tolist())
        assert len(tuned) + len(tested) == len(every)


def test_samples_to_judge_by_are_not_in_what_is_tuned_on(bench: ModuleType, shared_data: Path) -> None:
    for name in bench.REAL:
        part = bench.real_parts(shared_data, name, 0)
        assert bool(part.left_out.any())
        assert not bool((part.kept.physics.mask & part.left_out).any())
        assert not bool(part.kept.y[part.left_out.expand_as(part.kept.y)].any())
        told = HeldOut(part.whole, part.whole, part.left_out)  # what is predicted is known
        errors = [each.error(lambda y, physics: physics.A_adjoint(y)) for each in (told, part)]
        assert errors[0] < errors[1] < part.error(lambda y, physics: 0 * physics.A_adjoint(y)) == 1


def test_runs_that_are_done_are_not_done_again(
    bench: ModuleType, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_checkpoint(weights, tiny("recurrentvarnet"), Card())
    words = ["--quick", "--data", str(shared_data), "--model", str(weights), "--work", str(tmp_path / "work")]
    words += ["--only", "shifts", "--shift", "coils"]
    assert bench.main(words) == 0
    first = capsys.readouterr().out
    assert all(name in first for name in ("zero", "self", "supervised", "scratch"))
    kept = list((tmp_path / "work").glob("*.json"))
    assert len(kept) == 4
    assert json.loads(kept[0].read_text())["what"]["shift"] == "coils"

    def never(*_arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(bench, "run_of", never)
    assert bench.main(words) == 0
    assert capsys.readouterr().out == first
    assert not (tmp_path / "results").exists()  # what is quick is not recorded


def test_another_network_has_runs_of_its_own(bench: ModuleType) -> None:
    model = tiny("recurrentvarnet")
    before = bench.checksum(model)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert bench.checksum(model) != before == bench.checksum(tiny("recurrentvarnet"))
