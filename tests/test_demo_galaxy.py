"""The demo on simulated galaxies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from recon.cli import main
from recon.datasets.galaxies import simulate_galaxies
from recon.galaxies.demo import AS_OBSERVED, run_galaxy_demo
from recon.galaxies.plan import for_stamps
from recon.physics.errors import OptionError, OutputError


def test_table_and_pictures(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    outcome = run_galaxy_demo(
        tmp_path / "new", ["wiener", "richardson-lucy"], number=16, progress=lambda *step: told.append(step)
    )
    rows = {row.method: row for row in outcome.rows}
    assert set(rows) == {AS_OBSERVED, "wiener", "richardson-lucy"}
    assert [row.shear_error for row in outcome.rows] == sorted(row.shear_error for row in outcome.rows)
    assert all(row.flux_error < 0.3 and row.shear_error < 0.3 for row in outcome.rows)
    assert rows["wiener"].size_error < rows[AS_OBSERVED].size_error
    assert rows["wiener"].chi2 == pytest.approx(1, abs=0.15)
    assert np.isnan(rows[AS_OBSERVED].chi2)
    assert outcome.left_out == {}
    assert [what for what, *_ in told] == ["simulating", "wiener", "richardson-lucy", "figures", "done"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["shapes.png", "stamps.png"]
    for figure in outcome.figures:
        with Picture.open(figure) as picture:
            picture.load()
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_flux_of_the_table_is_that_of_the_simulation(tmp_path: Path) -> None:
    sample = simulate_galaxies(8, split="test", seed=3)
    outcome = run_galaxy_demo(tmp_path, ["wiener"], number=8, seed=3)
    observed = next(row for row in outcome.rows if row.method == AS_OBSERVED)
    error = np.abs(sample.observed.sum((1, 2), dtype=np.float64) / sample.catalogue["flux"] - 1)
    assert observed.flux_error == pytest.approx(np.median(error), rel=1e-3)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="k-space"):
        run_galaxy_demo(tmp_path, ["cg-sense"], number=2)
    with pytest.raises(OptionError, match="weener"):
        run_galaxy_demo(tmp_path, ["weener"], number=2)
    with pytest.raises(OptionError, match="at least one method"):
        run_galaxy_demo(tmp_path, [], number=2)
    (tmp_path / "shapes.png").write_text("mine")
    with pytest.raises(OutputError, match=r"shapes\.png"):
        run_galaxy_demo(tmp_path, ["wiener"], number=2)
    assert (tmp_path / "shapes.png").read_text() == "mine"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.galaxies.demo.for_stamps", lambda: ("wiener",))
    whole = run_galaxy_demo
    monkeypatch.setattr("recon.galaxies.demo.run_galaxy_demo", lambda *a, **k: whole(*a, **k, number=6))
    assert main(["demo", "galaxy", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("wiener", "shear", "stamps.png"))
    assert main(["demo", "galaxy", str(tmp_path / "out"), "--overwrite", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in printed["rows"]} == {"wiener", AS_OBSERVED}
    assert main(["demo", "galaxi", str(tmp_path / "out")]) == 2
    assert "expected mri, galaxy" in capsys.readouterr().err


def test_every_method_for_stamps_is_in_it() -> None:
    assert {"wiener", "starlet", "richardson-lucy", "galaxy-pnp"} <= set(for_stamps())
