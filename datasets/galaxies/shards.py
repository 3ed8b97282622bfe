"""Simulated stamps on disk: shards that are whole or absent, read row by row through memory maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.datasets.galaxies.simulation import CHUNK, GalaxyRecipe, GalaxySample, joined, pieces
from recon.datasets.hdf5_output import hdf5_output
from recon.physics.errors import FileFormatError, OptionError, OutputError

ARRAYS = ("observed", "truth", "psf")
Progress = Callable[[int, int], None]
_RECIPE = "recipe.txt"
_SUFFIX = ".h5"
_DRAWING = 2  # to be raised when the same recipe gives other stamps


def no_progress(done: int, total: int) -> None:
    """Tell nobody how many galaxies are done."""


def write_shards(
    recipe: GalaxyRecipe,
    n: int,
    folder: str | Path,
    *,
    shard: int = 1024,
    workers: int = 1,
    progress: Progress = no_progress,
) -> GalaxyShards:
    """Simulate ``n`` galaxies into a folder; one that was interrupted, or that is to be larger, goes on.

    Parameters
    ----------
    recipe
        What is simulated.
    n
        Number of galaxies.
    folder
        Made where absent. It holds one recipe.
    shard
        Galaxies a file.
    workers
        Processes.
    progress
        Called with the galaxies done and the total after each shard.

    Raises
    ------
    OutputError
        The folder holds galaxies of another recipe, or cannot be written.
    """
    if n < 1 or shard < 1:
        raise OptionError("nothing to simulate", found=f"n={n}, shard={shard}", expected="at least 1")
    folder = Path(folder)
    marker = folder / _RECIPE
    text = f"{recipe!r}\n{shard} galaxies a shard, drawing {_DRAWING}\n"
    if not marker.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError("the folder is not empty", file=folder, cure="Choose another one")
        with atomic_path(marker, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
    elif marker.read_text(encoding="utf-8") != text:
        raise OutputError("the folder holds galaxies of another recipe", file=folder, cure="Choose another one")
    for first in range(0, n, shard):
        stop = min(first + shard, n)
        target = folder / f"{first:010d}-{stop:010d}{_SUFFIX}"
        if not target.exists():
            # small pieces keep all processes busy inside a shard
            made = pieces(recipe, stop - first, start=first, workers=workers, chunk=min(CHUNK, shard))
            _write(joined(list(made)), target)
        progress(stop, n)
    for path in folder.glob(f"*{_SUFFIX}"):  # the last shard of a smaller set is within a whole one now
        first, stop = (int(part) for part in path.stem.split("-"))
        if stop % shard and stop < n:
            path.unlink()
    return GalaxyShards(folder)


def _write(sample: GalaxySample, target: Path) -> None:
    with atomic_path(target, overwrite=True) as temporary, hdf5_output(temporary) as (file, check):
        for name in ARRAYS:
            file.create_dataset(name, data=getattr(sample, name))
            check()
        table = file.create_group("catalogue")
        for name in sample.catalogue.dtype.names or ():
            column = sample.catalogue[name]
            table[name] = np.char.encode(column, "ascii") if column.dtype.kind == "U" else column
        check()


@dataclass(frozen=True)
class _Shard:
    arrays: dict[str, ndarray]
    catalogue: ndarray


class GalaxyShards:
    """The stamps of `write_shards`, in order; any rows are read without the rest.

    Parameters
    ----------
    folder
        Written by `write_shards`.

    Raises
    ------
    FileFormatError
        The folder holds no shards, or damaged ones.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        paths = sorted(self.folder.glob(f"*{_SUFFIX}"))
        if not paths:
            raise FileFormatError("no simulated galaxies are here", file=self.folder)
        self._shards = [_open(path) for path in paths]
        self._ends = np.cumsum([len(shard.catalogue) for shard in self._shards])

    def __len__(self) -> int:
        """Return the number of stamps."""
        return int(self._ends[-1])

    @property
    def catalogue(self) -> Shaped[ndarray, " stamp"]:
        """All rows of the catalogue."""
        return np.concatenate([shard.catalogue for shard in self._shards])

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of a stamp."""
        y, x = self._shards[0].arrays["observed"].shape[1:]
        return int(y), int(x)

    def read(self, name: str, rows: Sequence[int] | Int64[ndarray, " row"] | slice) -> Float32[ndarray, "row y x"]:
        """Read some stamps of ``"observed"``, ``"truth"`` or ``"psf"``, in the order of the rows.

        Raises
        ------
        OptionError
            There is no such array or row.
        """
        if name not in ARRAYS:
            raise OptionError("there is no such array", found=name, expected=" ".join(ARRAYS))
        index = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise OptionError(
                "no such stamp", found=f"{index.min()} to {index.max()}", expected=f"0 to {len(self) - 1}"
            )
        out = np.empty((len(index), *self._shards[0].arrays[name].shape[1:]), np.float32)
        owner = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(owner):
            here = owner == number
            shard = self._shards[number]
            out[here] = shard.arrays[name][index[here] - (self._ends[number] - len(shard.catalogue))]
        return out


def _open(path: Path) -> _Shard:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {name: _mapped(path, file[name]) for name in ARRAYS}
            columns: dict[str, Any] = {name: values[()] for name, values in file["catalogue"].items()}
    except (OSError, KeyError, ValueError) as error:
        raise FileFormatError(f"a damaged shard: {error}", file=path, cure="Delete it and simulate again") from error
    columns = {name: np.char.decode(v, "ascii") if v.dtype.kind == "S" else v for name, v in columns.items()}
    catalogue = np.empty(len(columns["id"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        catalogue[name] = values
    return _Shard(arrays, catalogue)


def _mapped(path: Path, data: Any) -> ndarray:
    """Map a contiguous dataset: reading a row costs microseconds, and no open file travels between processes."""
    return np.memmap(path, data.dtype, "r", data.id.get_offset(), data.shape)
