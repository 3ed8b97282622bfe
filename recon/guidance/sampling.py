"""Samples of the posterior of an image, given measurements of any linear operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from deepinv.physics import LinearPhysics, Physics
from jaxtyping import Float, Num
from torch import Tensor

from recon.datasets.random import child_generator
from recon.guidance.deepinv_samplers import DPS, DiffPIR
from recon.guidance.denoisers import DenoiserLike, ImageDenoiser, network_of
from recon.guidance.problems import Problem, check_linear, levels_of, levels_or_guess, problems
from recon.guidance.tfg import TFG
from recon.physics.errors import DataError, OptionError


@runtime_checkable
class Method(Protocol):
    """How samples are drawn: `TFG`, `DPS` or `DiffPIR` with their numbers."""

    @property
    def needs_noise(self) -> bool:
        """Whether the noise level must be known."""
        ...

    def draw(
        self, problem: Problem, denoiser: ImageDenoiser, count: int, generator: torch.Generator
    ) -> Float[Tensor, "s c y x"]:
        """Draw samples of an image of magnitude 1."""
        ...


METHODS: Mapping[str, type[Method]] = {"tfg": TFG, "dps": DPS, "diffpir": DiffPIR}


class Posterior(NamedTuple):
    """Samples of images, and what they say together.

    Parameters
    ----------
    samples
        ``(sample, b, c, y, x)``, in the units of the operator.
    mean
        Of the samples, ``(b, c, y, x)``.
    spread
        Standard deviation of each pixel and channel over the samples, ``(b, c, y, x)``; NaN of one sample.
    """

    samples: Float[Tensor, "s b c y x"]
    mean: Float[Tensor, "b c y x"]
    spread: Float[Tensor, "b c y x"]

    @property
    def magnitude_spread(self) -> Float[Tensor, "b y x"]:
        """Standard deviation of the magnitude; of images of one channel, that of their values."""
        if self.samples.shape[2] == 1:
            return self.spread[:, 0]
        return torch.linalg.vector_norm(self.samples, dim=2).std(0)


@torch.no_grad()
def sample(
    y: Num[Tensor, "b ..."],
    physics: Physics,
    denoiser: DenoiserLike,
    method: str | Method = "tfg",
    *,
    samples: int = 8,
    sigma: float | None = None,
    unit: float | None = None,
    together: int = 8,
    seed: int = 0,
) -> Posterior:
    """Draw samples of images from their measurements.

    Parameters
    ----------
    y, physics
        Measurements and their operator, a deepinv `LinearPhysics`.
    denoiser
        What is known of the images: see `recon.guidance.denoisers.ImageDenoiser`.
    method
        A name in `METHODS`, or one of them with its numbers, such as ``TFG(rho=0.5, mu=0.5)``.
    samples
        How many; mean and spread have a relative error of about its inverse root.
    sigma
        Level of the white Gaussian noise of the measurements, of the real and of the imaginary part; None: what the
        operator's noise model says, else what the data say.
    unit
        Magnitude of the images, which the denoiser sees as 1; None: it is found in the data.
    together
        Samples drawn at once, which bounds the memory.
    seed
        Of all that is drawn.

    Returns
    -------
    Posterior
        Samples, mean and spread.

    Raises
    ------
    OptionError
        No such method, no sample, a noise level that is not positive or not known.
    OperatorError
        An operator that is not linear, or whose adjoint is not its adjoint.
    ShapeError, DataError
        Measurements that do not fit the operator, a denoiser for other images, samples that are not finite.
    """
    chosen = method_of(method)
    if samples < 1 or together < 1:
        raise OptionError("there is a sample at least", found=f"samples {samples}, together {together}")
    if unit is not None and not 0 < unit < float("inf"):
        raise OptionError("a magnitude is positive", found=unit)
    physics = check_linear(y, physics)
    if chosen.needs_noise or sigma is not None:
        levels: list[float] | None = levels_of(y, physics, sigma)
    else:
        levels = levels_or_guess(y, physics)
    return posterior(
        y, physics, denoiser, chosen, levels, samples=samples, unit=unit, least=0.0, together=together, seed=seed
    )


def posterior(
    y: Num[Tensor, "b ..."],
    physics: LinearPhysics,
    denoiser: DenoiserLike,
    method: Method,
    levels: Sequence[float] | None,
    *,
    samples: int,
    unit: float | None = None,
    least: float,
    together: int = 8,
    seed: int,
) -> Posterior:
    """Draw samples from checked measurements; parameters are those of `sample` and `recon.guidance.problems.problems`.

    Raises
    ------
    ShapeError, DataError
        A denoiser for other images, samples that are not finite.
    """
    drawn, network = [], network_of(denoiser)
    for place, problem in enumerate(problems(y, physics, levels, unit=unit, least=least)):
        fitted = ImageDenoiser(network, problem.start.shape[1])
        parts = [
            method.draw(problem, fitted, min(together, samples - first), child_generator(seed, place, first))
            for first in range(0, samples, together)
        ]
        drawn.append(torch.cat(parts) * problem.unit)
    images = torch.stack(drawn, 1)
    if not bool(torch.isfinite(images).all()):
        raise DataError(
            "samples that are not finite", found=str(method), cure="Lower rho, mu or the weight, or raise gamma"
        )
    spread = images.std(0) if samples > 1 else torch.full_like(images[0], float("nan"))
    return Posterior(images, images.mean(0), spread)


def method_of(method: str | Method) -> Method:
    """Return the method of a name, or the one given.

    Raises
    ------
    OptionError
        No such method.
    """
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise OptionError("no such sampler", found=method, expected=f"one of {', '.join(METHODS)}")
    return METHODS[method]()
