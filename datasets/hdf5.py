"""HDF5 files read one slice at a time; whatever goes wrong inside the library becomes one line.

Imports h5py, so readers import this module inside their functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from recon.datasets.hdf5_attributes import text_attributes
from recon.datasets.hdf5_heaps import check_heaps
from recon.datasets.hdf5_records import read_values
from recon.datasets.limits import MAX_EXPANSION, check_claim
from recon.physics.errors import DTypeError, FileFormatError, ReconError


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading; errors of the library, then and inside the block, become `FileFormatError`."""
    try:
        check_heaps(path)
        with h5py.File(path, "r") as file:
            yield file
    except ReconError:
        raise
    except FileNotFoundError as error:
        raise FileFormatError("no such file", file=path) from error
    except PermissionError as error:
        raise FileFormatError("the file may not be read", file=path) from error
    except Exception as error:
        raise FileFormatError(
            "the HDF5 file is damaged or was cut short",
            file=path,
            found=f"{type(error).__name__}: {error}",
            cure="Copy it again from where it came",
        ) from error


def is_plain(kind: h5py.h5t.TypeID) -> bool:
    """Tell whether a stored type is a standard number, an enumeration or compound of such, or a fixed text.

    The library writes beyond its buffers when it converts the impossible types of a damaged file.
    """
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        end = 0
        for i in range(kind.get_nmembers()):
            if kind.get_member_offset(i) < end or not is_plain(kind.get_member_type(i)):
                return False
            end = kind.get_member_offset(i) + kind.get_member_type(i).get_size()
        return end <= kind.get_size()
    if isinstance(kind, h5py.h5t.TypeEnumID):
        return is_plain(kind.get_super())
    if isinstance(kind, h5py.h5t.TypeStringID):
        return not kind.is_variable_str()
    return any(kind.equal(standard) for standard in _standard_types())


@cache
def _standard_types() -> tuple[h5py.h5t.TypeID, ...]:
    names = [name for name in dir(h5py.h5t) if re.fullmatch(r"(COMPLEX_)?(IEEE_F|STD_[IU])(8|16|32|64)[LB]E", name)]
    return tuple(getattr(h5py.h5t, name) for name in names)


def get_dataset(group: h5py.Group, name: str, path: Path, *, records: bool = False) -> h5py.Dataset:
    """Return a dataset of a group after its claims have been held against the file (`check_claim`).

    Parameters
    ----------
    group, name
        Where it is.
    path
        The file.
    records
        It will be read by `recon.datasets.hdf5_records`, not by the library: any type may be in it.

    Raises
    ------
    FileFormatError
        There is none, or the file is too small for it.
    ShapeError
        It is empty.
    DTypeError
        It does not hold standard numbers or texts.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise FileFormatError(
            f"the file has no dataset {name!r}", file=path, found=", ".join(list(group)[:20]) or "nothing"
        )
    stored = int(found.id.get_storage_size())
    size = path.stat().st_size
    if stored > size:
        raise FileFormatError(
            f"the dataset {name!r} is larger than the file", file=path, found=f"{stored} bytes", expected=size
        )
    if found.shape is None:
        raise FileFormatError(f"the dataset {name!r} is empty", file=path)
    if not records and not is_plain(found.id.get_type()):
        raise DTypeError(
            f"the dataset {name!r} does not hold numbers of a standard type", file=path, found=f"dtype {found.dtype}"
        )
    if found.ndim:
        filters = _filters(found, path)
        expansion = MAX_EXPANSION if filters else 1
        check_claim(found.shape, found.dtype.itemsize, stored=stored, path=path, what=f"{name!r}", expansion=expansion)
    if found.chunks:  # a chunk is read whole, and may be larger than an array that can grow
        check_claim((1, *found.chunks), found.dtype.itemsize, stored=size, path=path, what=f"a chunk of {name!r}")
    return found


def _filters(dataset: h5py.Dataset, path: Path) -> list[int]:
    """Return the codes of the compression filters; raises `FileFormatError` where one is not installed."""
    plist = dataset.id.get_create_plist()
    codes = [int(plist.get_filter(i)[0]) for i in range(plist.get_nfilters())]
    for code in codes:
        if not h5py.h5z.filter_avail(code):
            raise FileFormatError(
                f"{dataset.name} is compressed by a filter that is not installed",
                file=path,
                found=f"HDF5 filter {code}",
                cure="Rewrite the file with h5repack -f GZIP=1 where the filter is known",
            )
    return codes


def read_text(group: h5py.Group, name: str, path: Path) -> str:
    """Read a dataset that holds one string, as a scalar or as its only element."""
    dataset = get_dataset(group, name, path, records=True)
    if prod(dataset.shape) != 1:
        raise FileFormatError(f"{dataset.name} is not one text", file=path, found=f"shape {dataset.shape}")
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise FileFormatError(f"{dataset.name} is not a text", file=path, found=f"dtype {dataset.dtype}")
    if h5py.check_string_dtype(dataset.dtype).length is None:
        value = next(read_values(dataset, np.zeros(1, np.int64), path)).tobytes()
    else:
        value = bytes(np.asarray(dataset[()]).item())
    return value.decode("utf-8", errors="replace")


def check_complex(dtype: np.dtype, path: Path, what: str = "k-space") -> None:
    """Raise `DTypeError` unless the values are complex, or pairs of real and imaginary part."""
    if dtype.kind == "c":
        return
    if dtype.fields and len(dtype.fields) == 2 and all(field[0].kind in "fiu" for field in dtype.fields.values()):
        return
    raise DTypeError(
        f"{what} is not complex",
        file=path,
        found=f"dtype {dtype}",
        expected="complex64, complex128 or pairs of real and imaginary part",
        cure="If the last axis holds real and imaginary part, store them as complex64",
    )


def to_complex(array: np.ndarray) -> np.ndarray:
    """Return as complex64: complex of any precision, or pairs (real, imaginary) of any number type."""
    if array.dtype.fields is None:
        return array.astype(np.complex64, copy=False)
    out = np.empty(array.shape, np.complex64)
    out.real, out.imag = (array[name] for name in array.dtype.names or ())
    return out


def read_slice(path: Path, name: str, index: int) -> np.ndarray:
    """Open the file, read one slice of a dataset, close the file."""
    with open_hdf5(path) as file:
        return np.asarray(file[name][index])


def read_complex_slice(path: Path, name: str, index: int) -> np.ndarray:
    """Read one slice of k-space as complex64."""
    return to_complex(read_slice(path, name, index))


def attributes(group: h5py.Group, path: Path) -> dict[str, Any]:
    """Return the attributes that are one number or text, as Python's own types."""
    found: dict[str, Any] = dict(text_attributes(group, path))
    for name in group.attrs:
        identifier = group.attrs.get_id(name)
        if is_plain(identifier.get_type()) and prod(identifier.shape) == 1:
            item = np.asarray(group.attrs[name]).item()
            found[name] = item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}
