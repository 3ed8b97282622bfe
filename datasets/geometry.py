"""From a scanner's directions and positions to the affine of NIfTI (RAS, mm)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def are_directions(axes: Float[ndarray, "3 3"]) -> bool:
    """Tell whether the rows are three orthogonal unit vectors."""
    return bool(np.isfinite(axes).all() and np.allclose(axes @ axes.T, np.eye(3), atol=1e-2))


def slice_step(
    positions: Float[ndarray, "n 3"], normal: Float[ndarray, "3"], thickness: float
) -> Float[ndarray, "3"] | None:
    """Return the vector from one slice to the next, or None where slices are not evenly spaced or coincide."""
    if len(positions) == 1:
        return normal * thickness
    steps = np.diff(positions, axis=0)
    step = steps.mean(axis=0)
    length = float(np.linalg.norm(step))
    if not np.isfinite(length) or length < 1e-3 or not np.allclose(steps, step, atol=max(0.02 * length, 0.01)):
        return None
    return step


def affine_ras(
    center: Float[ndarray, "3"],
    axes: Float[ndarray, "3 3"],
    matrix: tuple[int, int, int],
) -> Float[ndarray, "4 4"]:
    """Return the affine of an image whose voxel ``n // 2`` (on each axis) lies at ``center``.

    Parameters
    ----------
    center
        Patient coordinates (left, posterior, superior) in mm.
    axes
        Rows: the steps in mm from one voxel to the next along x, y and z, in the same coordinates.
    matrix
        Voxels (x, y, z); 1 for z where ``center`` is that of the first slice.
    """
    affine = np.eye(4)
    affine[:3, :3] = axes.T
    affine[:3, 3] = center - np.array([n // 2 for n in matrix]) @ axes
    affine[:3] *= _LPS_TO_RAS[:, None]
    return affine
