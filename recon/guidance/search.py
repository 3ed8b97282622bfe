"""The hyper-parameter search of training-free guidance: from weak to strong, the best few at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from deepinv.physics import Physics
from jaxtyping import Float
from torch import Tensor

from recon.guidance.denoisers import DenoiserLike, network_of
from recon.guidance.problems import check_linear
from recon.guidance.sampling import Method, Posterior, sample
from recon.metrics import psnr
from recon.physics.errors import DataError, OptionError

Score = Callable[[Posterior, Tensor], float]


@dataclass(frozen=True)
class Axis:
    """One number that is searched.

    Parameters
    ----------
    factor
        Of one value to the next, above 1.
    most
        Greatest value.
    """

    factor: float
    most: float


@dataclass(frozen=True, eq=False)
class Example:
    """Measurements whose image is known.

    Parameters
    ----------
    y, physics
        Measurements and their operator, which knows its noise.
    truth
        The image.
    """

    y: Tensor
    physics: Physics
    truth: Float[Tensor, "b c y x"]


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Parameters
    ----------
    method
        With its numbers.
    score
        Mean over the examples, higher is better; -inf where samples were not finite.
    """

    method: Method
    score: float


def mean_psnr(posterior: Posterior, truth: Float[Tensor, "b c y x"]) -> float:
    """PSNR of the magnitude of the posterior mean, in dB."""
    image, reference = (torch.linalg.vector_norm(x.double(), dim=1) for x in (posterior.mean, truth))
    return psnr(image, reference)


def search(
    start: Method,
    examples: Sequence[Example],
    denoiser: DenoiserLike,
    axes: Mapping[str, Axis],
    *,
    best: int = 2,
    rounds: int = 6,
    samples: int = 2,
    score: Score = mean_psnr,
    seed: int = 0,
    progress: Callable[[Trial], None] | None = None,
) -> list[Trial]:
    """Search the numbers of a sampler as TFG's authors do [Ye et al. 2024, section 4.2].

    Starting from weak guidance, each round multiplies each number of the best few by its factor, one number at a time.
    It ends where a round has nothing new, or none of its trials is among the best few.

    Parameters
    ----------
    start
        The sampler with its least numbers.
    examples
        Validation examples; those of the test must not be among them.
    denoiser
        As of `recon.guidance.sample`.
    axes
        Numbers that are searched, by the name of the sampler's field: of `TFG` ``rho``, ``mu``, ``gamma``,
        ``recurrence`` and ``iterations``; of `DPS` ``weight``; of `DiffPIR` ``strength`` and ``zeta``. After 0 comes
        the ``most`` over the eighth power of the factor.
    best
        How many are gone on with.
    rounds
        At most.
    samples, seed
        As of `recon.guidance.sample`.
    score
        What is maximised.
    progress
        Called with each trial.

    Returns
    -------
    list
        All trials, the best first.

    Raises
    ------
    OptionError
        No examples, axes that are not the sampler's.
    OperatorError, ShapeError, DataError
        Measurements that `recon.guidance.sample` does not take; samples that are not finite only score -inf.
    """
    if not is_dataclass(start) or isinstance(start, type):
        raise OptionError("a sampler with fields is searched", found=type(start).__name__)
    known = [field.name for field in fields(start)]
    unknown = [name for name in axes if name not in known]
    if unknown or not axes or not examples or best < 1 or rounds < 1:
        raise OptionError(
            "nothing to search",
            found=f"axes {unknown or list(axes)}, {len(examples)} examples, best {best}, rounds {rounds}",
            expected=f"some of {', '.join(known)}, an example at least",
        )
    if any(axis.factor <= 1 for axis in axes.values()):
        raise OptionError("a search goes up", expected="factors above 1")
    for example in examples:
        check_linear(example.y, example.physics)  # here, so that it is no trial that diverged
    network = network_of(denoiser)

    def tried(method: Any) -> Trial:
        try:
            scores = [
                score(sample(e.y, e.physics, network, method, samples=samples, seed=seed + i), e.truth)
                for i, e in enumerate(examples)
            ]
            trial = Trial(method, math.fsum(scores) / len(scores))
        except DataError:
            trial = Trial(method, -math.inf)
        if progress is not None:
            progress(trial)
        return trial

    seen, trials = {start}, [tried(start)]
    for _ in range(rounds):
        candidates = []
        for trial in trials[:best]:
            for name, axis in axes.items():
                candidate = replace(trial.method, **{name: _higher(getattr(trial.method, name), axis)})
                if candidate not in seen:
                    seen.add(candidate)
                    candidates.append(candidate)
        new = [tried(candidate) for candidate in candidates]
        trials = sorted([*trials, *new], key=lambda trial: -trial.score)
        if not any(trial in trials[:best] for trial in new):
            break
    return trials


def _higher(value: float, axis: Axis) -> float:
    raised = axis.most / axis.factor**8 if value == 0 else value * axis.factor
    raised = min(raised, axis.most)
    return round(raised) if isinstance(value, int) else raised
