"""What a folder of raw data holds, file by file; kept on disk, so that a thousand headers are read once."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.datasets.folders import natural_order
from recon.datasets.scan import Scan
from recon.physics.errors import DataError, FileFormatError, OutputError, ReconError

_VERSION = 1
_LISTS = (".txt", ".lst", ".json")
_NAMED = 10  # files that a warning names


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What is known of a file without reading its samples.

    Parameters
    ----------
    size, mtime
        Bytes, and time of the last change in nanoseconds: where they differ, the file is read anew.
    slices, coils, matrix
        Number of slices and coils, (y, x) without the readout's oversampling.
    acquisition
        What the file calls itself (fastMRI: ``AXT2``); "" where it says nothing.
    full
        Whether everything was sampled, but for what lies at the rim.
    problem
        Why it cannot be used; "" where it can.
    """

    size: int
    mtime: int
    slices: int = 0
    coils: int = 0
    matrix: tuple[int, int] = (0, 0)
    acquisition: str = ""
    full: bool = False
    problem: str = ""


def find_files(folder: Path, split: str | Sequence[str], endings: Sequence[str]) -> list[Path]:
    """Return the files of a split.

    Parameters
    ----------
    folder
        Of the data set.
    split
        Name of a folder in it, or of a list relative to it (``.txt`` or ``.lst``, one name a line; ``.json``, COCO's
        ``images`` with a ``file_name``), or the files' names.
    endings
        Of the files that a folder is searched for.

    Raises
    ------
    FileFormatError
        No such folder, list or file.
    DataError
        Nothing in it.
    """
    place = folder / split if isinstance(split, str) else folder
    if isinstance(split, str) and place.suffix not in _LISTS:
        if not place.is_dir():
            raise FileFormatError("no such folder of raw data", file=place)
        names = sorted((path.name for path in place.iterdir()), key=natural_order)
        files = [place / name for name in names if name.endswith(tuple(endings)) and not name.startswith(".")]
    else:
        files = [folder / name for name in (_names(place) if isinstance(split, str) else split)]
        absent = [str(path) for path in files if not path.is_file()]
        if absent:
            raise FileFormatError("listed files are absent", file=place, found=_some(absent))
    if not files:
        raise DataError("no raw data", file=place, expected=f"files that end in {', '.join(endings)}")
    return files


def index_files(files: Sequence[Path], opener: Callable[[Path], Scan], cache: Path) -> list[FileEntry]:
    """Describe files; only those are opened that are new or have changed.

    Parameters
    ----------
    files
        Absolute paths.
    opener
        Reads the headers of a file.
    cache
        Where the index is kept. One that is damaged, or cannot be written, costs time only.
    """
    known = _read(cache)
    entries, changed = [], False
    for path in files:
        stat = path.stat()
        entry = known.get(str(path))
        if entry is None or (entry.size, entry.mtime) != (stat.st_size, stat.st_mtime_ns):
            entry, changed = _describe(path, opener, stat.st_size, stat.st_mtime_ns), True
        known[str(path)] = entry
        entries.append(entry)
    if changed:
        content = {"version": _VERSION, "files": {name: asdict(entry) for name, entry in known.items()}}
        try:
            with atomic_path(cache, overwrite=True) as temporary:
                temporary.write_text(json.dumps(content), encoding="utf-8")
        except OutputError as error:
            warnings.warn(f"the index of raw data is not kept: {error}", stacklevel=2)
    return entries


def usable(
    files: Sequence[Path], entries: Sequence[FileEntry], acquisitions: Sequence[str]
) -> list[tuple[Path, FileEntry]]:
    """Leave out files of other acquisitions, and, with a warning, those that cannot be used.

    Raises
    ------
    DataError
        None is left.
    """
    pairs = list(zip(files, entries, strict=True))
    bad = [entry.problem for _, entry in pairs if entry.problem]
    good = [(path, entry) for path, entry in pairs if not entry.problem]
    kept = [(path, entry) for path, entry in good if not acquisitions or entry.acquisition in acquisitions]
    folder = files[0].parent
    if not good:
        raise DataError("no raw data can be used", file=folder, found=_some(bad))
    if not kept:
        found = ", ".join(sorted({entry.acquisition or "unnamed" for _, entry in good}))
        raise DataError("no scan of these acquisitions", file=folder, found=found, expected=", ".join(acquisitions))
    if bad:
        warnings.warn(f"{len(bad)} of {len(files)} files left out: {_some(bad)}", stacklevel=2)
    return kept


def default_cache(layout: str, folder: Path) -> Path:
    """Return where the index of a folder is kept: in the user's cache, since data may be read-only."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return root / "recon" / f"{layout}-{digest}.json"


def _describe(path: Path, opener: Callable[[Path], Scan], size: int, mtime: int) -> FileEntry:
    try:
        scan = opener(path)
        if scan.trajectory is not None or len(scan.spatial) != 2:
            raise DataError("not a Cartesian scan of slices", file=path, found=f"k-space {tuple(scan.kspace.shape)}")
        # Without a mask in the file, the middle slice is read: its zeros tell, and that it can be read is known.
        full = without_holes(scan.sampling(scan.n_slices // 2)[0])
    except ReconError as error:
        return FileEntry(size=size, mtime=mtime, problem=str(error))
    return FileEntry(
        size=size,
        mtime=mtime,
        slices=scan.n_slices,
        coils=scan.n_coils,
        matrix=_matrix(scan),
        acquisition=str(scan.header.get("acquisition", "")),
        full=full,
    )


def _matrix(scan: Scan) -> tuple[int, int]:
    """(y, x) without the readout's oversampling."""
    size = list(scan.spatial)
    if scan.readout_axis is not None and scan.oversampling is not None and scan.oversampling > 1:
        size[scan.readout_axis] = round(size[scan.readout_axis] / scan.oversampling)
    return size[0], size[1]


def without_holes(mask: Bool[ndarray, "y x"]) -> bool:
    """Whether no row or column has a gap between samples: full, partial Fourier, or an ellipse."""
    changes = [np.abs(np.diff(np.pad(mask, 1).astype(np.int8), axis=axis)).sum(axis=axis) for axis in (0, 1)]
    return all(bool((number <= 2).all()) for number in changes)


def _read(cache: Path) -> dict[str, FileEntry]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            return {}
        return {name: FileEntry(**{**v, "matrix": tuple(v["matrix"])}) for name, v in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _names(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return [str(image["file_name"]) for image in json.loads(text)["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError("the list of files cannot be read", file=path, found=repr(error)) from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _some(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(problems[:_NAMED]) + more
