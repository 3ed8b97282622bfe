"""MATLAB's ``.mat``: version 7.3 (HDF5 inside) and versions 5 to 7, with the user naming the variable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from recon.datasets.arrays import as_mask
from recon.datasets.lazy import LazySlices
from recon.datasets.limits import check_claim
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image, Scan, Source
from recon.physics.errors import DTypeError, FileFormatError, OptionError, ReconError, ShapeError

_NUMERIC = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True)
class _Variable:
    """What the file says of an array: its size as MATLAB shows it."""

    shape: tuple[int, ...]
    kind: str

    @property
    def is_data(self) -> bool:
        """Tell an array from a number, a list of numbers, a text or a structure."""
        return self.kind in _NUMERIC and sum(n > 1 for n in self.shape) >= 2

    @property
    def is_matrix(self) -> bool:
        """Tell whether it has two axes and numbers in it."""
        return self.kind in _NUMERIC and len(self.shape) == 2 and min(self.shape) > 0


@readers.register("matlab")
class MatlabReader:
    """One array of a ``.mat``, laid out as MATLAB users have it, column by column.

    A complex array is k-space: ``(y, x)`` of one coil, ``(y, x, coil)`` or ``(y, x, coil, slice)``. A real one
    is an image: ``(y, x)`` or ``(y, x, slice)``. The option ``variable`` names the array (one in a structure
    with a slash, ``data/k``, version 7.3 only); without it the file must hold a single one that is neither a
    number nor a list, not counting ``mask``. A variable ``mask``, ``(y, x)`` of zeros and ones, is the mask of
    the k-space.

    Version 7.3 is read slice by slice. Older versions are packed as a whole and are read as a whole.
    """

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002
        """Tell by the text at the start."""
        return head.startswith((b"MATLAB 7.3 MAT-file", b"MATLAB 5.0 MAT-file"))

    def read(self, path: Path, options: ReadOptions) -> Scan | Image:
        """Read the list of variables, and the chosen one as far as the version allows."""
        list_variables, open_array = _functions(path)
        variables = list_variables(path)
        name, notes = _choose(variables, options.variable, path)
        array = open_array(path, name)
        mask = open_array(path, "mask").whole() if "mask" in variables and name != "mask" else None
        return _interpret(array, mask, name, notes, path)


def real_matrices(path: Path, names: Collection[str] | None = None) -> dict[str, Float32[ndarray, "rows columns"]]:
    """Read the matrices of real numbers of a ``.mat`` of any version.

    Parameters
    ----------
    path
        The file.
    names
        Those that are wanted, where there are such; None: all.

    Raises
    ------
    FileFormatError
        No such file, damaged, or no MATLAB file.
    """
    if not path.is_file():
        raise FileFormatError("no such file", file=path)
    list_variables, open_array = _functions(path)
    arrays = {
        name: open_array(path, name)
        for name, variable in list_variables(path).items()
        if (names is None or name in names) and variable.is_matrix
    }
    return {name: array.whole().astype(np.float32) for name, array in arrays.items() if not array.is_complex}


def _functions(path: Path) -> tuple[Callable[[Path], dict[str, _Variable]], Callable[[Path, str], _Array]]:
    """Return what lists the variables of a file of its version, and what opens one of them."""
    with path.open("rb") as file:
        is_hdf5 = file.read(10) == b"MATLAB 7.3"
    return (_list_hdf5, _open_hdf5) if is_hdf5 else (_list_old, _open_old)


def _choose(variables: Mapping[str, _Variable], wanted: str | None, path: Path) -> tuple[str, list[str]]:
    listing = ", ".join(f"{name} {'x'.join(map(str, v.shape))} {v.kind}" for name, v in list(variables.items())[:20])
    if wanted is not None:
        if wanted not in variables:
            raise OptionError(f"no variable is called {wanted!r}", file=path, found=listing or "none")
        if variables[wanted].kind not in _NUMERIC:
            raise DTypeError(f"{wanted!r} is not made of numbers", file=path, found=variables[wanted].kind)
        return wanted, []
    arrays = [name for name, variable in variables.items() if variable.is_data and name != "mask"]
    if len(arrays) != 1:
        raise FileFormatError(
            "which variable is meant is not clear",
            file=path,
            found=listing or "none",
            cure="Name the array with --variable",
        )
    return arrays[0], [f"the only array of the file, {arrays[0]!r}, was taken"]


@dataclass(frozen=True, eq=False)
class _Array:
    """An array with its axes reversed, as the file has it in row-major terms.

    Parameters
    ----------
    shape, dtype
        Of the reversed array.
    read
        From an index on the first axis, or () for the whole, to what is there.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int | tuple[()]], ndarray]

    @property
    def is_complex(self) -> bool:
        return self.dtype.kind == "c" or self.dtype.fields is not None

    def whole(self) -> ndarray:
        """Return the array with MATLAB's order of axes."""
        return self.read(()).T


