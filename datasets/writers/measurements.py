"""Measurements with their operator in HDF5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from recon.datasets.hdf5_output import hdf5_output
from recon.datasets.measurements import Measurements
from recon.datasets.metadata import describe_measurements
from recon.datasets.scan import SliceArray
from recon.datasets.writers import Data, Writer, writers

if TYPE_CHECKING:
    import h5py


@writers.register("measurements")
class MeasurementsWriter(Writer):
    """``measurements``, ``reference`` and ``arrays/NAME``; what is not an array in ``recon_measurements``, as JSON."""

    endings: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    kinds: ClassVar[tuple[type, ...]] = (Measurements,)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice."""
        assert isinstance(data, Measurements)
        with hdf5_output(path) as (file, check):
            _write(file, "measurements", data.measurements, check)
            if data.reference is not None:
                _write(file, "reference", data.reference, check)
            for name, values in data.arrays.items():
                file[f"arrays/{name}"] = np.asarray(values, dtype=np.float32)
                check()
            file["recon_measurements"] = describe_measurements(data)


def _write(file: h5py.File, name: str, array: SliceArray, check: Callable[[], None]) -> None:
    dataset = file.create_dataset(name, shape=tuple(array.shape), dtype=np.float32)
    for index in range(array.shape[0]):
        dataset[index] = np.asarray(array[index], dtype=np.float32)
        check()
