"""A FITS file as an `Image`: the layout that our writer makes, and pictures of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.fits_file import HDU
from recon.datasets.lazy import LazyBlocks, check_memory, take
from recon.datasets.metadata import image_fields
from recon.datasets.scan import Image, Source
from recon.physics.errors import ShapeError

STRUCTURE = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND", "XTENSION", "PCOUNT", "GCOUNT", "BSCALE", "BZERO", "END", "")


def read_image(path: Path, hdus: Sequence[HDU]) -> Image:
    """Read the first image; what belongs to it becomes maps, several images without names become slices.

    The extensions REAL and IMAG make it complex. Other named images of its shape are its maps.
    """
    images = [hdu for hdu in hdus if hdu.kind in ("image", "tiles")]
    description = provenance(hdus)
    fields = image_fields(description, path)
    notes = list(fields.pop("notes", ()))
    first = images[0]
    named = {hdu.name: hdu for hdu in images[1:] if hdu.name}
    if len(images) > 1 and not named:
        pixels = stacked(images)
        if len({hdu.shape for hdu in images}) > 1:
            notes.append(f"{len(images)} images of several sizes, zeros added around the pixel n // 2")
    else:
        pixels = _main(first, colour=description is not None and first.shape[-1] == 3)
        if {"REAL", "IMAG"} <= named.keys():
            pixels = _complex(named.pop("REAL").blocks(), named.pop("IMAG").blocks())
    maps: dict[str, ndarray] = {}
    for name, hdu in named.items():
        if (1,) * (3 - len(hdu.shape)) + hdu.shape == pixels.shape[:3]:
            check_memory(path, int(np.prod(hdu.shape)) * hdu.dtype.itemsize)
            maps[name.lower()] = take(hdu.blocks(), 0, pixels.shape[0])
        else:
            notes.append(f"extension {name} of shape {hdu.shape} is left out")
    fields.setdefault("spacing", _spacing(first.header))
    fields.setdefault("unit", unit(first.header))
    if description is None:
        fields["header"] = cards(first.header)
    return Image(pixels=pixels, maps=maps, source=Source("fits", path), notes=tuple(notes), **fields)


def provenance(hdus: Sequence[HDU]) -> str | None:
    """Return the JSON text of the table PROVENANCE."""
    for hdu in hdus:
        if hdu.kind == "table" and hdu.name == "PROVENANCE":
            table = hdu.table()
            if "json" in (table.dtype.names or ()) and len(table):
                text = table["json"][0]
                return text.decode() if isinstance(text, bytes) else str(text)
    return None


def cards(header: Any) -> dict[str, Any]:
    """Return what a header says beside the structure of its file."""
    return {
        key: value
        for key, value in header.items()
        if key not in STRUCTURE and not key.startswith("NAXIS") and isinstance(value, str | int | float | bool)
    }


def unit(header: Any) -> str | None:
    """Return BUNIT; None where there is none."""
    return str(header.get("BUNIT", "")).strip() or None


def stacked(hdus: Sequence[HDU], fill: float = 0.0) -> LazyBlocks:
    """Make slices of images ``(y, x)``, the smaller ones with ``fill`` around their pixel ``n // 2``."""
    for hdu in hdus:
        if len(hdu.shape) != 2 or min(hdu.shape) < 1:
            raise ShapeError(
                f"extension {hdu.index} is not one image among others",
                file=hdu.path,
                found=hdu.shape,
                expected="(y, x)",
            )
    sources = [hdu.blocks() for hdu in hdus]
    shape = (max(hdu.shape[0] for hdu in hdus), max(hdu.shape[1] for hdu in hdus))
    kinds = [source.dtype for source in sources]
    dtype = np.result_type(*kinds) if fill == 0 else np.result_type(np.float32, *kinds)

    def read(start: int, stop: int) -> ndarray:
        return np.stack([centred(sources[index][0].astype(dtype), shape, fill) for index in range(start, stop)])

    return LazyBlocks((len(hdus), *shape), dtype, read, hdus[0].path)


def centred(image: ndarray, shape: tuple[int, int], fill: float = 0.0) -> ndarray:
    """Put an image into a larger one, or cut it down to a smaller one: the pixel ``n // 2`` goes to ``n // 2``."""
    out = np.full(shape, fill, image.dtype)
    target, origin = [], []
    for n, m in zip(image.shape, shape, strict=True):
        step = m // 2 - n // 2
        target.append(slice(max(step, 0), min(n + step, m)))
        origin.append(slice(max(-step, 0), min(m - step, n)))
    out[tuple(target)] = image[tuple(origin)]
    return out


def _main(hdu: HDU, *, colour: bool) -> LazyBlocks:
    return hdu.blocks(4 if colour or len(hdu.shape) == 4 else 3)


def _complex(real: LazyBlocks, imaginary: LazyBlocks) -> LazyBlocks:
    if real.shape != imaginary.shape:
        raise ShapeError("REAL and IMAG differ", file=real.path, found=imaginary.shape, expected=real.shape)
    dtype = np.result_type(real.dtype, np.complex64)

    def read(start: int, stop: int) -> ndarray:
        return (real.block(start, stop) + 1j * imaginary.block(start, stop)).astype(dtype)

    return LazyBlocks(real.shape, dtype, read, real.path)


def _spacing(header: Any) -> tuple[float, float, float] | None:
    steps = [header.get(f"CDELT{k}") for k in (3, 2, 1) if str(header.get(f"CUNIT{k}", "")).strip() == "mm"]
    if len(steps) == 3 and all(isinstance(step, int | float) and step > 0 for step in steps):
        return float(steps[0]), float(steps[1]), float(steps[2])
    return None
