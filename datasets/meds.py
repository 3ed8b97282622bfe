"""MEDS, the multi-epoch stamps of the Dark Energy Survey, as its public format page lays them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from recon.datasets.fits_file import HDU
from recon.datasets.fits_image import cards, centred
from recon.datasets.lazy import LazyBlocks
from recon.datasets.readers import ReadOptions
from recon.datasets.scan import Source
from recon.datasets.stamp_files import external, missing, native
from recon.datasets.stamps import Stamps
from recon.physics.errors import DataError, FileFormatError, OptionError

_NEEDED = ("id", "box_size", "ncutout", "start_row")


def is_meds(hdus: Sequence[HDU]) -> bool:
    """Tell by the two extensions that every such file has."""
    return {"OBJECT_DATA", "IMAGE_CUTOUTS"} <= {hdu.name for hdu in hdus}


def read_meds(path: Path, hdus: Sequence[HDU], options: ReadOptions) -> Stamps:
    """Read one epoch of every object: 0, the default, is the coadd.

    Stamps are as large as the largest box, or as the option ``size``; what a smaller box does not fill is masked, and
    so is an object that lacks the epoch. The segmentation map masks neighbours.

    Raises
    ------
    OptionError
        No object has the epoch; no PSF in the file and none named.
    FileFormatError
        The table lacks what the format asks for.
    """
    by_name = {hdu.name: hdu for hdu in hdus}
    table = by_name["OBJECT_DATA"].table()
    names = {name.lower() for name in table.dtype.names or ()}
    lacking = [name for name in _NEEDED if name not in names]
    if lacking or not len(table):
        raise FileFormatError("a MEDS file without objects", file=path, found=f"no {', '.join(lacking) or 'rows'}")
    epoch = options.epoch
    starts, has = _of_epoch(table["start_row"], epoch), native(table["ncutout"]) > epoch
    if epoch < 0 or not has.any():
        raise OptionError(
            "no object has this epoch",
            file=path,
            found=epoch,
            expected=f"0 (the coadd) to {int(table['ncutout'].max()) - 1}",
        )
    has &= starts >= 0
    box = native(table["box_size"]).astype(int)
    size = options.size or int(box.max())
    cut = _Boxes(starts, np.stack([box, box], 1), has, (size, size), path)
    fields: dict[str, Any] = {"mask": _mask(cut, by_name.get("BMASK_CUTOUTS"))}
    if "WEIGHT_CUTOUTS" in by_name:
        fields["weight"] = cut.blocks(by_name["WEIGHT_CUTOUTS"], np.float32)
    if "SEG_CUTOUTS" in by_name and "number" in names:
        fields["neighbours"] = _neighbours(cut, by_name["SEG_CUTOUTS"], native(table["number"]))
    if {"dudcol", "dudrow", "dvdcol", "dvdrow"} <= names:
        columns = [_of_epoch(table[name], epoch, float) for name in ("dudcol", "dudrow", "dvdcol", "dvdrow")]
        fields["jacobian"] = np.stack(columns, 1).reshape(-1, 2, 2)
    fields["psf"] = _psf(by_name.get("PSF"), table, names, has, options, path)
    notes = [f"epoch {epoch}" + (", the coadd" if epoch == 0 else "")]
    if not has.all():
        notes.append(f"{int((~has).sum())} objects lack this epoch and are masked")
    return Stamps(
        pixels=cut.blocks(by_name["IMAGE_CUTOUTS"], np.float32),
        ids=native(table["id"]),
        source=Source("fits", path),
        header=cards(hdus[0].header),
        notes=(*notes, *missing(None, fields)),
        **fields,
    )


class _Boxes:
    """Boxes of several sizes that lie one after another in an image of one axis."""

    def __init__(self, starts: ndarray, boxes: ndarray, present: ndarray, shape: tuple[int, int], path: Path) -> None:
        self.starts, self.boxes, self.present, self.shape, self.path = starts, boxes, present, shape, path
        if (boxes[present] < 1).any():
            raise FileFormatError("a box without pixels", file=path, found=int(boxes[present].min()))

    def __len__(self) -> int:
        return len(self.starts)

    def blocks(self, hdu: HDU, dtype: type) -> LazyBlocks:
        """Return the boxes as stamps of one size, zeros around them."""
        read = hdu.flat()
        total = hdu.shape[0]
        last = (self.starts + self.boxes.prod(1))[self.present].max(initial=0)
        if last > total:
            raise FileFormatError(
                f"{hdu.name} is shorter than the table says", file=self.path, found=f"{total} pixels", expected=last
            )
        return self.made(lambda index: self._box(read, index), np.dtype(dtype))

    def made(self, box: Callable[[int], ndarray], dtype: np.dtype) -> LazyBlocks:
        """Return stamps of one size from a function of the object's number."""

        def stamps(start: int, stop: int) -> ndarray:
            out = np.zeros((stop - start, *self.shape), dtype)
            for row, index in enumerate(range(start, stop)):
                if self.present[index]:
                    out[row] = centred(box(index).astype(dtype), self.shape)
            return out

        return LazyBlocks((len(self), *self.shape), dtype, stamps, self.path)

    def _box(self, read: Callable[[int, int], ndarray], index: int) -> ndarray:
        rows, columns = (int(n) for n in self.boxes[index])
        start = int(self.starts[index])
        return read(start, start + rows * columns).reshape(rows, columns)


