"""One file a format: a writer for images, scans or stamps, found by the ending of the target.

``@writers.register(name)`` on a subclass of `Writer` with `endings`, `kinds` and `write` adds one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from recon.datasets.atomic import atomic_path
from recon.datasets.compressed import CompressedScan
from recon.datasets.measurements import Measurements
from recon.datasets.scan import Image, Scan
from recon.datasets.stamps import Stamps
from recon.physics.errors import OptionError, OutputError
from recon.physics.registry import Registry

Data = Image | Scan | CompressedScan | Measurements | Stamps
"""What can be written."""


@runtime_checkable
class Writer(Protocol):
    """A format. Heavy imports belong inside `write`."""

    endings: ClassVar[tuple[str, ...]]
    """Endings it answers to, the longest first (``(".nii.gz", ".nii")``)."""
    kinds: ClassVar[tuple[type, ...]]
    """What it can write: `Image`, `Scan`, `CompressedScan`, `Measurements`, `Stamps`."""

    def is_folder(self, data: Data) -> bool:  # noqa: ARG002
        """Tell whether ``data`` becomes a folder of files (a DICOM series of several slices)."""
        return False

    def companions(self, path: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names of the files that `write` makes beside ``path`` (the ``.hdr`` of a ``.cfl``)."""
        return ()

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice to ``path``, which the caller renames afterwards.

        It does not exist; where `is_folder` holds, it is an empty folder.
        """
        ...


writers: Registry[type[Writer]] = Registry("output format", package=__name__)


def find_writer(path: Path, kind: type, format: str | None = None) -> Writer:  # noqa: A002
    """Return the writer for ``path`` by its ending (or by name); raises `OptionError` where there is none."""
    if format is not None:
        if kind not in writers[format].kinds:
            raise OptionError(f"the format {format!r} does not hold a {_called(kind)}", file=path)
        return writers[format]()
    known: list[str] = []
    for entry in writers.values():
        if kind in entry.kinds:
            known.extend(ending for ending in entry.endings if ending not in known)
            if path.name.lower().endswith(entry.endings):
                return entry()
    raise OptionError(
        f"no {_called(kind)} can be written with this ending",
        file=path,
        found=path.suffix or "no ending",
        expected=f"one of {', '.join(known)}",
    )


def save(
    data: Data,
    path: str | Path,
    *,
    overwrite: bool = False,
    format: str | None = None,  # noqa: A002
) -> Path:
    """Write an image, a scan or stamps in the format of the ending; the file is whole or absent.

    ``.h5``, ``.npz``, ``.cfl`` take images and scans, ``.npz`` compressed measurements too, ``.mrd`` scans, ``.nii``,
    ``.nii.gz``, ``.dcm``, ``.png`` and ``.fits`` images, ``.fits`` stamps. Several slices make a folder of numbered
    files for ``.dcm`` and ``.png``.

    Raises
    ------
    OptionError
        No writer for this ending and kind of data, or data that the format cannot hold.
    OutputError
        The target exists (without ``overwrite``), or cannot be written.
    """
    path = Path(path)
    entry = find_writer(path, type(data), format)
    folder = entry.is_folder(data)
    if folder and overwrite:
        _check_replaceable(path)
    with atomic_path(path, overwrite=overwrite, folder=folder, companions=entry.companions(path)) as temporary:
        entry.write(data, temporary)
    return path


def _called(kind: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _check_replaceable(folder: Path) -> None:
    """Raise `OutputError` where replacing a folder would delete what we did not write."""
    if folder.is_dir():
        other = next((item for item in folder.iterdir() if item.is_dir() or item.suffix != folder.suffix), None)
        if other is not None:
            raise OutputError(
                "the folder holds other files too and is not replaced",
                file=folder,
                found=other.name,
                expected=f"nothing but {folder.suffix}",
                cure="Choose another folder with --out",
            )


__all__ = ["Data", "Writer", "find_writer", "save", "writers"]
