"""The criterion of fine-tuning: how well a network predicts measurements that it has not been trained on.

No truth is needed. Of five scans or more some are kept apart; of fewer, a part of the measurements of each. In both
cases the network reconstructs from one part of a measurement and predicts the other. Where it cannot take a part of the
measurements, they are recorrupted instead: of Gaussian data two copies are made whose noise is independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from deepinv.physics.noise import GaussianNoise
from jaxtyping import Bool, Float
from torch import Tensor

from recon.datasets.random import child_generator
from recon.finetuning.measurements import Measurement, Model, with_noise
from recon.finetuning.splitting import split
from recon.physics.errors import DataError, OptionError, ReconError, ShapeError

FEWEST_SCANS = 5
"""From so many scans on, whole scans are held out."""
_SHARE, _MOST = 0.2, 8  # of the scans, and how many at most
_PART = 0.1  # of the measurements of a scan
_ALPHA = 0.15  # of recorruption: the share of the information that is held out

_REFUSALS = (ReconError, RuntimeError, ValueError, TypeError, AttributeError)  # of foreign networks too

How = Literal["split", "recorrupted"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A measurement in two parts.

    Parameters
    ----------
    kept
        What is reconstructed from.
    whole
        With the operator and the values that are predicted.
    left_out
        Which of them are; None: all.
    """

    kept: Measurement
    whole: Measurement
    left_out: Bool[Tensor, "..."] | None

    @torch.no_grad()
    def error(self, model: Model) -> float:
        """Squared error of the prediction over the squared values, in units of the noise where that is known."""
        predicted = self.whole.physics.A(model(self.kept.y, self.kept.physics))
        unit = 1.0 if self.whole.deviation is None else self.whole.deviation
        difference, values = ((v / unit).abs().square() for v in (predicted - self.whole.y, self.whole.y))
        if self.left_out is not None:
            difference, values = (torch.where(self.left_out, v, 0) for v in (difference, values))
        energy = float(values.sum())
        return float(difference.sum()) / energy if energy > 0 else math.nan


class Picked(Sequence[Measurement]):
    """Some of the measurements, which are still only prepared when they are needed."""

    def __init__(self, measurements: Sequence[Measurement], indices: Sequence[int]) -> None:
        self.measurements, self.indices = measurements, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.measurements[i] for i in self.indices[index]]
        return self.measurements[self.indices[index]]


@dataclass(frozen=True, eq=False)
class Holding:
    """What is trained on and what is judged by.

    Parameters
    ----------
    training
        Measurements that are trained on: all of those that are not held out, or the kept part of each.
    held_out
        What is judged by.
    how
        How a measurement is parted.
    what
        In words, for the card.
    """

    training: Sequence[Measurement]
    held_out: list[HeldOut]
    how: How
    what: str

    def error(self, model: Model) -> float:
        """Mean error over what is held out."""
        errors = [part.error(model) for part in self.held_out]
        return sum(errors) / len(errors)


def hold_out(model: Model, measurements: Sequence[Measurement], *, seed: int) -> Holding:
    """Decide what is held out, and hold it out.

    Raises
    ------
    OptionError
        The network takes no part of the measurements, and they cannot be recorrupted either.
    """
    how, why = way_to_part(model, measurements[0], seed=seed)
    count = len(measurements)
    if count >= FEWEST_SCANS:
        order = torch.randperm(count, generator=child_generator(seed, 0)).tolist()
        apart = sorted(order[: min(max(round(_SHARE * count), 1), _MOST)])
        held_out = [_part(measurements[i], how, seed, i) for i in apart]
        training: Sequence[Measurement] = Picked(measurements, [i for i in range(count) if i not in apart])
        what = f"{len(apart)} of {count} measurements, {why}"
    else:
        held_out = [_part(m, how, seed, i) for i, m in enumerate(measurements)]
        training = [part.kept for part in held_out]
        what = f"a part of each of {count} measurement{'s' * (count > 1)}, {why}"
    return Holding(training, held_out, how, what)


def way_to_part(model: Model, measurement: Measurement, *, seed: int) -> tuple[How, str]:
    """Return how measurements of this kind are parted for this network, and why."""
    try:
        kept, _ = split(measurement, _PART, child_generator(seed, 1, 0))
        _check_measured(model, kept, measurement)
    except _REFUSALS as error:
        reason = str(error)
    else:
        return "split", "predicted from the other samples of each"
    if measurement.deviation is None:
        raise OptionError(
            "nothing can be held out: the network takes no part of the measurements, and their noise is not known",
            file=measurement.name or None,
            found=reason,
            cure="Give the operator a noise model (deepinv.physics.GaussianNoise), or take another network",
        )
    try:
        _check_measured(model, measurement, measurement)
    except _REFUSALS as error:
        raise OptionError(
            f"the network does not reconstruct these measurements: {error}", file=measurement.name or None
        ) from error
    return "recorrupted", "predicted from copies of more noise, for the network takes no part of the measurements"


@torch.no_grad()
def _check_measured(model: Model, kept: Measurement, whole: Measurement) -> None:
    """Raise where the operator cannot measure the network's image."""
    x = model(kept.y, kept.physics)
    if whole.physics.A(x).shape != whole.y.shape:
        raise ShapeError("an image that cannot be measured again", found=tuple(x.shape))


def _part(measurement: Measurement, how: How, seed: int, index: int) -> HeldOut:
    rng = child_generator(seed, 1, index)
    if how == "split":
        kept, left_out = split(measurement, _PART, rng)
        return HeldOut(kept, measurement, left_out)
    return recorrupted(measurement, rng)


def recorrupted(measurement: Measurement, rng: torch.Generator) -> HeldOut:
    r"""Make two copies whose noise is independent [Pang 2021].

    .. math:: y_1 = y + \sqrt{\alpha / (1 - \alpha)}\, \sigma \omega, \qquad y_2 = (y - (1 - \alpha) y_1) / \alpha
    """
    y, deviation = measurement.y, measurement.deviation
    if deviation is None:
        raise DataError("measurements of unknown noise cannot be recorrupted", file=measurement.name or None)
    omega = _noise_like(y, rng) * deviation
    if measurement.sampled is not None:
        omega = omega * measurement.sampled
    first = y + (_ALPHA / (1 - _ALPHA)) ** 0.5 * omega
    second = (y - (1 - _ALPHA) * first) / _ALPHA
    noisier = GaussianNoise(measurement.physics.noise_model.sigma / (1 - _ALPHA) ** 0.5)
    kept = Measurement(y=first, physics=with_noise(measurement.physics, noisier), name=measurement.name)
    return HeldOut(kept, Measurement(y=second, physics=measurement.physics, name=measurement.name), None)


def _noise_like(y: Tensor, rng: torch.Generator) -> Float[Tensor, "..."]:
    shape = (*y.shape, 2) if y.is_complex() else tuple(y.shape)
    drawn = torch.randn(shape, dtype=y.real.dtype, generator=rng).to(y.device)
    return torch.view_as_complex(drawn) if y.is_complex() else drawn
