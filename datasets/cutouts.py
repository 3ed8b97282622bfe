"""Stamps cut out of a full image around the positions of a catalogue, neighbours masked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

from recon.datasets.detection import detect
from recon.datasets.fits_file import HDU
from recon.datasets.fits_image import cards, unit
from recon.datasets.lazy import LazyBlocks
from recon.datasets.readers import ReadOptions
from recon.datasets.scan import Image, Source
from recon.datasets.stamp_cleaning import StampFlag
from recon.datasets.stamp_files import ID_COLUMNS, companions, external, inverse, missing, native, role, roles_of
from recon.datasets.stamps import Stamps
from recon.datasets.wcs import jacobians
from recon.physics.errors import DataError, FileFormatError, OptionError, ShapeError

SIZE = 64
"""Side of the stamps where none is given."""
_FROM_ONE = (("xwin_image", "ywin_image"), ("x_image", "y_image"))  # SExtractor, as FITS, counts from 1
_FROM_ZERO = (("x", "y"),)
_SKY = (("alphawin_j2000", "deltawin_j2000"), ("alpha_j2000", "delta_j2000"), ("ra", "dec"))

Window = Callable[[slice, slice], ndarray]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Positions, in pixels from 0, and numbers or names of objects."""

    x: Float[ndarray, " n"]
    y: Float[ndarray, " n"]
    ids: Shaped[ndarray, " n"]
    note: str


def read_cutouts(path: Path, hdus: Sequence[HDU], options: ReadOptions) -> Stamps:
    """Cut stamps out of a FITS image; weight, mask, segmentation and PSF may be extensions, or other files."""
    images = [hdu for hdu in hdus if hdu.kind in ("image", "tiles")]
    by_role = roles_of(images)
    main = next((hdu for hdu in images if role(hdu) in (None, "pixels")), images[0])
    window = main.window()
    planes = {what: found[0].window() for what, found in by_role.items() if what not in ("", "pixels", "psf")}
    frame = Frame(window, main.shape, planes, main.header, Source("fits", path), unit(main.header))
    psf = companions({what: by_role[what] for what in ("psf",) if what in by_role}, _only_psf(options), path, None)
    return cut(frame, psf["psf"], options)


def cutouts_of_image(image: Image, options: ReadOptions) -> Stamps:
    """Cut stamps out of one image of any format."""
    if len(image.pixels.shape) != 3 or image.pixels.shape[0] != 1:
        raise ShapeError(
            "stamps are cut out of one image", file=image.source.path, found=image.pixels.shape, expected="(y, x)"
        )
    pixels = image.pixels[0]
    psf = companions({}, _only_psf(options), image.source.path, None)["psf"]
    frame = Frame(lambda r, c: pixels[r, c], tuple(pixels.shape), {}, image.header, image.source, image.unit)
    return cut(frame, psf, options)


@dataclass(frozen=True, eq=False)
class Frame:
    """A full image that is read in windows, and what belongs to it.

    Parameters
    ----------
    window
        Reads rows and columns.
    shape
        (y, x).
    planes
        Windows of ``weight``, ``variance``, ``error``, ``mask`` or ``segmentation``.
    header
        FITS header or a mapping, for the world coordinates.
    source, unit
        As in `Image`.
    """

    window: Window
    shape: tuple[int, ...]
    planes: Mapping[str, Window]
    header: Any
    source: Source
    unit: str | None


