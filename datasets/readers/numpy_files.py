"""NumPy's ``.npy`` (one array) and ``.npz`` (named arrays), never with pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.arrays import as_mask
from recon.datasets.compressed import CompressedScan
from recon.datasets.lazy import LazySlices, check_size, mapped_slices
from recon.datasets.metadata import compressed_fields, image_fields, scan_fields
from recon.datasets.npz_archive import Archive, ArrayHeader, read_array_header
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.readers.calgary import CalgaryReader
from recon.datasets.scan import Image, Scan, Source
from recon.physics.errors import DTypeError, FileFormatError, MaskError, OptionError, ShapeError

NAMES: Mapping[str, tuple[str, ...]] = {
    "kspace": ("kspace", "ksp", "k_space"),
    "image": ("image", "pixels", "reconstruction"),
    "mask": ("mask",),
    "coil_maps": ("coil_maps", "maps", "sens", "sensitivities"),
    "noise": ("noise",),
    "trajectory": ("trajectory", "traj"),
    "density": ("density", "dcf"),
    "reference": ("reference", "reconstruction_rss"),
}
"""What an array may be called in an ``.npz``; the first is what we write."""


@readers.register("npy")
class NpyReader:
    """One array; its dtype and number of axes say what it is.

    Complex ``(coil, y, x)`` or ``(slice, coil, y, x)`` is k-space, complex ``(y, x)`` that of one coil. Real
    ``(y, x)`` or ``(slice, y, x)`` is an image. The array stays on disk and is read slice by slice.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by the magic bytes, unless the shape is that of the Calgary-Campinas collection."""
        return head.startswith(b"\x93NUMPY") and not CalgaryReader().sniff(path, head)

    def read(self, path: Path, options: ReadOptions) -> Scan | Image:  # noqa: ARG002
        """Read the header."""
        with path.open("rb") as file:
            header = read_array_header(file, path)
        source = Source("npy", path)
        if header.dtype.kind == "c":
            return Scan(kspace=_mapped(path, header, kspace_batch(header.shape, path)), source=source)
        _check_numbers(path, header.dtype)
        return Image(pixels=_mapped(path, header, image_batch(header.shape, path)), source=source)


@readers.register("npz")
class NpzReader:
    """Named arrays: k-space with what belongs to it, or an image.

    ``kspace`` is ``(coil, y, x)``, ``(slice, coil, y, x)``, or ``(slice, coil, z, y, x)`` for 3D encoding; with a
    ``trajectory`` it is ``(coil, sample)`` or ``(slice, coil, sample)``. Instead of it the sampled entries may be
    stored alone: ``samples`` ``(coil, n)`` in C order, ``mask`` packed by `numpy.packbits`, and ``shape``
    (coil, y, x). Beside it may stand ``mask`` (also ``(x,)``), ``coil_maps``, ``noise``, ``trajectory``,
    ``density``, ``reference``; `NAMES` has the other names they go by. Without k-space, ``image`` is
    ``(y, x)``, ``(slice, y, x)`` or ``(slice, y, x, 3)``. ``measurements`` and ``matrix`` are those of a
    `CompressedScan`. ``metadata`` is what our writer adds: a JSON text.

    The option ``variable`` names the array otherwise: k-space if it is complex, an image if it is real.
    """

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002
        """Tell a zip archive by its magic bytes and by its first member, which is an array."""
        length = int.from_bytes(head[26:28], "little")
        return head.startswith(b"PK\x03\x04") and head[30 : 30 + length].endswith(b".npy")

    def read(self, path: Path, options: ReadOptions) -> Scan | CompressedScan | Image:
        """Read the headers of the arrays, and those that belong to the k-space whole."""
        archive = Archive.open(path)
        names = {what: next((n for n in known if n in archive.arrays), None) for what, known in NAMES.items()}
        if options.variable is not None:
            if options.variable not in archive.arrays:
                raise OptionError(f"no array is called {options.variable!r}", file=path, found=archive.listing())
            is_complex = archive.arrays[options.variable].dtype.kind == "c"
            names |= {"kspace": options.variable if is_complex else None, "image": options.variable}
        elif {"samples", "mask", "shape"} <= archive.arrays.keys():
            return _packed_scan(archive)
        elif {"measurements", "matrix"} <= archive.arrays.keys():
            return _compressed(archive)
        if names["kspace"] is not None:
            return _scan(archive, names)
        if names["image"] is not None:
            return _image(archive, names["image"])
        raise FileFormatError(
            "no array has a known name",
            file=path,
            found=archive.listing(),
            expected="kspace or image",
            cure="Name the array with --variable",
        )


def kspace_batch(shape: tuple[int, ...], path: Path) -> int:
    """Return how many axes of length 1 make k-space of this shape (slice, coil, y, x)."""
    if not 2 <= len(shape) <= 4:
        raise ShapeError(
            "k-space of a shape that cannot be used",
            file=path,
            found=shape,
            expected="(coil, y, x) or (slice, coil, y, x)",
        )
    return 4 - len(shape)


def image_batch(shape: tuple[int, ...], path: Path) -> int:
    """Return how many axes of length 1 make an image of this shape (slice, y, x)."""
    if not 2 <= len(shape) <= 3:
        raise ShapeError(
            "an image of a shape that cannot be used", file=path, found=shape, expected="(y, x) or (slice, y, x)"
        )
    return 3 - len(shape)


def _check_numbers(path: Path, dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise DTypeError("an image that is not made of numbers", file=path, found=f"dtype {dtype}")


def _mapped(path: Path, header: ArrayHeader, batch: int) -> LazySlices:
    shape = (1,) * batch + header.shape
    check_size(path, shape, header.dtype.itemsize, path.stat().st_size - header.offset)
    return mapped_slices(path, shape, header.dtype, header.offset, column_major=header.column_major)


def _scan(archive: Archive, names: Mapping[str, str | None]) -> Scan:
    from recon.datasets.hdf5 import check_complex

    path = archive.path
    header = archive.arrays[str(names["kspace"])]
    check_complex(header.dtype, path)
    trajectory = names["trajectory"]
    if trajectory is not None:
        batch = max(3 - len(header.shape), 0)
    else:
        batch = 0 if len(header.shape) == 5 else kspace_batch(header.shape, path)
    kspace = archive.slices(str(names["kspace"]), batch)
    n_slices, n_coils = kspace.shape[:2]
    arrays: dict[str, Any] = {}
    if trajectory is not None:
        arrays["trajectory"] = archive.whole(trajectory).astype(np.float64)
    if names["density"] is not None:
        arrays["density"] = archive.whole(names["density"]).astype(np.float64)
    if names["mask"] is not None and trajectory is None:
        arrays["mask"] = as_mask(archive.whole(names["mask"]), path)
    if names["noise"] is not None:
        arrays["noise"] = _noise(archive.whole(names["noise"]), n_coils, path)
    if names["coil_maps"] is not None:
        arrays["coil_maps"] = _coil_maps(archive, names["coil_maps"], n_slices, n_coils)
    if names["reference"] is not None:
        name = names["reference"]
        shape = archive.arrays[name].shape
        arrays["reference"] = _belonging(archive.slices(name, image_batch(shape, path)), n_slices, path, name)
    fields = scan_fields(archive.text("metadata"), path)
    return Scan(kspace=kspace, source=Source("npz", path), **arrays, **fields)


def _noise(noise: ndarray, n_coils: int, path: Path) -> ndarray:
    if noise.ndim != 2 or noise.shape[0] != n_coils or noise.dtype.kind != "c":
        raise ShapeError(
            "noise that does not fit the k-space",
            file=path,
            found=f"{noise.dtype} {noise.shape}",
            expected=f"complex ({n_coils} coils, sample)",
        )
    return noise.astype(np.complex64)


def _coil_maps(archive: Archive, name: str, n_slices: int, n_coils: int) -> LazySlices:
    shape = archive.arrays[name].shape
    if len(shape) == 3 or (len(shape) == 4 and n_slices == 1 and shape[0] != 1 and shape[1] == n_coils):
        maps = archive.slices(name, 1)  # (coil, y, x) or (set, coil, y, x) of the only slice
    else:
        maps = archive.slices(name)
    if n_coils not in maps.shape[1:3]:
        raise ShapeError(
            "coil maps that do not fit the k-space", file=archive.path, found=shape, expected=f"{n_coils} coils"
        )
    return _belonging(maps, n_slices, archive.path, name)


def _belonging(array: LazySlices, n_slices: int, path: Path, name: str) -> LazySlices:
    if len(array) != n_slices:
        raise ShapeError(
            f"{name!r} does not fit the k-space", file=path, found=array.shape, expected=f"{n_slices} slices"
        )
    return array


def _packed_scan(archive: Archive) -> Scan:
    from recon.datasets.hdf5 import check_complex

    path = archive.path
    shape = tuple(int(n) for n in archive.whole("shape").ravel())
    packed = archive.whole("mask")
    if len(shape) != 3 or packed.dtype != np.uint8 or packed.ndim != 1 or min(shape) < 1:
        raise FileFormatError("packed samples that cannot be used", file=path, found=archive.listing())
    n_coils, *spatial = shape
    n_points = spatial[0] * spatial[1]
    if packed.size != -(-n_points // 8):
        raise MaskError(
            "the packed mask does not fit the shape", file=path, found=f"{packed.size} bytes", expected=f"shape {shape}"
        )
    mask = np.unpackbits(packed, count=n_points).astype(bool).reshape(spatial)
    samples = archive.slices("samples", 1)
    check_complex(samples.dtype, path)
    if samples.shape[1:] != (n_coils, int(mask.sum())):
        raise ShapeError(
            "the samples do not fit the mask",
            file=path,
            found=samples.shape[1:],
            expected=(n_coils, int(mask.sum())),
        )

    def unpack(index: int) -> ndarray:
        kspace = np.zeros(shape, np.complex64)
        kspace[:, mask] = samples[index]
        return kspace

    fields = scan_fields(archive.text("metadata"), path)
    kspace = LazySlices((1, *shape), np.dtype(np.complex64), unpack, path)
    return Scan(kspace=kspace, mask=mask, source=Source("npz", path), **fields)


def _compressed(archive: Archive) -> CompressedScan:
    for name in ("measurements", "matrix"):
        _check_numbers(archive.path, archive.arrays[name].dtype)
    fields = compressed_fields(archive.text("metadata"), archive.path)
    if not {"block", "size"} <= fields.keys():
        raise FileFormatError(
            "compressed measurements that do not tell their block and image",
            file=archive.path,
            expected="metadata with block (h, w) and size (y, x)",
        )
    matrix = archive.whole("matrix").astype(np.float32)
    measurements = archive.slices("measurements")
    return CompressedScan(measurements=measurements, matrix=matrix, source=Source("npz", archive.path), **fields)


def _image(archive: Archive, name: str) -> Image:
    path = archive.path
    header = archive.arrays[name]
    if header.dtype.kind != "c":
        _check_numbers(path, header.dtype)
    colour = len(header.shape) == 4 and header.shape[-1] == 3
    pixels = archive.slices(name, 0 if colour else image_batch(header.shape, path))
    maps = {key.removeprefix("maps/"): archive.whole(key) for key in archive.arrays if key.startswith("maps/")}
    return Image(pixels=pixels, maps=maps, source=Source("npz", path), **image_fields(archive.text("metadata"), path))
