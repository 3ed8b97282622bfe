"""`benchmarks/fastmri.py` on a small set in fastMRI's layout, made by `recon simulate`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recon.cli import main as recon_main

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("common", "fastmri"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("fastmri")
    assert Path(module.__file__).parent == BENCHMARKS
    monkeypatch.setattr(importlib.import_module("common"), "RESULTS", tmp_path / "results")
    yield module
    for name in ("common", "fastmri"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nibabel import Nifti1Image, save

    root = tmp_path_factory.mktemp("set")
    y, x = np.mgrid[:44, :48]
    disc = ((y - 22) / 18) ** 2 + ((x - 24) / 20) ** 2 < 1
    images = np.stack([disc * (1 + 0.5 * ((y // 6 + x // (5 + s)) % 2)) for s in range(2)])
    save(Nifti1Image(images.transpose(2, 1, 0).astype(np.float32), np.diag([1.0, 1, 4, 1])), root / "image.nii")
    for seed, (name, kind) in enumerate([("val/a", "AXT1"), ("val/b", "AXT2"), ("val/c", "AXT2"), ("test/d", "AXT2")]):
        out = root / f"multicoil_{name}.h5"
        out.parent.mkdir(exist_ok=True)
        mask = ["random", "--acceleration", "3"] if name == "test/d" else ["full"]
        words = [str(root / "image.nii"), "--out", str(out), "--format", "fastmri", "--acquisition", kind]
        words += ["--mask", *mask, "--oversampling", "2", "--coils", "4", "--seed", str(seed)]
        assert recon_main(["simulate", "mri", *words]) == 0
    return root


def run(bench: ModuleType, folder: Path, *words: str) -> int:
    return bench.main(["--data", str(folder), "--model", "zero-filled", "cg-sense", *words])


def test_table_by_acquisition(bench: ModuleType, folder: Path, tmp_path: Path, capsys) -> None:
    assert run(bench, folder, "--acceleration", "2", "4", "--submission", str(tmp_path / "out")) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        [a, kind, model, n]
        for a in ("2x", "4x")
        for kind, n in (("AXT1", "1"), ("AXT2", "2"), ("all", "3"))
        for model in ("zero-filled", "cg-sense")
    ]
    kept = json.loads((tmp_path / "results/fastmri.jsonl").read_text())
    rows = {(row["acceleration"], row["acquisition"], row["model"]): row for row in kept["rows"]}
    assert rows["2x", "all", "cg-sense"]["psnr"][0] > rows["2x", "all", "zero-filled"]["psnr"][0] + 2
    assert rows["2x", "all", "cg-sense"]["psnr"][0] > rows["4x", "all", "cg-sense"]["psnr"][0]

    # The figures are those of fastMRI's evaluate.py, worked out here from what was submitted.
    found = []
    for name in "abc":
        with (
            h5py.File(tmp_path / f"out/cg-sense/2x/{name}.h5") as ours,
            h5py.File(folder / f"multicoil_val/{name}.h5") as theirs,
        ):
            assert list(ours) == ["reconstruction"]
            x, gt = ours["reconstruction"][()], theirs["reconstruction_rss"][()]
        assert x.dtype == np.float32
        assert x.shape == gt.shape == (2, 44, 48)
        similar = [structural_similarity(g, p, data_range=gt.max()) for g, p in zip(gt, x, strict=True)]
        nmse = np.linalg.norm(gt - x) ** 2 / np.linalg.norm(gt) ** 2
        found.append([nmse, peak_signal_noise_ratio(gt, x, data_range=gt.max()), np.mean(similar)])
    for name, values in zip(("nmse", "psnr", "ssim"), np.transpose(found), strict=True):
        expected = [values.mean(), 2 * values.std()]
        assert rows["2x", "all", "cg-sense"][name] == pytest.approx(expected, rel=2e-3, abs=2e-5), name


def test_crop_is_the_square_of_the_width(bench: ModuleType) -> None:
    volume = np.arange(6 * 4).reshape(1, 6, 4)
    np.testing.assert_array_equal(bench.square(volume, 4), volume[:, 1:5])
    np.testing.assert_array_equal(bench.square(volume, 9), volume)


def test_submission_of_undersampled_scans(bench: ModuleType, folder: Path, tmp_path: Path, capsys) -> None:
    words = ["--split", "test", "--submission", str(tmp_path / "out")]
    assert run(bench, folder, *words) == 0
    assert "no volume has a reference" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert [path.name for path in (tmp_path / "out/zero-filled").iterdir()] == ["d.h5"]
    assert run(bench, folder, *words) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(bench, folder, *words, "--overwrite") == 0


def test_mask_is_the_files_own(bench: ModuleType, folder: Path) -> None:
    scans = [bench.open_fastmri(folder / f"multicoil_val/{name}.h5") for name in "aab"]
    a, again, b = (bench.undersampled(scan, "random", 4).mask for scan in scans)
    assert (a == again).all()
    assert not (a == b).all()


def test_what_cannot_be_used_is_named(bench: ModuleType, folder: Path, tmp_path: Path, capsys) -> None:
    place = tmp_path / "set"
    place.mkdir()
    (place / "a.h5").write_bytes((folder / "multicoil_val/a.h5").read_bytes())
    (place / "z.h5").write_bytes((folder / "multicoil_val/a.h5").read_bytes()[:3000])
    assert bench.main(["--data", str(place), "--model", "zero-filled", "no.safetensors", "--acceleration", "4"]) == 0
    out = capsys.readouterr().out
    assert "skipped: no.safetensors" in out
    assert "1 reconstructions or files left out" in out
    assert "z.h5" in out
    assert bench.main(["--data", str(place), "--model", "no-such-model"]) == 2
    assert bench.main(["--data", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
