"""fastMRI's HDF5 files [Zbontar 2018, https://arxiv.org/abs/1811.08839]: ``kspace``, and what stands beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recon.datasets.hdf5_heaps import SIGNATURE
from recon.datasets.ismrmrd_header import Encoding, parse_header
from recon.datasets.lazy import LazySlices
from recon.datasets.metadata import scan_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Scan, Source
from recon.physics.errors import MaskError, ShapeError

_RSS, _ESC = "reconstruction_rss", "reconstruction_esc"  # single-coil files hold both: theirs is the second


@readers.register("fastmri")
class FastMRIReader:
    """HDF5 with a ``kspace`` of complex values: (slice, coil, readout, phase), or without the coil axis."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Answer to HDF5 files with a dataset ``kspace`` that is not Calgary-Campinas'."""
        if not head.startswith(SIGNATURE):
            return False
        from recon.datasets.hdf5 import open_hdf5
        from recon.datasets.readers.calgary import is_calgary

        with open_hdf5(path) as file:
            found = file.get("kspace")
            return hasattr(found, "dtype") and not is_calgary(found.shape or (), found.dtype)

    def read(self, path: Path, options: ReadOptions) -> Scan:  # noqa: ARG002
        """Read the headers; k-space and reference stay on disk.

        Raises
        ------
        FileFormatError
            Damaged HDF5 or a broken header.
        ShapeError, DTypeError, MaskError
            Arrays that do not fit each other.
        """
        from recon.datasets.hdf5 import (
            attributes,
            check_complex,
            get_dataset,
            open_hdf5,
            read_slice,
            read_text,
        )

        notes: list[str] = []
        with open_hdf5(path) as file:
            kspace = get_dataset(file, "kspace", path)
            check_complex(kspace.dtype, path)
            stored = tuple(kspace.shape)
            if len(stored) not in (3, 4, 5):
                raise ShapeError(
                    "kspace has a shape that fastMRI does not know",
                    file=path,
                    found=stored,
                    expected="(slice, y, x), (slice, coil, y, x) or (slice, coil, z, y, x)",
                )
            shape = (stored[0], 1, *stored[1:]) if len(stored) == 3 else stored
            mask = None
            if "mask" in file:
                mask = _mask(np.asarray(get_dataset(file, "mask", path)[()]), path)
            reference = None
            for name in (_ESC, _RSS) if len(stored) == 3 else (_RSS, _ESC):
                if name in file and reference is None:
                    dataset = get_dataset(file, name, path)
                    if dataset.ndim != 3 or dataset.shape[0] != shape[0] or dataset.dtype.kind not in "fiu":
                        notes.append(f"{name} {dataset.shape} does not belong to the k-space and was left out")
                        continue
                    reference = LazySlices(dataset.shape, dataset.dtype, partial(read_slice, path, name), path)
            header: dict[str, Any] = attributes(file, path)
            ours = _what_our_writer_adds(file, shape, path)
            text = read_text(file, "ismrmrd_header", path) if "ismrmrd_header" in file else None

        geometry: dict[str, Any] = {}
        if text is None:
            notes.append("no ismrmrd_header: voxel size, field of view and oversampling are unknown")
            if reference is not None:
                geometry["matrix"] = tuple(reference.shape[1:])
        else:
            parsed = parse_header(text, path)
            header.update(parsed.fields)
            geometry, padding = _geometry(parsed.encodings[0], shape, notes)
            header.update(geometry.pop("header"))
            if mask is not None and padding is not None and mask.shape[-1] == shape[-1]:
                mask = mask.copy()
                mask[..., : padding[0]] = False  # fastMRI's masks also count lines that the scanner filled with zeros
                mask[..., padding[1] :] = False
        if "header" in ours:  # what the scan was before it was written, rather than what fastMRI's layout tells
            header, geometry, notes = ours.pop("header"), {}, list(ours.pop("notes", ()))
        return Scan(
            kspace=LazySlices(shape, np.dtype(np.complex64), partial(_read_kspace, path), path),
            source=Source("fastmri", path),
            mask=mask,
            reference=reference,
            header=header,
            notes=tuple(notes),
            **geometry,
            **ours,
        )


