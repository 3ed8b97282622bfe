"""Stamps, PSFs, weights and masks brought together from the extensions of a FITS file and from other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.fits_file import HDU
from recon.datasets.fits_image import cards, stacked, unit
from recon.datasets.lazy import LazyBlocks, take
from recon.datasets.readers import ReadOptions
from recon.datasets.readers import open as open_file
from recon.datasets.scan import Image, SliceArray, Source
from recon.datasets.stamps import Stamps
from recon.datasets.wcs import jacobians
from recon.physics.errors import DataError, OptionError, ShapeError

ROLES: Mapping[str, tuple[str, ...]] = {
    "pixels": ("SCI", "IMAGE", "IMAGES", "DATA", "STAMPS", "GALAXY", "GALAXIES"),
    "psf": ("PSF", "PSFS", "PSF_IMAGE", "PSF_IMAGES"),
    "weight": ("WEIGHT", "WEIGHTS", "WHT", "IVAR", "INVVAR"),
    "variance": ("VARIANCE", "VAR"),
    "error": ("ERR", "ERROR", "SIGMA", "RMS", "NOISE"),
    "mask": ("MASK", "DQ", "BADPIX", "BMASK"),
    "neighbours": ("NEIGHBOURS",),
    "segmentation": ("SEGMENTATION", "SEG", "SEGMAP"),
}
"""What the extensions may be called; the first name is what we write."""

ID_COLUMNS = ("id", "number", "object_id", "objid", "ident", "source_id", "coadd_object_id")
_TABLES = ("OBJECTS", "CATALOG", "CATALOGUE")
_SAME_SCALE = 0.02


def role(hdu: HDU) -> str | None:
    """Return what an extension is by its name."""
    return next((what for what, known in ROLES.items() if hdu.name in known), None)


def has_psf(images: Sequence[HDU]) -> bool:
    """Tell whether there are PSFs, and something else."""
    roles = [role(hdu) for hdu in images]
    return "psf" in roles and any(what in (None, "pixels") for what in roles)


def read_stamps(path: Path, hdus: Sequence[HDU], options: ReadOptions) -> Stamps:
    """Bring together the stamps of a FITS file with what is beside them, in the file or in others (``options``)."""
    images = [hdu for hdu in hdus if hdu.kind in ("image", "tiles")]
    by_role = roles_of(images)
    mains = by_role.get("pixels") or by_role.get("")
    if not mains:
        raise DataError("the file holds no stamps", file=path, found="only " + ", ".join(by_role), expected="an image")
    main, notes = mains[0], []
    if len(mains) > 1 and all(len(hdu.shape) == 2 for hdu in mains):
        pixels = stacked(mains, fill=np.nan)
        if len({hdu.shape for hdu in mains}) > 1:
            notes.append("stamps of several sizes, masked pixels added around the pixel n // 2")
    else:
        pixels = main.blocks()
        notes += [f"extension {hdu.index} of shape {hdu.shape} is left out" for hdu in mains[1:]]
    n, y, x = pixels.shape
    jacobian = jacobians(main.header, np.array([x // 2], float), np.array([y // 2], float))
    fields = companions(by_role, options, path, jacobian) | objects(hdus, n, path)
    fields.setdefault("jacobian", jacobian)
    units = unit(main.header) or unit(hdus[0].header)
    return Stamps(
        pixels=pixels,
        source=Source("fits", path),
        units=units,
        header=cards(hdus[0].header) | cards(main.header),
        notes=(*notes, *missing(units, fields)),
        **fields,
    )


def stamps_of_image(image: Image, options: ReadOptions) -> Stamps:
    """Make stamps of an image of any format, with the PSF and what else ``options`` name."""
    if len(image.pixels.shape) != 3 or np.iscomplexobj(image.pixels[0]):
        raise ShapeError(
            "stamps are real and have no colours",
            file=image.source.path,
            found=image.pixels.shape,
            expected="(n, y, x)",
        )
    fields = companions({}, options, image.source.path, None)
    notes = (*image.notes, *missing(image.unit, fields))
    return Stamps(
        pixels=image.pixels, source=image.source, units=image.unit, header=image.header, notes=notes, **fields
    )


def roles_of(images: Sequence[HDU]) -> dict[str, list[HDU]]:
    """Return the extensions by what they are; "" holds those without a known name."""
    found: dict[str, list[HDU]] = {}
    for hdu in images:
        found.setdefault(role(hdu) or "", []).append(hdu)
    return found


def companions(
    by_role: Mapping[str, list[HDU]], options: ReadOptions, path: Path | None, jacobian: ndarray | None
) -> dict[str, Any]:
    """Return psf, weight and mask as `Stamps` takes them; what ``options`` name goes before what the file holds."""
    psfs = by_role.get("psf", [])
    if options.psf is not None:
        psf, psf_jacobian = external(options.psf, "psf")
    elif psfs:
        psf = psfs[0].blocks() if len(psfs) == 1 else stacked(psfs)
        psf_jacobian = jacobians(psfs[0].header, np.zeros(1), np.zeros(1))
    else:
        raise OptionError("no PSF belongs to these stamps", file=path, cure="Name its file with --psf")
    _check_scale(jacobian, psf_jacobian, options.psf or path)
    fields: dict[str, Any] = {"psf": psf}
    if options.weight is not None:
        fields["weight"] = external(options.weight, "weight")[0]
    elif weight := _inside(by_role, "weight"):
        fields["weight"] = weight
    elif variance := _inside(by_role, "variance"):
        fields["weight"] = mapped(variance, inverse)
    elif error := _inside(by_role, "error"):
        fields["weight"] = mapped(error, lambda sigma: np.sign(sigma) * inverse(np.square(sigma)))
    if options.mask is not None:
        fields["mask"] = external(options.mask, "mask")[0]
    elif mask := _inside(by_role, "mask"):
        fields["mask"] = mask
    if neighbours := _inside(by_role, "neighbours"):
        fields["neighbours"] = neighbours
    return fields


def _inside(by_role: Mapping[str, list[HDU]], what: str) -> LazyBlocks | None:
    found = by_role.get(what, [])
    if not found:
        return None
    return found[0].blocks() if len(found) == 1 else stacked(found)


def external(path: str | Path, what: str) -> tuple[SliceArray, ndarray | None]:
    """Open another file and return its array ``(n, y, x)``, and its Jacobian where it says one."""
    opened = open_file(path)
    if isinstance(opened, Stamps):
        array = getattr(opened, what)
        if array is not None:
            return array, opened.jacobian
    if not isinstance(opened, Image) or len(opened.pixels.shape) != 3 or np.iscomplexobj(opened.pixels[0]):
        raise DataError(f"this file holds no {what}", file=path, expected="real images (y, x) or (n, y, x)")
    return opened.pixels, jacobians(dict(opened.header), np.zeros(1), np.zeros(1))


def _check_scale(stamp: ndarray | None, psf: ndarray | None, path: str | Path | None) -> None:
    if stamp is None or psf is None:
        return
    ours, theirs = (float(np.sqrt(abs(np.linalg.det(jacobian[0])))) for jacobian in (stamp, psf))
    if theirs > 0 and abs(theirs / ours - 1) > _SAME_SCALE:
        raise DataError(
            "the PSF has another pixel scale than the stamps",
            file=path,
            found=f'{theirs:.4g}" a pixel',
            expected=f'{ours:.4g}"',
            cure="Draw or resample the PSF at the scale of the stamps",
        )


def mapped(array: SliceArray, function: Callable[[ndarray], ndarray]) -> LazyBlocks:
    """Apply a function of pixels to what is read."""

    def read(start: int, stop: int) -> ndarray:
        return function(np.asarray(take(array, start, stop), np.float64))

    return LazyBlocks(tuple(array.shape), np.dtype(np.float64), read, getattr(array, "path", None))


def inverse(variance: ndarray) -> ndarray:
    """Return the inverse variance; of what is not a variance, what no weight can be."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 / variance


