"""Which organs help and which harm each other when one network is trained on both, found before anyone trains for days.

For each acceleration a small network is trained on each organ alone and on each pair, all with the same steps, batches
and first weights [Xue 2024, the sharing matrix of Erase to Enhance]. What an organ gains by the other is the difference
on slices of subjects that no network has seen.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import add
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from numpy import ndarray

from recon.datasets.random import child_generator
from recon.datasets.scan import evenly_spread
from recon.metrics import bootstrap_interval, psnr
from recon.models import registry
from recon.physics.errors import DataError, OptionError
from recon.training.batches import target_of
from recon.unlearning.attribution.figures import unseen_energy
from recon.unlearning.budget import Budget, Progress, descend
from recon.unlearning.examples import Examples, Item
from recon.unlearning.sharing import FEWEST, NETWORKS, DataAudit, Plan, Sharing, Verdict
from recon.unlearning.sources import Reading, examples_of

Networks = frozenset[str]
"""Organs that a network was trained on."""
_FEWEST_STEPS, _MOST_STEPS = 60, 3000
_TIMED = 4  # steps by which the time of a step is found
_TEST_SHARE = 4  # one in so many subjects, or slices of the only one, is tested on
_GAP = 2  # slices between training and test slices of the only subject


@dataclass(frozen=True, kw_only=True)
class Organ:
    """Slices to be trained and tested on."""

    train: Examples
    test: Examples


def audit_data(
    organs: Mapping[str, Any],
    *,
    plan: Plan | None = None,
    how: Reading | None = None,
    progress: Progress | None = None,
) -> DataAudit:
    """Train small networks on organs and pairs of them, and compare.

    Parameters
    ----------
    organs
        Of each, by its name, what `recon.unlearning.sources.examples_of` takes, with truth. Of a folder, files in one
        folder inside it are one subject.
    plan
        Accelerations, time, sizes.
    how
        How files become examples; the plan's matrix and accelerations are put in.
    progress
        Told the steps of all trainings that are done, and those there are.

    Returns
    -------
    DataAudit
        Of what was finished, if it was interrupted.

    Raises
    ------
    OptionError
        Fewer than two organs, a budget that is too small.
    DataError
        An organ of too few slices, slices of several organs that are the same, data without truth.
    """
    start = time.perf_counter()
    plan, how = plan or Plan(), how or Reading()
    if len(organs) < 2:
        raise OptionError("sharing is between two organs or more", found=", ".join(organs) or "none")
    notes: list[str] = []
    sets = {a: _organs(organs, _reading(how, plan, a), plan, notes) for a in plan.accelerations}
    names = list(organs)
    kinds: list[Networks] = [
        *(frozenset([name]) for name in names),
        *(frozenset(pair) for pair in combinations(names, 2)),
    ]
    trainings = [(a, seed, kind) for seed in range(plan.seeds) for a in plan.accelerations for kind in kinds]
    if plan.steps is None:
        plan = replace(plan, steps=_affordable(plan, sets[plan.accelerations[0]], len(trainings), start))
    assert plan.steps is not None
    figures: dict[tuple[float, int, Networks, str], ndarray] = {}
    complete, steps = False, plan.steps
    try:
        for number, (a, seed, kind) in enumerate(trainings):
            network = _trained(plan, [sets[a][name].train for name in names if name in kind], seed,
                               _told(progress, number * steps, len(trainings) * steps))  # fmt: skip
            for name in names if len(kind) == 1 else sorted(kind):
                figures[a, seed, kind, name] = _judged(network, sets[a][name].test)
        complete = True
    except KeyboardInterrupt:
        notes.append(f"interrupted after {len({key[:3] for key in figures})} of {len(trainings)} trainings")
    if plan.seeds == 1:
        notes.append("one seed: how much two trainings of the same data differ is not known; take 2 seeds or more")
    first = sets[plan.accelerations[0]]
    return DataAudit(
        organs={name: (len(first[name].train), len(first[name].test)) for name in names},
        plan=plan,
        sharing=tuple(_sharing(figures, plan, names)),
        psnr=_alone(figures, plan, names),
        notes=tuple(dict.fromkeys(notes)),
        seconds=time.perf_counter() - start,
        complete=complete,
        pictures={name: _picture(first[name].test) for name in names},
    )


def _reading(how: Reading, plan: Plan, acceleration: float) -> Reading:
    both = (acceleration, acceleration)
    return replace(
        how,
        matrix=plan.matrix,
        sampling=replace(how.sampling, accelerations=(acceleration,)),
        acquisition=replace(how.acquisition, acceleration=both, line_acceleration=both),
        seed=plan.seed,
    )


def _organs(organs: Mapping[str, Any], how: Reading, plan: Plan, notes: list[str]) -> dict[str, Organ]:
    found: dict[str, Organ] = {}
    seen: dict[str, str] = {}
    for name, data in organs.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            examples = examples_of(data, how=how)
        notes += [f"{name}: {w.message}" for w in caught if issubclass(w.category, UserWarning)]
        same = {seen[item.digest] for item in examples if item.digest in seen}
        if same:
            raise DataError("two organs hold the same slices", found=f"{name} and {', '.join(sorted(same))}")
        seen |= dict.fromkeys(examples.digests, name)
        found[name] = _split(name, examples, plan, notes)
        for example in (*found[name].train.batches(1), *found[name].test.batches(1)):
            target_of(example)  # made now, so that what is timed is training
    return found


def subject_of(item: Item) -> str:
    """Return the folder that a file is in inside the organ's, or the file where it is in none."""
    return PurePosixPath(item.origin).parts[0]


