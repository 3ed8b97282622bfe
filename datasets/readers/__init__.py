"""One file a format: a `sniff` that looks at the content and a `read`; ``@readers.register(name)`` registers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from recon.datasets.compressed import CompressedScan
from recon.datasets.measurements import Measurements
from recon.datasets.scan import Image, Scan
from recon.datasets.stamps import Stamps
from recon.physics.errors import FileFormatError, OptionError, ReconError
from recon.physics.registry import Registry

_HEAD = 4096

Opened = Scan | CompressedScan | Measurements | Image | Stamps
"""What a file may hold."""


@dataclass(frozen=True)
class ReadOptions:
    """What a file cannot say itself.

    Parameters
    ----------
    variable
        Name of the array to read from a file of named arrays (MATLAB, npz, HDF5 of no known layout).
    psf
        File of the PSFs, one an object or one for all; it makes stamps of an image, or of a cube of them.
    weight, mask
        Files of the inverse variance, and of a mask that is not 0 where a pixel is bad.
    catalogue
        Table of the positions at which stamps are cut out of a full image.
    segmentation
        File that labels the pixels of each object of a full image.
    size
        Side of the stamps that are cut out, in pixels. Without a catalogue, objects are detected.
    epoch
        Of multi-epoch stamps: 0 is the coadd.
    """

    variable: str | None = None
    psf: str | Path | None = None
    weight: str | Path | None = None
    mask: str | Path | None = None
    catalogue: str | Path | None = None
    segmentation: str | Path | None = None
    size: int | None = None
    epoch: int = 0


@runtime_checkable
class Reader(Protocol):
    """A format. Heavy imports belong inside the two functions."""

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by content (``head`` is the start of the file, empty for a folder) whether this reader fits."""
        ...

    def read(self, path: Path, options: ReadOptions) -> Opened:
        """Read the headers and return what is there, with arrays that are read slice by slice."""
        ...


readers: Registry[type[Reader]] = Registry("file format", package=__name__)


def open(  # noqa: A001 - recon.datasets.open is the contract
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    variable: str | None = None,
    psf: str | Path | None = None,
    weight: str | Path | None = None,
    mask: str | Path | None = None,
    catalogue: str | Path | None = None,
    segmentation: str | Path | None = None,
    size: int | None = None,
    epoch: int = 0,
) -> Opened:
    """Open a file of raw measurements, of stamps or an image, recognised by its content.

    Parameters
    ----------
    path
        A file, or a folder for formats that are one (a DICOM series).
    format
        Name of the format, to skip the recognition.
    variable
        Name of the array in files of named arrays.
    psf, weight, mask, catalogue, segmentation, size, epoch
        What belongs to stamps of galaxies and isn't in their file; see `ReadOptions`.

    Raises
    ------
    FileFormatError
        The file is absent, unreadable, truncated or of no known format.
    """
    path = Path(path)
    options = ReadOptions(variable, psf, weight, mask, catalogue, segmentation, size, epoch)
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
            return _as_stamps(readers[format]().read(path, options), path, options)
        for entry in readers.values():
            if entry().sniff(path, head):
                return _as_stamps(entry().read(path, options), path, options)
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


def _as_stamps(opened: Opened, path: Path, options: ReadOptions) -> Opened:
    """Make stamps of an image where the options say what belongs to them."""
    wanted = [name for name in ("psf", "weight", "mask", "catalogue", "segmentation", "size") if getattr(options, name)]
    if not wanted or isinstance(opened, Stamps):
        return opened
    if isinstance(opened, Scan | CompressedScan | Measurements):
        raise OptionError(f"raw measurements have no {wanted[0]}", file=path)
    if options.catalogue is not None or (options.size is not None and opened.n_slices == 1):
        from recon.datasets.cutouts import cutouts_of_image

        return cutouts_of_image(opened, options)
    from recon.datasets.stamp_files import stamps_of_image

    return stamps_of_image(opened, options)


__all__ = ["Opened", "ReadOptions", "Reader", "open", "readers"]
