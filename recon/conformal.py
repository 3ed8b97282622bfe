r"""Intervals that hold what they promise: a map of deviations, scaled until it covers the errors of held-out slices.

A slice is covered to the share of its object's pixels in which :math:`|\,|\hat x| - |x|\,| \le q\,d\,(u + u_0)`. u is
the deviation by `recon.uncertainty` and :math:`u_0` a floor below which it is not believed; d depends on the sampling
alone, for an image that has lost detail comes back too easily from what is simulated of it:

.. math:: d = R^{\gamma} \exp(l\,(\beta + \delta \ln R))

with the acceleration R and l = 1 for masks of lines, else 0. By conformal risk control [1]_

.. math:: q = \min\Bigl\{q : \tfrac{n}{n+1}\,\bar R(q) + \tfrac{1}{n+1} \le 1 - \text{level}\Bigr\}

with :math:`\bar R` the mean share of pixels that are not covered in n slices. Then another slice is covered to at least
``level`` in expectation **if it is exchangeable with those n**: of the same kind of object, coils, noise and sampling.
Pixels need not be independent of each other, slices must be, and those of one volume are so only roughly. The promise
is one on average over pixels and slices; a single structure can be missed altogether. :math:`u_0` and d are found on
slices of their own, so that they don't weaken it.

References
----------
.. [1] Angelopoulos, Bates, Fisch, Lei, Schuster, Conformal risk control, ICLR 2024, eq. 4.
.. [2] Angelopoulos et al., Image-to-image regression with distribution-free uncertainty quantification, ICML 2022
   (pixelwise heuristic intervals scaled as a whole).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon.datasets.random import Number, Seed, as_generator
from recon.physics import MultiCoilMRI
from recon.physics.errors import CheckpointError, DataError, OptionError
from recon.training.examples import Example, collate
from recon.trust import Model
from recon.uncertainty import METHOD, REPLICAS, deviation, equivariant_bootstrap, smoothed

_OBJECT = 0.05  # of the 99.9th percentile: below it there is air, where any interval covers
_FLOORS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 20.0)  # tried, in units of the median deviation
_STRATA = 5
_FOR_FLOOR = 4  # one slice in so many chooses floor and difficulty
_RIDGE = 0.5  # holds the difficulty's exponents down where slices are few or of one kind

Difficulty = tuple[float, float, float]


@dataclass(frozen=True)
class Sampling:
    """What the difficulty of a slice depends on: acceleration, and whether whole lines are sampled."""

    acceleration: float = 1.0
    of_lines: bool = False

    @classmethod
    def by(cls, mask: Bool[Tensor, "1 1 y x"]) -> Sampling:
        """Return the sampling of a mask."""
        of_lines = any(torch.equal(mask, mask.narrow(axis, 0, 1).expand_as(mask)) for axis in (-2, -1))
        return cls(float(1 / mask.float().mean()), of_lines)

    def factor(self, difficulty: Sequence[float]) -> float:
        """Return d of the module for its exponents (gamma, beta, delta)."""
        rate, (gamma, beta, delta) = math.log(self.acceleration), difficulty
        return math.exp(gamma * rate + self.of_lines * (beta + delta * rate))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    r"""What turns deviations into intervals; stored in a checkpoint's card under ``calibration``.

    Parameters
    ----------
    level
        Share of the object's pixels that is covered.
    scale, floor
        q and :math:`u_0` (see the module), the latter for data whose zero-filled image's 99.9th percentile is 1.
    difficulty
        The exponents :math:`\gamma, \beta, \delta` of d.
    method, replicas
        How the deviation was found; another number of replicas would need another scale.
    slices
        How many the scale was found on.
    data
        Which volumes they were of.
    """

    level: float
    scale: float
    floor: float
    difficulty: Difficulty = (0.0, 0.0, 0.0)
    method: str
    replicas: int
    slices: int
    data: tuple[str, ...] = ()

    def half_width(self, u: Float[Tensor, "*any"], sampling: Sampling) -> Float[Tensor, "*any"]:
        """Half the width of the interval around the magnitude, in the units of the deviation ``u``."""
        return self.scale * sampling.factor(self.difficulty) * (u + self.floor)

    def to_card(self) -> dict[str, Any]:
        """Return what stands in the card, JSON-serialisable."""
        return {**asdict(self), "difficulty": list(self.difficulty), "data": list(self.data)}

    @classmethod
    def from_card(cls, entry: Mapping[str, Any]) -> Calibration | None:
        """Return the calibration that stands in a card; None where the card has none, or one by another method.

        Raises
        ------
        CheckpointError
            The entry is there, but damaged.
        """
        if not entry or entry.get("method", METHOD) != METHOD:
            return None
        try:
            found = cls(
                level=float(entry["level"]),
                scale=float(entry["scale"]),
                floor=float(entry["floor"]),
                difficulty=_three(entry["difficulty"]),
                method=METHOD,
                replicas=int(entry["replicas"]),
                slices=int(entry["slices"]),
                data=tuple(map(str, entry.get("data", ()))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("the card's calibration cannot be used", found=repr(error)) from error
        sound = 0 < found.level < 1 and 0 < found.scale < math.inf and 0 <= found.floor < math.inf
        if not sound or found.replicas < 2 or not all(map(math.isfinite, found.difficulty)):
            raise CheckpointError("the card's calibration cannot be used", found=dict(entry))
        return found


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often intervals held, over slices whose truth is known.

    Parameters
    ----------
    mean
        Mean over slices of the share of the object's pixels whose error lies within the interval.
    slices
        That share in each slice.
    half_width, error
        Mean half width and mean absolute error of those pixels, in the scale of the data.
    """

    mean: float
    slices: tuple[float, ...]
    half_width: float
    error: float


