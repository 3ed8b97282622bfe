"""Reconstructions in HDF5: fastMRI's submissions and our own results."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.lazy import LazySlices
from recon.datasets.metadata import image_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image, Source
from recon.physics.errors import DTypeError, ShapeError


@readers.register("hdf5")
class Hdf5ImageReader:
    """HDF5 with ``reconstruction`` (slice, y, x) and no ``kspace``; a complex ``image`` beside it takes its place.

    ``maps/NAME`` and ``recon_metadata`` are what `Hdf5Writer` adds.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by the names of the datasets."""
        if not head.startswith(SIGNATURE):
            return False
        from recon.datasets.hdf5 import open_hdf5

        with open_hdf5(path) as file:
            return "reconstruction" in file and "kspace" not in file

    def read(self, path: Path, options: ReadOptions) -> Image:  # noqa: ARG002
        """Read the maps and the description; pixels stay on disk."""
        from recon.datasets.hdf5 import get_dataset, open_hdf5, read_slice, read_text

        with open_hdf5(path) as file:
            name = "image" if "image" in file else "reconstruction"
            dataset = get_dataset(file, name, path)
            if dataset.ndim not in (3, 4) or (dataset.ndim == 4 and dataset.shape[-1] != 3):
                raise ShapeError(
                    "a reconstruction of a shape that cannot be used",
                    file=path,
                    found=dataset.shape,
                    expected="(slice, y, x)",
                )
            if dataset.dtype.kind not in "biufc":
                raise DTypeError("a reconstruction that is not made of numbers", file=path, found=dataset.dtype)
            shape, dtype = tuple(dataset.shape), dataset.dtype
            group = file.get("maps", {})
            maps = {key: np.asarray(get_dataset(group, key, path)[()]) for key in group}
            text = None
            if "recon_metadata" in file:
                text = read_text(file, "recon_metadata", path)
        pixels = LazySlices(shape, dtype, partial(read_slice, path, name), path)
        return Image(pixels=pixels, source=Source("hdf5", path), maps=maps, **image_fields(text, path))
