"""Simulated galaxies on disk: made once, read in any order, split by galaxy."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Dataset

from recon.cards import Card
from recon.datasets.galaxies import CatalogueGalaxies, GalaxyRecipe, GalaxyShards, ParametricGalaxies, write_shards
from recon.datasets.galaxies.survey import survey_named
from recon.datasets.random import child_generator
from recon.galaxies.choice import width_range
from recon.physics.errors import OptionError
from recon.training.data.base import ExampleData
from recon.training.galaxies import GalaxyBatch, GalaxyExample, collate_galaxies, turned

_SHARD = 1024
_SYMMETRIES = 8


class GalaxyData(ExampleData):
    """Galaxies as a survey sees them, each with its own PSF and noise.

    Stamps are simulated before training, into ``FOLDER/train`` and ``FOLDER/validation``; what is there already, of the
    same recipe, is taken. No galaxy is in both.

    Parameters
    ----------
    folder
        Where the stamps are kept.
    survey
        One of `recon.datasets.galaxies.SURVEYS`.
    catalogue
        A COSMOS catalogue of galsim's; None: parametric galaxies drawn at random.
    parametric
        Take the catalogue's parametric fits instead of its images.
    train, validation
        Numbers of stamps.
    length
        Stamps an epoch; None: all.
    augment
        Turn and mirror stamps at random while training.
    simulators
        Processes that simulate.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the simulation.

    Raises
    ------
    OptionError
        No stamps, or a survey that does not exist.
    """

    validation_batch = 64

    def __init__(
        self,
        folder: str,
        *,
        survey: str = "lsst",
        catalogue: str | None = None,
        parametric: bool = False,
        train: int = 100_000,
        validation: int = 512,
        length: int | None = None,
        augment: bool = True,
        simulators: int = 1,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if min(train, validation, 1 if length is None else length) < 1 or (length or 0) > train:
            raise OptionError(
                "too little to train on",
                found=f"train {train}, validation {validation}, length {length}",
                expected="at least 1 stamp each, and an epoch of at most all",
            )
        self.survey, self.folder = survey_named(survey), Path(folder)
        self.catalogue, self.parametric = catalogue, parametric
        self.train, self.validation, self.length = train, validation, train if length is None else length
        self.augment, self.simulators = augment, simulators

    def prepare_data(self) -> None:
        """Simulate what is not there yet; Lightning calls this in one process."""
        for split, n in (("train", self.train), ("validation", self.validation)):
            recipe = GalaxyRecipe(survey=self.survey, galaxies=self._galaxies(), split=split, seed=self.seed)
            write_shards(recipe, n, self.folder / split, shard=min(_SHARD, n), workers=self.simulators)

    def training_set(self) -> SimulatedStamps:
        """Return the stamps, other ones each epoch where an epoch is not all of them."""
        shards = GalaxyShards(self.folder / "train")
        return SimulatedStamps(shards, self.train, self.length, augment=self.augment, seed=self.seed)

    def validation_set(self) -> Dataset[GalaxyExample]:
        """Return the stamps that are validated on."""
        shards = GalaxyShards(self.folder / "validation")
        return SimulatedStamps(shards, self.validation, self.validation, augment=False, seed=self.seed)

    def collate(self, examples: list[GalaxyExample]) -> GalaxyBatch:
        """Make a batch."""
        return collate_galaxies(examples)

    def card(self) -> Card:
        """Say what was simulated."""
        source = "parametric galaxies" if self.catalogue is None else f"galaxies of {Path(self.catalogue).name}"
        what = f"{source} as {self.survey.name} sees them, {self.survey.n} x {self.survey.n} pixels"
        snr = self.survey.snr
        return Card(
            summary=f"trained on {self.train:,} simulated {what}, SNR {snr.low:g} to {snr.high:g}",
            licence="BSD-3-Clause" if self.catalogue is None else "that of the catalogue",
            trained_on=(what,),
            validated_on=(what,),
            split="by galaxy",
            psf_sigma=self._psf_widths(),
        )

    def _psf_widths(self) -> tuple[float, ...]:
        shards = GalaxyShards(self.folder / "train")
        psf = torch.from_numpy(shards.read("psf", range(min(self.train, _SHARD))))
        return width_range(psf[:, None])

    def _galaxies(self) -> ParametricGalaxies | CatalogueGalaxies:
        if self.catalogue is None:
            return ParametricGalaxies()
        return CatalogueGalaxies(file=Path(self.catalogue), parametric=self.parametric)


class SimulatedStamps(Dataset[GalaxyExample]):
    """Stamps of a folder.

    Parameters
    ----------
    shards
        Where they are.
    count
        Take so many from the start; a folder may hold more.
    length
        Examples an epoch: epochs go through all stamps, one after the other.
    augment
        Turn and mirror by random numbers of (seed, epoch, index).
    seed
        Of them.
    """

    def __init__(self, shards: GalaxyShards, count: int, length: int, *, augment: bool, seed: int) -> None:
        self.shards, self.count, self.length, self.augment, self.seed = shards, count, length, augment, seed
        table = shards.catalogue[:count]
        self.sigma, self.sky = table["sigma"], table["sky"]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GalaxyExample:
        """Read a stamp, its sky taken off."""
        row = (self.epoch * self.length + index) % self.count
        observed, truth, psf = (
            torch.from_numpy(self.shards.read(name, [row])[0]) for name in ("observed", "truth", "psf")
        )
        example = GalaxyExample(
            y=observed - float(self.sky[row]),
            psf=psf,
            target=truth,
            sigma=float(self.sigma[row]),
            name=f"{self.shards.folder}[{row}]",
        )
        if not self.augment:
            return example
        draw = torch.randint(_SYMMETRIES, (), generator=child_generator(self.seed, self.epoch, index))
        return turned(example, int(draw))
