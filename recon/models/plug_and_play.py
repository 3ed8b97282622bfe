"""Plug-and-play reconstruction by any linear operator, with a denoiser of ours, deepinv's or a user's."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeAlias

import torch
from deepinv.models import Reconstructor
from deepinv.optim import ADMM, DPIR, HQS, L2, PnP
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.guidance.denoisers import DenoiserLike, ImageDenoiser, network_of
from recon.guidance.problems import LEAST, Problem, check_linear, levels_or_guess, problems
from recon.models import registry
from recon.physics.errors import OptionError

Start: TypeAlias = Tensor | tuple[Tensor, Tensor]

_DENOISING = 0.05  # noise that is removed in an iteration, over the image's magnitude
_STRONGEST = 49 / 255  # DPIR's first


class PlugAndPlay(Reconstructor):
    """A denoiser in place of the proximal map of a penalty, one image after the other.

    Parameters
    ----------
    denoiser
        See `recon.guidance.denoisers.ImageDenoiser`.
    """

    weights_of = "diffusion-denoiser"

    def __init__(self, denoiser: DenoiserLike) -> None:
        super().__init__()
        self.denoiser = network_of(denoiser)
        self.card = getattr(self.denoiser, "card", None)

    @torch.no_grad()
    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator; where neither its noise model nor the data tell a noise level, 1 % of the image's magnitude
            is taken.

        Raises
        ------
        OperatorError
            An operator that is not linear, or whose adjoint is not its adjoint.
        ShapeError, DataError
            Measurements that do not fit the operator, a denoiser for other images.
        """
        check_linear(y, physics)
        levels = levels_or_guess(y, physics)
        images = [
            problem.unit * self.restore(problem, ImageDenoiser(self.denoiser, problem.start.shape[1]))
            for problem in problems(y, physics, levels, least=LEAST)
        ]
        return torch.cat(images)

    @abstractmethod
    def restore(self, problem: Problem, denoiser: ImageDenoiser) -> Float[Tensor, "1 c y x"]:
        """Return the image of magnitude 1."""


@registry.register("dpir")
class PlugAndPlayHQS(PlugAndPlay):
    """Plug-and-play half-quadratic splitting for any linear operator: deepinv's DPIR [Zhang et al. 2022].

    Eight iterations from strong to weak denoising, down to the level of the noise.

    Parameters
    ----------
    denoiser
        As of `PlugAndPlay`.
    """

    def restore(self, problem: Problem, denoiser: ImageDenoiser) -> Float[Tensor, "1 c y x"]:
        """Return the image of magnitude 1."""
        solver = DPIR(min(problem.sigma, _STRONGEST), denoiser, device=problem.y.device)
        found: Tensor = solver(problem.y, problem.physics, init=problem.start)
        return found


class _FixedPoint(PlugAndPlay):
    """Iterations whose denoiser removes noise of one level."""

    def __init__(self, denoiser: DenoiserLike, *, denoising: float = _DENOISING, iterations: int = 30) -> None:
        super().__init__(denoiser)
        if not 0 < denoising < float("inf") or iterations < 1:
            raise OptionError(
                "a positive level of noise is removed, and there is an iteration", found=f"{denoising}, {iterations}"
            )
        self.denoising, self.iterations = denoising, iterations

    def iterate(
        self, solver: type[ADMM | HQS], problem: Problem, denoiser: ImageDenoiser, init: Start, *, g_first: bool
    ) -> Float[Tensor, "1 c y x"]:
        r"""Return where deepinv's solver ends, whose step makes the weight of the data :math:`(\tau / \sigma)^2`."""
        level = max(self.denoising, problem.sigma)
        iterations = solver(
            data_fidelity=L2(),
            prior=PnP(denoiser),
            stepsize=(level / problem.sigma) ** 2,
            g_param=level,
            max_iter=self.iterations,
            g_first=g_first,
        )
        found: Tensor = iterations(problem.y, problem.physics, init=init)
        return found


@registry.register("pnp-admm")
class PlugAndPlayADMM(_FixedPoint):
    r"""Plug-and-play ADMM for any linear operator, deepinv's [Venkatakrishnan et al. 2013].

    The penalty is such that a denoiser that is the proximal map of :math:`\tau^2 \varphi`, with :math:`\tau` the level
    that it removes, gives the minimum of :math:`\|Ax - y\|^2 / 2\sigma^2 + \varphi(x)`, whatever that level.

    Parameters
    ----------
    denoiser
        As of `PlugAndPlay`.
    denoising
        Noise that is removed in an iteration, over the image's magnitude; at least that of the measurements.
    iterations
        Of ADMM.
    """

    def restore(self, problem: Problem, denoiser: ImageDenoiser) -> Float[Tensor, "1 c y x"]:
        """Return the image of magnitude 1."""
        init = (problem.start, torch.zeros_like(problem.start))
        return self.iterate(ADMM, problem, denoiser, init, g_first=False)


@registry.register("red")
class Red(_FixedPoint):
    r"""Regularisation by denoising for any linear operator [Romano et al. 2017], by their fixed-point iterations.

    They end where :math:`A^T (Ax - y) / \sigma^2 + (x - D(x)) / \tau^2 = 0`, :math:`\tau` the level of noise that D
    removes: where the gradient of the smoothed posterior vanishes, if D gives posterior means. deepinv's half-quadratic
    splitting makes them, the denoiser first.

    Parameters
    ----------
    denoiser
        As of `PlugAndPlay`.
    denoising
        Noise that is removed in an iteration, over the image's magnitude; at least that of the measurements.
    iterations
        Of the fixed point.
    """

    def restore(self, problem: Problem, denoiser: ImageDenoiser) -> Float[Tensor, "1 c y x"]:
        """Return the image of magnitude 1."""
        return self.iterate(HQS, problem, denoiser, problem.start, g_first=True)
