"""The command as a user runs it: the whole way, and every kind of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from samples import write_fastmri

from recon.cli import main
from recon.datasets.simulate import simulate_mri

MODEL = ("--model", "cg-sense", "--trust", "none")


def phantom(n: int = 1, shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    """A volume of ellipses, each slice a little different."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij")
    head = (x**2 / 0.6 + y**2 / 0.8 < 1).astype(np.float32)
    return np.stack([head * (1 + 0.5 * ((x - 0.2) ** 2 + y**2 < 0.1 + 0.01 * i)) for i in range(n)])


def kspace(n: int = 1, coils: int = 4, shape: tuple[int, int] = (48, 40), **options) -> np.ndarray:
    options = {"mask": "poisson", "acceleration": 2.0, "center": 16, **options}
    scan = simulate_mri(phantom(n, shape), coils=coils, **options).scan
    return np.stack([scan.slice(i) for i in range(n)])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npz"
    np.savez(path, kspace=kspace(2))
    return path


def save(path: Path, data: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, kspace=data, **more)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run, expect exit status 2 and one line on standard error, and return it."""
    assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("recon: ")
    assert "Traceback" not in lines[0]
    return lines[0]


def left_behind(folder: Path, *expected: str) -> bool:
    """Whether a folder holds more than what is expected, hidden files included."""
    return {p.name for p in folder.iterdir()} - set(expected) != set()


# --- the way of a user ----------------------------------------------------------------------------------------


def test_simulate_info_reconstruct_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "head.npy"
    np.save(image, phantom(2))
    raw = tmp_path / "raw.h5"
    flags = ["--coils", "4", "--acceleration", "2", "--center", "16", "--snr", "50", "--json"]
    assert main(["simulate", "mri", str(image), "--out", str(raw), *flags]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape (slice, coil, ...)"] == [2, 4, 48, 40]

    assert main(["info", str(raw), "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert (info["coils"], info["slices"], info["mask"]) == (4, 2, "in the file")
    assert info["acceleration"] == pytest.approx(2, rel=0.1)

    out = tmp_path / "out.nii.gz"
    assert main(["reconstruct", str(raw), "--out", str(out), "--report", "--json", "--trust", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == "l1-wavelet"
    assert row["psnr"] > 23
    assert 0 < row["hold_out_error"] < 1
    assert (tmp_path / "out.html").read_text().count("data:image/png") > 0

    assert main(["evaluate", str(out), "--reference", str(tmp_path / "raw-truth.h5"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["psnr"] == pytest.approx(row["psnr"], abs=1.5)
    assert figures["psnr_low"] < figures["psnr"] < figures["psnr_high"]


@pytest.mark.parametrize("ending", [".h5", ".nii.gz", ".dcm", ".fits", ".npz", ".png", ".cfl"])
def test_every_ending_is_written(scan: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "out"
    assert main(["reconstruct", str(scan), "--out", str(out), "--ending", ending, "--slices", "0", *MODEL]) == 0
    assert (out / f"scan-recon{ending}").exists()


def test_result_carries_its_provenance(scan: Path, tmp_path: Path) -> None:
    import recon

    out = tmp_path / "out.h5"
    assert main(["reconstruct", str(scan), "--out", str(out), *MODEL]) == 0
    written = recon.datasets.open(out)
    provenance = written.header["provenance"]
    assert provenance["input"]["sha256"] == recon.datasets.open(scan).source.sha256
    assert provenance["model"]["name"] == "cg-sense"
    assert written.pixels.shape == (2, 48, 40)


def test_two_processes_give_the_image_of_one(scan: Path, tmp_path: Path) -> None:
    from recon.datasets import open as open_file

    images = []
    for jobs in ("1", "2"):
        out = tmp_path / f"jobs-{jobs}.npz"
        assert main(["reconstruct", str(scan), "--out", str(out), "--jobs", jobs, *MODEL]) == 0
        images.append(np.stack([open_file(out).pixels[i] for i in range(2)]))
    np.testing.assert_allclose(images[0], images[1], atol=1e-5 * np.abs(images[0]).max())


def test_models_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    names = {card["name"] for card in json.loads(capsys.readouterr().out)}
    assert {"zero-filled", "rss", "cg-sense", "l1-wavelet", "tv", "tgv", "grappa", "pocs"} <= names
    assert main(["models", "l1-wavelet"]) == 0
    assert "wavelet" in capsys.readouterr().out


def test_every_model_makes_an_image_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import recon
    from recon import models
    from recon.models.learned import LearnedReconstructor

    lines = save(tmp_path / "lines.npz", kspace(mask="equispaced", center=16))
    single = save(tmp_path / "single.npz", kspace(coils=1, mask="partial_fourier", acceleration=1.6, center=None))
    untrained = {name for name, cls in models.registry.items() if issubclass(cls, LearnedReconstructor)}
    for name in recon.models():
        source = single if name == "pocs" else lines
        out = tmp_path / f"{name}.npz"
        status = main(["reconstruct", str(source), "--model", name, "--out", str(out), "--trust", "none"])
        complaint = capsys.readouterr().err
        if models.takes_stamps(name):
            assert status == 2, name
            assert "weights" in complaint or "galaxy stamps, not k-space" in complaint, name
            continue
        assert status == 0 or (name in untrained and f"no weights for {name!r}" in complaint), name


def test_an_interrupted_run_goes_on_where_it_was(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recon import pipeline, slices

    out = tmp_path / "out.npz"
    run, seen = pipeline.Plan.run, []

    def stop_at_the_second(self: pipeline.Plan, index: int) -> slices.SliceResult:
        seen.append(index)
        if seen == [0, 1]:
            raise KeyboardInterrupt
        return run(self, index)

    monkeypatch.setattr(pipeline.Plan, "run", stop_at_the_second)
    arguments = ["reconstruct", str(scan), "--out", str(out), *MODEL]
    assert main(arguments) == 130
    assert capsys.readouterr().err.strip() == "recon: interrupted"
    assert not out.exists()
    assert main(arguments) == 0
    assert seen == [0, 1, 1]  # the first slice was kept
    assert not left_behind(tmp_path, "out.npz", "scan.npz")


def test_other_options_do_not_take_up_the_old_slices(scan: Path, tmp_path: Path) -> None:
    from recon.datasets import open as open_file
    from recon.pipeline import Plan
    from recon.prepare import Preparation
    from recon.slices import BASIC
    from recon.spool import Spool

    opened = open_file(scan)
    plans = [Plan(opened, model, Preparation(), None, BASIC, 0) for model in ("zero-filled", "cg-sense")]
    Spool(tmp_path / "spool", plans[0].key()).put(0, plans[0].run(0))
    assert Spool(tmp_path / "spool", plans[0].key()).get(0) is not None
    assert Spool(tmp_path / "spool", plans[1].key()).get(0) is None


def test_help_needs_no_torch() -> None:
    code = "import sys, recon.cli\ntry:\n recon.cli.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().endswith("False")


def test_unknown_verbs_and_options_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["paint"], ["reconstruct"], ["info", "x", "--colour"], []):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


# --- bad input ------------------------------------------------------------------------------------------------


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
