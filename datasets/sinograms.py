"""Arrays of measurements from other programs' files: sinograms and raw frames in .npy, .tif, .mat, .h5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.datasets.arrays import check_finite
from recon.datasets.compressed import CompressedScan
from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.readers import open as open_file
from recon.datasets.scan import Image
from recon.physics.errors import DataError, DTypeError, FileFormatError, OptionError


def read_planes(path: str | Path, variable: str | None = None) -> ndarray:
    """Read an array ``(slice, rows, columns)`` or, of colour, ``(slice, rows, columns, 3)``.

    Parameters
    ----------
    path
        A picture or an array of any format that `recon.datasets.open` knows, or HDF5 of any layout.
    variable
        Name of the array in a file of several.

    Raises
    ------
    FileFormatError, DTypeError, DataError, OptionError
        A file that cannot be read, holds several arrays of which none is named, or none of real, finite numbers.
    """
    path = Path(path)
    planes = _from_hdf5(path, variable) if _is_plain_hdf5(path) else _from_image(path, variable)
    if planes.dtype.kind not in "biuf":
        raise DTypeError("measurements that are not real numbers", file=path, found=planes.dtype)
    check_finite(planes, "the measurements have values", path)
    return planes


def oriented(planes: ndarray, angles: int, path: str | Path | None = None) -> ndarray:
    """Return sinograms ``(slice, detector, angle)``, whichever way round they were.

    Raises
    ------
    DataError
        Neither axis has as many entries as there are angles.
    """
    if planes.shape[2] == angles:
        return planes
    if planes.shape[1] == angles:
        return planes.swapaxes(1, 2)
    raise DataError(
        "a sinogram with another number of angles",
        file=path,
        found=planes.shape,
        expected=f"an axis of {angles}",
        cure=f"Name it with ct:angles={planes.shape[1]}",
    )


def _is_plain_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == SIGNATURE
    except OSError:
        return False  # the reader says what is wrong with it


def _from_image(path: Path, variable: str | None) -> ndarray:
    opened = open_file(path, variable=variable)
    if not isinstance(opened, Image):
        what = "compressed measurements" if isinstance(opened, CompressedScan) else "raw data of another kind"
        raise FileFormatError(f"the file holds {what}", file=path, expected="an array of measurements")
    return opened.stacked()


def _from_hdf5(path: Path, variable: str | None) -> ndarray:
    import h5py

    from recon.datasets.hdf5 import get_dataset, open_hdf5

    with open_hdf5(path) as file:
        found: list[str] = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        arrays = [n for n in found if file[n].ndim in (2, 3) and file[n].dtype.kind in "biuf"]
        if variable is None and len(arrays) == 1:
            variable = arrays[0]
        if variable not in arrays:
            problem = "the file holds several arrays" if variable is None else f"no array is called {variable!r}"
            problem = problem if arrays else "the file holds no array of two or three axes"
            raise OptionError(problem, file=path, found=", ".join(arrays) or None, cure="Name one with --variable")
        values = np.asarray(get_dataset(file, variable, path)[()])
    return values[None] if values.ndim == 2 else values