def cut(frame: Frame, psf: Any, options: ReadOptions) -> Stamps:
    """Cut a stamp around every position; one that reaches over the edge is masked there and flagged.

    Positions that are not finite, or off the image, give stamps that are masked altogether: a row stays a row.
    """
    size = SIZE if options.size is None else options.size
    if size < 1:
        raise OptionError("a stamp has at least one pixel", found=size)
    planes = dict(frame.planes) | _named_planes(frame, options)
    fields: dict[str, Any] = {}
    if options.catalogue is not None:
        found = read_catalogue(options.catalogue, frame.header)
    else:
        everything = (slice(0, frame.shape[0]), slice(0, frame.shape[1]))
        bad = planes["mask"](*everything) != 0 if "mask" in planes else None
        detected = detect(frame.window(*everything), bad)
        note = f"{len(detected.x)} objects detected by SEP"
        found = Catalogue(detected.x, detected.y, np.arange(1, len(detected.x) + 1), note)
        planes.setdefault("segmentation", lambda r, c: detected.segmentation[r, c])
        fields["sigma"] = np.full(len(detected.x), detected.rms)
    notes = [found.note]
    centres, inside = _pixels(found, frame.shape)
    corners = centres - size // 2
    cutter = Cutter(frame.shape, corners, size, frame.source.path)
    if weight := _weight(cutter, planes):
        fields["weight"] = weight
        fields.pop("sigma", None)
    if "segmentation" in planes:
        fields["neighbours"] = _neighbours(cutter, planes["segmentation"], inside)
    else:
        notes.append("no segmentation map: neighbours are not masked")
    whole = (corners >= 0).all(1) & (corners + size <= np.array(frame.shape)[None]).all(1)
    jacobian = jacobians(frame.header, found.x, found.y) if inside.all() else _of_known(frame.header, found, inside)
    if jacobian is not None:
        fields["jacobian"] = jacobian[:1] if (jacobian == jacobian[0]).all() else jacobian
    return Stamps(
        pixels=cutter.blocks(frame.window, np.dtype(np.float32)),
        mask=_mask(cutter, planes.get("mask")),
        psf=psf,
        ids=found.ids,
        flags=np.where(whole, 0, StampFlag.TRUNCATED).astype(np.int32),
        positions=np.where(inside[:, None], centres[:, ::-1], np.nan),
        units=frame.unit,
        source=frame.source,
        header=cards(frame.header),
        notes=(*notes, *missing(frame.unit, fields)),
        **fields,
    )


