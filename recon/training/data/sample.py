"""Training without any data: random heads, coils, noise and masks, made while training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon.cards import Card, Covers
from recon.physics.errors import OptionError
from recon.training.data.base import VALIDATION_SEED, ExampleData
from recon.training.data.phantoms import random_head
from recon.training.data.simulated import Acquisition, SimulatedScans

_ACQUISITION = Acquisition(coils=(4, 8), acceleration=(3.0, 8.0), line_acceleration=(3.0, 8.0), calibration=(10, 14))


class Heads:
    """Draws heads of one matrix."""

    def __init__(self, matrix: tuple[int, int]) -> None:
        self.matrix = matrix

    def __call__(self, generator: torch.Generator) -> tuple[Float[Tensor, "y x"], str]:
        """Return a head that never was."""
        head = random_head(self.matrix, generator)
        return head / head.max(), "simulated head"


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
    acquisition
        How scans differ.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the slices.

    Raises
    ------
    OptionError
        An epoch without examples, a matrix too small.
    """

    def __init__(
        self,
        *,
        matrix: tuple[int, int] = (96, 96),
        examples: int = 200,
        validation: int = 8,
        acquisition: Acquisition = _ACQUISITION,
        batch_size: int = 2,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if min(examples, validation) < 1 or min(matrix) < 32:
            raise OptionError(
                "too little to train on",
                found=f"examples {examples}, validation {validation}, matrix {tuple(matrix)}",
                expected="at least 1 example, 1 for validation, and 32 x 32 pixels",
            )
        self.matrix = (matrix[0], matrix[1])
        self.examples, self.validation, self.acquisition = examples, validation, acquisition

    def training_set(self) -> SimulatedScans:
        """Return heads, new ones each epoch."""
        return self._scans(self.examples, self.seed)

    def validation_set(self) -> SimulatedScans:
        """Return other heads, always the same."""
        return self._scans(self.validation, VALIDATION_SEED)

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
                coils=self.acquisition.coils,
                acceleration=self.acquisition.accelerations,
                matrix=(min(self.matrix), max(self.matrix)),
            ),
        )

    def _scans(self, length: int, seed: int) -> SimulatedScans:
        return SimulatedScans(
            Heads(self.matrix), length=length, acquisition=self.acquisition, seed=seed, matrix=self.matrix
        )
