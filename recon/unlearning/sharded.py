"""Sharded training for exact deletion [Basu Roy Chowdhury 2025]: low-rank adapters on disjoint slices of the data.

Data are parted into shards, a shard into slices. A network is made of each of several sequences of a shard's slices: in
stage i, adapters of the i-th group of layers, the last layers first, are trained on the first i slices, and then stay.
When examples are to be deleted, the stages that saw them are deactivated at once: what is left is, bit for bit, what
training without them had given until there. It can be used, and training goes on from there when there is time. The
image is the mean over shards, of each the sequence with most of its data left.

The network that adapters are added to must never have seen what may be deleted.

References
----------
Basu Roy Chowdhury et al., Towards Scalable Exact Machine Unlearning Using Parameter-Efficient Fine-Tuning, ICLR 2025
(S3T); Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (SISA: all weights in each stage, one sequence).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recon.finetuning.low_rank import LowRank, add_adapters, merge_adapters
from recon.physics.errors import DataError, OptionError
from recon.unlearning.budget import Budget, Meter, descend
from recon.unlearning.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How training is parted. It must not depend on which examples there are.

    Parameters
    ----------
    stages
        Most slices of a shard, and groups that layers are parted into.
    sequences
        Networks a shard, each with its slices in another order (rotations): one deletion rarely hits all of them early.
    rank
        Of the adapters. None: all weights are trained in each stage (SISA).
    """

    stages: int = 3
    sequences: int = 1
    rank: int | None = 4

    def __post_init__(self) -> None:
        if not 1 <= self.sequences <= self.stages:
            raise OptionError(
                "a shard has from one sequence to as many as stages",
                found=f"{self.sequences} sequences, {self.stages} stages",
            )


