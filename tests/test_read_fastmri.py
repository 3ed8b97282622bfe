"""fastMRI files, laid out as fastMRI lays them out, and files that say one thing and hold another."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import complex_normal, encoding, fastmri_header, ismrmrd_xml, make_fastmri, write_fastmri

import recon
from recon.datasets import Scan
from recon.physics.errors import DataError, DTypeError, FileFormatError, MaskError, ShapeError


def opened(path: Path) -> Scan:
    scan = recon.datasets.open(path)
    assert isinstance(scan, Scan)
    return scan


def test_multicoil_file(tmp_path: Path) -> None:
    path = make_fastmri(tmp_path)
    scan = opened(path)
    with h5py.File(path) as file:
        for i in range(2):
            np.testing.assert_array_equal(scan.slice(i), file["kspace"][i])
            np.testing.assert_array_equal(scan.reference[i], file["reconstruction_rss"][i])
    assert scan.kspace.shape == (2, 4, 32, 20)
    assert scan.source.format == "fastmri"
    assert scan.readout_axis == -2
    assert scan.oversampling == 2
    assert scan.matrix == (16, 16)
    assert scan.spacing == (5, 10, 10)  # (z, readout, phase)
    assert scan.mask is None
    assert scan.affine is None
    assert scan.header["acquisition"] == "AXT2"
    assert scan.header["sequenceParameters.TR"] == "500.0"
    assert (scan.header["padding_left"], scan.header["padding_right"]) == (1, 19)
    assert scan.partial_fourier is None  # one line missing on each side is zero-filling
    sampled, from_file = scan.sampling(0)
    assert not from_file
    np.testing.assert_array_equal(np.flatnonzero(sampled[0]), np.arange(1, 19))


def test_single_coil_gets_a_coil_axis(tmp_path: Path) -> None:
    k = complex_normal((3, 32, 20))
    scan = opened(write_fastmri(tmp_path / "s.h5", k, header=fastmri_header()))
    assert scan.kspace.shape == (3, 1, 32, 20)
    np.testing.assert_array_equal(scan.slice(2)[0], k[2])


def test_reference_of_a_single_coil_file_is_its_own(tmp_path: Path) -> None:
    esc, rss = np.full((1, 16, 16), 1, np.float32), np.full((1, 16, 16), 2, np.float32)
    arrays = {"reconstruction_esc": esc, "reconstruction_rss": rss}
    single = opened(write_fastmri(tmp_path / "s.h5", complex_normal((1, 32, 20)), **arrays))
    multi = opened(write_fastmri(tmp_path / "m.h5", complex_normal((1, 2, 32, 20)), **arrays))
    np.testing.assert_array_equal(single.reference[0], esc[0])
    np.testing.assert_array_equal(multi.reference[0], rss[0])


def test_mask_leaves_out_what_the_scanner_filled_with_zeros(tmp_path: Path) -> None:
    scan = opened(
        write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)), header=fastmri_header(), mask=np.ones(20))
    )
    assert scan.mask.shape == (1, 20)
    np.testing.assert_array_equal(np.flatnonzero(scan.mask), np.arange(1, 19))


def test_asymmetric_padding_is_partial_fourier(tmp_path: Path) -> None:
    header = ismrmrd_xml(encoding((32, 20, 1), (16, 20, 1), lines=(0, 14, 5)))
    scan = opened(write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)), header=header))
    assert (scan.header["padding_left"], scan.header["padding_right"]) == (5, 20)
    assert scan.partial_fourier == (1.0, 15 / 20)


def test_without_a_header_geometry_is_unknown(tmp_path: Path) -> None:
    reference = np.ones((1, 16, 16), np.float32)
    scan = opened(write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)), reconstruction_rss=reference))
    assert scan.spacing is None
    assert scan.oversampling is None
    assert scan.readout_axis is None
    assert scan.matrix == (16, 16)
    assert any("ismrmrd_header" in note for note in scan.notes)


def test_a_header_of_another_scan_is_not_used(tmp_path: Path) -> None:
    scan = opened(write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 30, 20)), header=fastmri_header()))
    assert scan.spacing is None
    assert any("encoded matrix" in note for note in scan.notes)


@pytest.mark.parametrize(
    "dtype",
    [
        np.complex128,
        np.dtype([("r", np.int16), ("i", np.int16)]),
        np.dtype([("r", np.float16), ("i", np.float16)]),
        np.dtype([("real", np.float64), ("imag", np.float64)]),
    ],
)
def test_every_kind_of_complex_number(tmp_path: Path, dtype: np.dtype) -> None:
    k = np.round(8 * complex_normal((1, 2, 32, 20)))
    stored = np.empty(k.shape, dtype)
    if np.dtype(dtype).names:
        first, second = np.dtype(dtype).names
        stored[first], stored[second] = k.real, k.imag
    else:
        stored[:] = k
    scan = opened(write_fastmri(tmp_path / "s.h5", stored))
    assert scan.slice(0).dtype == np.complex64
    np.testing.assert_array_equal(scan.slice(0), k[0])


@pytest.mark.parametrize("dtype", [np.float32, np.int16, "S4"])
def test_kspace_that_is_not_complex(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(DTypeError, match="not complex"):
        opened(write_fastmri(tmp_path / "s.h5", np.ones((2, 4, 32, 20)).astype(dtype)))


@pytest.mark.parametrize("shape", [(32, 20), (2, 0, 32, 20), (0, 4, 32, 20), (1, 1, 1, 1, 32, 20)])
def test_shapes_that_cannot_be_kspace(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"s\.h5"):
        opened(write_fastmri(tmp_path / "s.h5", complex_normal(shape)))


@pytest.mark.parametrize(
    "mask", [np.ones(19), np.ones((3, 20)), np.zeros(20), np.full(20, np.nan), np.array(b"all"), np.ones((2, 2, 2, 2))]
)
def test_mask_that_does_not_fit(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(MaskError, match=r"s\.h5.*mask"):
        opened(write_fastmri(tmp_path / "s.h5", complex_normal((2, 4, 32, 20)), mask=mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<encoding>", "<encoding"), "not valid XML"),
        (("ismrmrdHeader", "another"), "something else"),
        (("reconSpace", "noSpace"), "reconSpace"),
        (("<x>32</x>", ""), "matrixSize/x"),
        (("<x>32</x>", "<x>many</x>"), "not a number"),
        (("<x>32</x>", "<x>-32</x>"), "impossible"),
        (("<x>32</x>", "<x>1e30</x>"), "impossible"),
        (("<x>320.0</x>", "<x>0</x>"), "impossible field of view"),
        (("<x>320.0</x>", "<x>nan</x>"), "impossible field of view"),
    ],
)
def test_broken_headers(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    header = fastmri_header()
    assert change[0] in header
    path = write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)), header=header.replace(*change))
    with pytest.raises(FileFormatError, match=message) as error:
        opened(path)
    assert "s.h5" in str(error.value)
    assert "\n" not in str(error.value)


def test_entities_do_not_expand_without_end(tmp_path: Path) -> None:
    bomb = "<!DOCTYPE x [<!ENTITY a0 'aaaaaaaaaa'>"
    bomb += "".join(f"<!ENTITY a{i + 1} '{f'&a{i};' * 10}'>" for i in range(9))
    bomb += "]><ismrmrdHeader>&a9;</ismrmrdHeader>"
    with pytest.raises(FileFormatError, match="not valid XML"):
        opened(write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)), header=bomb))


def test_truncated_file(tmp_path: Path) -> None:
    path = make_fastmri(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FileFormatError, match=r"multicoil\.h5.*cut short"):
        opened(path)


def test_file_that_is_cut_after_opening(tmp_path: Path) -> None:
    path = make_fastmri(tmp_path)
    scan = opened(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FileFormatError, match="cut short"):
        scan.slice(0)


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    k = complex_normal((2, 4, 32, 20))
    k[1, 0, 3, 3] = np.nan
    scan = opened(write_fastmri(tmp_path / "s.h5", k))
    scan.slice(0)
    with pytest.raises(DataError, match="slice 1"):
        scan.slice(1)


def test_a_claim_that_the_file_cannot_hold_is_not_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.create_dataset("kspace", (100, 16, 10000, 10000), np.complex64, chunks=(1, 1, 100, 100))
    with pytest.raises(FileFormatError, match="larger than the file can hold"):
        opened(tmp_path / "s.h5")


def test_a_reference_of_other_slices_is_left_out(tmp_path: Path) -> None:
    reference = np.ones((3, 16, 16), np.float32)
    scan = opened(write_fastmri(tmp_path / "s.h5", complex_normal((2, 4, 32, 20)), reconstruction_rss=reference))
    assert scan.reference is None
    assert any("reconstruction_rss" in note for note in scan.notes)


def test_compression_that_is_not_installed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 2, 32, 20))
        plist.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
        kind, space = h5py.h5t.py_create(np.dtype("c8"), logical=True), h5py.h5s.create_simple((1, 2, 32, 20))
        h5py.h5d.create(file.id, b"kspace", kind, space, plist).write_direct_chunk((0, 0, 0, 0), b"x" * 100)
    with pytest.raises(FileFormatError, match="filter 32999"):
        opened(tmp_path / "s.h5")


def test_numbers_of_an_impossible_type(tmp_path: Path) -> None:
    """A flipped bit in the type's description; the library writes beyond its buffers on some of them."""
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(100)
    pair = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    pair.insert(b"r", 0, odd)
    pair.insert(b"i", 4, odd)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        h5py.h5d.create(file.id, b"kspace", pair, h5py.h5s.create_simple((1, 2, 32, 20)))
    with pytest.raises(DTypeError, match="standard type"):
        opened(tmp_path / "s.h5")


def test_attribute_with_an_impossible_length_is_left_out(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "s.h5", complex_normal((1, 2, 32, 20)))
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL").to_bytes(8, "little")
    place = data.index(len(b"AXT2").to_bytes(4, "little") + heap)
    data[place : place + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(data)
    header = opened(path).header
    assert "acquisition" not in header
    assert header["max"] == 0.5
    assert header["patient_id"] == "0" * 8
