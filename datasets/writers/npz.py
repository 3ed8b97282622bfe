"""NumPy's ``.npz``: everything that a `Scan`, a `CompressedScan` or an `Image` knows, without loss."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.compressed import CompressedScan
from recon.datasets.metadata import describe_compressed, describe_image, describe_scan
from recon.datasets.scan import Image, Scan, SliceArray
from recon.datasets.writers import Data, Writer, writers


@writers.register("npz")
class NpzWriter(Writer):
    """One array a field: ``kspace``, ``mask``, ..., ``measurements`` and ``matrix``, or ``image`` and ``maps/NAME``.

    What is not an array is in ``metadata``, a JSON text. Written and read slice by slice, not compressed.
    """

    endings: ClassVar[tuple[str, ...]] = (".npz",)
    kinds: ClassVar[tuple[type, ...]] = (Image, Scan, CompressedScan)

    def write(self, data: Data, path: Path) -> None:
        """Write the large array first, so that its name tells what the file is."""
        assert isinstance(data, Image | Scan | CompressedScan)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in _arrays(data):
                _write_array(archive, name, array)


def _arrays(data: Image | Scan | CompressedScan) -> Iterator[tuple[str, SliceArray]]:
    if isinstance(data, Image):
        yield "image", data.pixels
        for name, values in data.maps.items():
            yield f"maps/{name}", values
        yield "metadata", np.array(describe_image(data))
        return
    if isinstance(data, CompressedScan):
        yield "measurements", data.measurements
        yield "matrix", data.matrix
        yield "metadata", np.array(describe_compressed(data))
        return
    yield "kspace", data.kspace
    for name in ("mask", "trajectory", "density", "coil_maps", "noise", "reference"):
        if getattr(data, name) is not None:
            yield name, getattr(data, name)
    yield "metadata", np.array(describe_scan(data))


def _write_array(archive: zipfile.ZipFile, name: str, array: SliceArray) -> None:
    member = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: equal data give equal files
    with archive.open(member, "w", force_zip64=True) as file:
        if isinstance(array, ndarray):
            np.lib.format.write_array(file, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            return
        first = np.asarray(array[0])
        header = {"descr": first.dtype.str, "fortran_order": False, "shape": tuple(array.shape)}
        np.lib.format.write_array_header_2_0(file, header)
        for index in range(array.shape[0]):
            file.write(np.ascontiguousarray(array[index], dtype=first.dtype).data)
