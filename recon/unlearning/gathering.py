"""The sets of a request to forget: read, held out, and checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.models import Reconstructor

from recon.cards import Card
from recon.datasets.random import child_generator
from recon.physics.errors import DataError, OptionError, ReconError, ShapeError
from recon.unlearning.examples import Examples, check_disjoint
from recon.unlearning.history import check_not_forgotten
from recon.unlearning.objectives import Objective, SelfSupervised, Supervised
from recon.unlearning.sources import Reading, examples_of

_PART, _MOST, _FEWEST = 5, 16, 5  # one in five of the retain set is held out, at most so many, of so many at least
_HOLDING_OUT = 4  # purpose of random numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Sets:
    """What is forgotten, what is kept, and what is only looked at.

    Parameters
    ----------
    forget, retain
        Training examples; the second may be empty.
    forget_test, retain_test
        Others of the same kinds.
    validation
        A part of what the network was trained on and keeps, left out of unlearning: it decides on repairs, and stands
        for a test set where there is none.
    """

    forget: Examples
    retain: Examples
    forget_test: Examples | None = None
    retain_test: Examples | None = None
    validation: Examples | None = None

    @property
    def test(self) -> Examples | None:
        """What the audit takes for test examples of what is kept."""
        return self.validation if self.retain_test is None else self.retain_test

    @property
    def kept(self) -> Examples | None:
        """By what is judged whether the rest of the network is whole."""
        return self.test if self.test is not None else (self.retain if len(self.retain) else None)

    @property
    def deciding(self) -> Examples | None:
        """By what is decided, in place of test examples, whether it needs repair."""
        return self.validation if self.validation is not None else (self.retain if len(self.retain) else None)

    def __iter__(self) -> Iterator[tuple[str, Examples]]:
        """Go through those that there are, with their names."""
        sets = (self.forget, self.retain, self.forget_test, self.test)
        for name, examples in zip(("forget", "retain", "forget test", "retain test"), sets, strict=True):
            if examples is not None and len(examples):
                yield name, examples


def gather(
    forget: Any, retain: Any, forget_test: Any, retain_test: Any, how: Reading, card: Card, *, hold_out: bool, seed: int
) -> Sets:
    """Read and check all sets.

    Parameters
    ----------
    forget, retain, forget_test, retain_test
        As in `recon.unlearning.sources.examples_of`; None where there is none.
    how
        How examples are made.
    card
        Of the network: what it had to forget earlier may not come back.
    hold_out
        Hold out a part of the retain set.
    seed
        Of the part.

    Raises
    ------
    OptionError
        Nothing to forget.
    DataError
        Sets that overlap, or what was forgotten earlier.
    ReconError
        Data that cannot be read.
    """
    gone = examples_of(forget, how=how)
    kept = examples_of([] if retain is None else retain, how=how)
    check_disjoint(gone, kept)
    tests = [None if data is None else examples_of(data, how=how) for data in (forget_test, retain_test)]
    for name, found in (("forget test", tests[0]), ("retain test", tests[1])):
        if found is not None and (shared := found.digests & (gone.digests | kept.digests)):
            example = next(item.name for item in found if item.digest in shared)
            raise DataError(
                f"the {name} set holds training examples",
                found=f"{len(shared)}, as {example}",
                cure="Test on volumes that were not trained on",
            )
    for name, found in (("retain", kept), ("retain test", tests[1])):
        if found is not None:
            check_not_forgotten(card, found, name)
    if hold_out and len(kept) >= _FEWEST:
        kept, validation = _parted(kept, seed)
        return Sets(forget=gone, retain=kept, forget_test=tests[0], retain_test=tests[1], validation=validation)
    return Sets(forget=gone, retain=kept, forget_test=tests[0], retain_test=tests[1])


def _parted(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Hold out whole files where there are enough, else single examples."""
    rng = child_generator(seed, _HOLDING_OUT)
    origins = list(dict.fromkeys(item.origin for item in examples))
    if len(origins) >= _FEWEST:
        order = torch.randperm(len(origins), generator=rng).tolist()
        chosen = {origins[i] for i in order[: len(origins) // _PART]}
        held = [i for i, item in enumerate(examples) if item.origin in chosen]
    else:
        held = sorted(torch.randperm(len(examples), generator=rng)[: len(examples) // _PART].tolist())
    rest = [i for i in range(len(examples)) if i not in set(held)]
    few = held if len(held) <= _MOST else [held[int((i + 0.5) * len(held) / _MOST)] for i in range(_MOST)]
    return examples.subset(rest), examples.subset(few)


def without_truth(sets: Sets) -> str:
    """Return the name of an example without ground truth, "" where all have it; one of each file is looked at."""
    for _, examples in sets:
        seen: set[str] = set()
        for i, item in enumerate(examples):
            if item.origin not in seen:
                seen.add(item.origin)
                if examples.batch([i]).target is None:
                    return item.name
    return ""


def objective_of(loss: str, given: Objective, without: str) -> Objective:
    """Return the loss of an example.

    Parameters
    ----------
    loss
        ``supervised``, ``self-supervised`` or ``auto``.
    given
        The budget's, which is taken where it fits.
    without
        An example without ground truth, "" where all have it.

    Raises
    ------
    OptionError
        A supervised loss without ground truth; no such loss.
    """
    if loss not in ("auto", "supervised", "self-supervised"):
        raise OptionError("no such loss", found=loss, expected="auto, supervised or self-supervised")
    if loss == "supervised" and without:
        raise OptionError(
            "a supervised loss needs ground truth, and an example has none",
            found=without,
            cure="Take the self-supervised one",
        )
    wanted = not without if loss == "auto" else loss == "supervised"
    if given.needs_truth == wanted or (loss == "auto" and not given.needs_truth):
        return given
    return Supervised() if wanted else SelfSupervised()


@torch.no_grad()
def try_forward(model: Reconstructor, sets: Sets) -> None:
    """Reconstruct one example of each matrix and file, so that what does not fit is met before any work is done.

    Raises
    ------
    ShapeError
        The network cannot take it.
    DataError
        The image is not finite.
    """
    tried: set[tuple[str, tuple[int, ...]]] = set()
    for name, examples in sets:
        for i, item in enumerate(examples):
            if (item.origin, item.group) in tried:
                continue
            tried.add((item.origin, item.group))
            batch = examples.batch([i])
            try:
                image = model(batch.y, batch.physics())
            except ReconError:
                raise
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                raise ShapeError(
                    f"the network cannot take an example of the {name} set: {str(error).splitlines()[0]}",
                    file=item.name,
                    found=tuple(batch.y.shape[1:]),
                ) from error
            if not torch.isfinite(image).all():
                raise DataError(f"the network's image of an example of the {name} set is not finite", file=item.name)
