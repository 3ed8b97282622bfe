"""deepinv's samplers, DPS and DiffPIR, for images of magnitude 1 with and without a sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from deepinv.optim import L2
from deepinv.physics.noise import GaussianNoise
from deepinv.sampling import DDPMSolver, DPSDataFidelity, PosteriorDiffusion, VariancePreservingDiffusion
from deepinv.sampling import DiffPIR as DeepinvDiffPIR
from jaxtyping import Float
from torch import Tensor, nn

from recon.guidance.denoisers import ImageDenoiser
from recon.guidance.problems import Problem
from recon.physics.errors import OptionError

_BOUND = 1.5  # DiffPIR clips images of magnitude 1 to this, with either sign


@dataclass(frozen=True, kw_only=True)
class DPS:
    r"""Diffusion posterior sampling [1]_: deepinv's, with DDPM's steps and no clipping.

    Parameters
    ----------
    weight
        Of the likelihood's gradient.
    guidance
        ``annealed``: that of :math:`\|A D(x_t) - y\|^2 / 2(\sigma^2 + \sigma_t^2)`, for which a weight of 1 is
        natural; ``norm``: that of :math:`\|A D(x_t) - y\|`, as published, whose weight must be found.
    steps
        Noise levels.

    References
    ----------
    .. [1] Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.

    Raises
    ------
    OptionError
        A negative weight, less than two steps, no such guidance.
    """

    weight: float = 1.0
    guidance: Literal["annealed", "norm"] = "annealed"
    steps: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf") or self.steps < 2 or self.guidance not in ("annealed", "norm"):
            raise OptionError(
                "no sampler",
                found=f"weight {self.weight:g}, steps {self.steps}, guidance {self.guidance}",
                expected="a weight that is not negative, two steps at least, annealed or norm",
            )

    @property
    def needs_noise(self) -> bool:
        """Whether the noise level must be known."""
        return self.guidance == "annealed"

    def draw(
        self, problem: Problem, denoiser: ImageDenoiser, count: int, generator: torch.Generator
    ) -> Float[Tensor, "s c y x"]:
        """Draw samples of an image of magnitude 1."""
        device = problem.y.device
        own = torch.Generator(device).manual_seed(_seed(generator))
        times = torch.linspace(1, 0, self.steps + 1, device=device, dtype=torch.float64)
        network = _InPrecision(denoiser, problem.start.dtype)
        sampler = PosteriorDiffusion(
            data_fidelity=DPSDataFidelity(denoiser=network, weight=self.weight, guidance=self.guidance),
            denoiser=network,
            sde=VariancePreservingDiffusion(device=device),
            solver=DDPMSolver(timesteps=times, rng=own),
            device=device,
            minus_one_one=False,
        )
        y = problem.y.expand(count, *problem.y.shape[1:])
        found: Tensor = sampler(y, problem.physics, x_init=(count, *problem.start.shape[1:]))
        return found.to(problem.start.dtype)


@dataclass(frozen=True, kw_only=True)
class DiffPIR:
    r"""Denoising diffusion for plug-and-play restoration [1]_: deepinv's.

    deepinv's takes images from 0 to 1 and clips them. Here they lie within 1.5 times their magnitude, with either
    sign: :math:`x = 1.5\,(2x' - 1)` and :math:`y' = (y + 1.5\,A1) / 3` make :math:`y' = A x'` of :math:`y = Ax`.

    Parameters
    ----------
    strength
        :math:`\lambda` of the paper: how much the denoised image counts against the data.
    zeta
        Share of fresh noise in a step, from 0 to 1.
    steps
        Noise levels.

    References
    ----------
    .. [1] Zhu et al., Denoising diffusion models for plug-and-play image restoration, CVPR workshops 2023.

    Raises
    ------
    OptionError
        Numbers that make no sampler.
    """

    strength: float = 7.0
    zeta: float = 0.5
    steps: int = 50
    needs_noise = True

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf") or not 0 <= self.zeta <= 1 or self.steps < 2:
            raise OptionError(
                "no sampler",
                found=f"strength {self.strength:g}, zeta {self.zeta:g}, steps {self.steps}",
                expected="a positive strength, zeta from 0 to 1, two steps at least",
            )

    def draw(
        self, problem: Problem, denoiser: ImageDenoiser, count: int, generator: torch.Generator
    ) -> Float[Tensor, "s c y x"]:
        """Draw samples of an image of magnitude 1."""
        start, sigma = problem.start.expand(count, -1, -1, -1), problem.sigma / (2 * _BOUND)
        ones = torch.ones_like(problem.start)
        y = (problem.y + _BOUND * problem.physics.A(ones)) / (2 * _BOUND)
        physics = problem.physics.clone()
        physics.noise_model = GaussianNoise(sigma).to(y.device)
        sampler = DeepinvDiffPIR(
            _Shifted(denoiser),
            L2(),
            sigma=sigma,
            max_iter=self.steps,
            zeta=self.zeta,
            lambda_=self.strength,
            device=y.device,
        )
        with torch.random.fork_rng():  # deepinv's draws from PyTorch's own generator
            torch.manual_seed(_seed(generator))
            found = sampler(y.expand(count, *y.shape[1:]), physics, x_init=(start / _BOUND + 1) / 2)
        return (2 * found - 1) * _BOUND


class _InPrecision(nn.Module):
    """A denoiser whose images have the operator's precision; deepinv's DPS gives it 32 bits."""

    def __init__(self, denoiser: ImageDenoiser, dtype: torch.dtype) -> None:
        super().__init__()
        self.denoiser, self.dtype = denoiser, dtype

    def forward(self, x: Float[Tensor, "s c y x"], sigma: Tensor) -> Float[Tensor, "s c y x"]:
        """Denoise."""
        return self.denoiser(x.to(self.dtype), sigma.to(self.dtype))


class _Shifted(nn.Module):
    """A denoiser of images from 0 to 1 that stand for ones within the bound."""

    def __init__(self, denoiser: ImageDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Float[Tensor, "s c y x"], sigma: Tensor) -> Float[Tensor, "s c y x"]:
        """Denoise."""
        return (self.denoiser((2 * x - 1) * _BOUND, 2 * _BOUND * sigma) / _BOUND + 1) / 2


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))
