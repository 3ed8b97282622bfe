"""From files, folders, scans or batches to the sets of examples that are forgotten and kept."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets import Image, Scan
from recon.datasets import open as open_file
from recon.datasets.anatomy import Volume, as_volume
from recon.datasets.folders import is_companion, natural_order
from recon.datasets.random import child_generator
from recon.datasets.scan import evenly_spread, wanted_slices
from recon.datasets.tensors import TensorBatch
from recon.hashing import tensor_bytes
from recon.physics.errors import DataError, FileFormatError, OptionError
from recon.physics.layout import to_complex
from recon.training.batches import TrainingBatch
from recon.training.data.index import without_holes
from recon.training.data.simulated import Acquisition, SimulatedScans, fitted
from recon.training.data.slices import Sampling, example_of_slice
from recon.training.examples import PEAK, Batch, Example, collate
from recon.unlearning.examples import Examples, Item, item_of
from recon.volumes import as_slices

_MEMORY = 4 * 2**30  # bytes of examples that are kept; further ones are made again when they are needed
_MULTIPLE = 8  # sides of planes of a volume become multiples of it
_SIGNAL = 0.05  # planes that are darker are left out, as in training


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How examples are made of data.

    Parameters
    ----------
    sampling
        How fully sampled k-space is undersampled.
    acquisition
        How scans of magnitude volumes are simulated.
    matrix
        Crop full k-space and volumes, or add air, to this (y, x); None: as they are, sides of volumes rounded to
        multiples of 8.
    slices
        Only these slices of each file (of volumes: planes across the slice axis); None: all, and of nearly isotropic
        volumes the planes across every axis, as networks are trained on them.
    most
        Examples of a file at most, evenly spread.
    seed
        Of masks, coils, phase and noise; an example gets the same whatever else is in the set.
    device
        Where batches go.
    """

    sampling: Sampling = field(default_factory=Sampling)
    acquisition: Acquisition = field(default_factory=Acquisition)
    matrix: tuple[int, int] | None = None
    slices: tuple[int, ...] | None = None
    most: int | None = None
    seed: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise OptionError("at least one example of a file is needed", found=self.most)
        if self.matrix is not None and min(self.matrix) < 16:
            raise OptionError("a matrix of so few pixels", found=self.matrix, expected="16 x 16 or more")


_STANDARD = Reading()


@dataclass
class Room:
    """Bytes that are left for examples that are kept."""

    left: int

    def take(self, size: int) -> bool:
        """Whether there was room, which is then taken."""
        fits = size <= self.left
        self.left -= size * fits
        return fits


class Deferred:
    """An example that is made when it is first needed."""

    def __init__(self, make: Callable[[], Example], room: Room) -> None:
        self._make, self._room = make, room
        self._kept: Example | None = None

    def __call__(self) -> Example:
        """Make it, or return it where it was kept."""
        if self._kept is not None:
            return self._kept
        made = self._make()
        tensors = (made.y, made.mask, made.coil_maps, made.target)
        if self._room.take(sum(x.nbytes for x in tensors if x is not None)):
            self._kept = made
        return made


@dataclass(frozen=True, eq=False)
class Row:
    """One example of a batch that came as it is."""

    batch: TensorBatch
    index: int


def examples_of(data: Any, *, how: Reading = _STANDARD) -> Examples:
    """Return the examples that a user means, with the SHA-256 of each, and of each file that is whole in it.

    Examples of files are made when they are first needed.

    Parameters
    ----------
    data
        Files or folders: fully sampled k-space, which is undersampled by masks that the seed draws, and has a target;
        k-space that was undersampled when it was acquired, which keeps its mask and has none; magnitude volumes
        (NIfTI, DICOM, images), of which scans are simulated as in training. Or `Scan`, `Image`, `Example`, batches of
        examples, `Examples`; or a list of any of these.
    how
        Masks, simulation, matrix, seed.

    Raises
    ------
    OptionError
        Data of which nothing is known; a slice that does not exist.
    FileFormatError, DataError, ShapeError
        A file that is damaged, holds neither k-space nor images, or is empty. Files of a folder that are of no known
        format, and slices without signal, are left out with a warning.
    """
    if isinstance(data, Examples):
        return data
    room, items, files = Room(_MEMORY), list[Item](), dict[str, str]()
    for content, name in _contents(data):
        found, sha = _items_of(content, name, how, room)
        items += found
        if sha is not None and how.slices is None:
            files[name] = sha
    return Examples(items, collate=partial(collate_contents, device=how.device), files=files)