@dataclass(frozen=True, eq=False)
class Sequenced:
    """One network of a shard: the slices that it is to be trained on, and the stages that are done.

    Parameters
    ----------
    order
        Numbers of slices, in the order of training.
    stages
        Of each stage that is done, the weights that it changed, by name.
    """

    order: tuple[int, ...]
    stages: tuple[dict[str, Tensor], ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a deletion, or going on after it, costs.

    Parameters
    ----------
    deactivated
        Stages that were taken away.
    trained
        Stages that were trained again.
    of
        Stages of the whole training.
    samples
        Examples seen, with derivatives.
    seconds
        That it took.
    """

    deactivated: int = 0
    trained: int = 0
    of: int
    samples: int = 0
    seconds: float = 0.0


class Mean(Reconstructor):
    """Mean of the images of several networks.

    Parameters
    ----------
    models
        The networks.
    """

    def __init__(self, models: Sequence[Reconstructor]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b channel y x"]:
        """Reconstruct."""
        return torch.stack([model(y, physics) for model in self.models]).mean(0)


@dataclass(frozen=True, eq=False)
class Sharded:
    """A training that examples can be deleted from exactly.

    Parameters
    ----------
    base
        What adapters are added to.
    shards
        Of each its slices; one whose examples are all deleted stays, empty, in its place.
    networks
        Of each shard its networks.
    plan, budget
        As trained.
    cost
        Of the last thing that was done.
    """

    base: Reconstructor
    shards: tuple[tuple[Examples, ...], ...]
    networks: tuple[tuple[Sequenced, ...], ...]
    plan: Plan
    budget: Budget
    cost: Cost

    @property
    def model(self) -> Reconstructor:
        """The network to be used: of each shard that has any stage the one that has seen most; the mean of these.

        Raises
        ------
        DataError
            Nothing is left of any shard.
        """
        chosen = []
        for slices, networks in zip(self.shards, self.networks, strict=True):
            best = max(networks, key=lambda network: sum(len(slices[i]) for i in network.order[: len(network.stages)]))
            if best.stages:
                chosen.append(_assembled(self.base, best.stages))
        if not chosen:
            raise DataError("all stages are deactivated", found="no shard with a stage", cure="Go on with training")
        return chosen[0] if len(chosen) == 1 else Mean(chosen).eval()

    def delete(self, digests: Collection[str]) -> Sharded:
        """Take examples away, and deactivate at once the stages that saw them; nothing is trained.

        Parameters
        ----------
        digests
            Identities of the examples (`recon.unlearning.examples.Examples.digests`).

        Raises
        ------
        DataError
            Examples that are not in.
        """
        gone = frozenset(digests)
        known = frozenset().union(*(part.digests for slices in self.shards for part in slices))
        if not gone <= known:
            raise DataError("only what was trained on can be deleted", found=f"{len(gone - known)} strange examples")
        shards, networks, deactivated = [], [], 0
        for slices, sequenced in zip(self.shards, self.networks, strict=True):
            hit = {i for i, part in enumerate(slices) if part.digests & gone}
            left = tuple(part.subset([j for j, item in enumerate(part) if item.digest not in gone]) for part in slices)
            cut = []
            for network in sequenced:
                stays = next((at for at, i in enumerate(network.order) if i in hit), len(network.order))
                deactivated += max(len(network.stages) - stays, 0)
                order = tuple(i for i in network.order if len(left[i]))
                cut.append(Sequenced(order, network.stages[:stays]))
            shards.append(left)
            networks.append(tuple(cut))
        cost = Cost(deactivated=deactivated, of=self.cost.of)
        return replace(self, shards=tuple(shards), networks=tuple(networks), cost=cost)

    def price(self, digests: Collection[str]) -> Cost:
        """Return what deleting examples and going on would cost, in stages; nothing is done."""
        left = self.delete(digests)
        missing = sum(len(n.order) - len(n.stages) for networks in left.networks for n in networks)
        return replace(left.cost, trained=missing)

    def go_on(self) -> Sharded:
        """Train the stages that are missing."""
        meter = Meter()
        budget = replace(self.budget, meter=meter)
        trained = 0
        networks = []
        with meter.running():
            for number, (slices, sequenced) in enumerate(zip(self.shards, self.networks, strict=True)):
                done = []
                for which, network in enumerate(sequenced):
                    stages = list(network.stages)
                    while len(stages) < len(network.order):
                        seen = [slices[i] for i in network.order[: len(stages) + 1]]
                        stages.append(_stage(self.base, stages, seen, self.plan, budget, (number, which)))
                        trained += 1
                    done.append(Sequenced(network.order, tuple(stages)))
                networks.append(tuple(done))
        cost = Cost(trained=trained, of=self.cost.of or trained, samples=meter.samples, seconds=meter.seconds)
        return replace(self, networks=tuple(networks), cost=cost)


def train_sharded(
    base: Reconstructor, shards: Sequence[Sequence[Examples]], budget: Budget, *, plan: Plan | None = None
) -> Sharded:
    """Train for deletion.

    Parameters
    ----------
    base
        What adapters are added to; it is not changed.
    shards
        Disjoint sets of examples: of each shard its slices, such as a volume or an organ each, in the order that is
        trained first. What is likely to be deleted is best put last. A slice may be empty: it keeps its place.
    budget
        Steps of each stage, batch size, learning rate, objective and seed.
    plan
        Stages, sequences and rank.

    Raises
    ------
    OptionError
        No examples, more slices than stages, more stages than layers with adapters.
    DataError
        An example in two places.
    """
    plan = plan or Plan()
    parts = [part for slices in shards for part in slices]
    if not any(len(part) for part in parts) or not all(shards):
        raise OptionError("shards have slices, and some have examples", found=[[len(p) for p in s] for s in shards])
    if max(len(slices) for slices in shards) > plan.stages:
        raise OptionError("a shard has at most a slice a stage", found=max(map(len, shards)), expected=plan.stages)
    if len(frozenset().union(*(part.digests for part in parts))) != sum(len(part) for part in parts):
        raise DataError("slices are disjoint", found="an example that is in two places")
    networks = tuple(
        tuple(Sequenced(_rotated(slices, turn), ()) for turn in range(min(plan.sequences, len(slices))))
        for slices in shards
    )
    start = Sharded(base, tuple(tuple(s) for s in shards), networks, plan, budget, Cost(of=0))
    return start.go_on()


def _rotated(slices: Sequence[Examples], turn: int) -> tuple[int, ...]:
    """Return the numbers of slices that are not empty, in the order of a sequence."""
    order = [(i + turn) % len(slices) for i in range(len(slices))]
    return tuple(i for i in order if len(slices[i]))


def _stage(
    base: Reconstructor,
    stages: Sequence[dict[str, Tensor]],
    seen: Sequence[Examples],
    plan: Plan,
    budget: Budget,
    where: tuple[int, int],
) -> dict[str, Tensor]:
    """Train one more stage; nothing counts but what it sees, the stages before, the plan and where it stands."""
    at = len(stages)
    model = _assembled(base, stages).requires_grad_(True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    if plan.rank is not None:
        add_adapters(model, plan.rank, seed=budget.rng(7, *where, at).initial_seed() % 2**31)
        groups = _groups(model, plan.stages)
        model.requires_grad_(False)
        for adapter in groups[at]:
            adapter.a.requires_grad_(True)
            adapter.b.requires_grad_(True)
    data = seen[0]
    for further in seen[1:]:
        data = data + further
    batches = data.endless(budget.batch_size, budget.rng(0, *where, at))
    descend(model, budget, lambda _step, rng: budget.loss(model, next(batches), rng), done=at * budget.steps)
    merge_adapters(model)
    return {
        name: p.detach().clone() for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])
    }


def _groups(model: nn.Module, count: int) -> list[list[LowRank]]:
    """Part a network's adapters into so many groups, the last layers first."""
    adapters = list(_adapters(model))[::-1]
    if len(adapters) < count:
        raise OptionError(
            "there are at least as many layers with adapters as stages", found=len(adapters), expected=count
        )
    ends = [round(len(adapters) * i / count) for i in range(count + 1)]
    return [adapters[a:b] for a, b in pairwise(ends)]


def _adapters(model: nn.Module) -> Iterator[LowRank]:
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrizations = module.parametrizations
            assert isinstance(parametrizations, nn.ModuleDict)
            for added in parametrizations.values():
                yield from (part for part in added.modules() if isinstance(part, LowRank))


def _assembled(base: Reconstructor, stages: Sequence[dict[str, Tensor]]) -> Reconstructor:
    """Return a copy of the base with the weights of stages, the later ones over the earlier ones."""
    model = copy.deepcopy(base)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for stage in stages:
            for name, value in stage.items():
                weights[name].copy_(value)
    return model.eval()
