"""Compressed measurements in files and on the command line: simulated, kept, described, reconstructed, refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_scans import refused
from PIL import Image as Pillow
from scipy.io import savemat

from recon import datasets
from recon.cli import main
from recon.datasets import CompressedScan, Image, Source
from recon.datasets.simulate_compressed import make_matrix, phantom, read_matrix, simulate_compressed
from recon.metrics import picture_figures
from recon.physics import BlockCompressedSensing
from recon.physics.errors import DataError, DTypeError, FileFormatError, OptionError, ShapeError
from recon.physics.measurement_matrices import gaussian_matrix

EXACT = ("--model", "minimum-norm", "--trust", "none")  # where there are as many measurements as pixels


def picture(shape=(40, 50), dtype=np.uint8, peak=255) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    values = peak * (0.2 + 0.5 * (x**2 + y**2 < 0.6) + 0.2 * (x > 0.3))
    return np.round(values).astype(dtype)


def colour() -> np.ndarray:
    grey = picture().astype(float)
    return np.stack([grey, 0.5 * grey, grey[::-1]], axis=-1).round().astype(np.uint8)


def image(pixels: np.ndarray, **more) -> Image:
    return Image(pixels=pixels, source=Source("array"), **more)


@pytest.fixture
def matrix(generator) -> torch.Tensor:
    return gaussian_matrix(32, 64, generator)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    Pillow.fromarray(picture()).save(path)
    return path


# --- simulation -----------------------------------------------------------------------------------------------


def test_measurements_are_those_of_the_operator(matrix):
    made = simulate_compressed(image(picture()[None]), matrix, (8, 8))
    physics = BlockCompressedSensing(matrix, (40, 50), (8, 8))
    expected = physics.A(torch.from_numpy(picture()).float()[None, None])
    np.testing.assert_allclose(made.scan.measurements, expected.numpy(), rtol=1e-5, atol=1e-3)
    assert (made.scan.peak, made.scan.levels, made.scan.colour, made.scan.sigma) == (255.0, "uint8", None, 0.0)
    assert np.array_equal(made.truth.pixels[0], picture())


def test_luminance_is_that_of_ycbcr(matrix):
    made = simulate_compressed(image(colour()[None]), matrix, (8, 8))
    r, g, b = np.moveaxis(colour().astype(float), -1, 0)
    assert np.array_equal(made.truth.pixels[0], np.round(0.299 * r + 0.587 * g + 0.114 * b))
    ours, pillows = made.truth.pixels[0].astype(int), np.asarray(Pillow.fromarray(colour()).convert("L")).astype(int)
    assert np.abs(ours - pillows).max() <= 1
    assert made.scan.colour == "luminance"
    assert made.scan.n_channels == 1


def test_channels_are_measured_one_by_one(matrix):
    made = simulate_compressed(image(colour()[None]), matrix, (8, 8), colour="channels")
    assert made.scan.n_channels == 3
    green = simulate_compressed(image(colour()[None, ..., 1]), matrix, (8, 8)).scan
    np.testing.assert_allclose(made.scan.measurements[:, 1:2], green.measurements, rtol=1e-6)
    assert np.array_equal(made.truth.pixels[0], colour())


def test_noise_has_its_level_and_its_seed(matrix):
    clean = simulate_compressed(image(picture()[None]), matrix, (8, 8)).scan.measurements
    noisy = [simulate_compressed(image(picture()[None]), matrix, (8, 8), sigma=7.0, seed=s).scan for s in (1, 1, 2)]
    assert 6.5 < (noisy[0].measurements - clean).std() < 7.5
    assert np.array_equal(noisy[0].measurements, noisy[1].measurements)
    assert not np.array_equal(noisy[0].measurements, noisy[2].measurements)


def test_a_matrix_without_orthonormal_rows_leaves_a_note(matrix):
    scan = simulate_compressed(image(picture()[None]), 3 * matrix, (8, 8)).scan
    assert not scan.orthonormal
    assert scan.notes == ("the rows of the matrix are not orthonormal",)


def test_refused_images(matrix):
    bad = picture(dtype=np.float32)[None]
    bad[0, 3, 4] = np.nan
    with pytest.raises(DataError, match="1 of 2000 NaN"):
        simulate_compressed(image(bad), matrix, (8, 8))
    with pytest.raises(OptionError, match=r"image 40 x 50, block 64 x 1.*smaller blocks"):
        simulate_compressed(image(picture()[None]), matrix, (64, 1))
    with pytest.raises(DTypeError, match="real"):
        simulate_compressed(image(picture()[None].astype(np.complex64)), matrix, (8, 8))
    with pytest.raises(OptionError, match="noise level"):
        simulate_compressed(image(picture()[None]), matrix, (8, 8), sigma=-1.0)
    with pytest.raises(OptionError, match="no such colour"):
        simulate_compressed(image(picture()[None]), matrix, (8, 8), colour="hue")


@pytest.mark.parametrize(("kind", "block"), [("gaussian", (5, 7)), ("hadamard", (8, 8)), ("dct", (5, 7))])
def test_matrices_by_name(kind, block):
    made = make_matrix(kind, 0.4, block, seed=4)
    assert made.shape == (round(0.4 * block[0] * block[1]), block[0] * block[1])
    assert torch.equal(made, make_matrix(kind, 0.4, block, seed=4))


def test_matrices_from_files(tmp_path, matrix):
    np.save(tmp_path / "phi.npy", matrix.numpy())
    savemat(tmp_path / "phi.mat", {"phi": matrix.double().numpy()})
    datasets.save(simulate_compressed(image(picture()[None]), matrix, (8, 8)).scan, tmp_path / "scan.npz")
    for name in ("phi.npy", "phi.mat", "scan.npz"):
        torch.testing.assert_close(read_matrix(tmp_path / name, (8, 8)), matrix)
    np.save(tmp_path / "turned.npy", matrix.T.numpy())
    with pytest.raises(ShapeError, match=r"64 x 32.*other way round"):
        read_matrix(tmp_path / "turned.npy", (8, 8))
    with pytest.raises(ShapeError, match=r"32 x 64.*--block"):
        read_matrix(tmp_path / "phi.npy", (33, 33))
    with pytest.raises(OptionError, match="another ratio"):
        read_matrix(tmp_path / "phi.npy", (8, 8), ratio=0.25)
    np.save(tmp_path / "nan.npy", np.full((2, 64), np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_matrix(tmp_path / "nan.npy", (8, 8))
    np.save(tmp_path / "complex.npy", np.zeros((2, 3, 4), np.complex64))
    with pytest.raises(DTypeError, match="no matrix"):
        read_matrix(tmp_path / "complex.npy", (8, 8))


# --- files ----------------------------------------------------------------------------------------------------


def test_a_file_keeps_everything(tmp_path, matrix):
    pixels = image(np.stack([picture(), picture()[::-1]]), unit="HU", spacing=(2.0, 1.0, 1.5), affine=np.eye(4))
    scan = replace(simulate_compressed(pixels, matrix, (8, 8), sigma=2.0).scan, header={"who": "me"}, notes=("a", "b"))
    datasets.save(scan, tmp_path / "scan.npz")
    opened = datasets.open(tmp_path / "scan.npz")
    assert isinstance(opened, CompressedScan)
    for name in ("block", "size", "peak", "levels", "sigma", "colour", "unit", "spacing", "header", "notes"):
        assert getattr(opened, name) == getattr(scan, name), name
    assert np.array_equal(opened.affine, scan.affine)
    assert np.array_equal(opened.matrix, scan.matrix)
    for index in range(2):
        assert np.array_equal(opened.slice(index), scan.measurements[index])


def test_refused_files(tmp_path, matrix):
    scan = simulate_compressed(image(picture()[None]), matrix, (8, 8)).scan
    arrays = {"measurements": scan.measurements, "matrix": scan.matrix}
    metadata = {"block": [8, 8], "size": [40, 50]}

    def opened(more=None, **changed):
        np.savez(tmp_path / "bad.npz", **{**arrays, **changed}, metadata=json.dumps({**metadata, **(more or {})}))
        return datasets.open(tmp_path / "bad.npz")

    assert opened().ratio == 0.5
    with pytest.raises(ShapeError, match="matrix that does not fit the block"):
        opened(matrix=scan.matrix[:, :63])
    with pytest.raises(ShapeError, match="measurements that do not fit"):
        opened(measurements=scan.measurements[..., 1:])
    with pytest.raises(DataError, match="not finite"):
        opened(matrix=np.full_like(scan.matrix, np.inf))
    with pytest.raises(OptionError, match="larger than the image"):
        opened({"size": [4, 50]})
    with pytest.raises(DTypeError, match="numbers"):
        opened(measurements=scan.measurements.astype(np.complex64))
    with pytest.raises(FileFormatError, match="description"):
        opened({"block": [8]})
    with pytest.raises(FileFormatError, match="description"):
        opened({"block": [float("inf"), 8]})
    with pytest.raises(DataError, match="sigma"):
        opened({"sigma": -1.0})
    with pytest.raises(OptionError, match="levels"):
        opened({"levels": "object"})
    np.savez(tmp_path / "silent.npz", **arrays)
    with pytest.raises(FileFormatError, match="do not tell their block"):
        datasets.open(tmp_path / "silent.npz")
    with pytest.raises(OptionError, match="no compressed scan can be written"):
        datasets.save(scan, tmp_path / "scan.h5")
    opened()
    with pytest.raises(OptionError, match="have no psf"):
        datasets.open(tmp_path / "bad.npz", psf=tmp_path / "psf.fits")


# --- the command ----------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_simulate_info_reconstruct_evaluate(tmp_path, png, capsys):
    raw, out = tmp_path / "raw.npz", tmp_path / "out.png"
    facts = run(capsys, "simulate", "cs", "--ratio", "0.4", "--block", "8", png, "--out", raw)
    assert facts["shape (slice, channel, m, rows, columns)"] == [1, 1, 26, 5, 7]
    (info,) = run(capsys, "info", raw)
    assert (info["kind"], info["image (y, x)"]) == ("compressed measurements", [40, 50])
    assert info["matrix"] == "26 x 64, rows orthonormal"
    (row,) = run(capsys, "reconstruct", raw, "--out", out, "--report")
    assert row["model"] == "l1-wavelet"
    assert 0 < row["hold_out_error"] < 0.3
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/png") > 0
    assert "coil" not in page.split("</header>")[0].rsplit("<header", 1)[1]
    made = np.asarray(Pillow.open(out))
    assert made.dtype == np.uint8
    assert picture_figures(made, picture())["psnr"] > 22
    figures = run(capsys, "evaluate", out, "--reference", tmp_path / "raw-truth.h5")
    assert figures["psnr"] > 22


@pytest.mark.parametrize("ending", [".npz", ".h5", ".fits", ".png"])
def test_16_bit_images_keep_their_units(ending, tmp_path, capsys):
    Pillow.fromarray(picture(dtype=np.uint16, peak=40000)).save(tmp_path / "deep.png")
    raw, out = tmp_path / "raw.npz", tmp_path / f"o{ending}"
    run(capsys, "simulate", "cs", tmp_path / "deep.png", "--ratio", "1", "--block", "8", "--out", raw)
    run(capsys, "reconstruct", raw, *EXACT, "--out", out)
    opened = datasets.open(out)
    made = np.asarray(opened.pixels[0])
    assert made.shape == (40, 50)
    assert np.abs(made - picture(dtype=float, peak=40000)).max() < 0.1
    if ending == ".png":
        assert made.dtype == np.uint16


def test_colours_come_back_as_colours(tmp_path, capsys):
    Pillow.fromarray(colour()).save(tmp_path / "colour.png")
    flags = ["--ratio", "1", "--matrix", "dct", "--block", "8", "--colour", "channels"]
    run(capsys, "simulate", "cs", tmp_path / "colour.png", *flags, "--out", tmp_path / "raw.npz")
    run(capsys, "reconstruct", tmp_path / "raw.npz", *EXACT, "--out", tmp_path / "o.png", "--report")
    made = np.asarray(Pillow.open(tmp_path / "o.png"))
    assert np.array_equal(made, colour())
    run(capsys, "simulate", "cs", tmp_path / "colour.png", "--block", "8", "--out", tmp_path / "grey.npz")
    run(capsys, "reconstruct", tmp_path / "grey.npz", *EXACT, "--out", tmp_path / "grey.png")
    assert np.asarray(Pillow.open(tmp_path / "grey.png")).shape == (40, 50)


def test_a_matrix_that_is_not_orthonormal_works_and_is_told(tmp_path, png, matrix, capsys):
    np.save(tmp_path / "phi.npy", (np.linspace(1, 4, 32)[:, None] * matrix.numpy()).astype(np.float32))
    flags = ["--matrix", tmp_path / "phi.npy", "--block", "8", "--out", tmp_path / "raw.npz"]
    facts = run(capsys, "simulate", "cs", png, *flags)
    assert "not orthonormal" in facts["notes"]
    (row,) = run(capsys, "reconstruct", tmp_path / "raw.npz", "--trust", "none", "--out", tmp_path / "o.npz")
    assert "steps are scaled" in row["note"]
    opened = datasets.open(tmp_path / "o.npz")
    assert picture_figures(np.asarray(opened.pixels[0]), picture())["psnr"] > 24
    assert any("steps are scaled" in note for note in opened.header["provenance"]["notes"])


def test_demo(tmp_path, capsys, monkeypatch):
    from recon.demo_compressed import run_compressed_demo

    outcome = run_compressed_demo(tmp_path / "demo", ["tv", "minimum-norm"], size=66)
    assert [row.method for row in outcome.rows] == ["tv", "minimum-norm"]
    assert outcome.rows[0].psnr > outcome.rows[1].psnr + 5
    assert outcome.rows[1].misfit < 1e-4
    assert outcome.report.read_text().count("data:image/png") > 2
    assert (tmp_path / "demo" / "comparison.png").stat().st_size > 0
    with pytest.raises(OptionError):
        run_compressed_demo(tmp_path / "other", ["cg-sense"], size=66)
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr("recon.demo_compressed.ready", lambda: ["minimum-norm", "grappa"])
    told = run(capsys, "demo", "cs", tmp_path / "third")
    assert [row["method"] for row in told["rows"]] == ["minimum-norm"]


def test_phantom_is_the_default_image(tmp_path, capsys):
    facts = run(capsys, "simulate", "cs", "--matrix", "hadamard", "--ratio", "0.1", "--out", tmp_path / "raw.npz")
    assert facts["shape (slice, channel, m, rows, columns)"] == [1, 1, 102, 9, 9]
    assert phantom().pixels.shape == (1, 264, 264)


def test_refused_commands(tmp_path, png, matrix, capsys):
    raw = tmp_path / "raw.npz"
    simulate = ("simulate", "cs", png, "--out", raw)
    np.save(tmp_path / "phi.npy", matrix.numpy())
    np.save(tmp_path / "nan.npy", np.full((40, 50), np.nan))
    for flags, message in (
        (["--ratio", "0"], "above 0 and at most 1"),
        (["--ratio", "1.5"], "above 0 and at most 1"),
        (["--ratio", "nan"], "above 0 and at most 1"),
        (["--block", "60"], "smaller than a block"),
        (["--block", "ten"], "not understood"),
        (["--matrix", "hadamard", "--block", "33"], "powers of 2"),
        (["--matrix", "wishful"], "no such matrix"),
        (["--matrix", "absent.npy"], "no such file"),
        (["--matrix", tmp_path / "phi.npy"], "does not fit the block"),
        (["--matrix", tmp_path / "phi.npy", "--block", "8", "--ratio", "0.1"], "another ratio"),
        (["--matrix", tmp_path / "phi.npy", "--block", "8", "--ordering", "xy"], "no ordering"),
        (["--noise", "-1"], "noise level"),
        (["--slices", "1"], "no such slice"),
    ):
        assert message in refused(capsys, *simulate, *flags)
        assert not raw.exists()
    assert "not finite" in refused(capsys, "simulate", "cs", tmp_path / "nan.npy", "--out", raw)
    assert "no compressed scan" in refused(capsys, "simulate", "cs", png, "--out", tmp_path / "raw.h5")
    small = tmp_path / "small.npy"
    np.save(small, picture((20, 20)))
    assert "--block 8" in refused(capsys, "simulate", "cs", small, "--out", raw)
    run(capsys, *simulate, "--block", "8")
    assert "exists already" in refused(capsys, *simulate, "--block", "8")
    out = ("reconstruct", raw, "--out", tmp_path / "o.npz")
    for flags, message in (
        (["--coils", "4"], "--coils does not apply"),
        (["--jobs", "2"], "--jobs does not apply"),
        (["--psf", png], "have no psf"),
        (["--model", "cg-sense"], "not for compressed measurements"),
        (["--model", "wiener"], "not for compressed measurements"),
        (["--slices", "3"], "no such slice"),
    ):
        assert message in refused(capsys, *out, *flags)
    assert "not an image" in refused(capsys, "evaluate", raw, "--reference", tmp_path / "raw-truth.h5")
    assert "not an image" in refused(capsys, "simulate", "mri", raw, "--out", tmp_path / "k.h5")


def test_the_figures_of_the_papers():
    reference = picture().astype(np.float64)
    shifted = reference + 10
    figures = picture_figures(shifted, reference)
    assert figures["psnr"] == pytest.approx(10 * np.log10(255**2 / 100))
    assert picture_figures(reference, reference)["ssim"] == 1
    beyond = np.where(reference > 200, 300.0, reference)
    clipped = np.where(reference > 200, 255.0, reference)
    assert picture_figures(beyond, reference) == picture_figures(clipped, reference)