def collate_contents(contents: Sequence[Any], *, device: torch.device | str = "cpu") -> TrainingBatch:
    """Make a batch of examples, made or not, or of rows of one batch."""
    if isinstance(contents[0], Row):
        return rows(contents[0].batch, [row.index for row in contents]).to(device)
    return collate([one() if isinstance(one, Deferred) else one for one in contents]).to(device)


def rows(batch: TensorBatch, indices: Sequence[int]) -> Any:
    """Return some of the rows of a batch; what does not belong to single rows is shared."""
    count, chosen = len(batch), list(indices)
    values: dict[str, Any] = {}
    for entry in fields(batch):
        value = getattr(batch, entry.name)
        if isinstance(value, Tensor) and value.ndim and len(value) == count:
            values[entry.name] = value[chosen]
        elif isinstance(value, tuple) and len(value) == count:
            values[entry.name] = tuple(value[i] for i in chosen)
    return replace(batch, **values)


@dataclass(frozen=True)
class _File:
    path: Path
    folder: Path | None  # in which it was found

    @property
    def name(self) -> str:
        return self.path.name if self.folder is None else self.path.relative_to(self.folder).as_posix()


def _contents(data: Any) -> Iterator[tuple[Any, str]]:
    """Go through lists and folders; files are opened, and named so that no two have the same name."""
    taken: dict[str, Path] = {}
    for one in _flat(data):
        if not isinstance(one, _File):
            yield one, ""
            continue
        name = one.name if taken.setdefault(one.name, one.path) == one.path else str(one.path)
        try:
            yield open_file(one.path), name
        except FileFormatError as error:
            if one.folder is None or error.problem != "no known format":
                raise
            warnings.warn(f"left out: {error}", stacklevel=4)


def _flat(data: Any) -> Iterator[Any]:
    if isinstance(data, str | Path):
        path = Path(data)
        if not path.is_dir():
            yield _File(path, None)
            return
        inside = sorted(path.rglob("*"), key=lambda p: natural_order(p.relative_to(path).as_posix()))
        for file in inside:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden and not is_companion(file):
                yield _File(file, path)
    elif isinstance(data, Scan | Image | Example | TrainingBatch | Tensor) or not isinstance(data, Iterable):
        yield data
    else:
        for one in data:
            yield from _flat(one)


def _items_of(content: Any, name: str, how: Reading, room: Room) -> tuple[list[Item], str | None]:
    """Return the examples of one thing, and the checksum of its file."""
    if isinstance(content, Item):
        return [content], None
    if isinstance(content, Example):
        return [item_of(content, origin=content.name or "example")], None
    if isinstance(content, Batch):
        return [item_of(one, origin=one.name or "example") for one in _examples_of_batch(content)], None
    if isinstance(content, TensorBatch) and isinstance(content, TrainingBatch):
        return [_row(content, i) for i in range(len(content))], None
    if isinstance(content, Image | Scan):
        origin, sha = name or content.source.name, content.source.sha256
        if isinstance(content, Image) or (content.n_coils == 1 and content.source.format == "cfl"):
            return _of_volume(as_volume(content, content.source.path or Path(origin)), origin, how, room), sha
        return _of_scan(content, origin, how, room), sha
    raise OptionError(
        "data that nothing is known of",
        found=type(content).__name__,
        expected="k-space or magnitude images: files, folders, scans, images, examples or batches",
    )


def _row(batch: Any, index: int) -> Item:
    digest = hashlib.sha256()
    one = rows(batch, [index])
    for x in (one.y, one.target):
        if x is not None:
            digest.update(tensor_bytes(x))
    name = batch.names[index] or "example"
    return Item(
        content=Row(batch, index),
        name=name,
        origin=name,
        digest=digest.hexdigest(),
        group=(id(batch),),  # its operator may be its own
    )


