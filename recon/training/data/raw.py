"""Raw k-space as training data: what the layouts share. A set over (file, slice), and the data module of it."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Complex, Shaped
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from recon.calibration import noise_covariance, noise_level, remove_oversampling, whiten, whitening_matrix
from recon.cards import Card, Covers
from recon.datasets.masks import MASKS, make_mask
from recon.datasets.random import child_generator
from recon.datasets.scan import Scan
from recon.physics.errors import CalibrationError, DataError, OptionError, ReconError
from recon.physics.fft import fft_centred, ifft_centred
from recon.training.data.base import ExampleData
from recon.training.data.index import FileEntry, default_cache, find_files, index_files, usable
from recon.training.examples import Example, make_example

Target = Literal["combined", "rss"]
_TRAINING, _VALIDATION = range(2)
_OPEN = 32  # scans whose headers are kept
_LINES = ("random", "equispaced", "equispaced_fraction", "gaussian_lines")
_ATTEMPTS = 50  # slices tried in place of one that cannot be read


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How full data are undersampled; one mask and one acceleration are drawn each time.

    Parameters
    ----------
    masks
        Names of masks (`recon.datasets.masks.MASKS`).
    accelerations
        Numbers of 1 or more.
    center
        Fully sampled centre: a number of lines or samples, a fraction, or None for the mask's own (fastMRI's for
        lines: 0.32 / acceleration).
    """

    masks: tuple[str, ...] = ("equispaced_fraction",)
    accelerations: tuple[float, ...] = (4.0, 8.0)
    center: int | float | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.masks if name not in MASKS]
        if unknown or not self.masks:
            raise OptionError("no such masks", found=unknown, expected=f"some of {', '.join(MASKS)}")
        if not self.accelerations or min(self.accelerations) < 1:
            raise OptionError("accelerations are 1 or more", found=self.accelerations)

    def draw(self, shape: tuple[int, int], generator: torch.Generator, *, transposed: bool) -> Bool[Tensor, "y x"]:
        """Draw a mask; ``transposed``: lines run along x, as in scans whose readout is x."""
        name = self.masks[int(torch.randint(len(self.masks), (), generator=generator))]
        acceleration = self.accelerations[int(torch.randint(len(self.accelerations), (), generator=generator))]
        transposed = transposed and name in _LINES
        size = (shape[1], shape[0]) if transposed else shape
        if name == "equispaced":
            acceleration = max(round(acceleration), 1)
        mask = make_mask(name, size, acceleration, center=self.center, generator=generator)
        mask = mask.expand(size)
        return mask.T if transposed else mask


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


def example_of_slice(
    scan: Scan,
    index: int,
    *,
    full: bool,
    draw: Callable[[tuple[int, int], bool], Bool[Tensor, "y x"]],
    matrix: tuple[int, int] | None = None,
    target: Target = "combined",
    repetitions: Sequence[Scan] = (),
) -> Example:
    """Make an example of a slice as `recon.prepare` would make it ready, undersampled first where it is full.

    Parameters
    ----------
    scan, index
        The slice.
    full
        Whether it holds full data; if not, its own mask is kept, and there is no target.
    draw
        From (y, x), and whether lines run along x, to a mask.
    matrix
        Crop the coil images of full data, or add air, to this (y, x).
    target
        Full data combined by the example's coil maps, or the magnitude of their root sum of squares with that
        image's phase: fastMRI's ``reconstruction_rss``.
    repetitions
        Scans of the same object: the target is made of their mean.

    Raises
    ------
    ReconError
        A slice that cannot be used.
    """
    name = f"{scan.source}, slice {index}"
    k = torch.from_numpy(scan.slice(index))
    sampled, _ = scan.sampling(index)
    acquired = torch.from_numpy(np.array(sampled))
    better = torch.stack([torch.from_numpy(other.slice(index)) for other in repetitions]).mean(0) if repetitions else k
    if better.shape != k.shape:
        raise DataError("repetitions of another shape", file=scan.source.path, found=tuple(better.shape))
    sigma = float("nan")
    if scan.noise is not None:
        covariance = noise_covariance(torch.from_numpy(scan.noise))
        power = torch.diagonal(covariance).real.mean()
        matrix_ = whitening_matrix(covariance) * power.sqrt()
        k, better = (whiten(x[None], matrix_)[0] for x in (k, better))
        sigma = float((power / 2).sqrt())
    k, better, acquired = _without_oversampling(k, better, acquired, scan)
    if full and matrix is not None and tuple(k.shape[1:]) != tuple(matrix):
        k, better = (fft_centred(_fitted(ifft_centred(x, (-2, -1)), matrix), (-2, -1)) for x in (k, better))
        acquired = _resized(acquired, matrix)
    shape = (k.shape[1], k.shape[2])
    mask = draw(shape, scan.readout_axis == -1) & acquired if full else acquired
    if not mask.any():
        raise DataError("a slice of which nothing is sampled", file=scan.source.path, found=f"slice {index}")
    if scan.noise is None:
        try:
            sigma = float(noise_level((k * mask)[None], mask[None, None]))
        except CalibrationError:
            sigma = float("nan")  # too few samples in the corners
    example = make_example(k, mask, target=better * acquired if full else None, sigma=sigma, name=name)
    if target == "rss" and example.target is not None:
        images = ifft_centred(better * acquired, (-2, -1))
        rss = torch.linalg.vector_norm(images, dim=0) / example.scale
        example = replace(example, target=torch.polar(rss, example.target.angle()))
    return example


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


def _without_oversampling(
    k: Tensor, better: Tensor, acquired: Tensor, scan: Scan
) -> tuple[Tensor, Tensor, Bool[Tensor, "y x"]]:
    axis, factor = scan.readout_axis, scan.oversampling
    if axis is None or factor is None or factor <= 1:
        return k, better, acquired
    along = acquired.any(dim=axis, keepdim=True)
    if not torch.equal(acquired, along.expand_as(acquired)):
        return k, better, acquired
    k, better = (remove_oversampling(x[None], axis, factor)[0] for x in (k, better))
    shape = list(acquired.shape)
    shape[axis] = k.shape[axis]
    return k, better, along.expand(shape)


def _fitted(images: Complex[Tensor, "coil y x"], size: tuple[int, int]) -> Complex[Tensor, "coil v u"]:
    """Cut off, or add air, so that the centre (index n // 2) stays the centre."""
    for dim, n in ((1, size[0]), (2, size[1])):
        have = images.shape[dim]
        if have > n:
            images = images.narrow(dim, have // 2 - n // 2, n)
        elif have < n:
            before = n // 2 - have // 2
            margins = (before, n - have - before)
            images = pad(images, (0, 0, *margins) if dim == 1 else margins)
    return images


def _resized(acquired: Bool[Tensor, "y x"], size: tuple[int, int]) -> Shaped[Tensor, "v u"]:
    """Carry over what was acquired to the samples of another field of view, which lie at other frequencies."""
    places = []
    for n, m in zip(acquired.shape, size, strict=True):
        place = torch.round((torch.arange(m) - m // 2) * (n / m)).long() + n // 2
        places.append(place.clamp(0, n - 1))
    return acquired[places[0]][:, places[1]]
