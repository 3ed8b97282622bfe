"""HDF5 exactly as fastMRI's own files [Zbontar 2018, https://arxiv.org/abs/1811.08839], with nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray

from recon.datasets.hdf5_output import hdf5_output
from recon.datasets.ismrmrd_xml import header_xml
from recon.datasets.scan import Scan
from recon.datasets.writers import Data, Writer, writers
from recon.physics.errors import OptionError
from recon.physics.fft import ifft_centred


@writers.register("fastmri")
class FastMRIWriter(Writer):
    """A scan of slices as ``multicoil_train`` and ``multicoil_test`` have it; chosen by name only.

    ``kspace`` (slice, coil, readout, phase), ``ismrmrd_header``, and the attributes ``acquisition`` and
    ``patient_id``. Full data come with ``reconstruction_rss``, the root of the coils' sum of squares cropped to the
    matrix, and its ``max`` and ``norm``; undersampled ones with ``mask`` (phase,), ``acceleration`` and
    ``num_low_frequency``.
    """

    endings: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[type, ...]] = (Scan,)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice.

        Raises
        ------
        OptionError
            3D or off the grid, a readout along x, or a mask that is not one of lines.
        """
        assert isinstance(data, Scan)  # `find_writer` sees to it
        if data.trajectory is not None or len(data.spatial) != 2 or data.readout_axis == -1:
            raise OptionError("fastMRI's layout holds Cartesian slices with the readout along y", file=path.name)
        lines = _lines(data, path)
        full = bool(lines.all())
        height, width = data.matrix or data.spatial
        with hdf5_output(path) as (file, check):
            kspace = file.create_dataset("kspace", data.kspace.shape, np.complex64)
            rss = (
                file.create_dataset("reconstruction_rss", (data.n_slices, height, width), np.float32) if full else None
            )
            largest = energy = 0.0
            for index in range(data.n_slices):
                k = data.slice(index)
                kspace[index] = k
                if rss is not None:
                    image = _root_sum_of_squares(k, (height, width))
                    rss[index] = image
                    largest = max(largest, float(image.max()))
                    energy += float(np.square(image, dtype=np.float64).sum())
                check()
            file["ismrmrd_header"] = header_xml(data, (-2, -1)).encode()
            for key in ("acquisition", "patient_id"):
                file.attrs[key] = str(data.header.get(key, ""))
            if full:
                file.attrs["max"], file.attrs["norm"] = largest, energy**0.5
            else:
                file["mask"] = lines.astype(np.uint8)
                file.attrs["acceleration"] = round(len(lines) / int(lines.sum()))
                file.attrs["num_low_frequency"] = _central_run(lines)


def _lines(scan: Scan, path: Path) -> ndarray:
    """Which phase encoding lines are sampled."""
    mask = np.ones(scan.spatial, bool) if scan.mask is None else np.broadcast_to(scan.mask, scan.spatial)
    if not (mask == mask[:1]).all():
        raise OptionError("fastMRI's masks are made of lines", file=path.name, cure="Take --mask full, random, ...")
    return mask[0]


def _root_sum_of_squares(k: ndarray, size: tuple[int, int]) -> Float32[ndarray, "y x"]:
    images = ifft_centred(torch.from_numpy(k), (-2, -1))
    for dim, n in ((-2, size[0]), (-1, size[1])):
        images = images.narrow(dim, images.shape[dim] // 2 - n // 2, n)
    return np.asarray(torch.linalg.vector_norm(images, dim=0).numpy(), dtype=np.float32)


def _central_run(lines: ndarray) -> int:
    """Lines around the centre that are sampled without a gap."""
    left = right = len(lines) // 2
    while left > 0 and lines[left - 1]:
        left -= 1
    while right < len(lines) and lines[right]:
        right += 1
    return right - left
