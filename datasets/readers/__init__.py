"""One file a format: a `sniff` that looks at the content and a `read`; ``@readers.register(name)`` registers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from recon.datasets.scan import Image, Scan
from recon.physics.errors import FileFormatError, ReconError
from recon.physics.registry import Registry

_HEAD = 4096


@dataclass(frozen=True)
class ReadOptions:
    """What a file cannot say itself.

    Parameters
    ----------
    variable
        Name of the array to read from a file of named arrays (MATLAB, npz, HDF5 of no known layout).
    """

    variable: str | None = None


@runtime_checkable
class Reader(Protocol):
    """A format. Heavy imports belong inside the two functions."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by content (``head`` is the start of the file, empty for a folder) whether this reader fits."""
        ...

    def read(self, path: Path, options: ReadOptions) -> Scan | Image:
        """Read the headers and return a `Scan` or `Image` whose arrays are read slice by slice."""
        ...


readers: Registry[type[Reader]] = Registry("file format", package=__name__)


def open(  # noqa: A001 - recon.datasets.open is the contract
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    variable: str | None = None,
) -> Scan | Image:
    """Open a file of raw measurements or an image, recognised by its content.

    Parameters
    ----------
    path
        A file, or a folder for formats that are one (a DICOM series).
    format
        Name of the format, to skip the recognition.
    variable
        Name of the array in files of named arrays.

    Raises
    ------
    FileFormatError
        The file is absent, unreadable, truncated or of no known format.
    """
    path = Path(path)
    options = ReadOptions(variable)
    try:
        if not path.exists() and path.with_name(path.name + ".cfl").exists():
            path = path.with_name(path.name + ".cfl")  # BART names its pairs without the ending
        if path.is_dir():
            head = b""
        else:
            with path.open("rb") as file:
                head = file.read(_HEAD)
            if not head:
                raise FileFormatError("the file is empty", file=path)
        if format is not None:
            return readers[format]().read(path, options)
        for entry in readers.values():
            if entry().sniff(path, head):
                return entry().read(path, options)
    except ReconError:
        raise
    except FileNotFoundError as error:
        raise FileFormatError("no such file", file=path) from error
    except MemoryError as error:
        raise FileFormatError("the file asks for more memory than there is", file=path) from error
    except Exception as error:
        raise FileFormatError(
            "the file is damaged or not what it seems", file=path, found=f"{type(error).__name__}: {error}"
        ) from error
    raise FileFormatError(
        "no known format", file=path, expected=f"one of {', '.join(readers)}", cure="Name it with --format"
    )


__all__ = ["ReadOptions", "Reader", "open", "readers"]
