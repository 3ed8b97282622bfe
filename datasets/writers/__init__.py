"""One file a format: a writer for images, for scans, or for both, found by the ending of the target.

``@writers.register(name)`` on a class with `endings`, `kinds`, `is_folder` and `write` adds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from recon.datasets.atomic import atomic_path
from recon.datasets.scan import Image, Scan
from recon.physics.errors import OptionError
from recon.physics.registry import Registry


@runtime_checkable
class Writer(Protocol):
    """A format. Heavy imports belong inside `write`."""

    endings: tuple[str, ...]
    """Endings it answers to, the longest first (``(".nii.gz", ".nii")``)."""
    kinds: tuple[type, ...]
    """What it can write: `Image`, `Scan` or both."""

    def is_folder(self, data: Image | Scan) -> bool:
        """Tell whether ``data`` becomes a folder of files (a DICOM series of several slices)."""
        ...

    def write(self, data: Image | Scan, path: Path) -> None:
        """Write to ``path``, which does not exist and is renamed by the caller afterwards."""
        ...


writers: Registry[type[Writer]] = Registry("output format", package=__name__)


def find_writer(path: Path, kind: type, format: str | None = None) -> Writer:  # noqa: A002
    """Return the writer for ``path`` by its ending (or by name); raises `OptionError` where there is none."""
    if format is not None:
        return writers[format]()
    known: list[str] = []
    for entry in writers.values():
        if kind in entry.kinds:
            known.extend(entry.endings)
            if path.name.lower().endswith(entry.endings):
                return entry()
    raise OptionError(
        f"no {kind.__name__.lower()} can be written with this ending",
        file=path,
        found=path.suffix or "no ending",
        expected=f"one of {', '.join(known)}",
    )


def save(
    data: Image | Scan,
    path: str | Path,
    *,
    overwrite: bool = False,
    format: str | None = None,  # noqa: A002
) -> Path:
    """Write an image or a scan in the format of the ending; the file is whole or absent.

    Raises
    ------
    OptionError
        No writer for this ending and kind of data.
    OutputError
        The target exists (without ``overwrite``), or cannot be written.
    """
    path = Path(path)
    entry = find_writer(path, type(data), format)
    with atomic_path(path, overwrite=overwrite, folder=entry.is_folder(data)) as temporary:
        entry.write(data, temporary)
    return path


__all__ = ["Writer", "find_writer", "save", "writers"]
