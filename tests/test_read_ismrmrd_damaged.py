"""ISMRMRD files that are damaged or contradict themselves."""

from __future__ import annotations

from pathlib import Path

import h5py
import ismrmrd
import pytest
from ismrmrd_scans import FULL, lines, opened
from samples import complex_normal, encoding, ismrmrd_xml, make_ismrmrd, readout, write_ismrmrd

from recon.physics.errors import DataError, FileFormatError


@pytest.mark.parametrize("member", ["length", "address", "index"])
def test_references_are_held_against_the_file(tmp_path: Path, member: str) -> None:
    """The HDF5 library takes gigabytes, or crashes, where these are wrong."""
    path = make_ismrmrd(tmp_path)
    with h5py.File(path) as file:
        table = file["dataset/data"].id
        start = table.get_chunk_info_by_coord((0,)).byte_offset
        place = start + table.get_type().get_member_offset(2) + {"length": 0, "address": 4, "index": 12}[member]
    scan = opened(path)
    data = bytearray(path.read_bytes())
    data[place : place + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"reference points to|longer than what the file holds"):
        scan.slice(0)
    scan.slice(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: setattr(a[0].idx, "kspace_encode_step_1", 500), "line lies outside"),
        (lambda a: setattr(a[3].idx, "kspace_encode_step_2", 7), "partition lies outside"),
        (lambda a: setattr(a[3], "discard_pre", 16), "without samples"),
        (lambda a: [setattr(x, "encoding_space_ref", 3) for x in a], "encoding that the header lacks"),
    ],
)
def test_readouts_that_do_not_fit_the_header(tmp_path: Path, change, message: str) -> None:
    scans = lines(complex_normal((3, 12, 16)))
    change(scans)
    with pytest.raises(FileFormatError, match=message) as error:
        opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    assert "s.h5" in str(error.value)


def test_only_noise(tmp_path: Path) -> None:
    scans = [readout(complex_normal((3, 64)), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))]
    with pytest.raises(DataError, match="no image data"):
        opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))


def test_absurd_matrix_is_not_allocated(tmp_path: Path) -> None:
    header = ismrmrd_xml(encoding((60000, 60000, 60000), (60000, 60000, 60000), lines=(0, 11, 6)))
    with pytest.raises(FileFormatError, match="larger than the file can hold"):
        opened(write_ismrmrd(tmp_path / "s.h5", header, lines(complex_normal((3, 12, 16)))))


def test_a_table_without_its_header(tmp_path: Path) -> None:
    path = make_ismrmrd(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["dataset/xml"]
    with pytest.raises(FileFormatError, match="xml"):
        opened(path)


def test_readout_shorter_than_its_header_says(tmp_path: Path) -> None:
    path = make_ismrmrd(tmp_path)
    with h5py.File(path, "r+") as file:
        row = file["dataset/data"][3]
        row["head"]["number_of_samples"] = 15
        file["dataset/data"][3] = row
    scan = opened(path)
    with pytest.raises(FileFormatError, match="readout 3"):
        scan.slice(0)
    scan.slice(1)


def test_truncated_file(tmp_path: Path) -> None:
    path = make_ismrmrd(tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(FileFormatError, match=r"scan\.mrd.*cut short"):
        opened(path)
