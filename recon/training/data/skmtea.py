"""SKM-TEA's knees, two echoes, 8 or 16 coils [Desai 2021, https://openreview.net/forum?id=YDMFgD_qJuA].

The raw data track's files (``files_recon_calib-24/MTR_001.h5``) hold ``kspace`` (x, ky, kz, echo, coil): the readout
x is Fourier transformed already, samples that were not acquired are zero (filled up by ARC within the ellipse that
was), and each (x, echo) is a slice of its own. Splits are ``../annotations/v1.0.0/train.json`` and so on.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from recon.datasets.lazy import LazySlices
from recon.datasets.scan import Scan, Source
from recon.physics.errors import FileFormatError
from recon.training.data.raw import Layout, RawData
from recon.training.data.slices import Sampling

_ECHOES = 2


def open_skmtea(path: Path) -> Scan:
    """Read the header of a file: its slices are (x, echo), the echo faster.

    Raises
    ------
    FileFormatError
        Damaged, or without k-space of five axes with two echoes.
    """
    from recon.datasets.hdf5 import check_complex, get_dataset, open_hdf5

    with open_hdf5(path) as file:
        kspace = get_dataset(file, "kspace", path)
        check_complex(kspace.dtype, path)
        stored = tuple(kspace.shape)
    if len(stored) != 5 or stored[3] != _ECHOES:
        raise FileFormatError("not SKM-TEA's k-space", file=path, found=stored, expected="(x, ky, kz, 2 echoes, coil)")
    n, ny, nz, echoes, coils = stored

    def read(index: int) -> np.ndarray:
        with open_hdf5(path) as file:
            k = file["kspace"][index // echoes, :, :, index % echoes, :]
        return np.ascontiguousarray(np.moveaxis(k, -1, 0), dtype=np.complex64)

    return Scan(
        kspace=LazySlices((n * echoes, coils, ny, nz), np.dtype(np.complex64), read, path),
        source=Source("SKM-TEA", path),
        labels=tuple({"slice": i // echoes, "contrast": i % echoes} for i in range(n * echoes)),
        notes=("readout decoupled already: each slice is one position along it",),
    )


class SkmTeaData(RawData):
    """Files of the raw data track; the benchmark samples 6 and 8 times less by Poisson discs."""

    layout: ClassVar[Layout] = Layout("SKM-TEA", (".h5",), open_skmtea)
    benchmark: ClassVar[Sampling] = Sampling(masks=("poisson",), accelerations=(6.0, 8.0))
    organ: ClassVar[tuple[str, ...]] = ("knee",)
    terms: ClassVar[str] = "the terms of SKM-TEA bind those who train on it"
