"""ISMRMRD files whose readouts are no lines: radial, spiral, stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ismrmrd_scans import lines, opened
from samples import complex_normal, encoding, ismrmrd_xml, make_radial, readout, write_ismrmrd

from recon.datasets import Scan
from recon.physics.errors import FileFormatError


def test_radial_trajectory_in_cycles_per_field_of_view(tmp_path: Path) -> None:
    scan = opened(make_radial(tmp_path))
    k = complex_normal((9, 2, 16))
    assert scan.kspace.shape == (1, 2, 144)
    np.testing.assert_array_equal(scan.slice(0), k.transpose(1, 0, 2).reshape(2, -1))
    assert scan.trajectory.shape == (144, 2)
    angle = np.repeat(np.arange(9) * np.pi / 9, 16)
    radius = np.tile(np.arange(16) - 8, 9)
    expected = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)  # (y, x)
    np.testing.assert_allclose(scan.trajectory, expected, atol=1e-4)
    assert scan.mask is None
    assert scan.density is None
    assert scan.matrix == (16, 16)


def spiral(
    tmp_path: Path, columns: np.ndarray, matrix: tuple[int, int, int] = (16, 16, 1), n: int = 1, **fields
) -> Scan:
    k = complex_normal((n, 2, columns.shape[0]))
    scans = [readout(k[i], columns.astype(np.float32), kspace_encode_step_2=i, **fields) for i in range(n)]
    header = ismrmrd_xml(encoding(matrix, matrix, trajectory="spiral", partitions=(0, max(0, n - 1), n // 2)))
    return opened(write_ismrmrd(tmp_path / "s.h5", header, scans))


def test_trajectory_units_and_columns(tmp_path: Path, rng: np.random.Generator) -> None:
    k = rng.uniform(-8, 8, (40, 2))
    weights = rng.uniform(0, 1, (40, 1))
    for i, (columns, density) in enumerate(
        [(k, None), (k / 16, None), (np.hstack([k, 0 * weights]), None), (np.hstack([k / 16, weights]), weights[:, 0])]
    ):
        (tmp_path / str(i)).mkdir()
        scan = spiral(tmp_path / str(i), columns)
        np.testing.assert_allclose(scan.trajectory, k[:, ::-1], atol=1e-5)
        if density is None:
            assert scan.density is None
        else:
            np.testing.assert_allclose(scan.density, density, rtol=1e-6)


def test_stack_of_spirals(tmp_path: Path, rng: np.random.Generator) -> None:
    k = rng.uniform(-8, 8, (40, 2))
    scan = spiral(tmp_path, k, (16, 16, 4), n=4)
    assert scan.trajectory.shape == (160, 3)
    np.testing.assert_array_equal(scan.trajectory[:, 0], np.repeat([-2, -1, 0, 1], 40))
    np.testing.assert_allclose(scan.trajectory[:40, 1:], k[:, ::-1], rtol=1e-6)


@pytest.mark.parametrize(
    "columns", [np.full((40, 2), 100.0), np.full((40, 2), np.nan), np.ones((40, 5)), np.ones((40, 1))]
)
def test_trajectories_that_cannot_be(tmp_path: Path, columns: np.ndarray) -> None:
    with pytest.raises(FileFormatError, match="trajectory"):
        spiral(tmp_path, columns)


def test_non_cartesian_without_a_trajectory(tmp_path: Path) -> None:
    header = ismrmrd_xml(encoding((16, 12, 1), (8, 12, 1), trajectory="radial"))
    path = write_ismrmrd(tmp_path / "s.h5", header, lines(complex_normal((3, 12, 16))))
    with pytest.raises(FileFormatError, match="no trajectory"):
        opened(path)