def _examples_of_batch(batch: Batch) -> list[Example]:
    """Undo `collate`."""
    found = []
    for i in range(len(batch)):
        real = batch.coil_maps[i].abs().flatten(1).amax(1) > 0  # the others were filled in
        found.append(
            Example(
                y=batch.y[i][real],
                mask=batch.mask[i, 0],
                coil_maps=batch.coil_maps[i][real],
                sigma=float(batch.sigma[i]),
                target=None if batch.target is None else to_complex(batch.target[i : i + 1])[0, 0],
                name=batch.names[i],
            )
        )
    return found


def _of_scan(scan: Scan, origin: str, how: Reading, room: Room) -> list[Item]:
    """Return the slices of k-space."""
    if scan.trajectory is not None:
        raise DataError(
            "samples off the grid, which examples are not made of", file=scan.source.path or origin, expected="a grid"
        )
    sliced, _ = as_slices(scan)
    chosen = evenly_spread(wanted_slices(sliced.n_slices, how.slices, scan.source.path), how.most)
    digests, failed = {}, []
    for i in chosen:
        try:
            digests[i] = hashlib.sha256(sliced.slice(i).tobytes()).hexdigest()
        except DataError as error:
            failed.append(str(error))
    usable = list(digests)
    full = bool(usable) and without_holes(sliced.sampling(usable[len(usable) // 2])[0])
    items = []
    for i, digest in digests.items():
        group = how.matrix if full and how.matrix is not None else _matrix(sliced, i)
        make = partial(_scanned, sliced, i, full, how, digest)
        items.append(Item(Deferred(make, room), f"{origin}, slice {i}", origin, digest, tuple(group)))
    return _with_signal(items, failed, origin)


def _matrix(scan: Scan, index: int) -> tuple[int, ...]:
    """(y, x) of the example that `example_of_slice` makes."""
    size, axis, factor = list(scan.spatial), scan.readout_axis, scan.oversampling
    if axis is not None and factor is not None and factor > 1:
        acquired = scan.sampling(index)[0]
        if (acquired == acquired.any(axis=axis, keepdims=True)).all():
            size[axis] = round(size[axis] / factor)
    return tuple(size)


def _scanned(scan: Scan, index: int, full: bool, how: Reading, digest: str) -> Example:
    rng = child_generator(how.seed, _number(digest))
    return example_of_slice(
        scan,
        index,
        full=full,
        draw=lambda shape, transposed: how.sampling.draw(shape, rng, transposed=transposed),
        matrix=how.matrix,
    )


def _of_volume(volume: Volume, origin: str, how: Reading, room: Room) -> list[Item]:
    """Return simulated scans of the planes of a volume."""
    if how.slices is None:
        every = [(axis, int(i)) for axis, planes in zip(volume.axes, volume.planes, strict=True) for i in planes]
    else:
        every = [(0, i) for i in wanted_slices(len(volume.pixels), how.slices, origin)]
    items, failed = [], []
    for axis, i in evenly_spread(every, how.most):
        plane = volume.pixels.select(axis, i).contiguous()
        name = f"{origin}, slice {i}" + f" across {'zyx'[axis]}" * bool(axis)
        size = how.matrix or tuple(max(round(n / _MULTIPLE), 1) * _MULTIPLE for n in plane.shape)
        image = fitted(plane / plane.max().clamp_min(1e-6), size)
        if not torch.quantile(image, PEAK) > _SIGNAL:
            failed.append(f"{name} holds hardly any signal")
            continue
        digest = hashlib.sha256(tensor_bytes(plane)).hexdigest()
        make = partial(_simulated, image, name, how, digest)
        items.append(Item(Deferred(make, room), name, origin, digest, tuple(size)))
    return _with_signal(items, failed, origin)


def _simulated(image: Float[Tensor, "y x"], name: str, how: Reading, digest: str) -> Example:
    seed = child_generator(how.seed, _number(digest)).initial_seed()
    scans = SimulatedScans(
        lambda _rng: (image, name),
        length=1,
        acquisition=how.acquisition,
        seed=seed,
        matrix=(image.shape[0], image.shape[1]),
    )
    return replace(scans[0], name=name)


def _with_signal(items: list[Item], failed: Sequence[str], origin: str) -> list[Item]:
    if not items:
        raise DataError("no slice can be used", file=origin, found=failed[0])
    if failed:
        warnings.warn(
            f"{origin}: {len(failed)} of {len(items) + len(failed)} slices left out: {failed[0]}", stacklevel=6
        )
    return items


def _number(digest: str) -> int:
    return int(digest[:16], 16)
