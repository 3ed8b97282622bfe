"""Magnitude volumes (NIfTI, DICOM, images) as training data: scans of random planes are simulated while training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch.utils.data import Dataset

from recon.cards import Card, Covers
from recon.datasets.anatomy import Planes, Variation, Volume, load_volume
from recon.physics.errors import DataError, OptionError, ReconError
from recon.training.data.base import VALIDATION_SEED, ExampleData, TrainingSet
from recon.training.data.simulated import Acquisition, SimulatedScans

_VARIATION, _ACQUISITION = Variation(), Acquisition()


class VolumeData(ExampleData):
    """Volumes, split by subject.

    Parameters
    ----------
    folder
        Where the volumes lie.
    train, validation
        Names of files (or DICOM folders) in it; no subject may be in both.
    weights
        How often planes are drawn from each training volume; evenly by default.
    length, validation_length
        Examples an epoch, and validated on.
    variation, acquisition
        How images and scans differ.
    repeats
        How often a slice comes back within an epoch with another mask and noise.
    matrix
        (y, x) of all examples; None: that of each image, which needs a batch size of 1.
    largest
        Longest side of an image; of larger ones a random window is taken.
    organs, licence
        For the card of the weights.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the scans.

    Raises
    ------
    OptionError
        A volume in both splits, weights that do not fit, a batch of several matrices.
    DataError
        No volume could be read. Single ones that cannot are named in a warning and left out.
    """

    def __init__(
        self,
        folder: Path,
        train: tuple[str, ...],
        validation: tuple[str, ...],
        *,
        weights: tuple[float, ...] | None = None,
        length: int = 200,
        validation_length: int = 16,
        variation: Variation = _VARIATION,
        acquisition: Acquisition = _ACQUISITION,
        repeats: int = 4,
        matrix: tuple[int, int] | None = None,
        largest: int = 256,
        organs: tuple[str, ...] = (),
        licence: str = "",
        batch_size: int = 1,
        workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        both = set(train) & set(validation)
        if both:
            raise OptionError("volumes that are both trained and validated on", found=", ".join(sorted(both)))
        if weights is not None and len(weights) != len(train):
            raise OptionError("one weight a training volume", found=len(weights), expected=len(train))
        if batch_size > 1 and matrix is None:
            raise OptionError("a batch has one matrix", cure="Give data.init_args.matrix, or a batch_size of 1")
        self.folder, self.train, self.validation = folder, tuple(train), tuple(validation)
        self.weights = [1.0] * len(train) if weights is None else list(weights)
        self.length, self.validation_length, self.repeats = length, validation_length, repeats
        self.variation, self.acquisition = variation, acquisition
        self.matrix, self.largest = matrix, largest
        self.organs, self.licence = tuple(organs), licence

    @cached_property
    def volumes(self) -> tuple[list[Volume], list[float]]:
        """Volumes that are trained on, and how often."""
        return _read(self.folder, self.train, self.weights)

    def training_set(self) -> TrainingSet:
        """Return scans of the training volumes, new ones each epoch."""
        volumes, weights = self.volumes
        return self._scans(volumes, weights, self.length, self.seed, self.repeats)

    def validation_set(self) -> Dataset:
        """Return scans of the validation volumes, always the same."""
        volumes, weights = _read(self.folder, self.validation, [1.0] * len(self.validation))
        return self._scans(volumes, weights, self.validation_length, VALIDATION_SEED, 1)

    def card(self) -> Card:
        """Say which volumes and scans the weights know."""
        sides = [n for volume in self.volumes[0] for n in volume.pixels.shape[-2:]]
        shortest = min(sides) * self.variation.resolution[0] if self.matrix is None else min(self.matrix)
        longest = self.largest * self.acquisition.field_of_view[1] if self.matrix is None else max(self.matrix)
        return Card(
            licence=self.licence,
            trained_on=self.train,
            validated_on=self.validation,
            split="by subject",
            covers=Covers(
                organs=self.organs,
                coils=self.acquisition.coils,
                acceleration=self.acquisition.accelerations,
                matrix=(round(shortest), round(longest)),
            ),
        )

    def _scans(
        self, volumes: Sequence[Volume], weights: Sequence[float], length: int, seed: int, repeats: int
    ) -> SimulatedScans:
        return SimulatedScans(
            Planes(volumes, weights, self.variation, self.largest),
            length=length,
            acquisition=self.acquisition,
            seed=seed,
            repeats=repeats,
            matrix=self.matrix,
        )


def _read(folder: Path, names: Sequence[str], weights: Sequence[float]) -> tuple[list[Volume], list[float]]:
    """Read what can be read, and name the rest."""
    volumes, kept, failed = [], [], []
    for name, weight in zip(names, weights, strict=True):
        try:
            volumes.append(load_volume(folder / name))
        except ReconError as error:
            failed.append(str(error))
        else:
            kept.append(weight)
    if not volumes:
        raise DataError("no volume could be read", file=folder, found="; ".join(failed) or "an empty list")
    if failed:
        warnings.warn(f"{len(failed)} of {len(names)} volumes left out: {'; '.join(failed)}", stacklevel=2)
    return volumes, kept
