"""Raw k-space as training data: what the layouts share. A set over (file, slice), and the data module of it."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from recon.cards import Card, Covers
from recon.datasets.random import child_generator
from recon.datasets.scan import Scan
from recon.physics.errors import DataError, OptionError, ReconError
from recon.training.data.base import ExampleData
from recon.training.data.index import FileEntry, default_cache, find_files, index_files, usable
from recon.training.data.slices import Sampling, Target, example_of_slice
from recon.training.examples import Example

_TRAINING, _VALIDATION = range(2)
_OPEN = 32  # scans whose headers are kept
_ATTEMPTS = 50  # slices tried in place of one that cannot be read


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Parameters
    ----------
    name
        For the card and the index.
    endings
        Of its files.
    open
        Reads a file's headers; raises `ReconError` where it is not of this layout.
    repetitions
        From a file and all files to those that show the same: their mean is the target.
    """

    name: str
    endings: tuple[str, ...]
    open: Callable[[Path], Scan]
    repetitions: Callable[[Path, Sequence[Path]], Sequence[Path]] = lambda path, _: (path,)


class RawSlices(Dataset):
    """Slices of files; item and epoch determine an example, whoever computes it.

    Parameters
    ----------
    layout
        How to open them.
    files
        Paths and what is known of them.
    sampling
        How full ones are undersampled.
    matrix, target
        As in `example_of_slice`.
    outer
        Slices that are left out at both ends of a file.
    seed
        Of the masks.
    part
        Part 0 is trained on: its masks are drawn anew for each slice and epoch. Part 1 is validated on: its masks
        are always the same, one a file, as fastMRI's.
    """

    def __init__(
        self,
        layout: Layout,
        files: Sequence[tuple[Path, FileEntry]],
        *,
        sampling: Sampling,
        matrix: tuple[int, int] | None = None,
        target: Target = "combined",
        outer: int = 0,
        seed: int = 0,
        part: int = _TRAINING,
    ) -> None:
        self.layout, self.files, self.sampling = layout, list(files), sampling
        self.matrix, self.target, self.seed, self.part, self.epoch = matrix, target, seed, part, 0
        counts = [max(entry.slices - 2 * outer, 0) for _, entry in self.files]
        self.outer, self.starts = outer, np.concatenate([[0], np.cumsum(counts)])
        if not len(self):
            raise DataError("no slice is left", file=self.files[0][0].parent, found=f"{outer} left out at both ends")
        self._scans: OrderedDict[Path, Scan] = OrderedDict()
        self._failed: set[Path] = set()

    def __len__(self) -> int:
        """Slices of all files."""
        return int(self.starts[-1])

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, which has its own masks."""
        self.epoch = epoch

    def place(self, index: int) -> tuple[int, int]:
        """Return the numbers of the file and of the slice in it."""
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return file, self.outer + index - int(self.starts[file])

    def __getitem__(self, index: int) -> Example:
        """Read a slice and undersample it. One that cannot be read is replaced by one further on, with a warning.

        Raises
        ------
        DataError
            Many slices in a row cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        where = index
        for _ in range(min(_ATTEMPTS, len(self))):
            try:
                return self._example(where, index)
            except ReconError as error:
                self._warn(where, error)
                last = error
            # Not the neighbour, which is often as empty or as damaged; all are reached, as long as the step and the
            # length have no common divisor.
            where = (where + self._step) % len(self)
        raise DataError(f"{_ATTEMPTS} slices in a row cannot be used, the last: {last}")

    @cached_property
    def _step(self) -> int:
        n = len(self)
        return next((s for s in range(round(0.618 * n) or 1, n + 1) if np.gcd(s, n) == 1), 1)

    def _example(self, where: int, index: int) -> Example:
        number, slice_index = self.place(where)
        path, entry = self.files[number]
        own = (self.epoch, index) if self.part == _TRAINING else (0, number)
        rng = child_generator(self.seed, self.part, *own)
        others = self.layout.repetitions(path, [p for p, _ in self.files])
        return example_of_slice(
            self._open(path),
            slice_index,
            full=entry.full,
            draw=lambda shape, transposed: self.sampling.draw(shape, rng, transposed=transposed),
            matrix=self.matrix,
            target=self.target,
            repetitions=[self._open(other) for other in others] if len(others) > 1 else (),
        )

    def _open(self, path: Path) -> Scan:
        if path not in self._scans:
            self._scans[path] = self.layout.open(path)
            while len(self._scans) > _OPEN:
                self._scans.popitem(last=False)
        self._scans.move_to_end(path)
        return self._scans[path]

    def _warn(self, where: int, error: ReconError) -> None:
        path = self.files[self.place(where)[0]][0]
        if path not in self._failed:
            self._failed.add(path)
            warnings.warn(f"a slice was left out: {error}; {len(self._failed)} such files so far", stacklevel=3)


