"""The steps of fine-tuning.

A plain loop: there is one process, no data loader, and the state that matters is the best weights so far. Lightning's
trainer would add its files and callbacks, and takes Ctrl-C for the end of the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import child_generator
from recon.finetuning.measurements import Measurement
from recon.physics.errors import OptionError
from recon.training.muon import Muon
from recon.training.schedule import Schedule

Optimiser = Literal["adam", "muon"]
Stop = Literal["all steps done", "no better for long", "diverged", "interrupted"]
Progress = Callable[[int, int, float, float], None]
"""Told after each step: the steps done, those there are, the held-out error at the start and the best one."""
Objective = Callable[[Reconstructor, Measurement, torch.Generator], Float[Tensor, ""]]

_WARMUP, _LAST = 10, 0.1  # steps of rising learning rate, and what is left of it in the end
_MUON = 10.0  # rate of matrices over that of the rest, as in training
_DIVERGED = 2.0  # error over that of the start


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How the weights are changed.

    Parameters
    ----------
    steps
        At most.
    lr
        Highest learning rate; it rises over ten steps and falls to a tenth as a cosine.
    optimiser
        ``adam``, or ``muon``: `recon.training.muon.Muon`, which makes matrices move in all directions alike.
    accumulate
        Measurements a step, whose gradients are averaged.
    every
        Steps between two looks at the held-out error.
    patience
        Looks without a better one after which it ends.
    """

    steps: int = 200
    lr: float = 2e-4
    optimiser: Optimiser = "adam"
    accumulate: int = 1
    every: int = 10
    patience: int = 6

    def __post_init__(self) -> None:
        if min(self.steps, self.accumulate, self.every, self.patience) < 1 or not (
            self.lr > 0 and math.isfinite(self.lr)
        ):
            raise OptionError(
                "steps, measurements a step, looks and the learning rate are positive",
                found=f"steps {self.steps}, accumulate {self.accumulate}, every {self.every}, "
                f"patience {self.patience}, lr {self.lr:g}",
            )
        if self.optimiser not in get_args(Optimiser):
            raise OptionError("no such optimiser", found=self.optimiser, expected=", ".join(get_args(Optimiser)))


@dataclass
class Course:
    """What happened.

    Parameters
    ----------
    before, after
        Held-out error at the start and of the best weights.
    history
        (step, held-out error) of each look.
    step
        Of the best weights; 0: the start was not bettered.
    stop
        Why it ended.
    """

    before: float
    after: float
    history: list[tuple[int, float]] = field(default_factory=list)
    step: int = 0
    stop: Stop = "all steps done"


def descend(
    model: Reconstructor,
    training: Sequence[Measurement],
    objective: Objective,
    judge: Callable[[], float],
    how: Descent,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Course:
    """Change the weights that require a gradient; leave the model with the best ones, in evaluation mode.

    Ctrl-C ends it, and is told of in what is returned.

    Parameters
    ----------
    model
        Changed in place.
    training
        What it is trained on, in another order each time.
    objective
        Loss of one of them.
    judge
        Held-out error of the model as it is. The start's must be finite.
    how, seed, progress
        Options; seed of all random choices; who is told.

    Raises
    ------
    OptionError
        The held-out error at the start is not finite.
    """
    model.eval()
    course = Course(before := judge(), before)
    if not math.isfinite(before):
        raise OptionError("the held-out error of the network as it is, is not finite", found=before)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    best = _copied(weights)
    optimiser = _optimiser(list(weights.values()), how)
    factor = Schedule("cosine", min(_WARMUP, how.steps), how.steps, _LAST)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    order, waited = _endless_order(len(training), seed), 0
    try:
        for step in range(1, how.steps + 1):
            for_training(model)
            optimiser.zero_grad(set_to_none=True)
            total = 0.0
            with seeded(seed, step, next(iter(weights.values())).device) as rng:
                for _ in range(how.accumulate):
                    value = objective(model, training[next(order)], rng) / how.accumulate
                    value.backward()
                    total += float(value.detach())
            model.eval()
            if not math.isfinite(total) or not _finite_gradients(weights.values()):
                course.stop = "diverged"
                break
            optimiser.step()
            schedule.step()
            if step % how.every == 0 or step == how.steps:
                error = judge()
                course.history.append((step, error))
                if not error <= _DIVERGED * before:  # NaN too
                    course.stop = "diverged"
                    break
                if error < course.after:
                    course.after, course.step, waited = error, step, 0
                    best = _copied(weights)
                else:
                    waited += 1
            if progress is not None:
                progress(step, how.steps, before, course.after)
            if waited >= how.patience:
                course.stop = "no better for long"
                break
    except KeyboardInterrupt:
        course.stop = "interrupted"
    model.eval()
    optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(best[name])
    return course


def for_training(model: nn.Module) -> None:
    """Switch to training mode, but for what a single scan would spoil: statistics of batches, and dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):  # noqa: SLF001
            module.eval()


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[torch.Generator]:
    """Seed PyTorch's generators, from which deepinv's losses draw, and put them back; give another generator."""
    accelerator: dict[str, Any] = {} if device.type == "cpu" else {"device_type": device.type}
    with torch.random.fork_rng([device.index or 0] if accelerator else [], **accelerator):
        torch.manual_seed(child_generator(seed, 1, step).initial_seed())
        yield child_generator(seed, 2, step)


def _optimiser(weights: list[nn.Parameter], how: Descent) -> torch.optim.Optimizer:
    if how.optimiser == "muon":
        return Muon(weights, lr=how.lr, matrix_lr=_MUON * how.lr)
    return torch.optim.Adam(weights, lr=how.lr)


def _endless_order(count: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from torch.randperm(count, generator=child_generator(seed, 0, epoch)).tolist()
        epoch += 1


def _copied(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in weights.items()}


def _finite_gradients(weights: Iterable[nn.Parameter]) -> bool:
    return all(bool(torch.isfinite(p.grad).all()) for p in weights if p.grad is not None)
