"""What an audit looks at: networks and sets of examples by name, and what each network makes of each example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from recon.datasets.random import child_generator
from recon.display import choose_slices
from recon.physics.errors import OptionError
from recon.unlearning.budget import Meter
from recon.unlearning.examples import Examples
from recon.unlearning.objectives import Objective, Supervised

UNLEARNED, JOINT, ORACLE, FORGET_ORACLE, SCRATCH = "unlearned", "joint", "oracle", "forget-oracle", "scratch"
NETWORKS = (UNLEARNED, JOINT, ORACLE, FORGET_ORACLE, SCRATCH)
FORGET, RETAIN, FORGET_TEST, RETAIN_TEST, THIRD = "forget", "retain", "forget test", "retain test", "third organ"
NON_MEMBERS = "non-members"
NO_ORACLE = "the oracle was not given"
"""Why a figure that is held against the oracle cannot be given."""

Unlearn = Callable[[Reconstructor, Examples, Examples], Reconstructor]
"""From a network, what it should forget and what it should keep to another network; the first is not changed."""


Found = TypeVar("Found")


class CannotError(Exception):
    """A figure that cannot be given, and why."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the costly rows of an audit try.

    Parameters
    ----------
    most
        Examples of a training set that are looked at, evenly spread.
    shadows
        Networks that are trained to tell how members and others differ.
    train_steps
        Of each of them, and of corrupted labels; batches of 4.
    draws
        Of noise, for the leak by chance.
    relearn_steps
        Steps after which relearning is looked at.
    relearn_examples
        Slices from which it is relearned.
    lr
        Learning rate of all that trains here.
    """

    most: int = 48
    shadows: int = 4
    train_steps: int = 20
    draws: int = 8
    relearn_steps: tuple[int, ...] = (1, 5, 20)
    relearn_examples: int = 4
    lr: float = 3e-4

    def __post_init__(self) -> None:
        counts = (self.most, self.train_steps, self.draws, self.relearn_examples, *self.relearn_steps)
        if min(counts) < 1 or self.shadows < 2 or not (self.lr > 0 and math.isfinite(self.lr)):
            raise OptionError("counts of an audit are positive, and of shadow models there are two", found=str(self))
        if not self.relearn_steps or list(self.relearn_steps) != sorted(set(self.relearn_steps)):
            raise OptionError("the steps of relearning rise", found=self.relearn_steps)


@dataclass(frozen=True, eq=False)
class Picture:
    """Images of one slice by network, all in one window."""

    kind: str
    title: str
    images: Mapping[str, Float[ndarray, "y x"]]


@dataclass(frozen=True, eq=False)
class Row:
    """What one row of the audit gives: figures for JSON, what cannot be given and why, pictures."""

    figures: dict[str, Any]
    cannot: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subjects:
    """What an audit looks at.

    Parameters
    ----------
    models
        ``unlearned`` and ``joint``, and those there are of ``oracle`` (trained without what is forgotten),
        ``forget-oracle`` (trained on nothing else) and ``scratch`` (random weights, trained for the budget of
        unlearning).
    sets
        ``forget``, and those there are of ``retain``, ``forget test``, ``retain test``, ``third organ`` and
        ``non-members`` (as what is forgotten in all but that they were not trained on).
    objective
        Loss of an example.
    seed
        Of all random choices.
    effort
        Of the costly rows.
    method
        What unlearned, to be tried on corrupted labels.
    cost, oracle_cost
        What unlearning and the oracle took.

    What is found about networks other than the unlearned one is kept for the next unlearned one: see `about`.
    """

    models: Mapping[str, Reconstructor]
    sets: Mapping[str, Examples]
    objective: Objective = field(default_factory=Supervised)
    seed: int = 0
    effort: Effort = field(default_factory=Effort)
    method: Unlearn | None = None
    cost: Meter | None = None
    oracle_cost: Meter | None = None
    _shared: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _own: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False)

    def about(self, model: Reconstructor, method: Unlearn | None, cost: Meter | None) -> Subjects:
        """Return the same with another unlearned network; what is known of all others is not found again."""
        others = {name: network for name, network in self.models.items() if name != UNLEARNED}
        return replace(self, models={UNLEARNED: model, **others}, method=method, cost=cost)

    def remember(self, model: str, *what: str, make: Callable[[], Found]) -> Found:
        """Find something about a network, or about none (an empty name), once."""
        known = self._own if model == UNLEARNED else self._shared
        if (model, *what) not in known:
            known[model, *what] = make()
        return cast(Found, known[model, *what])

    def model(self, name: str) -> Reconstructor:
        """Return a network.

        Raises
        ------
        CannotError
            There is none of this name.
        """
        if name not in self.models:
            raise CannotError(f"the {name} was not given")
        return self.models[name]

    def examples(self, name: str) -> Examples:
        """Return a set; of training sets no more than the effort allows, evenly spread.

        Raises
        ------
        CannotError
            There is none, or it is empty.
        """
        found = self.sets.get(name)
        if found is None or not len(found):
            raise CannotError(f"there are no examples of the {name} set")
        return found if name in (FORGET_TEST, RETAIN_TEST) else spread(found, self.effort.most)

    @property
    def non_members(self) -> str:
        """Name of the set that members are told apart from."""
        return NON_MEMBERS if NON_MEMBERS in self.sets else FORGET_TEST

    def present(self, *names: str) -> list[str]:
        """Return those of the networks' names that were given; all by default."""
        return [name for name in (names or self.models) if name in self.models]

    @torch.no_grad()
    def images(self, model: str, examples: str) -> list[Float[Tensor, "channel y x"]]:
        """Reconstruct each example of a set, once."""
        chosen, network = self.examples(examples), self.model(model)

        def make() -> list[Tensor]:
            return [network(batch.y, batch.physics())[0] for batch in chosen.batches(1)]

        return self.remember(model, "images", examples, make=make)

    def targets(self, examples: str) -> list[Float[Tensor, "channel y x"]]:
        """Return what each example should become.

        Raises
        ------
        CannotError
            One has no target.
        """
        found = []
        for batch in self.examples(examples).batches(1):
            if batch.target is None:
                raise CannotError(f"the {examples} set has no ground truth")
            found.append(batch.target[0])
        return found

    def losses(self, model: str, examples: str) -> Float[Tensor, " n"]:
        """Loss of each example of a set, found once."""
        chosen, network = self.examples(examples), self.model(model)

        def make() -> Float[Tensor, " n"]:
            if not isinstance(self.objective, Supervised):
                return example_losses(network, chosen, self.objective, self.seed)
            pairs = zip(self.images(model, examples), chosen.batches(1), strict=True)  # no need to reconstruct again
            return torch.stack([self.objective.loss(x[None], batch)[0].double() for x, batch in pairs]).cpu()

        return self.remember(model, "losses", examples, make=make)


@torch.no_grad()
def example_losses(model: Reconstructor, examples: Examples, objective: Objective, seed: int) -> Float[Tensor, " n"]:
    """Loss of each example; what is random in it is the same for every network."""
    losses = [
        objective(model, batch, child_generator(seed, 10, i)).double() for i, batch in enumerate(examples.batches(1))
    ]
    return torch.stack(losses).cpu()


def spread(examples: Examples, most: int) -> Examples:
    """Return at most so many examples, evenly spread."""
    return examples if len(examples) <= most else examples.subset(choose_slices(len(examples), most))


def magnitude(x: Float[Tensor, "channel y x"]) -> Float[ndarray, "y x"]:
    """Magnitude over the channels."""
    return np.asarray(torch.linalg.vector_norm(x.detach(), dim=0).cpu().numpy())


def by_volume(examples: Examples) -> dict[str, list[int]]:
    """Numbers of the examples of each file; a file of several matrices counts as several."""
    volumes: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for i, item in enumerate(examples):
        volumes.setdefault((item.origin, item.group), []).append(i)
    several = {origin for origin, _ in volumes if sum(origin == other for other, _ in volumes) > 1}
    return {f"{origin} {group}" if origin in several else origin: found for (origin, group), found in volumes.items()}
