"""fastMRI's knees and brains, multi-coil [Zbontar 2018, https://arxiv.org/abs/1811.08839]."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from recon.datasets.readers import ReadOptions
from recon.datasets.readers.fastmri import FastMRIReader
from recon.datasets.scan import Scan
from recon.physics.errors import DataError
from recon.training.data.raw import Layout, RawData
from recon.training.data.slices import Sampling


def open_fastmri(path: Path) -> Scan:
    """Read the headers of a multi-coil file.

    Raises
    ------
    ReconError
        Damaged, of another layout, or single-coil.
    """
    scan = FastMRIReader().read(path, ReadOptions())
    if scan.n_coils == 1:
        raise DataError("a single-coil file", file=path, cure="Take fastMRI's multi-coil files")
    return scan


class FastMRIData(RawData):
    """``multicoil_train`` and ``multicoil_val`` of fastMRI; the organ is that of the files.

    Files with a ``mask``, as those of ``multicoil_test``, keep it and have no target.
    """

    layout: ClassVar[Layout] = Layout("fastMRI", (".h5",), open_fastmri)
    benchmark: ClassVar[Sampling] = Sampling(masks=("equispaced_fraction", "random"), accelerations=(4.0, 8.0))
    terms: ClassVar[str] = "fastMRI's data-use agreement binds those who train on it"