def _split(name: str, examples: Examples, plan: Plan, notes: list[str]) -> Organ:
    subjects = list(dict.fromkeys(subject_of(item) for item in examples))
    if len(subjects) > 1:
        held_out = set(subjects[-max(len(subjects) // _TEST_SHARE, 1) :])
        train = [i for i, item in enumerate(examples) if subject_of(item) not in held_out]
        test = [i for i, item in enumerate(examples) if subject_of(item) in held_out]
    else:
        notes.append(f"{name}: one subject only, tested on its last slices: figures are better than a new subject's")
        # Planes across other axes cut through all slices.
        slices = [i for i, item in enumerate(examples) if " across " not in item.name]
        first = len(slices) - max(len(slices) // _TEST_SHARE, 1)
        train, test = slices[: max(first - _GAP, 0)], slices[first:]
    if len(train) < FEWEST or not test:
        raise DataError(f"{name} has too few slices", found=len(train), expected=f"{FEWEST} to train on")
    return Organ(
        train=examples.subset(evenly_spread(train, plan.train)), test=examples.subset(evenly_spread(test, plan.test))
    )


def _built(plan: Plan, seed: int) -> Reconstructor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_generator(plan.seed, 1, seed).initial_seed())
        return registry[plan.network](**NETWORKS[plan.network])


def _trained(plan: Plan, parts: Sequence[Examples], seed: int, progress: Progress | None) -> Reconstructor:
    """Train on all parts together."""
    assert plan.steps is not None
    examples = reduce(add, parts)
    budget = Budget(
        steps=plan.steps,
        batch_size=plan.batch_size,
        lr=plan.lr,
        seed=plan.seed + seed,
        progress=progress,
    )
    network = _built(plan, seed).to(examples.batch([0]).y.device)
    batches = examples.endless(plan.batch_size, budget.rng(0))
    return descend(network, budget, lambda _step, rng: budget.loss(network, next(batches), rng))


@torch.no_grad()
def _judged(network: Reconstructor, test: Examples) -> ndarray:
    """PSNR of magnitudes, dB, and hallucination of each slice: (slice, 2)."""
    rows = []
    for batch in test.batches(1):
        image, target = network(batch.y, batch.physics()), target_of(batch)
        x, reference = (torch.linalg.vector_norm(v, dim=1) for v in (image, target))
        rows.append((psnr(x, reference), float(unseen_energy(image, batch))))
    return np.array(rows)


def _affordable(plan: Plan, organs: Mapping[str, Organ], trainings: int, start: float) -> int:
    """Find the steps of a training from the time that is left."""
    joint = [organ.train for organ in organs.values()]
    clock = time.perf_counter()
    network = _trained(replace(plan, steps=_TIMED), joint, 0, None)
    step = (time.perf_counter() - clock) / _TIMED
    clock = time.perf_counter()
    for organ in organs.values():
        _judged(network, organ.test)
    judged = time.perf_counter() - clock
    left = plan.seconds - (time.perf_counter() - start) - trainings * judged
    steps = int(left / (trainings * step))
    if steps < _FEWEST_STEPS:
        least = plan.seconds - left + trainings * step * _FEWEST_STEPS
        raise OptionError(
            f"the time is too short for {trainings} trainings",
            found=f"{plan.seconds / 60:.1f} minutes",
            expected=f"at least {least / 60:.1f}",
            cure="Take fewer accelerations, seeds or slices, or a smaller matrix",
        )
    return min(steps, _MOST_STEPS)


def _told(progress: Progress | None, before: int, total: int) -> Callable[[int, int], None]:
    def tell(step: int, _steps: int) -> None:
        if progress is not None:
            progress(before + step, total)

    return tell


def _sharing(
    figures: Mapping[tuple[float, int, Networks, str], ndarray], plan: Plan, names: Sequence[str]
) -> list[Sharing]:
    found = []
    for a in plan.accelerations:
        for tested in names:
            for beside in names:
                alone, both = frozenset([tested]), frozenset([tested, beside])
                seeds = [
                    s for s in range(plan.seeds) if (a, s, alone, tested) in figures and (a, s, both, tested) in figures
                ]
                if tested == beside or not seeds:
                    continue
                old, new = (
                    np.stack([figures[a, s, kind, tested] for s in seeds]) for kind in (alone, both)
                )  # (seed, slice, 2)
                gains = new[..., 0] - old[..., 0]
                found.append(_compared(gains, old[..., 1], new[..., 1], plan.seed, (a, tested, beside)))
    return found


def _compared(gains: ndarray, old: ndarray, new: ndarray, seed: int, of: tuple[float, str, str]) -> Sharing:
    """Compare (seed, slice)."""
    slices = gains.mean(0)
    low, high = bootstrap_interval(slices, seed=seed) if len(slices) > 1 else (-np.inf, np.inf)
    mean, each = float(gains.mean()), gains.mean(1)
    verdict: Verdict = "no clear difference"
    if low > 0 and (each > 0).all():
        verdict = "helps"
    elif high < 0 and (each < 0).all():
        verdict = "harms"
    return Sharing(
        acceleration=of[0],
        tested=of[1],
        beside=of[2],
        gain=mean,
        low=float(low),
        high=float(high),
        hallucination=float(new.mean() / max(old.mean(), 1e-30)),
        verdict=verdict,
    )


def _alone(
    figures: Mapping[tuple[float, int, Networks, str], ndarray], plan: Plan, names: Sequence[str]
) -> dict[tuple[float, str, str], float]:
    found = {}
    for a in plan.accelerations:
        for tested in names:
            for trained in names:
                values = [
                    figures[key][:, 0].mean()
                    for s in range(plan.seeds)
                    if (key := (a, s, frozenset([trained]), tested)) in figures
                ]
                if values:
                    found[a, tested, trained] = float(np.mean(values))
    return found


def _picture(test: Examples) -> ndarray:
    target = target_of(test.batch([len(test) // 2]))
    return torch.linalg.vector_norm(target[0], dim=0).cpu().numpy()