class RawData(ExampleData):
    """Files of raw k-space, one set of them to train on and another to validate on.

    Files that cannot be used are counted and named in a warning. Full scans are undersampled while training; scans
    that were undersampled when they were acquired keep their mask and have no target: they need a loss without one.

    Parameters
    ----------
    folder
        Of the data set.
    train, validation
        Names of folders in it, of lists of files as `find_files` takes them, or of files. No file may be in both;
        that no subject is in both is for the data set's own splits.
    sampling
        How full scans are undersampled; None: as the data set's benchmark has it.
    acquisitions
        Take only scans that call themselves so, such as ``AXT2``; all by default.
    target
        Full data combined by the coil maps, or (``rss``) their root sum of squares, as fastMRI's.
    matrix
        Crop or fill the field of view of full scans to this (y, x), without the readout's oversampling; None leaves
        it. A batch of several examples has one matrix.
    outer
        Slices that are left out at both ends of a scan; None: as the data set's benchmark has it.
    organs, licence
        For the card of the weights.
    index
        File in which the index of the files is kept; by default in the user's cache.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the masks.

    Raises
    ------
    OptionError
        Files in both splits.
    FileFormatError, DataError
        No such folder, list or file; nothing in it; nothing that can be used.
    """

    layout: ClassVar[Layout]
    benchmark: ClassVar[Sampling] = Sampling()
    benchmark_outer: ClassVar[int] = 0
    organ: ClassVar[tuple[str, ...]] = ()
    terms: ClassVar[str] = ""  # what binds those who train on the data

    def __init__(
        self,
        folder: Path,
        train: str | tuple[str, ...],
        validation: str | tuple[str, ...],
        *,
        sampling: Sampling | None = None,
        acquisitions: tuple[str, ...] = (),
        target: Target = "combined",
        matrix: tuple[int, int] | None = None,
        outer: int | None = None,
        organs: tuple[str, ...] = (),
        licence: str = "",
        index: Path | None = None,
        batch_size: int = 1,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if matrix is not None and min(matrix) < 16:
            raise OptionError("a matrix of so few pixels", found=matrix, expected="16 x 16 or more")
        if outer is not None and outer < 0:
            raise OptionError("slices that are left out cannot be fewer than none", found=outer)
        self.folder, self.train, self.validation = Path(folder), train, validation
        self.sampling = self.benchmark if sampling is None else sampling
        self.acquisitions, self.target, self.matrix = tuple(acquisitions), target, matrix
        self.outer = self.benchmark_outer if outer is None else outer
        self.organs, self.licence = tuple(organs) or self.organ, licence or self.terms
        self.index = default_cache(self.layout.name, self.folder) if index is None else Path(index)

    @cached_property
    def files(self) -> Mapping[str, list[tuple[Path, FileEntry]]]:
        """The files of both splits that can be used."""
        found = {
            "train": find_files(self.folder, self.train, self.layout.endings),
            "validation": find_files(self.folder, self.validation, self.layout.endings),
        }
        both = {path.resolve() for path in found["train"]} & {path.resolve() for path in found["validation"]}
        if both:
            names = ", ".join(sorted(path.name for path in both)[:5])
            raise OptionError(f"{len(both)} files are both trained and validated on", file=self.folder, found=names)
        return {
            split: usable(paths, index_files(paths, self.layout.open, self.index), self.acquisitions)
            for split, paths in found.items()
        }

    def training_set(self) -> RawSlices:
        """Return slices with new masks each epoch."""
        return self._slices("train", _TRAINING)

    def validation_set(self) -> RawSlices:
        """Return slices with masks that are always the same, one a file."""
        return self._slices("validation", _VALIDATION)

    def card(self) -> Card:
        """Say which scans the weights know."""
        entries = [entry for _, entry in self.files["train"]]
        sides = [n for entry in entries for n in (self.matrix or entry.matrix)]
        own = any(not entry.full for entry in entries)  # their acceleration is not in the index
        return Card(
            licence=self.licence,
            trained_on=(self._named("train"),),
            validated_on=(self._named("validation"),),
            split=f"the folders or lists {self._split(self.train)} and {self._split(self.validation)}",
            covers=None
            if own
            else Covers(
                organs=self.organs,
                coils=(min(entry.coils for entry in entries), max(entry.coils for entry in entries)),
                acceleration=(min(self.sampling.accelerations), max(self.sampling.accelerations)),
                matrix=(min(sides), max(sides)),
            ),
        )

    def _slices(self, split: str, part: int) -> RawSlices:
        return RawSlices(
            self.layout,
            self.files[split],
            sampling=self.sampling,
            matrix=self.matrix,
            target=self.target,
            outer=self.outer,
            seed=self.seed,
            part=part,
        )

    def _named(self, split: str) -> str:
        paths = [path.name for path, _ in self.files[split]]
        digest = hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest()[:12]
        kinds = f" ({', '.join(self.acquisitions)})" if self.acquisitions else ""
        return f"{self.layout.name}{kinds}: {len(paths)} scans, sha256 of their sorted names {digest}"

    @staticmethod
    def _split(split: str | tuple[str, ...]) -> str:
        return repr(split) if isinstance(split, str) else f"of {len(split)} names"
