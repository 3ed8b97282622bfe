"""Reconstructions in HDF5, and damage to HDF5's own structures."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import SAMPLES

from recon.datasets import Image
from recon.datasets import open as open_any
from recon.physics.errors import DTypeError, FileFormatError, ShapeError


def write(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_a_submission_of_fastmri(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((2, 13, 10), np.float32)
    image = open_any(write(tmp_path / "a.h5", reconstruction=pixels))
    assert isinstance(image, Image)
    np.testing.assert_array_equal(np.stack([image.pixels[0], image.pixels[1]]), pixels)
    assert image.spacing is None


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.ones((5, 5)), ShapeError),
        (np.ones((2, 5, 5, 2)), ShapeError),
        (np.ones((0, 5, 5)), ShapeError),
        (np.array([[[b"text"]]]), DTypeError),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"a\.h5"):
        open_any(write(tmp_path / "a.h5", reconstruction=array))


def test_free_space_that_leads_back_to_itself(tmp_path: Path) -> None:
    """The library itself would never return, and fill the memory."""
    for name in ("hdf5", "matlab", "ismrmrd"):
        path = SAMPLES[name](tmp_path)
        data = bytearray(path.read_bytes())
        heap = data.find(b"HEAP\0")
        free, address = (int.from_bytes(data[heap + k : heap + k + 8], "little") for k in (16, 24))
        base = data.find(b"\x89HDF\r\n\x1a\n")
        assert free > 1, "the sample has no free space in its heap"
        data[base + address + free : base + address + free + 8] = free.to_bytes(8, "little")
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match="leads back to itself"):
            open_any(path, format=name)
