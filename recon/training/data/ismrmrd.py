"""Folders of ISMRMRD files, as converters of vendors' raw data write them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from recon.datasets.readers import ReadOptions
from recon.datasets.readers.ismrmrd_raw import IsmrmrdReader
from recon.datasets.scan import Scan
from recon.training.data.raw import Layout, RawData
from recon.training.data.slices import Sampling


def open_ismrmrd(path: Path) -> Scan:
    """Read the headers of a file."""
    return IsmrmrdReader().read(path, ReadOptions())


class IsmrmrdData(RawData):
    """Two-dimensional Cartesian scans; undersampled ones keep their mask and have no target."""

    layout: ClassVar[Layout] = Layout("ISMRMRD", (".h5", ".mrd"), open_ismrmrd)
    benchmark: ClassVar[Sampling] = Sampling(masks=("equispaced_fraction", "random"), accelerations=(4.0, 8.0))
