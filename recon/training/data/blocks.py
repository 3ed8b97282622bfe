"""Blocks of images and the random matrices that measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recon.cards import Card
from recon.datasets.pictures import PICTURES
from recon.datasets.random import child_generator
from recon.datasets.readers.matlab import real_matrices
from recon.models.unrolled import UnrolledReconstructor
from recon.physics import BlockCompressedSensing
from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.physics.measurement_matrices import gaussian_matrix, measurements_at
from recon.training.batches import TrainingBatch
from recon.training.data.base import ExampleData
from recon.training.data.images import decoded, image_files
from recon.training.operator_batch import OperatorBatch

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in YCbCr
_POSITIONS, _DRAWS = 1, 2  # children of the seed; 0 is the matrix of `recon simulate cs`
_LARGEST = 6  # blocks along the sides of images that are validated on
_PIECE, _MOMENT = 4096, 32_768  # blocks that are multiplied at once, and in all for their second moment


class BlockData(ExampleData):
    """Single blocks, each batch measured by one matrix: the same, or one out of many.

    The blocks are a fixed number of places in the images, drawn once, as the papers have 88,912; they are cut when they
    are asked for. Where the network starts from a linear estimate, it is fitted to them before training.

    Parameters
    ----------
    images
        Folders of pictures, or one MATLAB file with blocks in the rows of ``labels`` (ISTA-Net's Training_Data.mat).
        None: the photographs that come with scikit-image.
    ratios
        Of measurements to pixels; several: drawn for each batch.
    matrices
        For each ratio. 1: the matrix that ``recon simulate cs`` makes with ``matrix_seed``, and linear estimates are
        fitted to. More, or several ratios: a bank, one matrix of which is drawn for each batch, and networks start from
        the adjoint (COAST has 25, R-COAST 50).
    block
        Side of a block in pixels.
    blocks
        Places in all.
    share
        Part of these that is trained on: 0.03 for the papers' scarce data. An epoch is as long as with all.
    rounding
        Of measurements to whole ones, as in `recon.physics.compressed_sensing.measurements_at`.
    validation
        Pictures, the last ones, that are kept apart; of a MATLAB file, 1 in 100 blocks is.
    matrix_seed
        Of the matrices.
    length
        Blocks an epoch; None: all.
    batch_size, workers, seed
        As in `ExampleData`; the seed is also that of places and draws.

    Raises
    ------
    OptionError
        No such ratio or share, fewer than one matrix or block.
    DataError, FileFormatError
        No pictures, or none as large as a block; a MATLAB file without blocks of this size.
    """

    def __init__(
        self,
        images: list[str] | None = None,
        *,
        ratios: Sequence[float] = (0.25,),
        matrices: int = 1,
        block: int = 33,
        blocks: int = 88_912,
        share: float = 1.0,
        rounding: str = "half-up",
        validation: int = 2,
        matrix_seed: int = 0,
        length: int | None = None,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if min(matrices, block, blocks, validation) < 1 or not 0 < share <= 1 or not ratios:
            raise OptionError(
                "too little to train on",
                found=f"matrices {matrices}, block {block}, blocks {blocks}, share {share:g}, validation {validation}",
                expected="1 or more each, a share above 0 and at most 1, and a ratio",
            )
        self.measurements = [measurements_at(ratio, block**2, rounding) for ratio in ratios]
        self.images = None if images is None else [Path(path) for path in images]
        self.ratios, self.matrices, self.block, self.blocks, self.share = ratios, matrices, block, blocks, share
        self.validation, self.matrix_seed = validation, matrix_seed
        self.length = blocks if length is None else length
        self._operators: dict[tuple[int, int, tuple[int, int]], BlockCompressedSensing] = {}

    @cached_property
    def pictures(self) -> Pictures:
        """What is trained on, and what is validated on."""
        if self.images is not None and self.images[0].suffix.lower() == ".mat":
            return _stored(self.images[0], self.block)
        names: Sequence[Path | str] = PICTURES if self.images is None else image_files(self.images)
        return _decoded(names, self.block, self.validation)

    @property
    def fixed(self) -> bool:
        """Whether there is one matrix only."""
        return self.matrices == 1 and len(self.ratios) == 1

    def setup(self, stage: str) -> None:
        """Fit the linear estimate that a network starts from, where it has none yet."""
        module = None if self.trainer is None else self.trainer.lightning_module
        network: Any = getattr(module, "network", None)
        if stage != "fit" or not self.fixed or not isinstance(network, UnrolledReconstructor):
            return
        if network.linear_start and network.initial is None:
            network.fit_start(self.matrix(0, 0), self.training_set().second_moment())

    def matrix(self, ratio: int, number: int) -> Float[Tensor, "m n"]:
        """Make a matrix of the bank, by the number of its ratio and its own; beyond the last are further ones."""
        m, n = self.measurements[ratio], self.block**2
        return gaussian_matrix(m, n, child_generator(self.matrix_seed, 0, *((ratio, number) if not self.fixed else ())))

    def operator(self, ratio: int, number: int, size: tuple[int, int]) -> BlockCompressedSensing:
        """Return the operator of a matrix for images of a size; made once."""
        key = (ratio, number, size)
        if key not in self._operators:
            operator = BlockCompressedSensing(self.matrix(ratio, number), size, (self.block, self.block))
            assert operator.sqnorm > 0  # known from here on
            self._operators[key] = operator
        return self._operators[key]

    def training_set(self) -> Blocks:
        """Return the places that are trained on."""
        seen = max(1, round(self.share * self.blocks))
        return Blocks(self.pictures.training, self.block, self.blocks, seen, length=self.length, seed=self.seed)

    def validation_set(self) -> Dataset[tuple[Tensor, int, str]]:
        """Return the images that are validated on, each at each ratio."""
        return _Measured(self.pictures.validation, len(self.ratios))

    def collate(self, examples: list[Cut]) -> TrainingBatch:
        """Measure blocks by one matrix, drawn by the epoch and the first of them."""
        first = examples[0]
        rng = child_generator(self.seed, _DRAWS, first.epoch, first.index)
        ratio = int(torch.randint(len(self.ratios), (), generator=rng))
        number = int(torch.randint(self.matrices, (), generator=rng))
        target = torch.stack([example.pixels for example in examples])[:, None]
        names = tuple(example.name for example in examples)
        return _measured(target, self.operator(ratio, number, (self.block, self.block)), names)

    def val_dataloader(self) -> DataLoader[TrainingBatch]:
        """Return the loader of images; their matrix is the one, or for a bank one that is not in it."""
        mapped: Any = self.validation_set()
        return DataLoader(mapped, batch_size=1, collate_fn=self._validated)

    def card(self) -> Card:
        """Say what was cut and how it was measured."""
        source = "scikit-image's photographs" if self.images is None else ", ".join(path.name for path in self.images)
        ratios = ", ".join(f"{100 * ratio:g}" for ratio in self.ratios)
        what = "one Gaussian matrix" if self.fixed else f"{self.matrices} Gaussian matrices for each ratio"
        return Card(
            summary=f"trained on {round(self.share * self.blocks):,} blocks of {self.block} x {self.block} pixels of "
            f"{source}, measured at {ratios} % by {what} (seed {self.matrix_seed})",
            licence="BSD-3-Clause" if self.images is None else "that of the images",
            trained_on=(source,),
            validated_on=(source,),
            split="by picture" if self.pictures.whole else "by block",
        )

    def _validated(self, examples: list[tuple[Tensor, int, str]]) -> OperatorBatch:
        ((image, ratio, name),) = examples
        size = (int(image.shape[0]), int(image.shape[1]))
        operator = self.operator(ratio, 0 if self.fixed else self.matrices, size)
        return _measured(image[None, None], operator, (name,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A block of an epoch."""

    pixels: Float[Tensor, "h w"]
    epoch: int
    index: int
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Grey pictures ``(y, x)`` from 0 to 1, and whether they are more than blocks."""

    training: Sequence[Tensor]
    validation: Sequence[Tensor]
    whole: bool


class Blocks(Dataset[Cut]):
    """Places in pictures, each picture as often as it has room; pictures that are blocks one after the other.

    Parameters
    ----------
    pictures
        ``(y, x)``, none of a side below that of a block.
    block
        Side.
    count
        Places.
    seen
        How many of them are used, the first.
    length
        Blocks an epoch: epochs go through the places again and again.
    seed
        Of the places.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        block: int,
        count: int,
        seen: int,
        *,
        length: int,
        seed: int,
    ) -> None:
        self.pictures, self.block, self.count, self.length = pictures, block, seen, length
        rng = child_generator(seed, _POSITIONS)
        room = torch.tensor([(x.shape[0] - block + 1, x.shape[1] - block + 1) for x in pictures])
        area = room.prod(1)
        if int(area.max()) == 1:
            self.which = torch.arange(count) % len(pictures)
        else:
            self.which = torch.multinomial(area.double(), count, replacement=True, generator=rng)
        where = torch.rand(count, 2, dtype=torch.float64, generator=rng) * room[self.which]
        self.where: Int[Tensor, "count 2"] = where.long()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Cut:
        """Cut a block."""
        place = (self.epoch * self.length + index) % self.count
        return Cut(pixels=self._cut(place), epoch=self.epoch, index=index, name=f"block {place}")

    def second_moment(self) -> Float[Tensor, "pixels pixels"]:
        """Mean of :math:`x x^T` over the places, at most 32,768 of them."""
        count = min(self.count, _MOMENT)
        total = torch.zeros(self.block**2, self.block**2, dtype=torch.float64)
        for places in torch.arange(count).split(_PIECE):
            x = torch.stack([self._cut(int(place)) for place in places]).flatten(1)
            total += x.mT @ x
        return total / count

    def _cut(self, place: int) -> Float[Tensor, "h w"]:
        y, x = self.where[place].tolist()
        return self.pictures[int(self.which[place])][y : y + self.block, x : x + self.block]


