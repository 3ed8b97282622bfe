"""What is attributed: a figure of the network's image of a query, which training examples make better or worse."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.hallucination import null_part
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.training.batches import TrainingBatch, target_of
from recon.unlearning.objectives import Objective, Supervised


class Hallucination:
    """Mean over the batch of `unseen_energy`."""

    needs_truth = True

    def __call__(self, model: Reconstructor, batch: TrainingBatch, rng: torch.Generator) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return it."""
        return unseen_energy(model(batch.y, batch.physics()), batch)


def unseen_energy(x: Float[Tensor, "b channel y x"], batch: TrainingBatch) -> Float[Tensor, ""]:
    """Return the energy of the error where the data see nothing (`recon.hallucination`), over the target's.

    Raises
    ------
    OptionError
        Measurements other than multi-coil MRI on a grid.
    DataError
        No target.
    """
    physics, target = batch.physics(), target_of(batch)
    if not isinstance(physics, MultiCoilMRI):
        raise OptionError(
            "hallucination is measured in the null space of MRI",
            found=type(physics).__name__,
            cure="Take the error",
        )
    unseen = _NullPart.apply(x - target, physics)
    return (unseen.square().flatten(1).sum(1) / target.square().flatten(1).sum(1)).mean()


class _NullPart(torch.autograd.Function):
    """`null_part` with its derivative: it is a symmetric matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, physics: MultiCoilMRI) -> Tensor:
        ctx.physics = physics
        return null_part(x, physics)

    @staticmethod
    def backward(ctx: Any, *derivatives: Tensor) -> tuple[Tensor, None]:
        return null_part(derivatives[0], ctx.physics), None


def figure_of(name: str, objective: Objective) -> Objective:
    """Return a figure of a query by its name.

    Parameters
    ----------
    name
        ``hallucination``; ``error``, energy of the difference of magnitudes over that of the target; ``loss``, what
        the network was trained by.
    objective
        That.

    Raises
    ------
    OptionError
        No such figure.
    """
    known: dict[str, Objective] = {
        "hallucination": Hallucination(),
        "error": Supervised({"nmse": 1.0}),
        "loss": objective,
    }
    if name not in known:
        raise OptionError("no such figure of a query", found=name, expected=", ".join(known))
    return known[name]
