"""Slices of anatomy in white noise of any level: what the denoiser of a diffusion model is trained on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from recon.cards import Card
from recon.datasets.anatomy import Variation
from recon.datasets.random import child_generator
from recon.physics.denoising import Denoising
from recon.physics.errors import OptionError
from recon.training.data.base import VALIDATION_SEED, BatchData, check_apart
from recon.training.data.images import Anatomy, Draw, Mixture, planes_or_heads
from recon.training.task_batches import TaskBatch, measured
from recon.training.tasks import log_uniform, uniform

_LEVELS = (0.02, 0.1, 0.5)  # noise that is validated on
_POWER = 2.0  # weights that make all noise levels count alike [Karras et al. 2022, table 1]
_BRIGHT = (0.8, 1.25)  # factors of the images, so that a scale that is found in the data need not be exact


class DenoisingData(BatchData):
    r"""Magnitude slices, and slices with a phase as two channels, each batch of one kind, each image in its own noise.

    Levels are even in their logarithm. With the loss ``weighted_squared_error`` the weights are those of Karras et al.
    2022: about :math:`1/\sigma^2 + 1/s^2` for images of root mean square s.

    Parameters
    ----------
    volumes, validation_volumes
        Magnitude volumes of anatomy: files of MRI. Without any, simulated heads.
    weights
        How often each volume is drawn; evenly by default.
    variation
        How far images differ from the volumes.
    size
        Side of the images.
    sigma
        Least and greatest noise level, for images of magnitude 1.
    complex_share
        Share of batches of complex images.
    length
        Steps an epoch.
    validation_length
        Images that are validated on, for each level and kind.
    licence
        For the card of the weights.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the images and the noise.

    Raises
    ------
    OptionError
        Sizes or levels that cannot be used, volumes that are both trained and validated on.
    """

    def __init__(
        self,
        *,
        volumes: tuple[Path, ...] = (),
        validation_volumes: tuple[Path, ...] = (),
        weights: tuple[float, ...] | None = None,
        variation: Variation = Variation(),  # noqa: B008 - frozen
        size: int = 128,
        sigma: tuple[float, float] = (0.003, 20.0),
        complex_share: float = 0.5,
        length: int = 250,
        validation_length: int = 4,
        licence: str = "",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if (
            size < 32
            or min(length, validation_length) < 1
            or not 0 < sigma[0] <= sigma[1]
            or not 0 <= complex_share <= 1
        ):
            raise OptionError(
                "too little to train on",
                found=f"size {size}, sigma {sigma}, complex_share {complex_share:g}, length {length}",
                expected="32 pixels, positive levels, a share, a step at least",
            )
        check_apart(volumes, validation_volumes)
        if weights is not None and (len(weights) != len(volumes) or min(weights) < 0 or not sum(weights) > 0):
            raise OptionError("volumes need a weight each", found=weights, expected=f"{len(volumes)} weights")
        self.volumes, self.validation_volumes = tuple(volumes), tuple(validation_volumes)
        self.weights, self.variation = weights, variation
        self.size, self.sigma, self.complex_share = size, sigma, complex_share
        self.length, self.validation_length, self.licence = length, validation_length, licence

    @cached_property
    def images(self) -> dict[int, Draw]:
        """Images that are trained on, by their number of channels."""
        return _draws(self.volumes, self.weights, self.variation, self.size)

    def training_set(self) -> NoisySlices:
        """Return batches, new ones each epoch."""
        world = 1 if self.trainer is None else self.trainer.world_size
        return NoisySlices(
            self.images,
            length=self.length * world,
            batch=self.batch_size,
            size=self.size,
            sigma=self.sigma,
            complex_share=self.complex_share,
            seed=self.seed,
        )

    def validation_set(self) -> LevelSlices:
        """Return batches of each level and kind, always the same."""
        kinds = [c for c, share in ((1, 1 - self.complex_share), (2, self.complex_share)) if share > 0]
        images = _draws(self.validation_volumes, None, Variation(exact=1.0, curve=0.0), self.size)
        return LevelSlices({c: images[c] for c in kinds}, batch=self.validation_length, size=self.size)

    def card(self) -> Card:
        """Say which images the weights know."""
        return Card(
            summary=f"white noise from {self.sigma[0]:g} to {self.sigma[1]:g} of the magnitude",
            licence=self.licence,
            trained_on=tuple(Path(path).name for path in self.volumes) or ("simulated heads",),
            validated_on=tuple(Path(path).name for path in self.validation_volumes) or ("simulated heads",),
            split="by file",
        )


class NoisySlices(Dataset[TaskBatch]):
    """Batches; epoch and index determine one, whoever computes it.

    Parameters
    ----------
    images
        By number of channels.
    length
        Batches an epoch.
    batch
        Images a batch.
    size, sigma, complex_share, seed
        As of `DenoisingData`.
    """

    def __init__(
        self,
        images: dict[int, Draw],
        *,
        length: int,
        batch: int,
        size: int,
        sigma: tuple[float, float],
        complex_share: float,
        seed: int,
    ) -> None:
        self.images, self.length, self.batch, self.size = images, length, batch, size
        self.sigma, self.complex_share, self.seed = sigma, complex_share, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TaskBatch:
        """Draw images, levels and noise."""
        if not 0 <= index < self.length:
            raise IndexError(f"batch {index} of {self.length}")
        rng = child_generator(self.seed, self.epoch, index)
        draw = self.images[2 if uniform(rng) < self.complex_share else 1]
        sigma = [log_uniform(rng, *self.sigma) for _ in range(self.batch)]
        return _noisy(draw, torch.tensor(sigma), self.size, _BRIGHT, "denoising", rng)


class LevelSlices(Dataset[TaskBatch]):
    """Batches for validation: each kind of images at each level.

    Parameters
    ----------
    images
        By number of channels.
    batch
        Images of each.
    size
        As of `DenoisingData`.
    """

    def __init__(self, images: dict[int, Draw], *, batch: int, size: int) -> None:
        self.images, self.batch, self.size = images, batch, size
        self.rows = [(channels, level) for level in _LEVELS for channels in images]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TaskBatch:
        """Make the images of a row in its noise."""
        channels, level = self.rows[index]
        rng = child_generator(VALIDATION_SEED, index)
        sigma = torch.full((self.batch,), level)
        return _noisy(self.images[channels], sigma, self.size, (1.0, 1.0), f"noise {level:g}", rng)


def _noisy(
    draw: Draw,
    sigma: Float[Tensor, " b"],
    size: int,
    bright: tuple[float, float],
    task: str,
    rng: torch.Generator,
) -> TaskBatch:
    drawn = [draw(rng, (size, size)) for _ in range(len(sigma))]
    images = torch.stack([image * log_uniform(rng, *bright) for image, _ in drawn])
    return measured(
        images,
        Denoising(),
        images,
        sigma=sigma,
        task=task,
        names=tuple(name for _, name in drawn),
        power=_POWER,
        generator=rng,
    )


def _draws(
    volumes: tuple[Path, ...], weights: tuple[float, ...] | None, variation: Variation, size: int
) -> dict[int, Draw]:
    planes = planes_or_heads(volumes, weights, variation, size)
    return {c: Mixture([(1.0, Anatomy(planes, phase=c == 2))]) for c in (1, 2)}