class _Measured(Dataset[tuple[Tensor, int, str]]):
    """Pictures at each ratio."""

    def __init__(self, pictures: Sequence[Tensor], ratios: int) -> None:
        self.pictures, self.ratios = pictures, ratios

    def __len__(self) -> int:
        return len(self.pictures) * self.ratios

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        place, ratio = divmod(index, self.ratios)
        return self.pictures[place], ratio, f"picture {place}"


def _measured(
    target: Float[Tensor, "b 1 y x"], operator: BlockCompressedSensing, names: tuple[str, ...]
) -> OperatorBatch:
    """Measure images without noise."""
    sigma = target.new_zeros(len(target))
    return OperatorBatch(y=operator.A(target), target=target, operator=operator, sigma=sigma, names=names)


def _decoded(names: Sequence[Path | str], block: int, kept: int) -> Pictures:
    """Read pictures, without those smaller than a block; of those for validation the middle is kept."""
    grey = [_luminance(decoded(name)) for name in names]
    large = [x for x in grey if min(x.shape) >= block]
    if len(large) <= kept:
        raise DataError("not enough pictures", found=f"{len(large)} as large as a block", expected=f"more than {kept}")
    return Pictures(
        training=large[:-kept], validation=[_middle(x, _LARGEST * block) for x in large[-kept:]], whole=True
    )


def _stored(path: Path, block: int) -> Pictures:
    """Read blocks from a MATLAB file; every hundredth, and the first, is validated on."""
    rows = real_matrices(path, ["labels"]).get("labels")
    if rows is None or rows.shape[1] != block**2 or len(rows) < 2:
        raise FileFormatError(
            "the file has no blocks of this size",
            file=path,
            found="no labels" if rows is None else "labels of " + " x ".join(map(str, rows.shape)),
            expected=f"labels, n x {block**2}",
        )
    pixels = torch.from_numpy(rows).unflatten(1, (block, block))
    validated = torch.arange(len(pixels)) % 100 == 0
    return Pictures(training=list(pixels[~validated]), validation=list(pixels[validated]), whole=False)


def _luminance(x: Float[Tensor, "c y x"]) -> Float[Tensor, "y x"]:
    return x[0] if len(x) == 1 else torch.einsum("c,cyx->yx", x.new_tensor(_GREY), x)


def _middle(x: Float[Tensor, "y x"], largest: int) -> Float[Tensor, "yy xx"]:
    rows, columns = ((n - min(n, largest)) // 2 for n in x.shape)
    return x[rows : rows + largest, columns : columns + largest].contiguous()