class Cutter:
    """Cuts squares out of an image.

    Parameters
    ----------
    shape
        (y, x) of the image.
    corners
        ``(n, 2)``: (y, x) of each square's first pixel; it may be off the image.
    size
        Side of the squares.
    path
        The file, for messages.
    """

    def __init__(self, shape: tuple[int, ...], corners: Int[ndarray, "n 2"], size: int, path: Path | None) -> None:
        self.shape, self.corners, self.size, self.path = shape, corners, size, path

    def blocks(self, window: Window, dtype: np.dtype, outside: float = 0) -> LazyBlocks:
        """Return the squares, ``outside`` where they leave the image."""
        shape = (len(self.corners), self.size, self.size)

        def read(start: int, stop: int) -> ndarray:
            out = np.full((stop - start, *shape[1:]), outside, dtype)
            for row, (y, x) in enumerate(self.corners[start:stop].tolist()):
                rows = slice(max(y, 0), min(y + self.size, self.shape[0]))
                columns = slice(max(x, 0), min(x + self.size, self.shape[1]))
                if rows.start < rows.stop and columns.start < columns.stop:
                    out[row, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = window(
                        rows, columns
                    )
            return out

        return LazyBlocks(shape, dtype, read, self.path)


def read_catalogue(path: str | Path, header: Any) -> Catalogue:
    """Read the positions of a table (FITS, ECSV, CSV, SExtractor's own), by columns whose names are known.

    ``X_IMAGE`` counts from 1; ``x`` counts from 0; ``ra`` and ``dec`` in degrees go through the image's WCS.
    """
    table = _table(Path(path))
    names = {name.lower(): name for name in table.colnames}
    for pairs, origin in ((_FROM_ONE, 1), (_FROM_ZERO, 0)):
        for a, b in pairs:
            if a in names and b in names:
                x, y = (_numbers(table[names[name]], path) - origin for name in (a, b))
                note = f"positions from {names[a]}, {names[b]}, which count from {origin}"
                return Catalogue(x, y, _ids(table, names), note)
    for a, b in _SKY:
        if a in names and b in names:
            ra, dec = _numbers(table[names[a]], path), _numbers(table[names[b]], path)
            x, y = _on_image(header, ra, dec, path)
            return Catalogue(x, y, _ids(table, names), f"positions from {names[a]}, {names[b]} on the sky")
    raise FileFormatError(
        "no columns of positions",
        file=path,
        found=", ".join(table.colnames[:12]),
        expected="X_IMAGE and Y_IMAGE, x and y, or ra and dec",
    )


def _table(path: Path) -> Any:
    from astropy.table import Table

    if not path.is_file():
        raise FileFormatError("no such file", file=path)
    with path.open("rb") as file:
        head = file.read(80)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if head.startswith((b"SIMPLE  =", b"\x1f\x8b")):
                from recon.datasets.fits_file import scan

                tables = [hdu for hdu in scan(path) if hdu.kind == "table"]
                if not tables:
                    raise FileFormatError("the file holds no table", file=path)
                largest = max(tables, key=lambda hdu: int(hdu.header.get("NAXIS2", 0)))  # others describe it
                return Table(largest.table())
            text = head.lstrip()
            return Table.read(path, format="ascii.ecsv" if text.startswith(b"# %ECSV") else "ascii")
    except (ValueError, OSError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise FileFormatError("the catalogue cannot be read", file=path, found=str(error).split("\n")[0]) from error


def _numbers(column: Any, path: str | Path) -> ndarray:
    values = np.ma.filled(np.ma.asarray(column, dtype=object), None) if hasattr(column, "mask") else column
    try:
        return np.array([np.nan if value is None else value for value in np.asarray(values).tolist()], np.float64)
    except (ValueError, TypeError) as error:
        raise FileFormatError("positions that are not numbers", file=path, found=str(error)) from error


def _ids(table: Any, names: Mapping[str, str]) -> ndarray:
    known = next((names[name] for name in ID_COLUMNS if name in names), None)
    return np.arange(len(table)) if known is None else native(np.asarray(table[known]))


def _on_image(header: Any, ra: ndarray, dec: ndarray, path: str | Path) -> tuple[ndarray, ndarray]:
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(header)
        if not wcs.has_celestial:
            raise DataError("positions on the sky, but the image has no WCS", file=path, cure="Give pixel positions")
        x, y = wcs.celestial.all_world2pix(ra, dec, 0, quiet=True)
    return np.asarray(x, float), np.asarray(y, float)


def _pixels(found: Catalogue, shape: tuple[int, ...]) -> tuple[Int[ndarray, "n 2"], ndarray]:
    """Return the pixel (y, x) of each object, and whether it is on the image; far off where not."""
    positions = np.stack([found.y, found.x], 1)
    rounded = np.floor(positions + 0.5)
    inside = np.isfinite(positions).all(1) & (rounded >= 0).all(1) & (rounded < np.array(shape)[None]).all(1)
    return np.where(inside[:, None], rounded, -(1 << 30)).astype(np.int64), inside


def _of_known(header: Any, found: Catalogue, inside: ndarray) -> ndarray | None:
    """Return Jacobians where the position is known, that of the first known one elsewhere."""
    if not inside.any():
        return None
    first = int(np.argmax(inside))
    x, y = (np.where(inside, values, values[first]) for values in (found.x, found.y))
    return jacobians(header, x, y)


def _named_planes(frame: Frame, options: ReadOptions) -> dict[str, Window]:
    """Return windows of the images that the options name."""
    planes: dict[str, Window] = {}
    for what in ("weight", "mask", "segmentation"):
        path = getattr(options, what)
        if path is not None:
            array = external(path, what)[0]
            if tuple(array.shape) != (1, *frame.shape):
                raise ShapeError(
                    f"a {what} that does not fit the image", file=path, found=array.shape, expected=frame.shape
                )
            planes[what] = _window_of(np.asarray(array[0]))
    return planes


def _window_of(plane: ndarray) -> Window:
    return lambda rows, columns: plane[rows, columns]


def _weight(cutter: Cutter, planes: Mapping[str, Window]) -> LazyBlocks | None:
    if "weight" in planes:
        return cutter.blocks(planes["weight"], np.dtype(np.float32))
    if "variance" in planes:
        variance = planes["variance"]
        return cutter.blocks(lambda r, c: inverse(np.asarray(variance(r, c), float)), np.dtype(np.float32))
    if "error" in planes:
        error = planes["error"]
        return cutter.blocks(lambda r, c: inverse(np.square(np.asarray(error(r, c), float))), np.dtype(np.float32))
    return None


def _mask(cutter: Cutter, plane: Window | None) -> LazyBlocks:
    """Return 1 where the mask says so, and off the image."""

    def bad(rows: slice, columns: slice) -> ndarray:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        return np.zeros(shape, np.uint8) if plane is None else (plane(rows, columns) != 0).astype(np.uint8)

    return cutter.blocks(bad, np.dtype(np.uint8), outside=1)


def _neighbours(cutter: Cutter, plane: Window, inside: ndarray) -> LazyBlocks:
    """Return 1 on the pixels of other objects than the one whose label is at the position."""
    labels = cutter.blocks(plane, np.dtype(np.int64))
    half = cutter.size // 2

    def read(start: int, stop: int) -> ndarray:
        found = labels.block(start, stop)
        own = np.where(inside[start:stop], found[:, half, half], 0)
        return ((found != 0) & (found != own[:, None, None])).astype(np.uint8)

    return LazyBlocks(labels.shape, np.dtype(np.uint8), read, cutter.path)


def _only_psf(options: ReadOptions) -> ReadOptions:
    return ReadOptions(psf=options.psf)
