"""The built-in sample and the demo on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image as Picture

from recon.cli import main
from recon.demo import run_demo
from recon.memory import PeakMemory
from recon.models import source_of_weights, takes_stamps
from recon.physics.errors import OptionError, OutputError, ReconError
from recon.sample import sample_scan
from recon.slices import BASIC, Trust
from recon.zoo import ready


def test_sample_is_the_measured_scan(shared_data):
    with np.load(shared_data / "mri" / "kspace" / "brain-poisson-8ch.npz") as original:
        scan = sample_scan()
        mask, from_file = scan.sampling(0)
        assert from_file
        np.testing.assert_array_equal(mask, original["mask"].astype(bool))
        np.testing.assert_allclose(scan.slice(0)[:, mask], original["kspace"][:, mask], rtol=1e-6)


def test_sample_shape_and_sampling():
    scan = sample_scan()
    assert scan.kspace.shape == (1, 8, 230, 180)
    mask, _ = scan.sampling(0)
    assert mask.mean() == pytest.approx(0.124, abs=5e-4)
    measured = (scan.slice(0) != 0).any(axis=0)
    np.testing.assert_array_equal(measured, mask)
    assert mask[115 - 8 : 115 + 8, 90 - 8 : 90 + 8].all()  # a calibration block in the centre


def test_sample_shows_a_head():
    """Bright in an ellipse in the middle, dark in the corners: neither shifted nor transposed."""
    kspace = sample_scan().slice(0)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    image = np.sqrt((np.abs(coils) ** 2).sum(0))
    y, x = np.mgrid[-1:1:230j, -1:1:180j]
    inside, outside = image[np.hypot(y / 0.8, x / 0.75) < 1], image[np.hypot(y, x) > 1.1]
    assert np.median(inside) > 6 * np.median(outside)
    assert image.max() == pytest.approx(1.0, abs=1e-4)


def test_demo_writes_table_figures_and_report(tmp_path):
    told = []
    outcome = run_demo(
        tmp_path / "new" / "demo",
        ["rss", "zero-filled", "cg-sense"],
        trust=Trust(slices=1, replicas=2),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert {row.method for row in outcome.rows} == {"rss", "zero-filled", "cg-sense"}
    rows = {row.method: row for row in outcome.rows}
    assert rows["cg-sense"].hold_out_error < rows["zero-filled"].hold_out_error
    assert rows["cg-sense"].data_residual < rows["zero-filled"].data_residual
    assert math.isnan(rows["rss"].hold_out_error)  # it has no model of the samples
    assert [row.method for row in outcome.rows] == ["cg-sense", "zero-filled", "rss"]
    assert all(row.seconds > 0 and row.memory_bytes >= 0 for row in outcome.rows)
    assert outcome.left_out == {}
    assert [what for what, *_ in told] == ["rss", "zero-filled", "cg-sense", "figures and report", "done"]
    assert told[-1][1:] == (4, 4)
    for figure in outcome.figures:
        with Picture.open(figure) as picture:
            picture.load()
    text = outcome.report.read_text("utf-8")
    assert "cg-sense</strong> predicts left-out samples best" in text
    assert sorted(p.name for p in outcome.report.parent.iterdir()) == [
        "comparison.png",
        "report.html",
        "sampling.png",
        "trust.png",
    ]


def test_demo_says_why_a_method_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("recon.demo.ready", lambda: ["zero-filled", "grappa"])
    outcome = run_demo(tmp_path, trust=BASIC)
    assert [row.method for row in outcome.rows] == ["zero-filled"]
    assert set(outcome.left_out) == {"grappa"}
    assert outcome.left_out["grappa"]


def test_command_tells_what_it_left_out_where_the_memory_is_not_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recon.demo.ready", lambda: ["zero-filled", "ista", "wiener"])
    monkeypatch.setattr("recon.memory._resident", lambda: math.nan)
    assert main(["demo", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "zero-filled" in told
    assert "left out: ista (slow" in told
    assert "wiener" not in told
    assert "report.html" in told


def test_method_asked_for_by_name_is_not_left_out_silently(tmp_path):
    with pytest.raises(ReconError):
        run_demo(tmp_path, ["grappa"], trust=BASIC)
    with pytest.raises(OptionError, match="grapa"):
        run_demo(tmp_path, ["grapa"], trust=BASIC)
    with pytest.raises(OptionError, match="at least one method"):
        run_demo(tmp_path, [], trust=BASIC)


def test_demo_stops_before_the_work_where_an_output_exists(tmp_path, monkeypatch):
    monkeypatch.setattr("recon.demo.reconstruct", lambda *_, **__: pytest.fail("worked for nothing"))
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"report\.html"):
        run_demo(tmp_path, ["zero-filled"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        run_demo(tmp_path / "file" / "below", ["zero-filled"])
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.slow
def test_whole_demo(tmp_path):
    outcome = run_demo(tmp_path)
    assert {row.method for row in outcome.rows} | set(outcome.left_out) == {
        name for name in ready() if not takes_stamps(name)
    }
    others = {name for name in outcome.left_out if source_of_weights(name) != "diffusion-denoiser"}
    assert others == {"fbp", "fista", "grappa", "iht", "ista", "minimum-norm"}
    errors = {row.method: row.hold_out_error for row in outcome.rows}
    assert errors["l1-wavelet"] < errors["cg-sense"] < errors["zero-filled"]


def test_peak_memory_sees_what_is_taken_and_not_what_was_there():
    before = np.ones(2**24)
    with PeakMemory() as memory:
        block = np.ones(2**23)  # 64 MB
        assert block.sum() > 0
        del block
    if math.isnan(memory.bytes):
        pytest.skip("this system does not tell the resident memory")
    assert 0.9 * 2**26 < memory.bytes < 2 * 2**26
    assert before.sum() == 2**24
