"""Stamps with their PSFs from what a user has: a file, `Stamps`, or arrays."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from recon.datasets import Image, Source, Stamps
from recon.datasets import open as open_file
from recon.datasets.readers import Opened, ReadOptions
from recon.datasets.stamp_files import external
from recon.physics.errors import DataError, DTypeError, OptionError, ShapeError

Array = ndarray | Tensor


def open_stamps(path: str | Path, options: ReadOptions, format: str | None = None) -> Stamps:  # noqa: A002
    """Open a file of stamps; raises `DataError` where it holds none, and what `recon.datasets.open` does."""
    return _only_stamps(open_file(path, format=format, **asdict(options)), path)


def stamps_of(
    data: Array | Stamps | str | Path,
    psf: Array | str | Path | None = None,
    weight: Array | str | Path | None = None,
    mask: Array | str | Path | None = None,
    sigma: Array | float | None = None,
) -> Stamps:
    """Return stamps with what belongs to them; what is given goes before what ``data`` have.

    Parameters
    ----------
    data
        ``(n, y, x)``, ``(n, 1, y, x)`` or ``(y, x)``, `Stamps`, or a file of either.
    psf, weight, mask
        Files, or arrays: ``(n, h, w)`` or ``(h, w)`` for all, as `Stamps` takes them.
    sigma
        ``(n,)``, or a number for all.

    Raises
    ------
    OptionError
        No PSF.
    ShapeError, DTypeError, DataError
        Arrays that do not fit.
    """
    files: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in (("psf", psf), ("weight", weight), ("mask", mask)):
        if isinstance(value, str | Path):
            files[name] = value
        elif value is not None:
            arrays[name] = _three_axes(value, name)
    if isinstance(data, str | Path):
        data = _opened(data, ReadOptions(**files), arrays)
    else:
        for name, path in files.items():
            arrays[name] = external(path, name)[0]
    if not isinstance(data, Stamps):
        if "psf" not in arrays:
            raise OptionError("stamps as an array need their PSF", cure="Give psf=...")
        data = Stamps(pixels=_three_axes(data, "stamps"), psf=arrays.pop("psf"), source=Source("array"))
    if sigma is not None:
        level = _numpy(sigma, "sigma")
        if level.shape not in ((), (data.n,)):
            raise ShapeError(
                "sigma that does not fit the stamps", found=level.shape, expected=f"({data.n},) or a number"
            )
        arrays["sigma"] = np.broadcast_to(level, (data.n,))
    return replace(data, **arrays) if arrays else data


def _opened(path: str | Path, options: ReadOptions, arrays: dict[str, Any]) -> Stamps:
    opened = open_file(path, **asdict(options))
    if not isinstance(opened, Image) or "psf" not in arrays:
        return _only_stamps(opened, path)
    if len(opened.pixels.shape) != 3:
        raise ShapeError("stamps have no colours", file=path, found=opened.pixels.shape, expected="(n, y, x)")
    return Stamps(
        pixels=opened.pixels,
        psf=arrays.pop("psf"),
        source=opened.source,
        units=opened.unit,
        header=opened.header,
        notes=opened.notes,
    )


def _only_stamps(opened: Opened, path: str | Path) -> Stamps:
    if isinstance(opened, Stamps):
        return opened
    if isinstance(opened, Image):
        raise DataError("the file has no PSF", file=path, cure="Name it with psf=... (--psf)")
    raise DataError("this file holds raw measurements, not galaxy stamps", file=path)


def _three_axes(values: Array, name: str) -> ndarray:
    array = _numpy(values, name)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ShapeError(f"{name} of a shape that cannot be used", found=array.shape, expected="(n, y, x) or (y, x)")
    return array


def _numpy(values: Any, name: str) -> ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{name} that are not real numbers", found=array.dtype)
    return array
