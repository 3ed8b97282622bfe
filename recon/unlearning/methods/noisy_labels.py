"""Regression of what is forgotten to wrong targets [Xue 2024]: noisy, noise alone [Li 2024, I2I], or zero-filled.

References
----------
Xue, Liu, McDonagh, Tsaftaris, Erase to Enhance: Data-Efficient Machine Unlearning in MRI Reconstruction, MIDL 2024; Li
et al., Machine Unlearning for Image-to-Image Generative Models, ICLR 2024.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError, ShapeError
from recon.training.batches import TrainingBatch, target_of
from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.features import frozen, reconstructed, relative_square, taught
from recon.unlearning.registry import register
from recon.unlearning.repair import forgotten_and_repaired

LABELS = ("noisy", "noise", "zero_filled")


@register(
    "noisy_labels",
    search={
        "label": LABELS,
        "level": (0.1, 0.3, 1.0),
        "rate": (0.3, 1.0),
        "repair": (0.3, 0.6, 0.8),
        "together": (False, True),
    },
)
def noisy_labels(
    model: Reconstructor,
    forget: Examples,
    retain: Examples,
    budget: Budget,
    /,
    *,
    label: str = "noisy",
    level: float = 0.3,
    rate: float = 1.0,
    repair: float = 0.6,
    together: bool = False,
) -> Reconstructor:
    """Regress the forget set to wrong targets, and repair on the retain set.

    Where the budget's objective knows no truth, targets are made of what the network at the start gives, and the loss
    is the energy of the difference over theirs.

    Parameters
    ----------
    model, forget, retain, budget
        As of all methods.
    label
        ``noisy``: the target and Gaussian noise, drawn anew at each step; ``noise``: Gaussian noise of the target's
        mean and standard deviation in each channel; ``zero_filled``: the adjoint of the measurements.
    level
        Standard deviation of the noise that is added, in root mean squares of the target.
    rate
        Learning rate of the steps on wrong targets, over the budget's.
    repair
        Share of the steps that come afterwards, on the retain set.
    together
        Whether the steps on wrong targets are on the retain set too, as published.

    Raises
    ------
    OptionError
        No such label, or a level that is not above 0.
    ShapeError
        Zero-filled images are not of the shape of the targets.
    """
    if label not in LABELS or not level > 0:
        raise OptionError(
            "no such label, or no positive level of noise",
            found=f"{label}, {level:g}",
            expected=f"one of {', '.join(LABELS)}",
        )
    known = budget.objective.needs_truth
    original = None if known else frozen(model)
    batches = forget.endless(budget.batch_size, budget.rng(0, 1))

    def loss(_step: int, rng: torch.Generator) -> Float[Tensor, ""]:
        batch = next(batches)
        if original is not None:
            target = wrong(batch, taught(original, batch, budget.meter), label, level, rng)
            return relative_square(reconstructed(model, batch, budget.meter), target)
        changed = cast(
            "TrainingBatch", replace(cast("Any", batch), target=wrong(batch, target_of(batch), label, level, rng))
        )
        return budget.loss(model, changed, rng)

    return forgotten_and_repaired(model, retain, budget, loss, repair=repair, together=together, rate=rate)


def wrong(
    batch: TrainingBatch, target: Float[Tensor, "b *image"], label: str, level: float, rng: torch.Generator
) -> Float[Tensor, "b *image"]:
    """Return a wrong target in place of a right one; see `noisy_labels`."""
    if label == "zero_filled":
        adjoint = batch.physics().A_adjoint(batch.y)
        if adjoint.shape != target.shape:
            raise ShapeError(
                "zero-filled images do not fit the targets",
                found=tuple(adjoint.shape),
                expected=tuple(target.shape),
                cure="Take noisy or noise labels",
            )
        return adjoint
    noise = torch.randn(target.shape, generator=rng, dtype=target.dtype).to(target.device)
    if label == "noise":
        deviation, mean = torch.std_mean(target.flatten(2), dim=2, correction=0)
        shape = (*target.shape[:2], *(1,) * (target.ndim - 2))
        return mean.view(shape) + deviation.view(shape) * noise
    rms = target.flatten(1).square().mean(1).sqrt()
    return target + level * rms.view(-1, *(1,) * (target.ndim - 1)) * noise