def _mask(cut: _Boxes, hdu: HDU | None) -> LazyBlocks:
    """Return 1 where the mask says so, and where there is no box."""
    inside = cut.made(lambda index: np.ones(tuple(cut.boxes[index])), np.dtype(np.uint8))
    bits = None if hdu is None else cut.blocks(hdu, np.int64)

    def read(start: int, stop: int) -> ndarray:
        bad = inside.block(start, stop) == 0
        return (bad if bits is None else bad | (bits.block(start, stop) != 0)).astype(np.uint8)

    return LazyBlocks(inside.shape, np.dtype(np.uint8), read, cut.path)


def _neighbours(cut: _Boxes, hdu: HDU, number: ndarray) -> LazyBlocks:
    labels = cut.blocks(hdu, np.int64)

    def read(start: int, stop: int) -> ndarray:
        found = labels.block(start, stop)
        return ((found != 0) & (found != number[start:stop, None, None])).astype(np.uint8)

    return LazyBlocks(labels.shape, np.dtype(np.uint8), read, cut.path)


def _psf(hdu: HDU | None, table: ndarray, names: set[str], has: ndarray, options: ReadOptions, path: Path) -> Any:
    if options.psf is not None:
        return external(options.psf, "psf")[0]
    if hdu is None or "psf_start_row" not in names:
        raise OptionError("the MEDS file has no PSFs", file=path, cure="Name a file of PSFs with --psf")
    if "psf_box_size" in names:
        rows = columns = _of_epoch(table["psf_box_size"], options.epoch)
    elif {"psf_row_size", "psf_col_size"} <= names:
        rows, columns = (_of_epoch(table[name], options.epoch) for name in ("psf_row_size", "psf_col_size"))
    else:
        raise DataError("a MEDS file whose PSFs have no size", file=path, expected="psf_box_size or psf_row_size")
    starts = _of_epoch(table["psf_start_row"], options.epoch)
    present = has & (starts >= 0)
    boxes = np.stack([rows, columns], 1)
    shape = (int(rows[present].max(initial=1)), int(columns[present].max(initial=1)))
    return _Boxes(starts, boxes, present, shape, path).blocks(hdu, np.float32)


def _of_epoch(column: ndarray, epoch: int, dtype: type = int) -> ndarray:
    """Return a column of one number an epoch (or an object) at ``epoch``; -1 where the file has fewer."""
    column = native(column)
    if column.ndim == 1:
        return column.astype(dtype)
    if not 0 <= epoch < column.shape[1]:
        return np.full(len(column), -1, dtype)
    return column[:, epoch].astype(dtype)
