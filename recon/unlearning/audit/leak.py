"""By chance? The largest leak over several draws of noise that is added to the measurements.

Leak@k [1]_ asks whether any of k random answers gives away what was forgotten. A network's answer is random by the
noise of its measurements; what leaks is a reconstruction of a forgotten slice that is better than the oracle's best.

References
----------
.. [1] Reisizadeh et al., Leak@k: unlearning does not make LLMs forget under probabilistic decoding, arXiv 2511.04934.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from math import comb
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.training.batches import TrainingBatch
from recon.unlearning.audit.subjects import FORGET, JOINT, NO_ORACLE, ORACLE, UNLEARNED, Row, Subjects, spread
from recon.unlearning.examples import Examples

_SLICES = 16
_UNKNOWN = 0.01  # of the measurements' root mean square: added where the noise is not known


def leak(subjects: Subjects) -> Row:
    """Find the expected best reconstruction of k draws, in dB of the loss, and how far it is above the oracle's."""
    examples, draws = spread(subjects.examples(FORGET), _SLICES), subjects.effort.draws
    levels = {
        name: subjects.remember(name, "leak", make=partial(_levels, subjects, name, examples))
        for name in subjects.present(UNLEARNED, JOINT, ORACLE)
    }
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < draws] + [draws]
    best = {name: {str(k): float(expected_best(found, k).mean()) for k in ks} for name, found in levels.items()}
    figures: dict[str, Any] = {"quality of the best of k, dB": best}
    if ORACLE not in levels:
        return Row(figures, {"leak": NO_ORACLE})
    worst = levels[UNLEARNED].amax(1) - levels[ORACLE].amax(1)
    figures["leak at k, dB"] = {k: value - best[ORACLE][k] for k, value in best[UNLEARNED].items()}
    figures["largest leak, dB"] = float(worst.max())
    figures["slice of the largest leak"] = examples[int(worst.argmax())].name
    return Row(figures)


@torch.no_grad()
def _levels(subjects: Subjects, name: str, examples: Examples) -> Float[Tensor, "slice draw"]:
    """Loss of each slice and draw of noise, dB below 1."""
    found = torch.empty(len(examples), subjects.effort.draws, dtype=torch.float64)
    for i in range(len(examples)):
        batch = examples.batch([i])
        for j in range(subjects.effort.draws):
            noisy = with_noise(batch, child_generator(subjects.seed, 12, i, j))
            loss = subjects.objective(subjects.models[name], noisy, child_generator(subjects.seed, 13, i, j))
            found[i, j] = -20 * loss.double().log10()
    return found


def expected_best(values: Float[Tensor, "slice draw"], k: int) -> Float[Tensor, " slice"]:
    """Estimate the expected largest of k draws without bias from n of them, as a mean of order statistics."""
    n = values.shape[1]
    weights = torch.tensor([comb(i, k - 1) / comb(n, k) for i in range(n)], dtype=values.dtype)
    return values.sort(dim=1).values @ weights


def with_noise(batch: TrainingBatch, rng: torch.Generator) -> TrainingBatch:
    """Add noise of the level that the measurements have, where they are measured."""
    y = batch.y
    measured = y != 0
    rms = y.abs().square().sum().div(measured.sum().clamp_min(1)).sqrt()
    unknown = ~torch.isfinite(batch.sigma)
    level = torch.where(unknown, _UNKNOWN * rms.to(batch.sigma), batch.sigma).to(y.device)
    parts = (*y.shape, 2) if y.is_complex() else y.shape
    noise = torch.randn(parts, generator=rng, dtype=y.real.dtype if y.is_complex() else y.dtype).to(y.device)
    noise = torch.view_as_complex(noise) if y.is_complex() else noise
    shaped = level.reshape(-1, *[1] * (y.ndim - 1)).to(noise.real.dtype if y.is_complex() else noise.dtype)
    return cast(TrainingBatch, dataclasses.replace(cast(Any, batch), y=y + shaped * noise * measured))
