"""``.npy`` and ``.npz``, written by numpy."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import complex_normal

from recon.datasets import Image, Scan
from recon.datasets import open as open_any
from recon.physics.errors import DataError, DTypeError, FileFormatError, MaskError, OptionError, ReconError, ShapeError

SAVERS = [np.savez, np.savez_compressed]


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    leave_out=st.integers(0, 2),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(["<c8", ">c8", "<c16"]),
    kind=st.sampled_from(["npy", "npz", "packed"]),
)
def test_kspace_of_any_layout(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    leave_out: int,
    order: str,
    dtype: str,
    kind: str,
) -> None:
    data = np.asarray(complex_normal(shape[leave_out:]), dtype=dtype, order=order)
    path = tmp_path_factory.mktemp("numpy") / f"a.{kind[:3]}"
    if kind == "npy":
        np.save(path, data)
    else:
        path = path.with_suffix(".npz")
        (np.savez if kind == "npz" else np.savez_compressed)(path, kspace=data)
    scan = open_any(path)
    assert isinstance(scan, Scan)
    whole = data.reshape((1,) * leave_out + data.shape)
    assert scan.kspace.shape == whole.shape
    for index in [*range(len(whole)), 0, -1]:  # forwards, and back again
        np.testing.assert_array_equal(scan.slice(index), whole[index].astype(np.complex64))


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">f4", "<f8", "?"])
@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5)])
def test_real_arrays_are_images(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    data = (np.random.default_rng(0).random(shape) * 100).astype(dtype)
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "a.npz", image=data)
    for name in ("a.npy", "a.npz"):
        image = open_any(tmp_path / name)
        assert isinstance(image, Image)
        np.testing.assert_array_equal(np.stack(list(image.pixels)), data.reshape(-1, 6, 5))


@pytest.mark.parametrize("save", SAVERS)
def test_what_stands_beside_the_kspace(tmp_path: Path, save: Callable) -> None:
    k, maps, noise = complex_normal((2, 3, 6, 5)), complex_normal((2, 3, 6, 5), 1), complex_normal((3, 50), 2)
    mask, reference = np.arange(30).reshape(6, 5) % 3 == 0, np.random.default_rng(0).random((2, 6, 5))
    save(tmp_path / "a.npz", kspace=k, sens=maps, mask=mask.astype(float), noise=noise, reference=reference)
    scan = open_any(tmp_path / "a.npz")
    np.testing.assert_array_equal(scan.mask, mask)
    np.testing.assert_array_equal(scan.noise, noise)
    for index in range(2):
        np.testing.assert_array_equal(scan.coil_maps[index], maps[index])
        np.testing.assert_array_equal(scan.reference[index], reference[index])


def test_a_mask_of_lines(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", kspace=complex_normal((3, 6, 5)), mask=np.arange(5) % 2)
    mask, given_ = open_any(tmp_path / "a.npz").sampling(0)
    assert given_
    np.testing.assert_array_equal(mask, np.broadcast_to(np.arange(5) % 2 == 1, (6, 5)))


@pytest.mark.parametrize(
    ("maps", "expected"), [((3, 6, 5), (1, 3, 6, 5)), ((1, 3, 6, 5), (1, 3, 6, 5)), ((2, 3, 6, 5), (1, 2, 3, 6, 5))]
)
def test_coil_maps_of_one_slice(tmp_path: Path, maps: tuple[int, ...], expected: tuple[int, ...]) -> None:
    np.savez(tmp_path / "a.npz", kspace=complex_normal((3, 6, 5)), maps=complex_normal(maps))
    found = open_any(tmp_path / "a.npz").coil_maps
    assert found is not None
    assert found.shape == expected


def test_a_trajectory(tmp_path: Path) -> None:
    k, trajectory = complex_normal((3, 40)), np.random.default_rng(0).uniform(-8, 8, (40, 2))
    np.savez(tmp_path / "a.npz", kspace=k, traj=trajectory, dcf=np.ones(40))
    scan = open_any(tmp_path / "a.npz")
    assert scan.kspace.shape == (1, 3, 40)
    np.testing.assert_array_equal(scan.trajectory, trajectory)
    assert scan.density is not None


def test_a_volume(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", kspace=complex_normal((1, 3, 4, 6, 5)))
    assert open_any(tmp_path / "a.npz").spatial == (4, 6, 5)


def test_packed_samples(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((7, 5)) < 0.4
    k = complex_normal((3, 7, 5)) * mask
    np.savez(tmp_path / "a.npz", samples=k[:, mask], mask=np.packbits(mask), shape=k.shape)
    scan = open_any(tmp_path / "a.npz")
    np.testing.assert_array_equal(scan.slice(0), k)
    np.testing.assert_array_equal(scan.mask, mask)


def test_another_name(tmp_path: Path) -> None:
    k, picture = complex_normal((3, 6, 5)), np.ones((6, 5))
    np.savez(tmp_path / "a.npz", raw=k, picture=picture)
    assert isinstance(open_any(tmp_path / "a.npz", variable="raw"), Scan)
    assert isinstance(open_any(tmp_path / "a.npz", variable="picture"), Image)
    with pytest.raises(FileFormatError, match=r"found raw \(3, 6, 5\), picture \(6, 5\).*--variable"):
        open_any(tmp_path / "a.npz")
    with pytest.raises(OptionError, match=r"no array is called 'k'.*raw"):
        open_any(tmp_path / "a.npz", variable="k")


def packed(n: int) -> np.ndarray:
    return np.packbits(np.ones(n, bool))


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"kspace": np.ones((3, 6, 5))}, DTypeError, "not complex"),
        ({"kspace": complex_normal((5,))}, ShapeError, r"found \(5,\)"),
        ({"kspace": complex_normal((0, 6, 5))}, ReconError, "empty"),
        ({"kspace": complex_normal((3, 6, 5)), "mask": np.ones((4, 4))}, MaskError, "does not fit"),
        ({"kspace": complex_normal((3, 6, 5)), "mask": np.full((6, 5), 0.5)}, MaskError, "0 and 1"),
        ({"kspace": complex_normal((3, 6, 5)), "mask": np.zeros((6, 5))}, MaskError, "nothing"),
        ({"kspace": complex_normal((3, 6, 5)), "maps": complex_normal((4, 6, 5))}, ShapeError, "3 coils"),
        ({"kspace": complex_normal((3, 6, 5)), "noise": complex_normal((5, 9))}, ShapeError, "noise"),
        ({"kspace": complex_normal((3, 6, 5)), "reference": np.ones((2, 6, 5))}, ShapeError, "1 slices"),
        ({"image": np.ones((2, 2, 2, 2, 2))}, ShapeError, "cannot be used"),
        ({"samples": complex_normal((3, 9)), "mask": packed(30), "shape": [3, 6, 5]}, ShapeError, r"ed \(3, 30\)"),
        ({"samples": complex_normal((3, 9)), "mask": packed(9), "shape": [3, 60, 50]}, MaskError, "found 2 bytes"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict, error: type[ReconError], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=words) as caught:
        open_any(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [np.array([{"a": 1}], dtype=object), np.zeros(3, [("a", "f4")])])
def test_pickles_and_structures_are_refused(tmp_path: Path, data: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", data, allow_pickle=True)
    np.savez(tmp_path / "a.npz", kspace=data)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DTypeError, match="not made of numbers"):
            open_any(tmp_path / name)


@pytest.mark.parametrize("save", SAVERS)
def test_truncation_is_told(tmp_path: Path, save: Callable) -> None:
    np.save(tmp_path / "a.npy", complex_normal((3, 6, 5)))
    save(tmp_path / "a.npz", kspace=complex_normal((3, 6, 5)))
    for name in ("a.npy", "a.npz"):
        whole = (tmp_path / name).read_bytes()
        for length in (75, 100, len(whole) - 10):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(FileFormatError, match=r"truncated|not an array|damaged"):
                open_any(tmp_path / name)


def test_nan_and_zero_are_found(tmp_path: Path) -> None:
    k = complex_normal((2, 3, 6, 5))
    k[0, 0, 0, 0], k[1] = np.inf, 0
    np.save(tmp_path / "a.npy", k)
    scan = open_any(tmp_path / "a.npy")
    with pytest.raises(DataError, match="1 of 90 NaN or infinite"):
        scan.slice(0)
    with pytest.raises(DataError, match="all zero"):
        scan.slice(1)


def bomb(path: Path, shape: tuple[int, ...], content: int) -> Path:
    """A member that claims a shape, and unpacks to some number of zeros."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<c8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("kspace.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(content >> 20):
            member.write(bytes(1 << 20))
    return path


