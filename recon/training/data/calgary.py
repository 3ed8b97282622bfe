"""Calgary-Campinas' 12-coil brains [Beauferris 2022, https://doi.org/10.3389/fnins.2022.919186].

The collection's ``Train`` and ``Val`` hold volumes of 256 slices along the readout, 218 x 170 or 218 x 180, with 12
coils. The challenge samples 5 and 10 times less by Poisson discs, and does not score the first and last 50 slices,
which show little. Of kz the last 15 % were not acquired; its networks never see what the files hold there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from recon.datasets.lazy import LazySlices
from recon.datasets.readers import ReadOptions
from recon.datasets.readers.calgary import CalgaryReader
from recon.datasets.scan import Scan
from recon.training.data.raw import Layout, RawData
from recon.training.data.slices import Sampling

_ACQUIRED = 0.85  # of kz


def open_calgary(path: Path) -> Scan:
    """Read the header of a volume, and leave out what was not acquired of kz."""
    scan = CalgaryReader().read(path, ReadOptions())
    kspace, last = scan.kspace, math.ceil(_ACQUIRED * scan.spatial[1])

    def acquired(index: int) -> np.ndarray:
        k = np.array(kspace[index])
        k[..., last:] = 0
        return k

    return replace(scan, kspace=LazySlices(tuple(kspace.shape), np.dtype(np.complex64), acquired, path))


class CalgaryData(RawData):
    """``Train`` and ``Val`` of the multi-channel challenge; ``Test-R=5`` and ``Test-R=10`` are undersampled already."""

    layout: ClassVar[Layout] = Layout("Calgary-Campinas", (".h5", ".npy"), open_calgary)
    benchmark: ClassVar[Sampling] = Sampling(masks=("poisson",), accelerations=(5.0, 10.0))
    benchmark_outer: ClassVar[int] = 50
    organ: ClassVar[tuple[str, ...]] = ("brain",)
    terms: ClassVar[str] = "the terms of Calgary-Campinas bind those who train on it"
