"""Readouts on their grid, and the geometry of slices: what ISMRMRD and twix share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import complex_normal

from recon.datasets.geometry import affine_ras, are_directions, slice_step
from recon.datasets.limits import check_claim
from recon.datasets.readouts import GridRead, Readouts, grid_size, sampled_fractions, sort_entries
from recon.physics.errors import FileFormatError, ShapeError


@given(st.integers(0, 300), st.integers(1, 300))
def test_grid_size_is_the_least_that_fits(center: int, above: int) -> None:
    def fits(n: int) -> bool:
        return n // 2 >= center and n - n // 2 >= above

    n = grid_size(center, above)
    assert fits(n)
    assert not fits(n - 1)


@given(st.data())
def test_each_sample_lands_in_its_place(data: st.DataObject) -> None:
    """Any order, direction, window and number of repeats: the grid is the mean of what was measured there."""
    nz, ny, nx, n = (data.draw(st.integers(1, m)) for m in (3, 4, 6, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    z, y, entry = rng.integers(nz, size=n), rng.integers(ny, size=n), np.sort(rng.integers(2, size=n))
    x = rng.integers(nx, size=n)
    count = rng.integers(1, nx - x + 1)
    skip, reverse = rng.integers(0, 3, size=n), rng.random(n) < 0.5
    stored = [complex_normal((2, skip[i] + count[i] + 2), i) for i in range(n)]

    def fetch(places: np.ndarray) -> Iterator[np.ndarray]:
        return (stored[place] for place in places)

    readouts = Readouts(np.arange(n), entry, z, y, x, skip, count, reverse)
    starts = np.searchsorted(entry, np.arange(3))
    read = GridRead(readouts, starts, (2, nz, ny, nx), fetch, False)
    mask = np.broadcast_to(readouts.mask(2, (nz, ny, nx)), (2, nz, ny, nx))
    for e in range(2):
        total, times = np.zeros((2, nz, ny, nx), complex), np.zeros((nz, ny, nx))
        for i in np.flatnonzero(entry == e):
            used = stored[i][:, skip[i] : skip[i] + count[i]]
            for j in range(count[i]):
                total[:, z[i], y[i], x[i] + j] += used[:, count[i] - 1 - j if reverse[i] else j]
                times[z[i], y[i], x[i] + j] += 1
        np.testing.assert_allclose(read(e), total / np.maximum(times, 1), atol=1e-5)
        np.testing.assert_array_equal(mask[e], times > 0)


def test_entries_are_sorted_by_counter_then_by_position() -> None:
    slices = np.array([0, 1, 2, 0, 1, 2])
    positions = np.array([[0, 0, z] for z in (0, 10, 5, 0, 10, 5)], float)
    counters = {"repetition": np.array([1, 1, 1, 0, 0, 0]), "slice": slices}
    entry, labels, reordered = sort_entries(counters, positions, np.array([0.0, 0.0, 1.0]))
    np.testing.assert_array_equal(entry, [3, 5, 4, 0, 2, 1])
    assert labels[1] == {"repetition": 0, "slice": 2}
    assert reordered
    same = sort_entries(counters, np.zeros((6, 3)), np.array([0.0, 0.0, 1.0]))  # positions that say nothing
    np.testing.assert_array_equal(same[0], [3, 4, 5, 0, 1, 2])
    assert not same[2]


@pytest.mark.parametrize(
    ("lines", "n", "expected"),
    [
        (range(16), 16, None),
        (range(0, 16, 2), 16, None),
        (range(4, 16), 16, (12 / 16, 1.0)),
        (range(10), 16, (10 / 16, 1.0)),
        (range(3, 13), 16, None),  # zero-filled on both sides
        (range(15), 15, None),
    ],
)
def test_partial_fourier_is_what_one_side_lacks(lines: range, n: int, expected: tuple[float, ...] | None) -> None:
    mask = np.zeros((1, n, 1), bool)
    mask[:, list(lines)] = True
    assert sampled_fractions(mask, (n, 8)) == expected


def test_slice_steps() -> None:
    normal = np.array([0.0, 0.6, 0.8])
    np.testing.assert_allclose(slice_step(np.zeros((1, 3)), normal, 4.0), 4 * normal)
    np.testing.assert_allclose(slice_step(np.arange(4)[:, None] * 5 * normal, normal, 4.0), 5 * normal)
    assert slice_step(np.zeros((3, 3)), normal, 4.0) is None
    assert slice_step(np.array([0, 1, 5])[:, None] * normal, normal, 4.0) is None
    assert slice_step(np.array([0, np.nan, 5])[:, None] * normal, normal, 4.0) is None


def test_directions() -> None:
    assert are_directions(np.eye(3))
    assert not are_directions(np.zeros((3, 3)))
    assert not are_directions(np.eye(3) * 2)
    assert not are_directions(np.full((3, 3), np.nan))


def test_affine_puts_the_centre_voxel_at_the_centre() -> None:
    axes = np.array([[0, 2.0, 0], [0, 0, 3.0], [4.0, 0, 0]])
    affine = affine_ras(np.array([10.0, 20, 30]), axes, (5, 6, 4))
    np.testing.assert_allclose(affine @ [2, 3, 2, 1], [-10, -20, 30, 1])
    np.testing.assert_allclose(affine @ [3, 3, 2, 1], [-10, -22, 30, 1])


def test_claims() -> None:
    path = Path("scan.dat")
    check_claim((10, 10), 8, stored=800, path=path, what="it", expansion=1, free=0)
    with pytest.raises(FileFormatError, match=r"scan\.dat: it is larger than the file"):
        check_claim((10, 10), 8, stored=799, path=path, what="it", expansion=1, free=0)
    with pytest.raises(ShapeError, match="empty"):
        check_claim((10, 0), 8, stored=800, path=path, what="it")
    with pytest.raises(FileFormatError, match="memory"):
        check_claim((1, 1 << 50), 8, stored=1 << 50, path=path, what="it")
