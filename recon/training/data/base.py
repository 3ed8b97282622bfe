"""What data modules share: sets of examples that depend on (seed, epoch, index) only, and loaders of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from recon.cards import Card
from recon.physics.errors import OptionError
from recon.training.batches import TrainingBatch
from recon.training.examples import collate

VALIDATION_SEED = 1_000_003  # what is simulated for validation comes from other random numbers than the training's


@runtime_checkable
class TrainingSet(Protocol):
    """Examples of one epoch after another."""

    def __len__(self) -> int:
        """Examples an epoch."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Make an example; the same one for the same epoch and index, in whatever process."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        ...


class EpochSampler(DistributedSampler):
    """Shuffles anew each epoch, shares the examples out among processes, and tells the set which epoch it is.

    Workers copy the set when an epoch starts, so that they must not outlive it.
    """

    def __init__(self, examples: TrainingSet, *, processes: int = 1, rank: int = 0, seed: int = 0) -> None:
        mapped: Any = examples  # a map-style set, if not by inheritance
        super().__init__(mapped, num_replicas=processes, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.examples = examples

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; Lightning calls this before each, and before a resumed one."""
        super().set_epoch(epoch)
        self.examples.set_epoch(epoch)


class ExampleData(LightningDataModule, ABC):
    """Loaders of a training and a validation set.

    Parameters
    ----------
    batch_size
        Examples a step and process. Examples of a batch must have one matrix.
    workers
        Processes that make examples.
    seed
        Of the order.

    Raises
    ------
    OptionError
        A batch size below 1.
    """

    validation_batch = 1  # so that matrices may differ

    def __init__(self, *, batch_size: int = 1, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise OptionError("a batch has at least one example", found=f"batch_size {batch_size}, workers {workers}")
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    @abstractmethod
    def training_set(self) -> TrainingSet:
        """Return the examples that are trained on."""

    @abstractmethod
    def validation_set(self) -> Dataset:
        """Return the examples that are validated on, always the same."""

    @abstractmethod
    def card(self) -> Card:
        """Return what the card of the weights should say of the data."""

    def collate(self, examples: list[Any]) -> TrainingBatch:
        """Make a batch of examples."""
        return collate(examples)

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """Return the loader of one process; half-filled batches are left out."""
        examples = self.training_set()
        needed = self.batch_size * (1 if self.trainer is None else self.trainer.world_size)
        if len(examples) < needed:
            raise OptionError(
                "an epoch has fewer examples than one step needs",
                found=len(examples),
                expected=f"at least batch_size x processes = {needed}",
            )
        return self.epoch_loader(examples, self.batch_size)

    def epoch_loader(
        self, examples: TrainingSet, batch_size: int, *, shuffle: bool = True
    ) -> DataLoader[TrainingBatch]:
        """Return the loader of this process's share of an epoch."""
        processes, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler = EpochSampler(examples, processes=processes, rank=rank, seed=self.seed)
        sampler.shuffle = shuffle
        if self.trainer is not None:  # Lightning starts a resumed run's workers before it tells the epoch
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        mapped: Any = examples
        return DataLoader(
            mapped,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=self.collate,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader[TrainingBatch]:
        """Return the loader."""
        return DataLoader(
            self.validation_set(),
            batch_size=self.validation_batch,
            num_workers=min(self.workers, 1),
            collate_fn=self.collate,
        )


class BatchData(ExampleData):
    """Loaders of sets whose items are whole batches, which have something in common: a task, a kind of image."""

    def collate(self, examples: list[Any]) -> TrainingBatch:
        """Return the one batch that there is."""
        batch: TrainingBatch = examples[0]
        return batch

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """Return the loader of one process; batches are random by themselves, and those of one step stay together."""
        return self.epoch_loader(self.training_set(), 1, shuffle=False)


def check_apart(trained: Iterable[Path], validated: Iterable[Path]) -> None:
    """Raise `OptionError` where a file or folder is both trained and validated on."""
    both = {Path(path).resolve() for path in trained} & {Path(path).resolve() for path in validated}
    if both:
        raise OptionError("sources that are both trained and validated on", found=", ".join(map(str, both)))