def test_an_archive_that_claims_too_much(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="size that it states"):
        open_any(bomb(tmp_path / "a.npz", (1 << 14, 1 << 14, 1 << 14), 1 << 20))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 KiB: opened without unpacking, and one slice at a time."""
    path = bomb(tmp_path / "a.npz", (64, 1, 256, 512), 1 << 26)
    assert path.stat().st_size < 1 << 17
    scan = open_any(path)
    with pytest.raises(DataError, match="slice 63 is all zero"):
        scan.slice(63)


def test_a_forked_process_reads_its_own_stream(tmp_path: Path) -> None:
    k = complex_normal((8, 2, 64, 64))
    np.savez_compressed(tmp_path / "a.npz", kspace=k)
    scan = open_any(tmp_path / "a.npz")
    scan.slice(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if all((scan.slice(i) == k[i]).all() for i in (1, 2, 3)) else 1)
    for index in range(1, 8):
        np.testing.assert_array_equal(scan.slice(index), k[index])
    assert os.waitpid(child, 0)[1] == 0


def test_the_sample_is_the_real_scan(shared_data: Path) -> None:
    ours = open_any(Path(__file__).parent.parent / "recon" / "sample" / "brain.npz")
    real = open_any(shared_data / "mri" / "kspace" / "brain-poisson-8ch.npz")
    np.testing.assert_array_equal(ours.slice(0), real.slice(0))
    np.testing.assert_array_equal(ours.mask, real.mask)


def test_archive_of_a_compression_that_python_lacks(tmp_path):
    path = tmp_path / "scan.npz"
    np.savez(path, kspace=np.ones((2, 8, 8), np.complex64))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # of the member, and in the directory
        start = content.index(signature) + place
        content[start : start + 2] = (99).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged or truncated"):
        open_any(path)
