"""Many tasks at once: every batch draws a task, an operator, noise and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import Dataset

from recon.cards import Card
from recon.datasets.anatomy import Variation
from recon.datasets.pictures import PICTURES
from recon.datasets.random import child_generator
from recon.physics.errors import OptionError
from recon.training.data.base import VALIDATION_SEED, BatchData, check_apart
from recon.training.data.images import (
    Anatomy,
    Draw,
    Mixture,
    Photographs,
    decoded,
    image_files,
    planes_or_heads,
    read_attenuation,
)
from recon.training.task_batches import TaskBatch, measured
from recon.training.tasks import TASKS, draw_noise

VALIDATION_PICTURES = ("cat", "coffee", "coins")
"""Of scikit-image's pictures, those that are not trained on."""
_TASK, _BATCH = range(2)  # what each child generator is for


class TaskData(BatchData):
    """Images of several sources, measured by the operators of several tasks.

    A batch has one task; in a step all processes have the same, so that none waits for another. Without any file it
    trains on scikit-image's photographs and simulated heads.

    Parameters
    ----------
    folders, validation_folders
        Of photographs (folders of LSDIR, Flickr2K, BSD ...), with what is under them.
    volumes, validation_volumes
        Magnitude volumes of anatomy: files of MRI.
    ct, validation_ct
        Slices of CT in Hounsfield units, DICOM say.
    pictures
        Also take scikit-image's photographs.
    tasks
        How often each is drawn, by the names in `recon.training.tasks.TASKS`; evenly by default.
    size
        Side of the images, a multiple of 12 makes all factors of super-resolution possible.
    validation_size
        Of those that are validated on.
    length
        Steps an epoch, of each process.
    validation_length
        Batches that each task is validated on.
    power
        Of the weights in ``weighted_l1``; see `recon.training.task_batches.measured`.
    licence
        For the card of the weights.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of the images, operators and noise.

    Raises
    ------
    OptionError
        Tasks that do not exist, sizes that are too small, sources that are both trained and validated on.
    DataError
        Folders without images, files that are none.
    """

    def __init__(
        self,
        *,
        folders: tuple[Path, ...] = (),
        validation_folders: tuple[Path, ...] = (),
        volumes: tuple[Path, ...] = (),
        validation_volumes: tuple[Path, ...] = (),
        ct: tuple[Path, ...] = (),
        validation_ct: tuple[Path, ...] = (),
        pictures: bool = True,
        tasks: Mapping[str, float] | None = None,
        size: int = 120,
        validation_size: int = 144,
        length: int = 200,
        validation_length: int = 2,
        power: float = 1.0,
        licence: str = "",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        chosen = dict.fromkeys(TASKS, 1.0) if tasks is None else dict(tasks)
        unknown = [name for name in chosen if name not in TASKS]
        if unknown or not chosen or min(chosen.values()) < 0 or not sum(chosen.values()) > 0:
            raise OptionError("tasks need weights", found=unknown or chosen, expected=f"some of {', '.join(TASKS)}")
        if min(size, validation_size) < 32 or min(length, validation_length) < 1 or power < 0:
            raise OptionError(
                "too little to train on",
                found=f"size {size}, validation_size {validation_size}, length {length}, power {power:g}",
                expected="32 pixels and a step at least",
            )
        for trained, validated in ((folders, validation_folders), (volumes, validation_volumes), (ct, validation_ct)):
            check_apart(trained, validated)
        if not (pictures or folders):
            raise OptionError("no photographs to train on", cure="Give folders, or pictures: true")
        self.sources = (tuple(folders), tuple(volumes), tuple(ct))
        self.validation_sources = (tuple(validation_folders), tuple(validation_volumes), tuple(validation_ct))
        self.pictures, self.tasks, self.power, self.licence = pictures, chosen, power, licence
        self.size, self.validation_size = size, validation_size
        self.length, self.validation_length = length, validation_length

    @cached_property
    def images(self) -> dict[str, Mixture]:
        """Images that are trained on, by kind."""
        return _mixtures(*self.sources, self._trained_pictures(), self.size)

    def training_set(self) -> TaskBatches:
        """Return batches, new ones each epoch."""
        world = 1 if self.trainer is None else self.trainer.world_size
        return TaskBatches(
            self.images,
            self.tasks,
            length=self.length * world,
            together=world,
            batch=self.batch_size,
            size=self.size,
            power=self.power,
            seed=self.seed,
        )

    def validation_set(self) -> TaskBatches:
        """Return batches of each task in turn, always the same."""
        folders, volumes, ct = self.validation_sources
        images = _mixtures(folders, volumes, ct, list(VALIDATION_PICTURES), self.validation_size)
        tasks = [name for name, weight in self.tasks.items() if weight > 0]
        return TaskBatches(
            images,
            self.tasks,
            length=len(tasks) * self.validation_length,
            order=tasks,
            batch=2,
            size=self.validation_size,
            power=self.power,
            seed=VALIDATION_SEED,
        )

    def card(self) -> Card:
        """Say which images and tasks the weights know."""

        def told(sources: tuple[tuple[Path, ...], ...], pictures: Sequence[str]) -> tuple[str, ...]:
            named = tuple(Path(path).name for paths in sources for path in paths)
            return (*named, *(f"skimage.data.{name}" for name in pictures))

        return Card(
            summary=f"trained on {', '.join(name for name, weight in self.tasks.items() if weight > 0)}",
            licence=self.licence,
            trained_on=told(self.sources, self._trained_pictures()),
            validated_on=told(self.validation_sources, VALIDATION_PICTURES),
            split="by file",
        )

    def _trained_pictures(self) -> list[str]:
        return [name for name in PICTURES if name not in VALIDATION_PICTURES] if self.pictures else []


class TaskBatches(Dataset[TaskBatch]):
    """Batches; epoch and index determine one, whoever computes it.

    Parameters
    ----------
    images
        By kind.
    tasks
        How often each is drawn.
    length
        Batches an epoch.
    together
        So many batches, one after the other, have the same task: those of the processes in one step.
    order
        Tasks in turn, instead of at random.
    batch
        Images a batch.
    size, power, seed
        As for `TaskData`.

    Raises
    ------
    OptionError
        A task that is drawn, and no images of any of its kinds.
    """

    def __init__(
        self,
        images: Mapping[str, Mixture],
        tasks: Mapping[str, float],
        *,
        length: int,
        together: int = 1,
        order: list[str] | None = None,
        batch: int,
        size: int,
        power: float,
        seed: int,
    ) -> None:
        idle = [name for name, weight in tasks.items() if weight > 0 and not set(TASKS[name].images) & set(images)]
        if idle:
            raise OptionError(
                f"no images for {', '.join(idle)}", found=list(images), cure="Give colour photographs, or other tasks"
            )
        self.images, self.names, self.length, self.together = images, list(tasks), length, together
        self.weights = torch.tensor(list(tasks.values()), dtype=torch.float64)
        self.order, self.batch, self.size, self.power, self.seed = order, batch, size, power, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def task(self, index: int) -> str:
        """Return the name of a batch's task."""
        if self.order is not None:
            return self.order[index % len(self.order)]
        rng = child_generator(self.seed, _TASK, self.epoch, index // self.together)
        return self.names[int(torch.multinomial(self.weights, 1, generator=rng))]

    def __getitem__(self, index: int) -> TaskBatch:
        """Draw operator, images and noise."""
        if not 0 <= index < self.length:
            raise IndexError(f"batch {index} of {self.length}")
        name = self.task(index)
        task, rng = TASKS[name], child_generator(self.seed, _BATCH, self.epoch, index)
        kinds = [kind for kind in task.images if kind in self.images]
        draw = self.images[kinds[int(torch.randint(len(kinds), (), generator=rng))]]
        drawn = [draw(rng, (self.size, self.size)) for _ in range(self.batch)]
        images = torch.stack([image for image, _ in drawn])
        operator = task.operator(self.batch, (images.shape[1], images.shape[2], images.shape[3]), rng)
        exact = operator.A(images)
        sigma, gain = draw_noise(task, exact, rng)
        return measured(
            images,
            operator,
            exact,
            sigma=sigma,
            gain=gain,
            task=name,
            names=tuple(source for _, source in drawn),
            power=self.power,
            generator=rng,
        )


def _mixtures(
    folders: tuple[Path, ...], volumes: tuple[Path, ...], ct: tuple[Path, ...], pictures: list[str], side: int
) -> dict[str, Mixture]:
    """Images by kind: a half photographs and a half anatomy where both make sense."""
    files: list[Path] = image_files(folders)
    some = files[:: max(len(files) // 32, 1)]  # enough to see whether a folder holds colours
    coloured = files if any(len(decoded(path)) == 3 for path in some) else []
    of_pictures = [name for name in pictures if len(decoded(name)) == 3]
    planes = planes_or_heads(volumes, None, Variation(), side)
    grey: list[tuple[float, Draw]] = [(0.3, Anatomy(planes, phase=False))]
    if pictures:
        grey.append((0.3, Photographs(pictures, colour=False)))
    if files:
        grey.append((0.6, Photographs(files, colour=False)))
    mixtures = {"grey": Mixture(grey), "complex": Mixture([(1.0, Anatomy(planes, phase=True))])}
    if coloured or of_pictures:
        mixtures["colour"] = Mixture([(1.0, Photographs([*of_pictures, *coloured], colour=True))])
    mixtures["attenuation"] = Mixture([(1.0, read_attenuation(ct))]) if ct else Mixture(grey[:1])
    return mixtures
