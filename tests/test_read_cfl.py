"""BART pairs, against files that BART wrote (tests/data/README.md)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.datasets import Scan
from recon.datasets import open as open_any
from recon.physics.errors import DataError, FileFormatError, ReconError, ShapeError

DATA = Path(__file__).parent / "data"


def write_pair(path: Path, dims: list[int], data: np.ndarray | None = None, header: str | None = None) -> Path:
    """An independent writer: column-major, as the format says."""
    if data is None:
        count = int(np.prod(dims))
        data = (np.arange(count) + 1j).astype(np.complex64).reshape(dims, order="F")
    path.write_bytes(data.astype("<c8").ravel(order="F").tobytes())
    path.with_suffix(".hdr").write_text(header or f"# Dimensions\n{' '.join(map(str, dims))} \n")
    return path


def by_bart(name: str) -> np.ndarray:
    """An independent reader, axes as BART has them."""
    dims = [int(n) for n in (DATA / f"{name}.hdr").read_text().splitlines()[1].split()]
    return np.fromfile(DATA / f"{name}.cfl", "<c8").reshape(dims, order="F")


@pytest.mark.parametrize("name", ["bart_slices.cfl", "bart_slices.hdr", "bart_slices"])
def test_slices_written_by_bart(name: str) -> None:
    scan = open_any(DATA / name)
    assert isinstance(scan, Scan)
    assert scan.kspace.shape == (2, 3, 15, 12)
    assert scan.source.path == DATA / "bart_slices.cfl"
    assert scan.labels == ({"slice": 0}, {"slice": 1})
    assert scan.readout_axis == -2
    assert scan.mask is None
    assert scan.spacing is None
    expected = by_bart("bart_slices")
    for index in range(2):
        np.testing.assert_array_equal(
            scan.slice(index), expected[:, :, 0, :, ..., index, 0, 0].squeeze().transpose(2, 0, 1)
        )
    np.testing.assert_array_equal(scan.slice(1), 2 * scan.slice(0))
    assert "join 13" in scan.header["Command"]


def test_the_fourier_transform_is_that_of_bart() -> None:
    """``bart fft -i -u`` is our centred orthonormal inverse transform, for odd and even sizes."""
    k = open_any(DATA / "bart_slices").slice(0)
    image = open_any(DATA / "bart_image").slice(0)
    ours = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, (-2, -1)), norm="ortho"), (-2, -1))
    np.testing.assert_allclose(ours, image, atol=1e-5 * np.abs(image).max())


@pytest.mark.parametrize(
    ("dims", "shape", "readout"),
    [
        ([1, 23, 18, 8], (1, 8, 23, 18), None),
        ([23, 18, 1, 8], (1, 8, 23, 18), -2),
        ([23, 1, 18, 8], (1, 8, 23, 18), -2),
        ([4, 5, 6, 2], (1, 2, 4, 5, 6), -3),
        ([7, 1, 1, 2], (1, 2, 1, 7), -1),
        ([1, 5, 6], (1, 1, 5, 6), None),
        ([1, 5, 6, *[1] * 20], (1, 1, 5, 6), None),
        ([1, 5, 6, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 2], (6, 2, 5, 6), None),
    ],
)
def test_dimensions_become_axes(tmp_path: Path, dims: list[int], shape: tuple[int, ...], readout: int | None) -> None:
    scan = open_any(write_pair(tmp_path / "a.cfl", dims))
    assert scan.kspace.shape == shape
    assert scan.readout_axis == readout


def test_a_volume_cut_along_its_readout_is_a_slice(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 5, 6, 2)).astype(np.complex64)
    volume = open_any(write_pair(tmp_path / "volume.cfl", [4, 5, 6, 2], data)).slice(0)
    cut = open_any(write_pair(tmp_path / "cut.cfl", [1, 5, 6, 2], data[2:3])).slice(0)
    np.testing.assert_array_equal(volume[:, 2], cut)


def test_labels_of_repetitions_and_slices(tmp_path: Path) -> None:
    dims = [1, 5, 6, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 2]
    data = np.zeros(dims, np.complex64)
    for time in range(3):
        for slice_ in range(2):
            data[..., time, :, :, slice_] = 1 + time + 10 * slice_
    scan = open_any(write_pair(tmp_path / "a.cfl", dims, data))
    assert scan.labels is not None
    for index, label in enumerate(scan.labels):
        assert scan.slice(index)[0, 0, 0] == 1 + label["repetition"] + 10 * label["slice"]


@settings(deadline=None)
@given(dims=st.lists(st.integers(1, 5), min_size=1, max_size=4), n=st.integers(1, 3))
def test_every_sample_arrives_once(tmp_path_factory: pytest.TempPathFactory, dims: list[int], n: int) -> None:
    dims = [*dims, *[1] * (13 - len(dims)), n]
    scan = open_any(write_pair(tmp_path_factory.mktemp("cfl") / "a.cfl", dims))
    values = np.concatenate([scan.slice(index).real.ravel() for index in range(scan.n_slices)])
    np.testing.assert_array_equal(np.sort(values), np.arange(np.prod(dims)))


def test_one_coil_gets_a_note(tmp_path: Path) -> None:
    assert "image" in open_any(write_pair(tmp_path / "a.cfl", [1, 5, 6])).notes[0]


def test_a_file_larger_than_memory_is_read_by_slices(tmp_path: Path) -> None:
    """Sparse on the disk: 64 GiB of zeros, of which one slice is read."""
    dims = [1, 256, 256, 8, *[1] * 9, 1 << 14]
    path = write_pair(tmp_path / "a.cfl", dims, np.zeros(0))
    with path.open("r+b") as file:
        file.truncate(int(np.prod(dims)) * 8)
        file.seek(777 * 256 * 256 * 8 * 8)
        file.write(np.complex64(3).tobytes())
    scan = open_any(path)
    assert scan.n_slices == 1 << 14
    assert scan.slice(777)[0, 0, 0] == 3
    with pytest.raises(DataError, match="all zero"):
        scan.slice(778)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "empty|no known format|not a header"),
        ("# Dimensions\n1 5 x 2\n", "not a header of BART.*1 5 x 2"),
        ("# Dimensions\n1 -5 6 2\n", "not a header of BART"),
        ("# Dimensions\n1 0 6 2\n", "empty"),
        ("# Dimensions\n1 5 6 2000000000000\n", "truncated|larger than|memory"),
        ("# Dimensions\n1 5 6 3\n", "truncated.*expected 720 bytes"),
        ("# Dimensions\n1 5 6 1\n", "do not belong.*found 480 bytes"),
        ("# Dimensions\n1 5 6 1 2\n", "sets of maps"),
        ("# Dimensions\n" + "1 " * 20 + "2\n", "not a header of BART"),
        ("# Command\nfft\n", "no dimensions"),
    ],
)
def test_headers_that_do_not_fit(tmp_path: Path, header: str, words: str) -> None:
    path = write_pair(tmp_path / "a.cfl", [1, 5, 6, 2])
    path.with_suffix(".hdr").write_text(header)
    with pytest.raises(ReconError, match=words) as caught:
        open_any(path)
    assert isinstance(caught.value, FileFormatError | ShapeError)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("missing", [".cfl", ".hdr"])
def test_half_a_pair(tmp_path: Path, missing: str) -> None:
    path = write_pair(tmp_path / "a.cfl", [1, 5, 6, 2])
    path.with_suffix(missing).unlink()
    with pytest.raises(FileFormatError, match=f"{missing} of the pair is missing.*beside it"):
        open_any(path if missing == ".hdr" else path.with_suffix(".hdr"))


def test_a_file_cut_after_it_was_opened(tmp_path: Path) -> None:
    scan = open_any(write_pair(tmp_path / "a.cfl", [1, 5, 6, 2]))
    (tmp_path / "a.cfl").write_bytes(b"")
    with pytest.raises(FileFormatError, match="cut short"):
        scan.slice(0)


def test_nan_is_found(tmp_path: Path) -> None:
    data = np.ones((1, 5, 6, 2), np.complex64)
    data[0, 2, 3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 60 NaN"):
        open_any(write_pair(tmp_path / "a.cfl", [1, 5, 6, 2], data)).slice(0)


def test_a_name_with_dots(tmp_path: Path) -> None:
    for ending in (".cfl", ".hdr"):
        shutil.copyfile(DATA / f"bart_slices{ending}", tmp_path / f"scan.v1{ending}")
    assert open_any(tmp_path / "scan.v1").n_slices == 2


@pytest.mark.parametrize(
    ("name", "shape"), [("brain-full-8ch", (1, 8, 230, 180)), ("brain-smallfov-8ch", (1, 8, 320, 168))]
)
def test_real_scans(shared_data: Path, name: str, shape: tuple[int, ...]) -> None:
    scan = open_any(shared_data / "mri" / "kspace" / f"{name}.cfl")
    assert scan.kspace.shape == shape
    k = np.abs(scan.slice(0)).sum(0)
    centre = np.array(np.unravel_index(k.argmax(), k.shape))
    assert np.abs(centre - np.array(shape[2:]) // 2).max() <= 2, "DC is in the centre"
