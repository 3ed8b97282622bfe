"""One search for the options of all methods alike: so many trials, judged on validation examples."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from deepinv.models import Reconstructor

from recon.datasets.random import child_generator
from recon.physics.errors import OptionError, ReconError
from recon.training.batches import target_of
from recon.unlearning.budget import Budget, Meter
from recon.unlearning.examples import Examples
from recon.unlearning.registry import Method

Judge = Callable[[Reconstructor], float]
"""How far a network is from what is wanted, on validation examples; less is better."""

_BATCH = 8
_RETAIN, _FORGET = 0.1, 0.35  # dB of what is kept and of what is forgotten that count alike


@dataclass(frozen=True)
class Trial:
    """Options that were tried, how far from what is wanted they led, and why they failed if they did."""

    options: Mapping[str, Any]
    distance: float
    failed: str = ""


@torch.no_grad()
def mean_psnr(model: Reconstructor, examples: Examples) -> float:
    """Mean over examples of the PSNR of magnitudes, dB; the peak is each target's."""
    values: list[float] = []
    for batch in examples.batches(_BATCH):
        image, target = (
            torch.linalg.vector_norm(v, dim=1).flatten(1) for v in (model(batch.y, batch.physics()), target_of(batch))
        )
        error = (image - target).square().mean(1)
        values += (20 * target.amax(1).log10() - 10 * error.log10()).tolist()
    return sum(values) / len(values)


def distance_to_oracle(oracle: Reconstructor, retain: Examples, forget: Examples) -> Judge:
    """Judge by what falls short of the oracle on what is kept, and any difference to it on what is forgotten.

    A tenth of a dB of the first weighs as 0.35 dB of the second. Both sets are validation examples.
    """
    kept, forgotten = mean_psnr(oracle, retain), mean_psnr(oracle, forget)

    def judge(model: Reconstructor) -> float:
        short = max(kept - mean_psnr(model, retain), 0.0)
        return short / _RETAIN + abs(mean_psnr(model, forget) - forgotten) / _FORGET

    return judge


def search(
    method: Method,
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    judge: Judge,
    *,
    trials: int = 6,
) -> tuple[Trial, list[Trial]]:
    """Try options of a method, evenly drawn from all combinations that it names, its defaults first.

    Parameters
    ----------
    method
        Its ``search`` says what is tried.
    model
        Copied for each trial.
    forget, retain, budget
        As the method will get them.
    judge
        On validation examples, never on test.
    trials
        At most.

    Returns
    -------
    Trial, list
        The best, and all in their order. A trial that fails counts as infinitely far.

    Raises
    ------
    OptionError
        No trial, or none that did not fail.
    """
    if trials < 1:
        raise OptionError("a search has one trial at least", found=trials)
    names = list(method.search)
    grid = [dict(zip(names, values, strict=True)) for values in product(*method.search.values())]
    order = torch.randperm(len(grid), generator=child_generator(budget.seed, 3)).tolist()
    done: list[Trial] = []
    for options in [{}, *(grid[i] for i in order if grid[i])][:trials]:
        try:
            found = method.function(copy.deepcopy(model), forget, retain, replace(budget, meter=Meter()), **options)
        except ReconError as error:  # a loss that is not finite, or a network that these options do not fit
            done.append(Trial(options, float("inf"), str(error)))
            continue
        distance = judge(found)
        done.append(Trial(options, float("inf") if math.isnan(distance) else distance))
    best = min(done, key=lambda trial: trial.distance)
    if best.distance == float("inf"):
        raise OptionError(f"{method.name} failed with all options that were tried", found=best.failed or "NaN")
    return best, done
