"""Training without any data: random heads, coils, noise and masks, made while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recon.cards import Card, Covers
from recon.datasets.random import child_generator
from recon.datasets.simulate import simulate_mri
from recon.physics.errors import OptionError
from recon.physics.fft import fft_centred
from recon.training.data.base import ExampleData
from recon.training.data.phantoms import random_head
from recon.training.examples import Example, make_example

MASKS = ("poisson", "gaussian", "random", "equispaced_fraction")
_TRAINING, _VALIDATION = range(2)
_CENTRES = {"poisson": 0.125, "gaussian": 0.125}  # sides of the fully sampled block; lines have fastMRI's


class SimulatedSlices(Dataset):
    """Slices that depend on (seed, part, epoch, index) only.

    Parameters
    ----------
    length
        Examples an epoch.
    matrix
        (y, x).
    coils, acceleration, snr
        Least and greatest.
    masks
        Names of masks to draw from.
    seed, part
        Part 0 is trained on, part 1 validated.
    """

    def __init__(
        self,
        length: int,
        matrix: tuple[int, int],
        *,
        coils: tuple[int, int],
        acceleration: tuple[float, float],
        snr: tuple[float, float],
        masks: Sequence[str],
        seed: int,
        part: int,
    ) -> None:
        self.length, self.matrix, self.masks = length, matrix, tuple(masks)
        self.coils, self.acceleration, self.snr = coils, acceleration, snr
        self.seed, self.part, self.epoch = seed, part, 0

    def __len__(self) -> int:
        """Examples an epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, which has its own slices."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Example:
        """Simulate a slice."""
        rng = child_generator(self.seed, self.part, self.epoch, index)
        coils = int(torch.randint(self.coils[0], self.coils[1] + 1, (), generator=rng))
        mask = self.masks[int(torch.randint(len(self.masks), (), generator=rng))]
        simulation = simulate_mri(
            random_head(self.matrix, rng),
            coils=coils,
            snr=_between(self.snr, rng),
            mask=mask,
            acceleration=_between(self.acceleration, rng),
            center=_CENTRES.get(mask),
            seed=int(torch.randint(2**31, (), generator=rng)),
        )
        images = torch.from_numpy(np.asarray(simulation.coil_maps[0] * simulation.truth[0]))
        assert simulation.scan.mask is not None
        return make_example(
            torch.from_numpy(np.asarray(simulation.scan.kspace[0])),
            torch.from_numpy(np.asarray(simulation.scan.mask)).expand(self.matrix),
            target=fft_centred(images, (-2, -1)),
            sigma=simulation.sigma,
            name=f"head {self.part}-{self.epoch}-{index}, {coils} coils, {mask}",
        )


class SimulatedData(ExampleData):
    """Random heads seen by random coils; needs no file.

    Parameters
    ----------
    matrix
        (y, x) of all slices.
    examples
        Slices an epoch; every epoch has new ones.
    validation
        Slices that are validated on.
    coils, acceleration, snr
        Least and greatest number of coils, acceleration and signal-to-noise ratio (as in `simulate_mri`).
    masks
        Names of the masks.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the slices.

    Raises
    ------
    OptionError
        A range that is none, an epoch without examples, a mask that does not exist.
    """

    def __init__(
        self,
        *,
        matrix: tuple[int, int] = (96, 96),
        examples: int = 200,
        validation: int = 8,
        coils: tuple[int, int] = (4, 8),
        acceleration: tuple[float, float] = (3.0, 8.0),
        snr: tuple[float, float] = (10.0, 40.0),
        masks: tuple[str, ...] = MASKS,
        batch_size: int = 2,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        for name, (low, high) in {"coils": coils, "acceleration": acceleration, "snr": snr}.items():
            if not 0 < low <= high:
                raise OptionError(f"{name} is a range from least to greatest", found=(low, high))
        unknown = [mask for mask in masks if mask not in MASKS]
        if unknown or not masks:
            raise OptionError("no such masks", found=unknown, expected=f"some of {', '.join(MASKS)}")
        if min(examples, validation) < 1 or min(matrix) < 32:
            raise OptionError(
                "too little to train on",
                found=f"examples {examples}, validation {validation}, matrix {tuple(matrix)}",
                expected="at least 1 example, 1 for validation, and 32 x 32 pixels",
            )
        self.matrix = (matrix[0], matrix[1])
        self.examples, self.validation, self.masks = examples, validation, masks
        self.coils, self.acceleration, self.snr = coils, acceleration, snr

    def training_set(self) -> SimulatedSlices:
        """Return heads, new ones each epoch."""
        return self._slices(self.examples, _TRAINING)

    def validation_set(self) -> SimulatedSlices:
        """Return other heads, always the same."""
        return self._slices(self.validation, _VALIDATION)

    def card(self) -> Card:
        """Say that nothing here is real."""
        return Card(
            summary="trained on simulated heads only, to try things out; not for real scans",
            licence="BSD-3-Clause",
            trained_on=("simulated heads",),
            validated_on=("simulated heads",),
            split="every head is drawn anew",
            covers=Covers(
                organs=("simulated head",),
                coils=self.coils,
                acceleration=self.acceleration,
                matrix=(min(self.matrix), max(self.matrix)),
            ),
        )

    def _slices(self, length: int, part: int) -> SimulatedSlices:
        return SimulatedSlices(
            length,
            self.matrix,
            coils=self.coils,
            acceleration=self.acceleration,
            snr=self.snr,
            masks=self.masks,
            seed=self.seed,
            part=part,
        )


def _between(limits: tuple[float, float], rng: torch.Generator) -> float:
    value: Tensor = torch.rand((), generator=rng)
    return limits[0] + (limits[1] - limits[0]) * float(value)
