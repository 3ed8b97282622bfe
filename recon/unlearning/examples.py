"""What is forgotten and what is kept: a finite set of training examples, each with an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from recon.physics.errors import DataError, OptionError
from recon.training.batches import TrainingBatch
from recon.training.examples import Example, collate
from recon.unlearning.journal import Cursor, active

Collate = Callable[[Sequence[Any]], TrainingBatch]
"""Makes a batch of the contents of items of one `Item.group`."""


@dataclass(frozen=True, eq=False)
class Item:
    """One training example.

    Parameters
    ----------
    content
        What the batch is made of; `recon.training.examples.Example` for k-space.
    name
        File and slice.
    origin
        File that it is from.
    digest
        SHA-256 of what the example was before mask and noise were drawn: two sets that share it overlap.
    group
        Items of one group may be in one batch (the same matrix).
    """

    content: Any
    name: str
    origin: str
    digest: str
    group: tuple[int, ...] = ()


class Examples(Sequence[Item]):
    """A finite set of training examples.

    Parameters
    ----------
    items
        In their order.
    collate
        Makes a batch of several items' contents.
    files
        SHA-256 of each file that they are from, by its name.
    """

    def __init__(
        self, items: Sequence[Item], *, collate: Collate = collate, files: dict[str, str] | None = None
    ) -> None:
        self._items, self._collate, self.files = list(items), collate, dict(files or {})

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Examples: ...

    def __getitem__(self, index: int | slice) -> Item | Examples:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        return self._items[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def subset(self, indices: Sequence[int]) -> Examples:
        """Return some of them, in the order given."""
        chosen = [self._items[i] for i in indices]
        origins = {item.origin for item in chosen}
        return Examples(
            chosen, collate=self._collate, files={name: sha for name, sha in self.files.items() if name in origins}
        )

    def __add__(self, other: Examples) -> Examples:
        return Examples([*self, *other], collate=self._collate, files=self.files | other.files)

    @property
    def digests(self) -> frozenset[str]:
        """Identities of all of them."""
        return frozenset(item.digest for item in self)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all of them."""
        return tuple(item.name for item in self)

    def batch(self, indices: Sequence[int]) -> TrainingBatch:
        """Make a batch of items of one group.

        Raises
        ------
        OptionError
            There are none to make it of.
        """
        self._check_any()
        return self.batch_of([self._items[i].content for i in indices])

    def batch_of(self, contents: Sequence[Any]) -> TrainingBatch:
        """Make a batch of contents that may have been changed since they were items."""
        return self._collate(contents)

    def parts(self, size: int) -> Iterator[list[int]]:
        """Go once through the numbers of all, in their order, in parts of one group and at most ``size``."""
        return _grouped(range(len(self)), [item.group for item in self], size)

    def batches(self, size: int) -> Iterator[TrainingBatch]:
        """Go once through all, in their order, in batches of at most ``size``."""
        for indices in self.parts(size):
            yield self.batch(indices)

    def endless(self, size: int, rng: torch.Generator) -> Iterator[TrainingBatch]:
        """Go through all again and again, in another order each time, in batches of at most ``size``.

        Raises
        ------
        OptionError
            There is nothing to go through.
        """
        journal = active()
        return self._endless(size, rng, Cursor() if journal is None else journal.cursor())

    def _check_any(self) -> None:
        if not self._items:
            raise OptionError("an empty set of examples")

    def _endless(self, size: int, rng: torch.Generator, cursor: Cursor) -> Iterator[TrainingBatch]:
        self._check_any()
        groups = [item.group for item in self]
        while True:
            order = torch.randperm(len(self), generator=rng).tolist()
            parts = list(_grouped(order, groups, size))
            for i in torch.randperm(len(parts), generator=rng).tolist():
                if not cursor.passes():
                    yield self.batch(parts[i])


def item_of(example: Example, *, origin: str | Path, source: Tensor | None = None, index: int = 0) -> Item:
    """Make an item of an example of k-space.

    Parameters
    ----------
    example
        The slice.
    origin
        Its file.
    source
        What the slice was before mask, noise and scale were drawn; the target is taken by default.
    index
        Of the slice in its file.
    """
    known = example.target if source is None else source
    digest = hashlib.sha256(_bytes(example.y if known is None else known)).hexdigest()
    return Item(
        content=example,
        name=example.name or f"{origin}, slice {index}",
        origin=Path(origin).name,
        digest=digest,
        group=tuple(example.y.shape[1:]),
    )


def check_disjoint(forget: Examples, retain: Examples) -> None:
    """Check that nothing is to be both forgotten and kept.

    Raises
    ------
    OptionError
        The set to be forgotten is empty.
    DataError
        The sets overlap, or are the same.
    """
    if not len(forget):
        raise OptionError("there is nothing to forget", found="an empty forget set")
    files = {sha: name for name, sha in forget.files.items()}
    shared_files = sorted(files[sha] for sha in retain.files.values() if sha in files)
    shared = forget.digests & retain.digests
    if not shared and not shared_files:
        return
    if forget.digests == retain.digests:
        raise DataError("the forget set and the retain set are the same", found=f"{len(forget)} examples")
    names = sorted({item.name for item in forget if item.digest in shared}) or shared_files
    raise DataError(
        "the forget set and the retain set overlap",
        found=f"{len(names)} in both, as {names[0]}",
        cure="Take what is to be forgotten out of the retain set",
    )


def _grouped(order: Sequence[int], groups: Sequence[tuple[int, ...]], size: int) -> Iterator[list[int]]:
    """Part indices, in their order, into lists of one group each."""
    waiting: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        part = waiting.setdefault(groups[i], [])
        part.append(i)
        if len(part) == size:
            yield waiting.pop(groups[i])
    yield from waiting.values()


def _bytes(x: Tensor) -> bytes:
    values = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return values.detach().cpu().contiguous().numpy().tobytes()
