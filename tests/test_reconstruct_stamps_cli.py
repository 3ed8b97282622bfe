"""``recon reconstruct`` on galaxy stamps: outputs, restart after a kill, workers, bad files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from galaxies import observation

import recon
from recon.cli import main
from recon.datasets import Image, Source, Stamps, save
from recon.datasets.readers import ReadOptions
from recon.galaxies import plan as planning
from recon.galaxies.plan import StampJob, execute
from recon.parallel import fill_spool
from recon.workers import workers

MODEL = ("--model", "wiener", "--replicas", "2")


def stamps(n: int = 9) -> Stamps:
    _, y, physics = observation(n, 32)
    return Stamps(
        pixels=y[:, 0].numpy(),
        psf=physics.psf[:, 0].numpy(),
        sigma=physics.noise_model.sigma.numpy(),
        ids=np.arange(100, 100 + n),
        pixel_scale=0.2,
        units="adu",
        source=Source("array"),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(stamps(), tmp_path / "stamps.fits")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_PIXELS", 2 * 32 * 32)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must fail with status 2, and return the one line that it says."""
    assert main([str(argument) for argument in ("reconstruct", *arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def same(first: Path, second: Path) -> None:
    np.testing.assert_allclose(fits.getdata(first), fits.getdata(second), rtol=1e-4, atol=1e-3)
    tables = [Table.read(path.with_name(f"{path.stem}-catalogue.fits")) for path in (first, second)]
    assert tables[0].colnames == tables[1].colnames
    for name in tables[0].colnames:
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


# --- what it writes -----------------------------------------------------------------------------------------------


def test_stamps_and_catalogue(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out.fits", tmp_path / "cat.ecsv"
    arguments = ["reconstruct", str(file), *MODEL, "--out", str(out), "--catalogue", str(table), "--json"]
    assert main(arguments) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["output"], row["catalogue"], row["objects"]) == (str(out), str(table), 9)
    expected = recon.reconstruct(stamps(), model="wiener", replicas=2)
    with fits.open(out) as written:
        np.testing.assert_allclose(written[0].data, expected.image[:, 0], rtol=1e-5, atol=1e-4)
        assert written[0].header["BUNIT"] == "adu"
        assert any("wiener" in str(line) for line in written[0].header["HISTORY"])
        assert list(written["OBJECTS"].data["ID"]) == list(range(100, 109))
    rows = Table.read(table)
    assert list(rows["id"]) == list(range(100, 109))
    assert rows["flux"].unit == "adu"
    assert rows["size"].unit == "pix"
    for name in ("flux", "x", "size", "e1", "g2", "g2_error", "chi2", "flags"):
        np.testing.assert_allclose(rows[name], expected.catalogue[name], rtol=1e-5, atol=1e-6)
    provenance = json.loads(rows.meta["provenance"])
    assert provenance["input"]["sha256"] == recon.datasets.open(file).source.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.ecsv", "out.fits", "stamps.fits"]


def test_a_psf_in_another_file(tmp_path: Path) -> None:
    data = stamps()
    np.save(tmp_path / "cube.npy", data.pixels)
    np.save(tmp_path / "psf.npy", data.psf[0])
    psf = ["--psf", str(tmp_path / "psf.npy")]
    assert main(["reconstruct", str(tmp_path / "cube.npy"), *psf, *MODEL, "--out", str(tmp_path)]) == 0
    expected = recon.reconstruct(data.pixels, psf=data.psf[0], model="wiener", replicas=0)
    np.testing.assert_allclose(fits.getdata(tmp_path / "cube-recon.fits"), expected.image[:, 0], rtol=1e-5, atol=1e-4)
    assert len(Table.read(tmp_path / "cube-recon-catalogue.fits")) == 9


def test_bad_objects_do_not_stop_the_run(tmp_path: Path) -> None:
    data = stamps()
    pixels = data.pixels.copy()
    pixels[4] = np.nan
    file = save(replace(data, pixels=pixels), tmp_path / "stamps.fits")
    assert main(["reconstruct", str(file), *MODEL, "--out", str(tmp_path / "out.fits")]) == 0
    rows = Table.read(tmp_path / "out-catalogue.fits")
    assert list(rows["id"]) == list(range(100, 109))
    assert np.flatnonzero(rows["flags"]).tolist() == [4]
    assert np.flatnonzero(np.ma.getmaskarray(rows["g1"])).tolist() == [4]  # what is NaN in the file, astropy masks


# --- restart and workers ------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import recon.galaxies.plan as planning
from recon.cli import main
planning._PIXELS = 2 * 32 * 32
run = planning.StampPlan.run
def killed(plan, index):
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(plan, index)
planning.StampPlan.run = killed
main(sys.argv[1:])
"""


@pytest.mark.usefixtures("small_parts")
def test_a_killed_run_goes_on_where_it_was(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "out.fits", tmp_path / "whole.fits"
    arguments = ["reconstruct", str(file), *MODEL, "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.fits.parts", "stamps.fits"]
    ran, run = [], planning.StampPlan.run

    def counted(plan: planning.StampPlan, index: int) -> object:
        ran.append(index)
        return run(plan, index)

    monkeypatch.setattr(planning.StampPlan, "run", counted)
    assert main(arguments) == 0
    assert ran == [3, 4]
    assert main([*arguments[:-1], str(whole)]) == 0
    same(out, whole)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("small_parts")
def test_other_options_start_anew(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.fits"
    run, ran = planning.StampPlan.run, []

    def interrupted(plan: planning.StampPlan, index: int) -> object:
        ran.append(index)
        if ran == [0, 1]:
            raise KeyboardInterrupt
        return run(plan, index)

    monkeypatch.setattr(planning.StampPlan, "run", interrupted)
    arguments = ["reconstruct", str(file), "--model", "wiener", "--out", str(out)]
    assert main([*arguments, "--replicas", "2"]) == 130
    assert not out.exists()
    assert main([*arguments, "--replicas", "0"]) == 0
    assert ran == [0, 1, 0, 1, 2, 3, 4]


def test_two_workers_give_the_same_and_one_may_be_killed(tmp_path: Path) -> None:
    file = save(stamps(700), tmp_path / "stamps.fits")  # three parts

    def job(name: str, replicas: int) -> StampJob:
        return StampJob(
            path=file,
            spool=tmp_path / name,
            model="wiener",
            replicas=replicas,
            responses=False,
            seed=0,
            device=None,
            format=None,
            options=ReadOptions(),
        )

    def check(done: StampJob) -> None:
        result = execute(done.open_plan(), spool=done.spool)
        alone = execute(done.open_plan())
        np.testing.assert_allclose(result.image, alone.image, rtol=1e-4, atol=1e-3)
        assert list(result.catalogue["id"]) == list(range(100, 800))
        for name in result.catalogue.colnames:
            np.testing.assert_allclose(
                result.catalogue[name], alone.catalogue[name], rtol=1e-3, atol=1e-4, err_msg=name
            )

    with workers(2) as pool:
        quick, long = job("quick", 0), job("long", 4)
        fill_spool(pool, quick, quick.open_plan(), lambda _done, _total: None)
        assert len(list(quick.spool.glob("*.npz"))) == 3
        check(quick)

        def kill(done: int, _total: int) -> None:
            if done == 1:
                os.kill(next(iter(pool._processes)), signal.SIGKILL)

        with pytest.warns(RuntimeWarning, match="killed"):
            fill_spool(pool, long, long.open_plan(), kill)
        assert len(list(long.spool.glob("*.npz"))) < 3
        check(long)


# --- outputs that exist, bad files, bad options -------------------------------------------------------------------


def test_outputs_that_exist(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = tmp_path / "out.fits", tmp_path / "out-catalogue.fits"
    table.write_text("mine")
    assert "out-catalogue.fits: the output exists already" in refused(capsys, file, *MODEL, "--out", out)
    assert not out.exists()
    arguments = ["reconstruct", str(file), *MODEL, "--out", str(out)]
    assert main([*arguments, "--resume"]) == 0  # what is there stays, what is missing comes
    assert table.read_text() == "mine"
    assert out.exists()
    before = out.stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert out.stat().st_mtime_ns == before
    assert main([*arguments, "--overwrite"]) == 0
    assert len(Table.read(table)) == 9


def test_bad_files(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out.fits")
    short = tmp_path / "short.fits"
    short.write_bytes(file.read_bytes()[:-20000])
    assert "truncated" in refused(capsys, short, *out)
    lonely = save(Image(pixels=stamps().pixels, source=Source("array")), tmp_path / "lonely.fits")
    assert "--psf" in refused(capsys, lonely, *out)
    np.save(tmp_path / "four.npy", stamps().psf[:4])
    line = refused(capsys, lonely, "--psf", tmp_path / "four.npy", *out)
    assert "another number of PSFs than of stamps" in line
    assert "found 4" in line
    assert "no such file" in refused(capsys, lonely, "--psf", tmp_path / "nothing.fits", *out)
    np.save(tmp_path / "line.npy", np.ones(5, np.float32))
    assert "line.npy" in refused(capsys, lonely, "--psf", tmp_path / "line.npy", *out)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".*"))


def test_bad_options(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out.fits")
    assert "expected .fits" in refused(capsys, file, "--out", tmp_path / "out.h5")
    assert "expected .fits or .ecsv" in refused(capsys, file, *out, "--catalogue", tmp_path / "cat.txt")
    assert "in one file" in refused(capsys, file, *out, "--catalogue", tmp_path / "out.fits")
    assert "--coils does not apply to galaxy stamps" in refused(capsys, file, *out, "--coils", "4")
    assert "two replicas" in refused(capsys, file, *out, "--replicas", "1")
    assert "takes k-space" in refused(capsys, file, *out, "--model", "cg-sense")
    assert "no weights for 'shapenet'" in refused(capsys, file, *out, "--model", "shapenet")
    k = tmp_path / "scan.npz"
    np.savez(k, kspace=np.ones((1, 2, 16, 16), np.complex64))
    assert "--replicas does not apply to k-space" in refused(capsys, k, "--out", tmp_path / "o.h5", "--replicas", "2")
    assert not list(tmp_path.glob("*out*"))
