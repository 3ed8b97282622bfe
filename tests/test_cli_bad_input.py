"""The command and every kind of bad input: one line that says what is wrong, and nothing lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_scans import MODEL, kspace, left_behind, phantom, refused, save
from samples import write_fastmri

from recon.cli import main


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    np.savez(path, kspace=kspace(2))
    return path


def test_truncated_hdf5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_fastmri(tmp_path / "scan.h5", kspace(2))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = refused(capsys, "reconstruct", path, "--out", tmp_path / "out.h5", *MODEL)
    assert "scan.h5" in line
    assert not left_behind(tmp_path, "scan.h5")


def test_wrong_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_fastmri(tmp_path / "scan.h5", kspace(1), header="<ismrmrdHeader><encoding>")
    assert "scan.h5" in refused(capsys, "reconstruct", path, "--out", tmp_path / "out.h5", *MODEL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float) -> None:
    data = kspace()
    data[0, 1, 24, 20] = value
    line = refused(capsys, "reconstruct", save(tmp_path / "scan.npz", data), "--out", tmp_path / "out.h5", *MODEL)
    assert "1 of" in line
    assert "--slices" in line


def test_all_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "scan.npz", np.zeros((1, 4, 48, 40), np.complex64))
    assert "all zero" in refused(capsys, "reconstruct", path, "--out", tmp_path / "out.h5", *MODEL)


def test_mask_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "scan.npz", kspace(), mask=np.ones((40, 48), bool))
    line = refused(capsys, "reconstruct", path, "--out", tmp_path / "out.h5", *MODEL)
    assert "mask" in line
    assert "(40, 48)" in line


def test_no_calibration_block_falls_back_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = kspace(mask="full", acceleration=1.0, center=None)
    data[..., ::2] = 0
    path = save(tmp_path / "scan.npz", data)
    assert main(["reconstruct", str(path), "--out", str(tmp_path / "out.h5"), "--json", *MODEL]) == 0
    assert "low-resolution coil maps" in json.loads(capsys.readouterr().out)[0]["note"]


@pytest.mark.parametrize("shape", [(47, 39), (33, 64)])
@pytest.mark.parametrize("coils", [1, 3])
def test_odd_sizes_and_one_coil(tmp_path: Path, shape: tuple[int, int], coils: int) -> None:
    path = save(tmp_path / "scan.npz", kspace(coils=coils, shape=shape))
    assert main(["reconstruct", str(path), "--out", str(tmp_path / "out.npz"), *MODEL]) == 0
    with np.load(tmp_path / "out.npz") as written:
        assert any(written[name].shape[-2:] == shape for name in written.files)


def test_200_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "scan.npz", kspace(200, coils=2, shape=(16, 16), center=8))
    out = tmp_path / "out.npz"
    flags = ["--model", "zero-filled", "--trust", "none", "--json"]
    assert main(["reconstruct", str(path), "--out", str(out), *flags]) == 0
    assert json.loads(capsys.readouterr().out)[0]["slices"] == 200


def test_double_precision_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.npz", kspace().astype(np.complex128))
    assert main(["reconstruct", str(path), "--out", str(tmp_path / "out.npz"), *MODEL]) == 0


def test_integers_are_refused_or_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "scan.npz", np.ones((1, 4, 48, 40), np.int16))
    assert "complex" in refused(capsys, "reconstruct", path, "--out", tmp_path / "out.npz", *MODEL)


def test_a_bad_file_among_good_ones_is_listed_and_left(scan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scan.parent
    (folder / "notes.txt").write_text("not a scan")
    bad = save(folder / "bad.npz", np.full((1, 4, 48, 40), np.nan, np.complex64))
    out = folder / "out"
    assert main(["reconstruct", str(folder), "--out", str(out), *MODEL]) == 1
    error = capsys.readouterr().err
    assert str(bad) in error
    assert "notes.txt" in error
    assert not left_behind(out, "scan-recon.h5")


def test_a_folder_with_other_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("not a scan")
    assert main(["reconstruct", str(tmp_path), *MODEL]) == 2
    error = capsys.readouterr().err
    assert "left out" in error
    assert "notes.txt" in error
    assert "no file of a known format" in error
    assert not left_behind(tmp_path, "notes.txt")


def test_an_image_is_not_a_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "image.npy", phantom())
    assert "recon simulate" in refused(capsys, "reconstruct", tmp_path / "image.npy", *MODEL)


def test_existing_output_is_kept(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.h5"
    out.write_text("precious")
    assert "--overwrite" in refused(capsys, "reconstruct", scan, "--out", out, *MODEL)
    assert out.read_text() == "precious"
    assert main(["reconstruct", str(scan), "--out", str(out), "--overwrite", *MODEL]) == 0
    assert out.read_bytes() != b"precious"


def test_an_output_folder_that_cannot_be_written(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    line = refused(capsys, "reconstruct", scan, "--out", tmp_path / "file" / "out.h5", *MODEL)
    assert "--out" in line


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from recon.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", LIMITED, "reconstruct", str(scan), "--out", str(out / "image.h5"), *MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be written" in done.stderr
    assert not left_behind(out, ".image.h5.slices")  # finished slices may stay, for the next try


SLOW_WRITER = """
import sys, time
from recon.datasets.writers import writers
entry = writers["npz"]
write = entry.write
def slow(self, data, path):
    write(self, data, path)
    print("writing", flush=True)
    time.sleep(60)
entry.write = slow
from recon.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_in_the_middle_of_writing(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW_WRITER, "reconstruct", str(scan), "--out", str(out / "image.npz"), *MODEL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not left_behind(out, ".image.npz.slices")


def test_two_processes_write_one_output(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "image.npz"
    command = [sys.executable, "-m", "recon", "reconstruct", str(scan), "--out", str(out), *MODEL]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=200)[1], process.returncode) for process in both]
    codes = sorted(code for _, code in ends)
    assert codes in ([0, 0], [0, 2]), ends  # the second may find the first one's output in time
    assert all("Traceback" not in error for error, _ in ends)
    with np.load(out, allow_pickle=False) as written:
        assert written.files
    assert not left_behind(out.parent, "image.npz")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--model", "magic"), "no model is called"),
        (("--slices", "7"), "no such slice"),
        (("--coils", "0"), "virtual coils"),
        (("--trust", "some"), "--trust"),
        (("--jobs", "0"), "--jobs"),
        (("--out", "image.bmp"), "ending"),
        (("--format", "jpeg2000"), "no file format"),
        (("--variable", "nothing"), "nothing"),
    ],
)
def test_options_that_do_not_exist(
    scan: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scan.parent)
    assert says in refused(capsys, "reconstruct", scan, *MODEL, *flags)
    assert not left_behind(scan.parent, scan.name)


def test_evaluate_refuses_other_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", phantom())
    np.save(tmp_path / "b.npy", phantom(shape=(40, 48)))
    line = refused(capsys, "evaluate", tmp_path / "a.npy", "--reference", tmp_path / "b.npy")
    assert "(1, 40, 48)" in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--acceleration", "0.5"), "acceleration"),
        (("--mask", "stars"), "mask"),
        (("--snr", "-1"), "noise"),
        (("--center", "many"), "centre"),
        (("--partial-fourier", "0.4"), "half"),
    ],
)
def test_simulations_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], says: str
) -> None:
    assert says in refused(capsys, "simulate", "mri", "--out", tmp_path / "raw.h5", *flags)
    assert not list(tmp_path.iterdir())
