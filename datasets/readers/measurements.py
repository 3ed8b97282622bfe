"""Measurements with their operator in HDF5, as `recon simulate` writes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.lazy import LazySlices
from recon.datasets.measurements import Measurements
from recon.datasets.metadata import measurements_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Source
from recon.physics.errors import DTypeError, FileFormatError

if TYPE_CHECKING:
    import h5py


@readers.register("measurements")
class MeasurementsReader:
    """HDF5 with ``measurements`` (slice, channel, ...), and ``recon_measurements``, a JSON text.

    ``reference`` and ``arrays/NAME`` may stand beside it.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by the names of the datasets."""
        if not head.startswith(SIGNATURE):
            return False
        from recon.datasets.hdf5 import open_hdf5

        with open_hdf5(path) as file:
            return "recon_measurements" in file

    def read(self, path: Path, options: ReadOptions) -> Measurements:  # noqa: ARG002
        """Read the description, masks and kernels; measurements and reference stay on disk."""
        from recon.datasets.hdf5 import get_dataset, open_hdf5, read_text

        with open_hdf5(path) as file:
            fields = measurements_fields(read_text(file, "recon_measurements", path), path)
            if "measurements" not in file:
                raise FileFormatError("the file has no measurements", file=path)
            measurements = _lazy(file, "measurements", path)
            reference = _lazy(file, "reference", path) if "reference" in file else None
            group = file.get("arrays", {})
            arrays = {name: np.asarray(get_dataset(group, name, path)[()], dtype=np.float32) for name in group}
        return Measurements(
            measurements=measurements, reference=reference, arrays=arrays, source=Source("measurements", path), **fields
        )


def _lazy(file: h5py.File, name: str, path: Path) -> LazySlices:
    from recon.datasets.hdf5 import get_dataset, read_slice

    dataset = get_dataset(file, name, path)
    if dataset.dtype.kind not in "biuf":
        raise DTypeError(f"{name} that are not real numbers", file=path, found=dataset.dtype)
    return LazySlices(tuple(dataset.shape), dataset.dtype, partial(read_slice, path, name), path)
