"""How much unlearning may cost, the steps of gradient descent that all methods share, and what they did cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import child_generator
from recon.finetuning.loop import for_training
from recon.physics.errors import DataError, OptionError
from recon.training.batches import TrainingBatch
from recon.training.schedule import Schedule
from recon.unlearning.journal import active
from recon.unlearning.layers import restored
from recon.unlearning.objectives import Objective, Supervised

Progress = Callable[[int, int], None]
"""Told the steps done, and those there are."""
_WARMUP = 0.1  # of the steps
_LAST = 0.05  # of the learning rate is left in the end


@dataclass
class Meter:
    """What was spent: passes of examples with derivatives, and without, and seconds."""

    samples: int = 0
    forward: int = 0
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a method may spend and how it judges examples.

    Parameters
    ----------
    steps
        Of gradient descent at most, over all phases of a method.
    batch_size
        Examples a step, of each of the sets that the step looks at.
    lr
        Highest learning rate (Adam); it rises over a tenth of the steps and falls as a cosine.
    objective
        Loss of an example.
    sharpness
        Radius, over the norm of the weights, in which repair steps look for the worst weights before they go down
        (sharpness-aware minimisation [Foret 2021, eq. 2-3]): against relearning. 0: no.
    clip
        Largest norm of a gradient.
    seed
        Of all random choices.
    progress
        Told after each step.
    meter
        Counts what is spent.
    """

    steps: int = 100
    batch_size: int = 4
    lr: float = 3e-4
    objective: Objective = field(default_factory=Supervised)
    sharpness: float = 0.0
    clip: float = 1.0
    seed: int = 0
    progress: Progress | None = None
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or not (self.lr > 0 and math.isfinite(self.lr) and self.clip > 0):
            raise OptionError(
                "steps, batch size, learning rate and clip are positive",
                found=f"steps {self.steps}, batch size {self.batch_size}, lr {self.lr:g}, clip {self.clip:g}",
            )
        if not self.sharpness >= 0:
            raise OptionError("the radius of sharpness is not negative", found=self.sharpness)

    def rng(self, *purpose: int) -> torch.Generator:
        """Return a generator of its own for a purpose."""
        return child_generator(self.seed, *purpose)

    def loss(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:
        """Judge a batch, and count it."""
        if torch.is_grad_enabled():
            self.meter.samples += len(batch.y)
        else:
            self.meter.forward += len(batch.y)
        return self.objective(model, batch, rng)


StepLoss = Callable[[int, torch.Generator], Float[Tensor, ""]]
"""From the number of a step and random numbers to the loss of the step."""
Projection = Callable[[list[nn.Parameter]], None]
"""Changes the gradients of the weights in place before a step."""


def schedule_of(steps: int) -> Schedule:
    """Return by what `descend` multiplies the learning rate in each of so many steps."""
    return Schedule("cosine", max(round(_WARMUP * steps), 1), steps, _LAST)


def descend(
    model: Reconstructor,
    budget: Budget,
    loss: StepLoss,
    *,
    steps: int | None = None,
    lr: float | None = None,
    parameters: Iterable[nn.Parameter] | None = None,
    project: Projection | None = None,
    done: int = 0,
) -> Reconstructor:
    """Take steps of Adam; the model is changed in place, and left in evaluation mode.

    Parameters
    ----------
    model
        Changed in place.
    budget
        Learning rate, clip, sharpness, seed, progress.
    loss
        Of a step.
    steps, lr
        Of this phase; the budget's by default.
    parameters
        What is changed; all that require a gradient by default.
    project
        Done to the gradients before they are clipped.
    done
        Steps of earlier phases, for the random numbers and the progress.

    Raises
    ------
    DataError
        A loss that is not finite.
    """
    count, rate = budget.steps if steps is None else steps, budget.lr if lr is None else lr
    if count < 1:
        return model.eval()
    weights = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule_of(count))
    for_training(model)
    journal, stateful = active(), (optimiser, schedule)
    first = done if journal is None else done + journal.begin(weights, stateful)
    try:
        for step in range(first, done + count):
            optimiser.zero_grad(set_to_none=True)
            _backward(loss, step, budget)
            if budget.sharpness:
                with _worst_nearby(weights, budget.sharpness):
                    optimiser.zero_grad(set_to_none=True)
                    _backward(loss, step, budget)
            if project is not None:
                project(weights)
            nn.utils.clip_grad_norm_(weights, budget.clip)
            optimiser.step()
            schedule.step()
            if journal is not None:
                last = step + 1 == done + count
                journal.step(step + 1 - done, last=last, weights=weights, stateful=stateful)
            if budget.progress is not None:
                budget.progress(step + 1, max(budget.steps, done + count))
    finally:
        optimiser.zero_grad(set_to_none=True)
        model.eval()
    return model


def _backward(loss: StepLoss, step: int, budget: Budget) -> None:
    value = loss(step, budget.rng(1, step))
    if not torch.isfinite(value):
        raise DataError(
            f"the loss is not finite at step {step}", found=float(value.detach()), cure="Lower the learning rate"
        )
    value.backward()


@contextmanager
def _worst_nearby(weights: list[nn.Parameter], radius: float) -> Iterator[None]:
    """Move the weights uphill by a share of their norm, and back."""
    gradients = [p.grad for p in weights if p.grad is not None]
    moved = [p for p in weights if p.grad is not None]
    with torch.no_grad():
        size = torch.stack([g.norm() for g in gradients]).norm().clamp_min(1e-12)
        reach = radius * torch.stack([p.norm() for p in moved]).norm() / size
    with restored(moved):
        with torch.no_grad():
            for p, g in zip(moved, gradients, strict=True):
                p.add_(reach * g)
        yield
