"""The problems that samplers and plug-and-play methods solve: one image, of magnitude 1, in noise of a known level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from deepinv.physics import LinearPhysics, Physics
from deepinv.physics.noise import GaussianNoise, ZeroNoise
from jaxtyping import Float, Num
from torch import Tensor

from recon.measured import effective_sigma, with_noise
from recon.models.conditioning import PaddedOperator, backprojected
from recon.models.ram_light import Problem as SmoothProblem
from recon.models.ram_light import squared_norm
from recon.models.scaling import peak
from recon.physics import FunctionPhysics
from recon.physics.checks import check_measurements, check_operator
from recon.physics.errors import OperatorError, OptionError
from recon.physics.linalg import conjugate_gradient
from recon.regularisation import CoilOperator, single
from recon.regularisation import check_measurements as check_samples
from recon.variational import noise_levels

UNKNOWN, LEAST = 0.01, 1e-3  # noise level over the image's magnitude, where nobody tells it; the least that is told
_ITERATIONS, _TOLERANCE = 60, 1e-5  # of conjugate gradients, where no formula solves the normal equations


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One image's measurements, for an image of magnitude 1.

    Parameters
    ----------
    y, physics
        Measurements ``(1, ...)`` over ``unit``, and their operator, whose noise model says ``sigma``.
    sigma
        Of their white Gaussian noise, over ``unit``: of the real and of the imaginary part.
    unit
        Magnitude of the image in the units of the measurements.
    start
        A smooth first estimate of the image, over ``unit``.
    """

    y: Num[Tensor, "1 ..."]
    physics: LinearPhysics
    sigma: float
    unit: float
    start: Float[Tensor, "1 c y x"]

    def residual(self, x: Float[Tensor, "s c y x"]) -> Num[Tensor, "s ..."]:
        """Return ``y - A x`` for several images."""
        return self.y - self.physics.A(x)

    def pull(self, residual: Num[Tensor, "s ..."], smoothing: float) -> Float[Tensor, "s c y x"]:
        r"""Return :math:`A^T (\sigma^2 + \gamma^2 A A^T)^{-1} r`, for :math:`\gamma` = ``smoothing``.

        By the operator's closed formula where it has one, else by conjugate gradients on images:
        :math:`(\sigma^2 + \gamma^2 A^T A)^{-1} A^T r`.
        """
        back, square = self.physics.A_adjoint(residual), self.sigma**2
        if smoothing == 0:
            return back / square
        ratio = smoothing**2 / square
        if type(self.physics).prox_l2 is not LinearPhysics.prox_l2:
            found: Tensor = self.physics.prox_l2(back / square, torch.zeros_like(residual), ratio)
            return found

        def normal(x: Tensor) -> Tensor:
            return x + ratio * self.physics.A_adjoint_A(x)

        return conjugate_gradient(normal, back / square, max_iter=_ITERATIONS, tol=_TOLERANCE)


def check_linear(y: Num[Tensor, "b ..."], physics: Physics) -> LinearPhysics:
    """Check operator and measurements, and return the operator.

    Raises
    ------
    OperatorError
        An operator that is not linear, or a user's functions that are not adjoint.
    ShapeError, DataError
        Measurements of another shape than the operator's, or not finite.
    """
    if not isinstance(physics, LinearPhysics):
        raise OperatorError("an operator that is not linear", found=type(physics).__name__, expected="a LinearPhysics")
    if isinstance(physics, CoilOperator):
        check_samples(y, physics)
    else:
        check_measurements(y, physics)
    if isinstance(physics, FunctionPhysics):
        check_operator(
            physics,
            dtype=torch.float64 if y.dtype in (torch.float64, torch.complex128) else torch.float32,
            device=y.device,
        )
    return physics


def levels_of(y: Num[Tensor, "b ..."], physics: LinearPhysics, sigma: float | None = None) -> list[float]:
    """Return the noise level of each image: what is given, what the operator's noise model says, what the data say.

    Raises
    ------
    OptionError
        It is not known, or not positive.
    """
    if sigma is None:
        levels = noise_levels(y, physics) if isinstance(physics.noise_model, GaussianNoise | ZeroNoise) else None
        if levels is not None:
            return levels
        told, notes = with_noise(y, physics)
        sigma = effective_sigma(y, told)
        if sigma is None:
            raise OptionError("; ".join(notes) or "the noise level is not known", cure="Give sigma=..., which is not 0")
    if not 0 < sigma < float("inf"):
        raise OptionError(
            "a posterior needs noise: its level is positive", found=sigma, cure="Give sigma=..., as small as it may be"
        )
    return [float(sigma)] * len(y)


def levels_or_guess(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> list[float] | None:
    """Return `levels_of`, or None where nobody tells a level above 0."""
    try:
        return levels_of(y, physics)
    except OptionError:
        return None


def problems(
    y: Num[Tensor, "b ..."],
    physics: LinearPhysics,
    levels: Sequence[float] | None,
    *,
    unit: float | None = None,
    least: float = 0.0,
) -> Iterator[Problem]:
    """Take a batch apart.

    Parameters
    ----------
    y, physics
        Checked measurements and their operator.
    levels
        Noise of each image; None: 1 % of the image's magnitude.
    unit
        Magnitude of the images; None: the 99.9th percentile of a smooth first estimate.
    least
        Noise level over the magnitude that a lower one counts as.
    """
    for index in range(len(y)):
        one, operator = single(y, physics, index)
        level = None if levels is None else levels[index]
        scale, start = first_estimate(one, operator, level)
        scale = scale if unit is None else unit
        sigma = UNKNOWN if level is None else max(level / scale, least)
        operator = operator.clone()
        operator.noise_model = GaussianNoise(sigma).to(one.device)
        yield Problem(y=one / scale, physics=operator, sigma=sigma, unit=scale, start=start / scale)


def first_estimate(
    y: Num[Tensor, "1 ..."], physics: LinearPhysics, sigma: float | None
) -> tuple[float, Float[Tensor, "1 c y x"]]:
    """Return the magnitude of an image, and the image of least roughness for its data; magnitude 1 where it is 0."""
    projected = backprojected(y, physics)
    square = squared_norm(physics, projected)
    problem = SmoothProblem(PaddedOperator(physics), square, projected / square)
    rough = magnitude_of(projected / square)
    noise = UNKNOWN if sigma is None else sigma / float(square.sqrt()) / rough
    start = problem.estimate(torch.full_like(projected[:, :1, :1, :1], noise))
    return magnitude_of(start), start


def magnitude_of(x: Float[Tensor, "1 c y x"]) -> float:
    """99.9th percentile of the magnitude, channels in pairs where their number is even; 1 where it is 0."""
    pairs = x.unflatten(1, (-1, 2)) if x.shape[1] % 2 == 0 else x[:, :, None]
    return float(peak(torch.linalg.vector_norm(pairs, dim=2)))
