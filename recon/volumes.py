"""3D scans as stacks of 2D problems: a fully sampled axis is decoupled by one inverse Fourier transform."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Complex64
from numpy import ndarray
from torch import Tensor

from recon.datasets import Scan
from recon.physics.errors import OptionError
from recon.physics.fft import ifft_centred


class DecoupledSlices:
    """k-space of a 3D scan, ``(volume * n_axis, coil, a, b)``; one volume is held in memory at a time."""

    def __init__(self, scan: Scan, axis: int) -> None:
        self._scan, self._axis = scan, axis
        self._n = scan.spatial[axis]
        rest = [n for i, n in enumerate(scan.spatial) if i != axis]
        self.shape: tuple[int, ...] = (scan.n_slices * self._n, scan.n_coils, *rest)
        self._held: tuple[int, ndarray] | None = None

    def __getitem__(self, index: int) -> Complex64[ndarray, "coil a b"]:
        """Return one 2D problem; the volume it belongs to is transformed when it is first asked for."""
        volume, position = divmod(index, self._n)
        if self._held is None or self._held[0] != volume:
            k = torch.from_numpy(self._scan.slice(volume))
            self._held = (volume, ifft_centred(k, (1 + self._axis,)).numpy())
        return np.take(self._held[1], position, axis=1 + self._axis)


def decoupled_axis(scan: Scan) -> int:
    """Return the spatial axis (0: z, 1: y, 2: x) along which sampling does not vary.

    Raises
    ------
    OptionError
        Sampling varies along every axis.
    """
    mask, _ = scan.sampling(0)
    preferred = [] if scan.readout_axis is None else [scan.readout_axis % 3]
    for axis in [*preferred, 2, 0, 1]:
        if (mask.all(axis=axis) == mask.any(axis=axis)).all():
            return axis
    if preferred:  # an asymmetric echo: the same samples are missing in each line, which costs resolution only
        lines = mask.any(axis=preferred[0], keepdims=True)
        columns = mask.any(axis=tuple(a for a in range(3) if a != preferred[0]), keepdims=True)
        if np.array_equal(mask, lines & columns):
            return preferred[0]
    raise OptionError(
        "3D sampling that varies along every axis cannot be split into slices",
        file=scan.source.path,
        cure="Use recon.physics.MultiCoilMRI(three_d=True) with a model from Python",
    )


def as_slices(scan: Scan) -> tuple[Scan, int | None]:
    """Return a scan of 2D slices and the axis that was decoupled (None where the scan was 2D already)."""
    if len(scan.kspace.shape) != 5:
        return scan, None
    axis = decoupled_axis(scan)
    mask = scan.mask
    if mask is not None:
        whole = np.broadcast_to(mask, (*mask.shape[:-3], *scan.spatial))
        mask = np.asarray(whole.any(axis=mask.ndim - 3 + axis))
        if mask.ndim == 3:
            mask = np.repeat(mask, scan.spatial[axis], axis=0)
    readout = scan.readout_axis
    if readout is not None:
        position = readout % 3
        readout = None if position == axis else (position - (position > axis)) - 2
    spatial = DecoupledSlices(scan, axis)
    sliced = replace(
        scan,
        kspace=spatial,
        mask=mask,
        coil_maps=None,
        matrix=None,
        readout_axis=readout,
        oversampling=scan.oversampling if readout is not None else None,
        reference=None,
    )
    return sliced, axis


def stack_volume(slices: Tensor, axis: int, n_axis: int) -> Tensor:
    """Turn ``(volume * n_axis, ..., a, b)`` back into z-slices ``(volume * z, ..., y, x)``.

    Parameters
    ----------
    slices
        Images of the decoupled 2D problems.
    axis
        The axis (0: z, 1: y, 2: x) that was decoupled.
    n_axis
        Its length.
    """
    volumes = slices.reshape(-1, n_axis, *slices.shape[1:])  # (volume, n_axis, ..., a, b)
    # The two axes left are (y, x), (z, x) or (z, y); put the decoupled one back in its place.
    target = volumes.movedim(1, -1) if axis == 2 else volumes.movedim(1, -2) if axis == 1 else volumes
    if axis != 0:
        target = target.movedim(-3, 1)  # z is the slice axis
    return target.reshape(-1, *target.shape[2:])
