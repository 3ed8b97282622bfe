"""Sparse images and their random projections, drawn anew each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from recon.cards import Card
from recon.datasets.random import child_generator
from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections, noise_of_snr
from recon.physics.errors import OptionError
from recon.physics.matrix import MatrixOperator
from recon.training.data.base import VALIDATION_SEED, ExampleData
from recon.training.operator_batch import OperatorBatch


class SparseData(ExampleData):
    """Bernoulli-Gaussian images, seen through one Gaussian matrix and noise.

    Parameters
    ----------
    shape
        (y, x) of the images.
    measurements
        m, rows of the matrix.
    rate
        Share of the pixels that are not zero.
    snr
        Of the measurements, in dB.
    train, validation
        Images an epoch, and those validated on.
    matrix_seed
        Of the matrix.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of images and noise.

    Raises
    ------
    OptionError
        A size or rate that does not exist.
    """

    validation_batch = 64

    def __init__(
        self,
        *,
        shape: Sequence[int] = (15, 20),
        measurements: int = 150,
        rate: float = 0.1,
        snr: float = 30.0,
        train: int = 6400,
        validation: int = 256,
        matrix_seed: int = 0,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if len(shape) != 2 or min(*shape, measurements, train, validation) < 1:
            raise OptionError(
                "images have two sides, and there is at least one of each",
                found=f"shape {tuple(shape)}, measurements {measurements}, train {train}, validation {validation}",
            )
        h, w = shape
        self.rate, self.snr, self.train, self.validation = rate, snr, train, validation
        matrix = gaussian_projections(measurements, h * w, seed=matrix_seed)
        self.operator = MatrixOperator(matrix, (1, h, w))
        self.sigma = noise_of_snr(matrix, rate, snr)

    def training_set(self) -> SparseImages:
        """Return the images that are trained on, other ones each epoch."""
        return SparseImages(self.operator, self.rate, self.sigma, self.train, seed=self.seed)

    def validation_set(self) -> Dataset[SparseExample]:
        """Return the images that are validated on."""
        return SparseImages(self.operator, self.rate, self.sigma, self.validation, seed=self.seed + VALIDATION_SEED)

    def collate(self, examples: list[SparseExample]) -> OperatorBatch:
        """Make a batch."""
        y = torch.stack([example.y for example in examples])
        return OperatorBatch(
            y=y,
            target=torch.stack([example.target for example in examples]),
            operator=self.operator,
            sigma=torch.full((len(examples),), self.sigma, dtype=y.dtype),
            names=tuple(example.name for example in examples),
        )

    def card(self) -> Card:
        """Say what was drawn."""
        m, n = self.operator.matrix.shape
        what = f"Bernoulli-Gaussian images, rate {self.rate:g}, SNR {self.snr:g} dB, a {m} x {n} Gaussian matrix"
        return Card(
            summary=f"trained on {what}",
            licence="BSD-3-Clause",
            trained_on=(what,),
            validated_on=(what,),
            split="by seed",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseExample:
    """One image and its measurements, and a name for messages."""

    y: Float[Tensor, " m"]
    target: Float[Tensor, "1 y x"]
    name: str


class SparseImages(Dataset[SparseExample]):
    """Images and their measurements by (seed, epoch, index).

    Parameters
    ----------
    operator, rate, sigma
        Matrix, share of pixels that are not zero, and standard deviation of the noise.
    length
        Images an epoch.
    seed
        Of the random numbers.
    """

    def __init__(self, operator: MatrixOperator, rate: float, sigma: float, length: int, *, seed: int) -> None:
        self.operator, self.rate, self.sigma, self.length, self.seed = operator, rate, sigma, length, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SparseExample:
        """Draw an image and its noise."""
        generator = child_generator(self.seed, self.epoch, index)
        target: Tensor = bernoulli_gaussian(self.operator.img_size, self.rate, seed=generator)
        clean = self.operator.A(target[None])[0]
        noise = self.sigma * torch.randn(clean.shape, generator=generator)
        return SparseExample(y=clean + noise, target=target, name=f"sparse image {index} of epoch {self.epoch}")
