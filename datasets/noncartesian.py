"""Readouts along a trajectory: samples in a row, and where they lie in k-space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from recon.datasets.readouts import Fetch
from recon.physics.errors import FileFormatError


@dataclass(frozen=True, eq=False)
class SpokesRead:
    """Reads one entry of the slice axis as (coil, sample), its readouts behind each other.

    Parameters
    ----------
    rows
        (entry, readout): where the file has them.
    fetch
        Reads samples from the file.
    kept
        Samples of each readout that are used.
    """

    rows: Int[ndarray, "entry readout"]
    fetch: Fetch
    kept: slice

    def __call__(self, index: int) -> ndarray:
        """Return (coil, sample)."""
        return np.concatenate([samples[:, self.kept] for samples in self.fetch(self.rows[index])], axis=1)


def sample_trajectory(
    rows: Int[ndarray, "entry readout"],
    fetch: Callable[[ndarray], Iterator[ndarray]],
    stored: tuple[int, int],
    kept: slice,
    kz: Float[ndarray, "entry readout"],
    matrix: tuple[int, int, int],
    path: Path,
    notes: list[str],
) -> tuple[ndarray, ndarray | None]:
    """Read the trajectory of ISMRMRD readouts, in cycles per field of view, with axes ordered (z,) y, x.

    The format does not state the unit. Values within +-0.5 are taken as normalised to the matrix, values
    within half the matrix as cycles per field of view. A third column where the matrix has one partition is
    density compensation (as Gadgetron writes it). Two columns where it has several are a stack: kz comes from
    the partition counter.

    Parameters
    ----------
    rows, fetch
        Where the file has the readouts, and what reads their trajectories (flat float32).
    stored
        Samples and columns of each.
    kept
        Samples that are used.
    kz
        Partition of each readout, counted from the centre.
    matrix
        (x, y, z) of the reconstructed image.
    notes
        Gets a line for each of these conclusions.

    Returns
    -------
    trajectory, density
        ``(sample, dim)``, or ``(entry, sample, dim)`` where entries differ; ``(sample,)`` or
        ``(entry, sample)``, or None.
    """
    samples, columns = stored
    if columns not in (2, 3):
        raise FileFormatError("a trajectory of no known kind", file=path, found=f"{columns} columns", expected="2 or 3")
    n = len(range(*kept.indices(samples)))
    k = np.empty((*rows.shape, n, columns), np.float32)
    for e, line in enumerate(rows):
        for r, flat in enumerate(fetch(line)):
            if len(flat) != samples * columns:
                raise FileFormatError(
                    f"readout {line[r]}: the trajectory is not what the header says",
                    file=path,
                    found=f"{len(flat)} values",
                    expected=samples * columns,
                )
            k[e, r] = flat.reshape(samples, columns)[kept]
    if not np.isfinite(k).all():
        raise FileFormatError("the trajectory is not finite", file=path)
    density = None
    if columns == 3 and matrix[2] == 1:
        if k[..., 2].any():
            if k[..., 2].min() < 0:
                raise FileFormatError(
                    "a 3D trajectory for a matrix with one partition", file=path, found=f"matrix {matrix}"
                )
            density = k[..., 2].reshape(rows.shape[0], -1)
            notes.append("the trajectory's third column taken as density compensation")
        k = k[..., :2]
    size = np.array(matrix[: k.shape[-1]], np.float32)
    largest = np.abs(k).reshape(-1, k.shape[-1]).max(0)
    if (largest <= 0.5001).all():
        k = k * size
        notes.append("trajectory within +-0.5: taken as normalised to the reconstructed matrix")
    elif (largest > size / 2 + 0.51).any():
        raise FileFormatError(
            "a trajectory in no known unit",
            file=path,
            found=f"values up to {largest.max():.4g}",
            expected=f"within 0.5, or {size.max() / 2:g} cycles per field of view",
        )
    if k.shape[-1] == 2 and matrix[2] > 1:
        k = np.concatenate([k, np.broadcast_to(kz[..., None, None], (*k.shape[:-1], 1))], axis=-1)
        notes.append("a stack of 2D trajectories: kz from the partition counter")
    k = np.ascontiguousarray(k[..., ::-1]).reshape(rows.shape[0], -1, k.shape[-1])
    if (k == k[:1]).all() and (density is None or (density == density[:1]).all()):
        return k[0], None if density is None else density[0]
    return k, density
