"""HDF5 as fastMRI has it: k-space with its header and reference, or a reconstruction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.hdf5_output import hdf5_output
from recon.datasets.ismrmrd_xml import header_xml
from recon.datasets.metadata import describe_image, describe_scan
from recon.datasets.scan import Image, Scan, SliceArray
from recon.datasets.writers import Data, Writer, writers
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    import h5py


@writers.register("hdf5")
class Hdf5Writer(Writer):
    """A scan as fastMRI's raw files, an image as its submissions [Zbontar 2018, https://arxiv.org/abs/1811.08839].

    Scan: ``kspace`` (slice, coil, y, x), ``ismrmrd_header``, ``mask`` ((x,) where it is the same along y), and
    ``reconstruction_rss`` where there is a reference; ours are ``coil_maps``, ``noise`` and ``recon_metadata``.

    Image: ``reconstruction`` (slice, y, x), the magnitude where the image is complex, which then is in ``image``;
    ours are ``maps/NAME``, ``recon_metadata``, and ``spacing``, ``affine`` and ``unit`` as attributes.
    """

    endings: ClassVar[tuple[str, ...]] = (".h5", ".hdf5")
    kinds: ClassVar[tuple[type, ...]] = (Image, Scan)

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice."""
        assert isinstance(data, Image | Scan)
        if isinstance(data, Scan) and data.trajectory is not None:
            raise OptionError("fastMRI's layout has no trajectory", file=path.name, cure="Choose .mrd or .npz")
        with hdf5_output(path) as (file, check):
            if isinstance(data, Image):
                _write_image(file, data, check)
            else:
                _write_scan(file, data, check)


def _write_image(file: h5py.File, image: Image, check: Callable[[], None]) -> None:
    is_complex = np.iscomplexobj(image.pixels[0])
    _write_slices(file, "reconstruction", image.pixels, _magnitude if is_complex else np.asarray, check)
    if is_complex:
        _write_slices(file, "image", image.pixels, np.asarray, check)
    for name, values in image.maps.items():
        file[f"maps/{name}"] = values
        check()
    file["recon_metadata"] = describe_image(image)
    for name in ("spacing", "affine", "unit"):
        if getattr(image, name) is not None:
            file.attrs[name] = getattr(image, name)


def _write_scan(file: h5py.File, scan: Scan, check: Callable[[], None]) -> None:
    _write_slices(file, "kspace", scan.kspace, np.asarray, check)
    if scan.spacing is not None:
        axes = (-2, -1) if len(scan.spatial) == 2 else (-2, -1, -3)
        file["ismrmrd_header"] = header_xml(scan, axes).encode()
    if scan.mask is not None:
        file["mask"] = _fastmri_mask(scan.mask, scan.spatial)
    if scan.reference is not None:
        largest, energy = 0.0, 0.0
        _write_slices(file, "reconstruction_rss", scan.reference, np.asarray, check)
        for index in range(scan.reference.shape[0]):
            values = np.abs(scan.reference[index])
            largest, energy = max(largest, float(values.max())), energy + float((values.astype(float) ** 2).sum())
        file.attrs["max"], file.attrs["norm"] = largest, energy**0.5
    if scan.coil_maps is not None:
        _write_slices(file, "coil_maps", scan.coil_maps, np.asarray, check)
    if scan.noise is not None:
        file["noise"] = scan.noise
    file["recon_metadata"] = describe_scan(scan)
    for key in ("acquisition", "patient_id"):
        file.attrs[key] = str(scan.header.get(key, ""))


def _write_slices(
    file: h5py.File,
    name: str,
    array: SliceArray,
    convert: Callable[[ndarray], ndarray],
    check: Callable[[], None],
) -> None:
    first = convert(np.asarray(array[0]))
    dataset = file.create_dataset(name, shape=(array.shape[0], *first.shape), dtype=first.dtype)
    for index in range(array.shape[0]):
        dataset[index] = convert(np.asarray(array[index]))
        check()


def _magnitude(values: ndarray) -> ndarray:
    return np.abs(values)


def _fastmri_mask(mask: ndarray, spatial: tuple[int, ...]) -> ndarray:
    """Return the mask as fastMRI has it, one value a line, where that says everything."""
    one_line = np.broadcast_to(mask[..., :1, :], mask.shape)
    if mask.ndim == len(spatial) == 2 and (mask == one_line).all():
        return np.broadcast_to(mask[0], spatial[-1:]).astype(np.uint8)
    return mask.astype(np.uint8)