def objects(hdus: Sequence[HDU], n: int, path: Path) -> dict[str, Any]:
    """Return ids and what else a table of one row an object says.

    Raises
    ------
    ShapeError
        A table that is called `OBJECTS` or a catalogue has another number of rows than there are stamps.
    """
    for hdu in (hdu for hdu in hdus if hdu.kind == "table" and hdu.name != "PROVENANCE"):
        rows = int(hdu.header.get("NAXIS2", 0))
        if rows != n:
            if hdu.name in _TABLES:
                raise ShapeError(
                    "the table has another number of rows than there are stamps",
                    file=path,
                    found=f"{rows} in {hdu.name}",
                    expected=n,
                )
            continue
        table = hdu.table()
        names = {name.lower(): name for name in table.dtype.names or ()}
        known = next((names[name] for name in ID_COLUMNS if name in names), None)
        if known is None and hdu.name not in _TABLES:
            continue
        fields: dict[str, Any] = {}
        if known is not None:
            fields["ids"] = native(table[known])
        if "sigma" in names:
            fields["sigma"] = native(table[names["sigma"]]).astype(float)
        if hdu.name == "OBJECTS":  # our own: the flags of others mean other things
            fields |= _own_columns(table, names)
        return fields
    return {}


def _own_columns(table: ndarray, names: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "flags" in names:
        fields["flags"] = native(table[names["flags"]]).astype(np.int32)
    if "jacobian" in names:
        fields["jacobian"] = native(table[names["jacobian"]]).astype(float).reshape(-1, 2, 2)
    if {"x", "y"} <= names.keys():
        fields["positions"] = np.stack([native(table[names[axis]]).astype(float) for axis in "xy"], axis=1)
    return fields


def native(column: ndarray) -> ndarray:
    """Return a column in this machine's byte order; names as texts."""
    column = np.asarray(column)
    if column.dtype.kind == "S":
        return np.char.decode(column, "ascii", "replace")
    return np.ascontiguousarray(column, column.dtype.newbyteorder("="))


def missing(units: str | None, fields: Mapping[str, Any]) -> list[str]:
    """Tell what the file does not say."""
    notes = []
    if units is None:
        notes.append("no unit of the pixels (BUNIT): flux comes out in whatever they are in")
    if fields.get("jacobian") is None and fields.get("pixel_scale") is None:
        notes.append("no pixel scale: sizes are in pixels, shears along the pixel axes")
    if fields.get("weight") is None and fields.get("sigma") is None:
        notes.append("no weights and no noise level: it is estimated at the border of each stamp")
    return notes
