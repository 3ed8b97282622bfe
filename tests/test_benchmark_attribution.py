"""`benchmarks/attribution.py`: a whole study of the least size, and that it goes on where it was."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LOADED = ("common", "classical", "new_scanner", "unlearning_study", "attribution")
LEAST = {
    "examples": 4,
    "queries": 1,
    "subsets": 3,
    "steps": 6,
    "matrix": 32,
    "features": 2,
    "pools": 1,
    "top": 1,
    "draws": 1,
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("attribution")
    monkeypatch.setattr(sys.modules["common"], "RESULTS", tmp_path / "results")
    yield module
    for name in LOADED:
        sys.modules.pop(name, None)


def test_a_study_that_is_done_is_not_done_again(
    bench: ModuleType, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    words = ["--quick", "--data", str(shared_data), "--work", str(tmp_path / "work"), "--unlearn", "retrain", "ssd"]
    for name, value in LEAST.items():
        words += [f"--{name}", str(value)]
    assert bench.main(words) == 0
    first = capsys.readouterr().out
    for name in (*bench.ESTIMATORS, *bench.FIGURES, "random", "ssd"):
        assert name in first
    kept = [json.loads(path.read_text())["what"] for path in (tmp_path / "work").glob("*.json")]
    assert sum("subset" in what for what in kept) == 3
    assert sum("scores" in what for what in kept) == 1
    assert all(sum(what["subset"]) == 2 for what in kept if "subset" in what)

    def never(*_arguments: object) -> None:
        raise AssertionError

    for name in ("subset_run", "score_run", "forget_run"):
        monkeypatch.setattr(bench, name, never)
    assert bench.main(words) == 0
    assert capsys.readouterr().out == first
    assert not (tmp_path / "results").exists()  # what is quick is not recorded
    assert bench.main([*words, "--query", bench.NECK[0]]) == 2
    assert "a query that is trained on" in capsys.readouterr().err
