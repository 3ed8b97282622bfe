"""Carries a method of unlearning out: it goes on after an interruption, and what is kept is held to its bound."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from deepinv.models import Reconstructor

from recon.datasets.atomic import atomic_path
from recon.unlearning.audit.subjects import spread
from recon.unlearning.budget import Budget, Meter, descend
from recon.unlearning.choice import Choice
from recon.unlearning.coreset import core_set
from recon.unlearning.examples import Examples
from recon.unlearning.gathering import Sets
from recon.unlearning.journal import Journal
from recon.unlearning.verdict import Losses, factor, mean_loss

_MOST = 64  # examples of a set by which losses are compared
_REPAIRS = 3  # rounds of repair, at most, where what is kept suffered too much
_REPAIR = 100  # purpose of their random numbers
_RESULT = "result.pt"


@dataclass(frozen=True, eq=False)
class Work:
    """A method that is carried out, repaired, and compared with what was there before.

    Parameters
    ----------
    joint
        The network that came in.
    sets, choice, budget, outliers
        What it should forget, how, for how much.
    room
        By what the logarithm of the loss on what is kept may rise.
    """

    joint: Reconstructor
    sets: Sets
    choice: Choice
    budget: Budget
    outliers: float
    room: float

    def done(self, folder: Path | None) -> Reconstructor:
        """Unlearn, or go on; keep the state in a folder."""
        tuned = copy.deepcopy(self.joint).requires_grad_(True)
        result = None if folder is None else folder / _RESULT
        if result is not None and result.exists():
            kept = torch.load(result, map_location="cpu", weights_only=True)
            tuned.load_state_dict(kept["weights"])
            self.budget.meter.__dict__.update(kept["meter"])
            return tuned
        with (
            nullcontext() if folder is None else Journal(folder, self.budget.meter).kept(),
            self.budget.meter.running(),
        ):
            tuned = self._method(tuned)
            for i in range(1, _REPAIRS + 1):
                if not self._spoilt(tuned):
                    break
                tuned = self._repaired(tuned, i)
        tuned.eval()
        if result is not None:
            with atomic_path(result, overwrite=True) as temporary:
                torch.save({"weights": tuned.state_dict(), "meter": asdict(self.budget.meter)}, temporary)
        return tuned

    def losses(self, tuned: Reconstructor) -> Losses:
        """Compare with the network as it was."""
        forget, kept = self.sets.forget, self.sets.kept
        before, after = ([self._loss(model, part) for part in (forget, kept)] for model in (self.joint, tuned))
        return Losses(before[0], after[0], before[1], after[1])

    def again(self, network: Reconstructor, forget: Examples, retain: Examples) -> Reconstructor:
        """Do the same to another network."""
        quiet = replace(self.budget, meter=Meter(), progress=None)
        return self.choice.method.function(copy.deepcopy(network), forget, retain, quiet, **self.choice.options)

    def moved(self, tuned: Reconstructor) -> float:
        """Norm of the change of the weights, over theirs."""
        pairs = [(a.detach(), b.detach()) for a, b in zip(self.joint.parameters(), tuned.parameters(), strict=True)]
        size = sum(float(a.square().sum()) for a, _ in pairs)
        return math.sqrt(sum(float((b - a).square().sum()) for a, b in pairs) / size) if size else math.nan

    def _method(self, tuned: Reconstructor) -> Reconstructor:
        forget = self.sets.forget
        if self.outliers:
            forget = core_set(tuned, forget, self.budget, outliers=self.outliers)
        return self.choice.method.function(tuned, forget, self.sets.retain, self.budget, **self.choice.options)

    def _spoilt(self, tuned: Reconstructor) -> bool:
        """Whether what is kept suffered more than it may; test examples are not asked."""
        if not len(self.sets.retain):
            return False
        before, after = (self._loss(model, self.sets.deciding, counted=True) for model in (self.joint, tuned))
        return math.log(factor(before, after)) > self.room

    def _loss(self, model: Reconstructor, examples: Examples | None, *, counted: bool = False) -> float:
        few = None if examples is None else spread(examples, _MOST)
        if counted and few is not None:
            self.budget.meter.forward += len(few)
        return mean_loss(model, few, self.budget.objective, self.budget.seed)

    def _repaired(self, tuned: Reconstructor, number: int) -> Reconstructor:
        b = self.budget
        batches = self.sets.retain.endless(b.batch_size, b.rng(_REPAIR, number))
        return descend(tuned, b, lambda _step, rng: b.loss(tuned, next(batches), rng), done=number * b.steps)
