"""Catalogues as FITS or ECSV tables, written some rows at a time: 10^6 rows take no more memory than one batch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.datasets.metadata import to_json
from recon.physics.errors import DTypeError, OptionError, OutputError, ShapeError

FITS_ENDINGS = (".fits", ".fit")
ECSV_ENDINGS = (".ecsv",)
_BLOCK = 2880
_MIN_TEXT = 16  # characters of a column of names, where the first rows have shorter ones


class CatalogueWriter:
    """A table that grows by `append`; the file is there, whole, when the block has ended well.

    Parameters
    ----------
    path
        Ends in ``.fits`` or ``.ecsv``.
    units
        Unit of a column by its name, as FITS writes them ("arcsec", "adu").
    about
        What a column is, by its name.
    meta
        How the catalogue was made: kept as one JSON text (FITS: keyword PROVENAN of the table; ECSV: ``provenance``).
    overwrite
        Replace an existing file.

    Raises
    ------
    OptionError
        Another ending.
    OutputError
        The target exists, or cannot be written.

    Examples
    --------
    >>> with CatalogueWriter("cat.fits", units={"flux": "adu"}) as catalogue:  # doctest: +SKIP
    ...     catalogue.append({"id": ids, "flux": flux, "e1": e1, "flags": flags})
    """

    def __init__(
        self,
        path: str | Path,
        *,
        units: Mapping[str, str] | None = None,
        about: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self.units, self.about, self.meta = dict(units or {}), dict(about or {}), dict(meta or {})
        self.rows = 0
        self._dtype: np.dtype | None = None
        self._names: tuple[str, ...] = ()
        self._stack = ExitStack()
        self._is_fits = self.path.name.lower().endswith(FITS_ENDINGS)
        if not self._is_fits and not self.path.name.lower().endswith(ECSV_ENDINGS):
            raise OptionError(
                "no catalogue can be written with this ending",
                file=path,
                found=self.path.suffix or "no ending",
                expected=f"one of {', '.join(FITS_ENDINGS + ECSV_ENDINGS)}",
            )

    def __enter__(self) -> CatalogueWriter:
        self._temporary = self._stack.enter_context(atomic_path(self.path, overwrite=self.overwrite))
        try:
            self._file: BinaryIO = self._temporary.open("w+b")
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def append(self, columns: Mapping[str, Any]) -> None:
        """Write rows: arrays of equal length ``(b,)``, or ``(b, m)`` for several numbers a row, by name.

        The first call says which columns there are and of what kind; the others give the same.

        Raises
        ------
        ShapeError
            Columns of unequal length, or others than before.
        DTypeError
            A column that is not made of numbers or texts, or a text longer than its column.
        """
        arrays = {name: _plain(name, values) for name, values in columns.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ShapeError("columns of unequal length", file=self.path, found=lengths, expected="one value a row")
        if self._dtype is None:
            self._start(arrays)
        assert self._dtype is not None
        if tuple(arrays) != self._names:
            raise ShapeError(
                "other columns than before", file=self.path, found=", ".join(arrays), expected=", ".join(self._names)
            )
        if not next(iter(lengths.values())):
            return  # empty lists have no kind to hold against the others
        records = np.empty(next(iter(lengths.values())), self._dtype)
        for name, array in arrays.items():
            records[name] = self._fitting(name, array)
        self._file.write(records.tobytes() if self._is_fits else self._lines(records))
        self.rows += len(records)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            self._file.close()
        except BaseException as problem:
            self._file.close()
            self._stack.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def _start(self, arrays: Mapping[str, ndarray]) -> None:
        self._names = tuple(arrays)
        fields: list[tuple[Any, ...]] = []
        for name, array in arrays.items():
            kind = f"S{max(array.dtype.itemsize, _MIN_TEXT)}" if array.dtype.kind == "S" else array.dtype.str[1:]
            if self._is_fits:
                fields.append((name, f">{kind}" if kind[0] != "S" else kind, array.shape[1:]))
            else:
                fields.append((name, kind, array.shape[1:]))
        self._dtype = np.dtype(fields)
        if self._is_fits:
            self._write_header()

    def _fitting(self, name: str, array: ndarray) -> ndarray:
        assert self._dtype is not None
        wanted = self._dtype[name]
        base = wanted.base
        if array.shape[1:] != wanted.shape:
            raise ShapeError(
                f"column {name!r} has another shape than before",
                file=self.path,
                found=array.shape[1:],
                expected=wanted.shape,
            )
        if (base.kind == "S") != (array.dtype.kind == "S") or (base.kind == "S" and array.itemsize > base.itemsize):
            longer = base.kind == array.dtype.kind == "S"
            raise DTypeError(
                f"a text longer than column {name!r}" if longer else f"column {name!r} is of another kind than before",
                file=self.path,
                found=array.dtype,
                expected=base,
                cure="Give all names one length from the start" if longer else None,
            )
        if base.kind == "i" and array.dtype.kind == "f":
            raise DTypeError(f"column {name!r} was whole numbers", file=self.path, found=array.dtype, expected=base)
        return array

    def _table(self, records: ndarray) -> Any:
        from astropy.table import Table

        table = Table({name: np.asarray(records[name], records[name].dtype.newbyteorder("=")) for name in self._names})
        for name in self._names:
            if table[name].dtype.kind == "S":
                table[name] = np.char.decode(table[name], "utf-8")
            table[name].unit = self.units.get(name)
            table[name].description = self.about.get(name)
        return table

    def _write_header(self) -> None:
        from astropy.io import fits

        assert self._dtype is not None
        native = np.empty(0, self._dtype)
        hdu = fits.BinTableHDU(native, name="CATALOG")
        for number, name in enumerate(self._names, start=1):
            if name in self.units:
                hdu.header[f"TUNIT{number}"] = self.units[name]
            if name in self.about:
                hdu.header[f"TCOMM{number}"] = self.about[name][:67].encode("ascii", "replace").decode()
        if self.meta:
            hdu.header["PROVENAN"] = to_json(self.meta)  # as long as it needs, in CONTINUE cards
        self._file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        self._header, self._header_place = hdu.header, self._file.tell()
        self._file.write(hdu.header.tostring().encode("ascii"))

    def _lines(self, records: ndarray) -> bytes:
        table = self._table(records)
        first = self._file.tell() == 0
        if first and self.meta:
            table.meta["provenance"] = to_json(self.meta)
        text = io.StringIO()
        table.write(text, format="ascii.ecsv")
        lines = text.getvalue().splitlines(keepends=True)
        if not first:
            start = next(i for i, line in enumerate(lines) if not line.startswith("#")) + 1
            lines = lines[start:]
        return "".join(lines).encode()

    def _finish(self) -> None:
        if self._dtype is None:
            raise OutputError("a catalogue without columns", file=self.path)
        if self._is_fits:
            self._file.write(b"\0" * (-self._file.tell() % _BLOCK))
            self._header["NAXIS2"] = self.rows
            self._file.seek(self._header_place)
            self._file.write(self._header.tostring().encode("ascii"))


def _plain(name: str, values: Any) -> ndarray:
    """Return a column as whole numbers, floats or bytes that FITS has."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    if array.dtype.kind == "b":
        return array.astype("u1")
    if array.dtype.kind in "iu":
        wide = {"i1": "i2", "u2": "i4", "u4": "i8", "u8": "i8"}.get(array.dtype.str[1:], array.dtype.str[1:])
        return array.astype(wide)
    if array.dtype.kind == "f":
        return array.astype("f4" if array.itemsize < 8 else "f8")
    if array.dtype.kind == "S":
        return array
    raise DTypeError(f"column {name!r} is not made of numbers or texts", found=f"dtype {array.dtype}")