def _interpret(array: _Array, mask: ndarray | None, name: str, notes: list[str], path: Path) -> Scan | Image:
    from recon.datasets.hdf5 import check_complex, to_complex

    n_axes = 4 if array.is_complex else 3
    if not 2 <= len(array.shape) <= n_axes:
        raise ShapeError(
            f"{name!r} has a shape that cannot be used",
            file=path,
            found=array.shape[::-1],
            expected="(y, x[, coil[, slice]]) for k-space" if array.is_complex else "(y, x[, slice]) for an image",
        )
    shape = (1,) * (n_axes - len(array.shape)) + array.shape
    stored_alone = len(array.shape) < n_axes

    def read(index: int) -> ndarray:
        values = array.read(() if stored_alone else index).reshape(shape[1:])
        values = np.ascontiguousarray(np.swapaxes(values, -1, -2))
        return to_complex(values) if array.is_complex else values

    shape_yx = (*shape[:-2], shape[-1], shape[-2])
    source = Source("matlab", path)
    if not array.is_complex:
        pixels = LazySlices(shape_yx, array.dtype, read, path)
        return Image(pixels=pixels, source=source, header={"variable": name}, notes=tuple(notes))
    check_complex(array.dtype, path)
    return Scan(
        kspace=LazySlices(shape_yx, np.dtype(np.complex64), read, path),
        mask=None if mask is None else as_mask(mask, path),
        source=source,
        header={"variable": name},
        notes=tuple(notes),
    )


def _list_hdf5(path: Path) -> dict[str, _Variable]:
    import h5py

    from recon.datasets.hdf5 import open_hdf5

    found: dict[str, _Variable] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("#") and item.shape is not None:
            kind = item.attrs.get("MATLAB_class", b"")
            kind = kind.decode() if isinstance(kind, bytes) else str(kind)
            is_empty = bool(item.attrs.get("MATLAB_empty", 0))
            found[name] = _Variable((0,) if is_empty else item.shape[::-1], kind or _kind_of(item.dtype))

    with open_hdf5(path) as file:
        file.visititems(visit)
    return found


def _kind_of(dtype: np.dtype) -> str:
    """Return MATLAB's name for a dtype, where another program wrote the file."""
    if dtype.fields:
        dtype = next(iter(dtype.fields.values()))[0]
    names = {"f4": "single", "f8": "double", "c8": "single", "c16": "double"}
    return names.get(f"{dtype.kind}{dtype.itemsize}", dtype.name)


def _open_hdf5(path: Path, name: str) -> _Array:
    from recon.datasets.hdf5 import get_dataset, open_hdf5

    with open_hdf5(path) as file:
        dataset = get_dataset(file, name, path)
        return _Array(tuple(dataset.shape), dataset.dtype, partial(_read_hdf5, path, name))


def _read_hdf5(path: Path, name: str, index: int | tuple[()]) -> ndarray:
    from recon.datasets.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        return np.asarray(file[name][index])


def _list_old(path: Path) -> dict[str, _Variable]:
    from scipy.io import whosmat

    try:
        listed = whosmat(path, appendmat=False)
    except Exception as error:
        raise _damaged(path, error) from error
    return {name: _Variable(tuple(map(int, shape)), kind) for name, shape, kind in listed}


def _open_old(path: Path, name: str) -> _Array:
    from scipy.io import loadmat, whosmat

    try:
        shape = {name: shape for name, shape, _ in whosmat(path, appendmat=False)}[name]
        check_claim((1, *shape), 1, stored=path.stat().st_size, path=path, what=repr(name))
        reverse = np.asarray(loadmat(path, appendmat=False, variable_names=[name])[name]).T
    except ReconError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    return _Array(reverse.shape, reverse.dtype, reverse.__getitem__)


def _damaged(path: Path, error: Exception) -> FileFormatError:
    return FileFormatError(
        "the MATLAB file is damaged or truncated", file=path, found=f"{type(error).__name__}: {error}"[:300]
    )
