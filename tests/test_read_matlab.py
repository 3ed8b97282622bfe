"""MATLAB files: version 7.3 as MATLAB lays it out, older ones written by scipy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import complex_normal, write_mat73
from scipy.io import savemat

from recon.datasets import Image, Scan
from recon.datasets import open as open_any
from recon.datasets.readers.matlab import real_matrices
from recon.physics.errors import DataError, DTypeError, FileFormatError, OptionError, ReconError, ShapeError


def write_mat5(path: Path, **arrays: np.ndarray) -> Path:
    savemat(path, arrays)
    return path


def write_packed(path: Path, **arrays: np.ndarray) -> Path:
    savemat(path, arrays, do_compression=True)
    return path


WRITERS = [write_mat73, write_mat5, write_packed]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_kspace_of_a_stack(tmp_path: Path, write: Callable[..., Path], dtype: str) -> None:
    """(y, x, coil, slice), column by column."""
    k = complex_normal((7, 5, 3, 2)).astype(dtype)
    scan = open_any(write(tmp_path / "a.mat", raw=k, other=np.ones((3, 4))), variable="raw")
    assert isinstance(scan, Scan)
    assert scan.kspace.shape == (2, 3, 7, 5)
    assert scan.header["variable"] == "raw"
    for index in range(2):
        np.testing.assert_array_equal(scan.slice(index), k[..., index].transpose(2, 0, 1).astype(np.complex64))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("shape", "expected"), [((7, 5), (1, 1, 7, 5)), ((7, 5, 3), (1, 3, 7, 5))])
def test_kspace_of_one_slice(
    tmp_path: Path, write: Callable[..., Path], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    k = complex_normal(shape)
    scan = open_any(write(tmp_path / "a.mat", k=k))
    assert scan.kspace.shape == expected
    np.testing.assert_array_equal(scan.slice(0), np.moveaxis(k.reshape(7, 5, -1), 2, 0))
    assert "'k', was taken" in scan.notes[0]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_real_arrays_are_images(tmp_path: Path, write: Callable[..., Path], dtype: str) -> None:
    pixels = (np.random.default_rng(0).random((7, 5, 2)) * 100).astype(dtype)
    image = open_any(write(tmp_path / "a.mat", im=pixels))
    assert isinstance(image, Image)
    np.testing.assert_array_equal(np.stack(list(image.pixels)), np.moveaxis(pixels, 2, 0))
    assert image.pixels[0].dtype == pixels.dtype


@pytest.mark.parametrize("write", WRITERS)
def test_the_mask_belongs_to_the_kspace(tmp_path: Path, write: Callable[..., Path]) -> None:
    k, mask = complex_normal((7, 5, 3)), np.arange(35).reshape(7, 5) % 4 == 1
    scan = open_any(write(tmp_path / "a.mat", k=k, mask=mask.astype(np.uint8)))
    np.testing.assert_array_equal(scan.mask, mask)


@pytest.mark.parametrize("write", WRITERS)
def test_the_user_names_the_variable(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "a.mat", first=complex_normal((7, 5, 3)), second=np.ones((7, 5)), te=np.ones((1, 1)))
    with pytest.raises(FileFormatError, match=r"first 7x5x3 single, second 7x5 double, te 1x1 double.*--variable"):
        open_any(path)
    with pytest.raises(OptionError, match=r"no variable is called 'third'.*first 7x5x3"):
        open_any(path, variable="third")
    assert isinstance(open_any(path, variable="second"), Image)


def test_a_variable_in_a_structure(tmp_path: Path) -> None:
    path = write_mat73(tmp_path / "a.mat", **{"scan/k": complex_normal((7, 5, 3)), "#refs#/a": np.ones((4, 4))})
    assert open_any(path).n_coils == 3, "MATLAB's own group does not count"
    assert open_any(path, variable="scan/k").n_coils == 3


@pytest.mark.parametrize("write", WRITERS)
def test_texts_and_structures_are_no_data(tmp_path: Path, write: Callable[..., Path]) -> None:
    if write is write_mat73:
        text = np.array([[98, 114]], np.uint16)
        path = write_mat73(tmp_path / "a.mat", {"text": "char"}, k=complex_normal((7, 5)), text=text)
    else:
        path = write(tmp_path / "a.mat", k=complex_normal((7, 5)), text="brain", s={"x": np.ones((3, 3))})
    assert open_any(path).header["variable"] == "k"
    with pytest.raises(DTypeError, match=r"'text' is not made of numbers.*char"):
        open_any(path, variable="text")


@pytest.mark.parametrize("write", WRITERS)
def test_shapes_that_cannot_be_used(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "a.mat", k=complex_normal((3, 4, 2, 2, 2)), im=np.ones((3, 4, 2, 2)))
    with pytest.raises(ShapeError, match=r"found \(3, 4, 2, 2, 2\).*coil"):
        open_any(path, variable="k")
    with pytest.raises(ShapeError, match="for an image"):
        open_any(path, variable="im")


@pytest.mark.parametrize("write", WRITERS)
def test_truncation_is_told(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "a.mat", k=complex_normal((20, 20, 4)))
    whole = path.read_bytes()
    for part in (0.3, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ReconError) as caught:
            open_any(path).slice(0)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
def test_matrices_of_real_numbers(tmp_path: Path, write: Callable[..., Path]) -> None:
    """As MATLAB shows them; what has other axes or is complex is none."""
    arrays = {"phi": np.arange(6.0).reshape(2, 3), "one": np.array([[7]], dtype=np.uint8)}
    others = {"k": complex_normal((2, 3)), "stack": np.ones((2, 3, 4))}
    path = write(tmp_path / "a.mat", **arrays, **others)
    found = real_matrices(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)
    assert set(real_matrices(path, ["phi", "absent"])) == {"phi"}
    whole = path.read_bytes()
    for content, says in ((whole[: len(whole) // 2], "damaged"), (b"nothing", "damaged"), (None, "no such file")):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(FileFormatError, match=says):
            real_matrices(path)


def test_nan_is_found(tmp_path: Path) -> None:
    k = complex_normal((7, 5, 3))
    k[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        open_any(write_mat73(tmp_path / "a.mat", k=k)).slice(0)


def test_only_one_slice_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = open_any(write_mat73(tmp_path / "a.mat", k=complex_normal((7, 5, 3, 4))))
    read: list[object] = []
    original = h5py.Dataset.__getitem__

    def spy(self: h5py.Dataset, index: object, **keywords: object) -> object:
        read.append(index)
        return original(self, index, **keywords)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    scan.slice(2)
    assert read == [2]