@dataclass(frozen=True, eq=False)
class Judged:
    """Errors of a slice's magnitude and the deviations that should have foretold them, of the object's pixels."""

    error: Float[Tensor, " pixel"]
    deviation: Float[Tensor, " pixel"]
    sampling: Sampling = Sampling()


def calibrate(
    model: Model,
    examples: Iterable[Example],
    *,
    level: Number = 0.9,
    replicas: int = REPLICAS,
    seed: Seed = 0,
    data: Sequence[str] = (),
) -> dict[str, Any]:
    """Find the scale of the intervals on slices that the model was not trained on, a quarter of them for the floor.

    Costs ``replicas + 1`` forward passes a slice.

    Parameters
    ----------
    model
        The method.
    examples
        Slices with their truth and noise level; as many as time allows, over 100 best: the correction for n slices
        makes intervals wide where there are few.
    level
        Share of the object's pixels to be covered.
    replicas, seed
        Of the bootstrap.
    data
        Names of the volumes that the slices are of, for the card.

    Returns
    -------
    dict
        `Calibration.to_card`.

    Raises
    ------
    DataError
        A slice without truth or noise level, or too few slices for this level.
    OptionError
        A level that is not between 0 and 1.
    """
    judged = judge(model, examples, replicas=replicas, seed=seed)
    scale, floor, difficulty = fit(judged, level)
    return Calibration(
        level=float(level),
        scale=scale,
        floor=floor,
        difficulty=difficulty,
        method=METHOD,
        replicas=replicas,
        slices=len(judged),
        data=tuple(data),
    ).to_card()


def coverage(
    model: Model, examples: Iterable[Example], calibration: Mapping[str, Any] | Calibration, *, seed: Seed = 1
) -> Coverage:
    """Measure how often the intervals hold on other slices; parameters and errors are those of `calibrate`."""
    known = calibration if isinstance(calibration, Calibration) else Calibration.from_card(calibration)
    if known is None:
        raise OptionError("no calibration to be checked", cure="Calibrate the model first")
    return covered(judge(model, examples, replicas=known.replicas, seed=seed), known)


def covered(judged: Sequence[Judged], calibration: Calibration) -> Coverage:
    """Return the coverage of slices that are judged already."""
    if not judged:
        raise DataError("no slice to measure the coverage on")
    widths = [calibration.half_width(item.deviation, item.sampling) for item in judged]
    shares = [float((item.error <= width).float().mean()) for item, width in zip(judged, widths, strict=True)]
    return Coverage(
        mean=sum(shares) / len(shares),
        slices=tuple(shares),
        half_width=float(torch.stack([width.mean() for width in widths]).mean()),
        error=float(torch.stack([item.error.mean() for item in judged]).mean()),
    )


