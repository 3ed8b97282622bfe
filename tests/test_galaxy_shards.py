"""Simulated galaxies on disk: shards that go on where they stopped, and the command that writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from recon import datasets
from recon.cli import main
from recon.datasets.galaxies import (
    LSST,
    GalaxyRecipe,
    GalaxyShards,
    PSFModel,
    SeeingTable,
    simulate_galaxies,
    survey_named,
    write_shards,
)
from recon.physics.errors import FileFormatError, OptionError, OutputError

SEEING = replace(LSST, psf=PSFModel(seeing=SeeingTable()))  # draws fast


def test_shards_go_on_where_they_stopped(tmp_path: Path) -> None:
    recipe = GalaxyRecipe(survey=SEEING, seed=5)
    folder = tmp_path / "set"
    write_shards(recipe, 5, folder, shard=2)
    kept = (folder / "0000000000-0000000002.h5").stat().st_mtime_ns
    (folder / "0000000002-0000000004.h5").unlink()
    done = []
    shards = write_shards(recipe, 7, folder, shard=2, progress=lambda n, total: done.append((n, total)))
    assert done[-1] == (7, 7)
    assert (folder / "0000000000-0000000002.h5").stat().st_mtime_ns == kept
    assert len(shards) == 7
    whole = simulate_galaxies(7, SEEING, seed=5)
    rows = [6, 0, 3, 3]
    for name in ("observed", "truth", "psf"):
        np.testing.assert_array_equal(shards.read(name, rows), getattr(whole, name)[rows])
    np.testing.assert_array_equal(shards.catalogue["galaxy"], np.arange(7))
    np.testing.assert_array_equal(shards.catalogue["kind"], whole.catalogue["kind"])
    with pytest.raises(OptionError, match="no such stamp"):
        shards.read("truth", [7])
    with pytest.raises(OutputError, match="another recipe"):
        write_shards(replace(recipe, seed=6), 7, folder, shard=2)


def test_folders_that_hold_no_shards(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no simulated galaxies"):
        GalaxyShards(tmp_path)
    (tmp_path / "0000000000-0000000002.h5").write_bytes(b"broken")
    with pytest.raises(FileFormatError, match="damaged shard"):
        GalaxyShards(tmp_path)
    with pytest.raises(OutputError, match="not empty"):
        write_shards(GalaxyRecipe(), 1, tmp_path)


def test_command_writes_what_the_reader_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stamps.fits"
    command = ["simulate", "galaxy", "--out", str(out), "--number", "3", "--seed", "2", "--json"]
    assert main([*command, "--snr", "50"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["stamps"], facts["shape (y, x)"]) == (3, [48, 48])
    assert {path.name for path in tmp_path.iterdir()} == {"stamps.fits"}
    sample = simulate_galaxies(3, seed=2, snr=50.0)
    with fits.open(out) as hdus:
        np.testing.assert_array_equal(hdus["TRUTH"].data, sample.truth)
        np.testing.assert_array_equal(hdus["CATALOG"].data["g1"], sample.catalogue["g1"])
        assert hdus["SCI"].header["BUNIT"] == "adu"
    batch = datasets.open(out).batch(0, 3)
    np.testing.assert_array_equal(batch.y[:, 0].numpy(), sample.observed)
    np.testing.assert_allclose(batch.psf[:, 0].numpy(), sample.psf, rtol=1e-5)
    np.testing.assert_allclose(batch.sigma.numpy(), LSST.noise.sigma, rtol=1e-5)
    np.testing.assert_allclose(batch.jacobian.numpy(), np.broadcast_to(0.2 * np.eye(2), (3, 2, 2)), rtol=1e-6)
    assert main(command) == 2  # exists
    assert "--overwrite" in capsys.readouterr().err


def test_command_makes_rings_in_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["simulate", "galaxy", "--out", str(out), "--number", "1", "--ring", "0.02", "--split", "test"]) == 0
    assert len(GalaxyShards(out)) == 8
    capsys.readouterr()
    for bad, text in (
        (["--survey", "hubble"], "no such survey"),
        (["--split", "none"], "no such split"),
        (["--number", "0"], "nothing to simulate"),
        (["--parametric"], "--catalogue"),
        (["--snr", "0"], "no signal-to-noise ratio"),
        (["--ring", "2"], "no ring"),
    ):
        assert main(["simulate", "galaxy", "--out", str(tmp_path / "other"), *bad]) == 2
        assert text in capsys.readouterr().err
    assert main(["simulate", "galaxy", "--out", str(tmp_path / "other.png")]) == 2
    assert survey_named("lsst") is LSST
