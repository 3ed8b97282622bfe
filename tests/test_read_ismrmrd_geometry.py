"""Where the slices of ISMRMRD files lie: order, gaps, tilts, mirrored scanners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ismrmrd_scans import FULL, lines, opened
from samples import complex_normal, ismrmrd_xml, write_ismrmrd


def test_interleaved_slices_are_sorted_by_position(tmp_path: Path) -> None:
    k = complex_normal((4, 3, 12, 16))
    scans = []
    for count, place in enumerate((0, 2, 1, 3)):
        scans += lines(k[place], slice=count, position=(0.0, 0.0, 7.0 * place))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    for place in range(4):
        np.testing.assert_array_equal(scan.slice(place), k[place])
    assert [label["slice"] for label in scan.labels] == [0, 2, 1, 3]
    assert scan.spacing[0] == pytest.approx(7)  # the gap counts
    np.testing.assert_allclose(scan.affine @ [4, 6, 3, 1], [0, 0, 21, 1], atol=1e-5)


def test_slices_counted_downwards_keep_their_order(tmp_path: Path) -> None:
    k = complex_normal((3, 3, 12, 16))
    scans = [line for s in range(3) for line in lines(k[s], slice=s, position=(0.0, 0.0, -6.0 * s))]
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    np.testing.assert_array_equal(scan.slice(0), k[0])
    np.testing.assert_allclose(scan.affine @ [4, 6, 2, 1], [0, 0, -12, 1], atol=1e-5)


def test_tilted_slices(tmp_path: Path) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    directions = {"read_dir": (c, s, 0.0), "phase_dir": (0.0, 0.0, 1.0), "slice_dir": (s, -c, 0.0)}
    normal = np.array(directions["slice_dir"])
    scans = []
    for i in range(3):
        scans += lines(
            complex_normal((3, 12, 16)), slice=i, position=tuple(np.array([10, 20, 30]) + 4 * i * normal), **directions
        )
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    np.testing.assert_allclose(lps @ [4, 6, 0, 1], [10, 20, 30, 1], atol=1e-4)
    np.testing.assert_allclose(lps[:3, 0], 25 * np.array(directions["read_dir"]), atol=1e-5)
    np.testing.assert_allclose(lps[:3, 1], 200 / 12 * np.array(directions["phase_dir"]), atol=1e-5)
    np.testing.assert_allclose(lps[:3, 2], 4 * normal, atol=1e-5)


def test_siemens_data_are_mirrored(tmp_path: Path) -> None:
    """They want an FFT where the inverse is used here, which turns both axes of the plane round."""
    scans = lines(complex_normal((3, 12, 16)))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL, vendor="SIEMENS"), scans))
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag([25, 200 / 12, 5]))


def test_uneven_slices_have_no_affine(tmp_path: Path) -> None:
    scans = []
    for i, z in enumerate((0.0, 5.0, 30.0)):
        scans += lines(complex_normal((3, 12, 16)), slice=i, position=(0.0, 0.0, z))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    assert scan.affine is None
    assert any("evenly" in note for note in scan.notes)


def test_directions_that_are_none(tmp_path: Path) -> None:
    scans = lines(complex_normal((3, 12, 16)), read_dir=(0.0, 0.0, 0.0))
    scan = opened(write_ismrmrd(tmp_path / "s.h5", ismrmrd_xml(FULL), scans))
    assert scan.affine is None
    assert scan.spacing is not None