def fit(judged: Sequence[Judged], level: Number) -> tuple[float, float, Difficulty]:
    """Return scale, floor and difficulty; the latter two are found on slices of their own.

    The floor is the one with which pixels of low and of high deviation are covered most alike ("size-stratified" in
    [2]_ of the module), not the one of the narrowest intervals: these would give up the pixels of large errors. Where
    the deviation foretells nothing the floor is large, and all intervals of a slice are of one width.

    Raises
    ------
    DataError
        Too few slices for this level.
    OptionError
        A level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise OptionError("a level of coverage lies between 0 and 1", found=level)
    for_shape = list(judged[::_FOR_FLOOR])
    for_scale = [item for place, item in enumerate(judged) if place % _FOR_FLOOR]
    needed = math.ceil(level / (1 - level) - 1e-9)
    if len(for_scale) < needed:
        raise DataError(
            "too few slices to calibrate on", found=len(judged), expected=f"{math.ceil(needed * 4 / 3)} or more"
        )
    typical = _typical([item.deviation for item in for_shape]) or _typical([item.error for item in for_shape]) or 1.0
    floors = [relative * typical for relative in _FLOORS]
    tried = [(floor, _difficulty(for_shape, floor, level)) for floor in floors]
    floor, difficulty = min(tried, key=lambda shape: _unevenness(for_shape, shape[0], shape[1], level))
    n = len(for_scale)
    return _scale(for_scale, floor, difficulty, 1 - (1 - level) * (1 + 1 / n) + 1 / n), floor, difficulty


def judge(model: Model, examples: Iterable[Example], *, replicas: int = REPLICAS, seed: Seed = 0) -> list[Judged]:
    """Reconstruct each slice, foretell its errors, and find them; a slice of nothing but air is left out.

    Parameters and errors are those of `calibrate`.
    """
    rng = as_generator(seed)
    judged = (_judge(model, example, replicas, rng) for example in examples)
    return [item for item in judged if item.error.numel()]


def object_pixels(
    x: Float[Tensor, "b channel y x"], physics: MultiCoilMRI, *, share: float = _OBJECT
) -> Bool[Tensor, "b y x"]:
    """Pixels that the promise is about: within the coil maps, and not air by the image itself.

    Parameters
    ----------
    x
        The image, scaled like its data: the zero-filled image's 99.9th percentile is 1.
    physics
        Its operator.
    share
        Magnitude, averaged over 5 x 5 pixels, above which there is an object; 0 leaves only the coil maps to say.
    """
    inside = (physics.coil_maps != 0).any(dim=2).any(dim=1)
    return inside & (smoothed(torch.linalg.vector_norm(x, dim=1)) > share)


@torch.no_grad()
def _judge(model: Model, example: Example, replicas: int, rng: torch.Generator) -> Judged:
    if example.target is None or not math.isfinite(example.sigma):
        missing = "its truth" if example.target is None else "its noise level"
        raise DataError(f"a slice can only be calibrated on with {missing}", file=example.name or None)
    batch = collate([example])
    physics = batch.physics()
    x = model(batch.y, physics)
    found = equivariant_bootstrap(model, batch.y, physics, example.sigma, x=x, replicas=replicas, seed=rng)
    inside = object_pixels(x, physics)
    error = (torch.linalg.vector_norm(x, dim=1) - example.target.abs()).abs()
    return Judged(error[inside], deviation(found, x)[inside], Sampling.by(batch.mask))


def _three(values: Sequence[Number]) -> Difficulty:
    gamma, beta, delta = map(float, values)
    return gamma, beta, delta


def _difficulty(judged: Sequence[Judged], floor: float, level: float) -> Difficulty:
    """Regress the logarithm of the scale that each slice by itself would need on its sampling."""
    needed = [float(torch.quantile(item.error / (item.deviation + floor), level)) for item in judged]
    wanted = torch.tensor(needed, dtype=torch.float64).clamp_min(1e-12).log()
    rate = torch.tensor([math.log(item.sampling.acceleration) for item in judged], dtype=torch.float64)
    lines = torch.tensor([float(item.sampling.of_lines) for item in judged], dtype=torch.float64)
    r, line = rate - rate.mean(), lines - lines.mean()
    features = torch.stack([r, line, r * line], dim=1)
    normal = features.T @ features + _RIDGE * torch.eye(3, dtype=torch.float64)
    c = torch.linalg.solve(normal, features.T @ (wanted - wanted.mean()))
    gamma, beta = c[0] - c[2] * lines.mean(), c[1] - c[2] * rate.mean()
    return float(gamma), float(beta), float(c[2])


def _scores(item: Judged, floor: float, difficulty: Difficulty) -> Float[Tensor, " pixel"]:
    return item.error / ((item.deviation + floor) * item.sampling.factor(difficulty))


def _scale(judged: Sequence[Judged], floor: float, difficulty: Difficulty, level: float) -> float:
    """Return the least q with which the mean over slices of the covered share reaches ``level``."""
    scores = torch.cat([_scores(item, floor, difficulty) for item in judged])
    shares = torch.cat([torch.full_like(item.error, 1 / len(item.error)) for item in judged])
    scores, order = scores.sort()
    reached = shares[order].double().cumsum(0) / len(judged)
    place = int(torch.searchsorted(reached, torch.tensor(min(level, 1.0) - 1e-6, dtype=reached.dtype)))
    return float(scores[min(place, len(scores) - 1)])


def _typical(values: Sequence[Tensor]) -> float:
    """Median over slices of their medians: slices count alike, however large."""
    return float(torch.stack([value.median() for value in values]).median())


def _unevenness(judged: Sequence[Judged], floor: float, difficulty: Difficulty, level: float) -> float:
    """Return how far the coverage of any fifth of the pixels, from low to high deviation, lies from ``level``."""
    scale = _scale(judged, floor, difficulty, level)
    held = torch.cat([_scores(item, floor, difficulty) for item in judged]) <= scale
    u = torch.cat([item.deviation for item in judged])
    return max(abs(float(part.float().mean()) - level) for part in held[u.argsort()].chunk(_STRATA))
