"""Readouts of a scanner, one row each, sorted onto a Cartesian grid: what ISMRMRD and twix have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from recon.physics.errors import FileFormatError

MAX_UNDERSAMPLING = 256
"""No scan leaves out more of its grid than this."""
_BATCH_BYTES = 1 << 24

Fetch = Callable[[ndarray], Iterator[ndarray]]
"""From the places of some readouts in the file to their samples (coil, sample) in the same order."""


@dataclass(frozen=True, eq=False)
class Readouts:
    """Where each imaging readout belongs; every array has one element a readout.

    Parameters
    ----------
    place
        Where the file has it (a row or an offset).
    entry
        Index on the slice axis.
    z, y
        Phase encoding lines on the grid.
    x
        First sample on the grid.
    skip, count
        Samples left out at the start of the readout as acquired, and samples used.
    reverse
        Acquired from right to left.
    """

    place: Int[ndarray, "n"]
    entry: Int[ndarray, "n"]
    z: Int[ndarray, "n"]
    y: Int[ndarray, "n"]
    x: Int[ndarray, "n"]
    skip: Int[ndarray, "n"]
    count: Int[ndarray, "n"]
    reverse: Bool[ndarray, "n"]

    def __len__(self) -> int:
        return len(self.place)

    def select(self, which: ndarray) -> Readouts:
        """Return the readouts at ``which`` (indices or booleans)."""
        return Readouts(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def check(self, shape: tuple[int, ...], path: Path) -> None:
        """Raise `FileFormatError` where a readout does not fit a grid (z, y, x)."""
        for name, n, low, high in (
            ("partition", shape[0], self.z, self.z),
            ("line", shape[1], self.y, self.y),
            ("sample", shape[2], self.x, self.x + self.count - 1),
        ):
            if low.min() < 0 or high.max() >= n:
                raise FileFormatError(
                    f"a readout's {name} lies outside of the encoded matrix",
                    file=path,
                    found=f"{low.min()} to {high.max()}",
                    expected=f"0 to {n - 1}",
                )
        if self.count.min() < 1 or self.skip.min() < 0:
            raise FileFormatError("a readout without samples", file=path)

    def mask(self, entries: int, shape: tuple[int, ...]) -> Bool[ndarray, "entry z y x"]:
        """Return which samples of a grid (z, y, x) were acquired; axes that do not vary have length 1."""
        lines = np.zeros((entries, *shape[:2]), dtype=bool)
        lines[self.entry, self.z, self.y] = True
        if (self.x == self.x[0]).all() and (self.count == self.count[0]).all():
            window = np.zeros(shape[2], dtype=bool)
            window[self.x[0] : self.x[0] + self.count[0]] = True
            mask = lines[..., None] & (np.ones(1, dtype=bool) if window.all() else window)
        else:
            mask = np.zeros((entries, *shape), dtype=bool)
            for e, z, y, x, n in zip(self.entry, self.z, self.y, self.x, self.count, strict=True):
                mask[e, z, y, x : x + n] = True
        return mask[:1] if (mask == mask[:1]).all() else mask


@dataclass(frozen=True, eq=False)
class GridRead:
    """Reads one entry of the slice axis: its readouts put onto the grid, repeated ones averaged.

    Parameters
    ----------
    readouts
        Sorted by entry.
    starts
        First readout of each entry, and the number of readouts at the end.
    shape
        (coil, z, y, x).
    fetch
        Reads samples from the file.
    squeeze
        Leave out z, which is 1.
    """

    readouts: Readouts
    starts: Int[ndarray, "m"]
    shape: tuple[int, int, int, int]
    fetch: Fetch
    squeeze: bool

    def __call__(self, index: int) -> ndarray:
        """Return (coil, z, y, x), or (coil, y, x)."""
        chosen = self.readouts.select(np.arange(self.starts[index], self.starts[index + 1]))
        grid = np.zeros(self.shape, np.complex64)
        times = np.zeros(self.shape[1:], np.float32)
        batch = max(1, _BATCH_BYTES // (8 * self.shape[0] * self.shape[3]))
        with np.errstate(invalid="ignore", over="ignore"):  # `Scan.slice` refuses what is not finite
            for start in range(0, len(chosen), batch):
                part = chosen.select(np.arange(start, min(start + batch, len(chosen))))
                for i, samples in enumerate(self.fetch(part.place)):
                    used = samples[:, part.skip[i] : part.skip[i] + part.count[i]]
                    target = part.z[i], part.y[i], slice(part.x[i], part.x[i] + part.count[i])
                    grid[:, *target] += used[:, ::-1] if part.reverse[i] else used
                    times[target] += 1
        if times.max() > 1:
            grid /= np.maximum(times, 1)
        return grid[:, 0] if self.squeeze else grid


def sort_entries(
    counters: Mapping[str, ndarray], positions: ndarray, normal: ndarray
) -> tuple[Int[ndarray, "n"], tuple[dict[str, int], ...], bool]:
    """Give each readout its index on the slice axis: slices in spatial order within everything else.

    Parameters
    ----------
    counters
        The counters that tell entries apart, ``"slice"`` among them, one value a readout each.
    positions
        (n, 3): centre of each readout's slice in mm.
    normal
        Direction in which slices are counted.

    Returns
    -------
    entry, labels, reordered
        The index of each readout, the counters of each entry, and whether slices changed their order.
    """
    slices, first, which = np.unique(counters["slice"], return_index=True, return_inverse=True)
    rank = np.arange(len(slices))
    height = positions[first].astype(np.float64) @ normal.astype(np.float64)
    if np.isfinite(height).all() and len(np.unique(np.round(height, 2))) == len(slices):
        rank[np.argsort(height)] = np.arange(len(slices))
        if (np.diff(height) < 0).all():  # counted against the normal, but in order
            rank = np.arange(len(slices))
    others = [name for name in counters if name != "slice"]
    rows = np.stack([*(np.asarray(counters[name], np.int64) for name in others), rank[which.ravel()]], axis=1)
    keys, entry = np.unique(rows, axis=0, return_inverse=True)
    original = slices[np.argsort(rank)]
    labels = tuple(
        {**dict(zip(others, map(int, key[:-1]), strict=True)), "slice": int(original[key[-1]])} for key in keys
    )
    return entry.ravel(), labels, bool((np.diff(rank) < 0).any())


def grid_size(center: int, above: int) -> int:
    """Return the least n whose centre ``n // 2`` has ``center`` samples before it, and ``above`` from it on."""
    return max(2 * center, 2 * above - 1)


def sampled_fractions(mask: ndarray, spatial: Sequence[int]) -> tuple[float, ...] | None:
    """Return the partial Fourier fraction of each axis of a mask (entry, *spatial), or None where all are full.

    The fraction is what was acquired of the symmetric extent around the centre: zero-filling on both sides
    does not count, nor undersampling in between.
    """
    fractions = []
    for axis, n in enumerate(spatial):
        other = tuple(i for i in range(mask.ndim) if i != axis + 1)
        hit = np.flatnonzero(np.broadcast_to(mask.any(axis=other), (n,)))
        below, above = n // 2 - int(hit[0]), int(hit[-1]) + 1 - n // 2
        skewed = n > 1 and abs(below - above) > max(2, n // 20)  # undersampling may miss outer lines
        fractions.append((below + above) / (2 * max(below, above)) if skewed else 1.0)
    return tuple(fractions) if min(fractions) < 1 else None