def _what_our_writer_adds(file: Any, shape: tuple[int, ...], path: Path) -> dict[str, Any]:
    """Return coil maps, noise, and the description of the scan, of a file written by `Hdf5Writer`."""
    from recon.datasets.hdf5 import get_dataset, read_slice, read_text, to_complex

    if "recon_metadata" not in file:
        return {}
    found = {"header": {}, **scan_fields(read_text(file, "recon_metadata", path), path)}
    if "coil_maps" in file:
        maps = get_dataset(file, "coil_maps", path)
        if maps.ndim < 4 or maps.shape[0] != shape[0]:
            raise ShapeError("coil maps that do not fit the k-space", file=path, found=maps.shape)
        found["coil_maps"] = LazySlices(tuple(maps.shape), maps.dtype, partial(read_slice, path, "coil_maps"), path)
    if "noise" in file:
        found["noise"] = to_complex(get_dataset(file, "noise", path)[()])
    return found


def _read_kspace(path: Path, index: int) -> np.ndarray:
    from recon.datasets.hdf5 import read_complex_slice

    data = read_complex_slice(path, "kspace", index)
    return data[None] if data.ndim == 2 else data


def _mask(mask: np.ndarray, path: Path) -> np.ndarray:
    if mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
        raise MaskError("the mask is not made of zeros and ones", file=path, found=f"dtype {mask.dtype}")
    mask = mask != 0
    return mask[None] if mask.ndim == 1 else mask


def _geometry(
    encoding: Encoding, shape: tuple[int, ...], notes: list[str]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """Return the fields of `Scan` that the header gives, and the lines (first, last + 1) that were acquired.

    fastMRI's arrays have the readout (x of the header) on the axis -2, and the phase encoding on -1.
    """
    (nx, ny, nz), (rx, ry, rz) = encoding.encoded.matrix, encoding.recon.matrix
    found: dict[str, Any] = {"header": {"trajectory": encoding.trajectory}}
    if encoding.acceleration is not None:
        found["header"]["acceleration"] = list(encoding.acceleration)
    if len(shape) == 5:
        notes.append("3D k-space: fastMRI's header does not say which axis is which, so geometry is left out")
        return found, None
    if (nx, ny) != shape[-2:]:
        notes.append(f"the header's encoded matrix {(nx, ny)} is not that of the k-space {shape[-2:]}: not used")
        return found, None
    x, y, z = encoding.encoded.spacing
    found |= {
        "spacing": (z, x, y),
        "matrix": (min(rx, nx), min(ry, ny)),
        "readout_axis": -2,
        "oversampling": encoding.oversampling,
    }
    found["header"] |= {
        "encoded_matrix": [nx, ny, nz],
        "recon_matrix": [rx, ry, rz],
        "encoded_fov_mm": list(encoding.encoded.fov),
        "recon_fov_mm": list(encoding.recon.fov),
    }
    limit = encoding.limits.get("kspace_encoding_step_1")
    if limit is None:
        return found, None
    left = ny // 2 - limit.center
    right = left + limit.maximum + 1
    found["header"] |= {"padding_left": left, "padding_right": right}
    if not 0 <= left < right <= ny:
        notes.append(f"the header's lines {left} to {right} do not fit {ny}: not used")
        return found, None
    below, above = ny // 2 - left, right - ny // 2
    half = max(below, above)
    if abs(below - above) > 1:  # an odd number of lines has one more above the centre
        found["partial_fourier"] = (1.0, (below + above) / (2 * half))
    if right - left < ny:
        notes.append(f"of {ny} phase encoding lines, {left} to {right - 1} were acquired, the others are zero")
    return found, (left, right)
