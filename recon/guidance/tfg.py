"""Training-free guidance (TFG) of a diffusion denoiser by the likelihood of linear measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from recon.guidance.denoisers import ImageDenoiser
from recon.guidance.problems import Problem
from recon.guidance.schedule import Levels, cosine_levels
from recon.physics.errors import OptionError

Course = Literal["increase", "decrease", "constant"]
Noise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TFG:
    r"""Unified training-free guidance [1]_, algorithm 1, for :math:`y = Ax + n`.

    A step from level t denoises, :math:`x_{0|t} = D(x_t)`, and adds to DDIM's step two gradients of the likelihood f
    smoothed by noise of level :math:`\gamma_t`, :math:`\tilde f(x) = \mathbb{E} f(x + \gamma_t n)`:

    .. math:: \Delta_t = \rho_t \nabla_{x_t} \log \tilde f(x_{0|t}) \quad\text{and}\quad
        \Delta_0 = \text{iterations of } \mu_t \nabla_{x_0} \log \tilde f(x_0), \text{ from } x_{0|t}.

    The whole is done ``recurrence`` times, with noise added again in between.

    For ``likelihood="gaussian"`` the smoothing is exact, :math:`\tilde f(x) = \mathcal{N}(y; Ax, \sigma^2 I +
    \gamma_t^2 A A^T)`, no noise is drawn for it, and steps are in units that need no tuning: :math:`\rho = 1` is the
    step of Bayes' rule, :math:`(1 - \alpha_t) s^2`, and :math:`\mu_t` is in units of :math:`s^2 (1 - \bar\alpha_t)`, so
    that :math:`\mu = 1` with :math:`\gamma = 1` is the posterior mean of :math:`x_0` for a white prior of that variance
    around :math:`x_{0|t}`. So :math:`\rho = 1, \mu = 0` is DPS for :math:`\gamma = 0` and PiGDM for :math:`\gamma = 1`,
    and :math:`\rho = 0` with :math:`\mu = \gamma = 1` makes the estimates of DiffPIR. For white Gaussian images of
    variance :math:`s^2`, PiGDM's samples are those of the posterior as steps get small.

    ``likelihood="norm"`` is that of the paper, :math:`f(x) = \exp(-\|y - Ax\|)`, smoothed by ``draws`` of noise; it
    needs no noise level, its steps are in units of the image's magnitude, and it samples no posterior.

    Parameters
    ----------
    rho, mu, gamma
        Strengths of the gradients and the smoothing, in units as above.
    recurrence, iterations
        Times that a step is done, and gradient steps on :math:`x_0` within each.
    rho_course, mu_course
        How strengths change from noise to image: ``increase`` in proportion to :math:`\alpha_t`, ``decrease`` to
        :math:`1 - \alpha_t`, with a mean of 1, or ``constant``.
    gamma_course
        ``decrease``: :math:`\gamma_t = \gamma s \sqrt{1 - \bar\alpha_t}`, or ``constant``: :math:`\gamma s`.
    likelihood, draws
        See above.
    steps
        Noise levels, of the cosine schedule.
    eta
        Share of DDPM's noise in a step, from 0 (DDIM, deterministic) to 1.

    References
    ----------
    .. [1] Ye et al., TFG: unified training-free guidance for diffusion models, NeurIPS 2024.
    .. [2] Song et al., Pseudoinverse-guided diffusion models for inverse problems (PiGDM), ICLR 2023.

    Raises
    ------
    OptionError
        Numbers that make no sampler.
    """

    rho: float = 1.0
    mu: float = 0.0
    gamma: float = 1.0
    recurrence: int = 1
    iterations: int = 1
    rho_course: Course = "constant"
    mu_course: Course = "constant"
    gamma_course: Literal["decrease", "constant"] = "decrease"
    likelihood: Literal["gaussian", "norm"] = "gaussian"
    draws: int = 4
    steps: int = 50
    eta: float = 1.0

    def __post_init__(self) -> None:
        strengths = (self.rho, self.mu, self.gamma)
        counts = (self.recurrence, self.iterations, self.draws, self.steps)
        if not all(0 <= value < float("inf") for value in strengths) or min(counts) < 1 or not 0 <= self.eta <= 1:
            raise OptionError(
                "no sampler",
                found=f"rho, mu, gamma {strengths}; recurrence, iterations, draws, steps {counts}; eta {self.eta:g}",
                expected="strengths that are not negative, counts from 1, eta from 0 to 1",
            )
        if self.likelihood not in ("gaussian", "norm"):
            raise OptionError("no such likelihood", found=self.likelihood, expected="gaussian or norm")

    @property
    def needs_noise(self) -> bool:
        """Whether the noise level must be known."""
        return self.likelihood == "gaussian"

    def draw(
        self, problem: Problem, denoiser: ImageDenoiser, count: int, generator: torch.Generator
    ) -> Float[Tensor, "s c y x"]:
        """Draw samples of an image of magnitude 1."""
        start, levels, s = problem.start, cosine_levels(self.steps), denoiser.deviation

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)

        x = s * noise(start.expand(count, -1, -1, -1))
        for index in range(self.steps):
            for repeat in range(self.recurrence):
                before = self._step(x, index, levels, problem, denoiser, noise)
                if repeat + 1 < self.recurrence:  # back to where the step began
                    kept = float(levels.kept[index])
                    x = kept**0.5 * before + s * (1 - kept) ** 0.5 * noise(x)
            x = before
        return x

    def _step(
        self, x: Tensor, index: int, levels: Levels, problem: Problem, denoiser: ImageDenoiser, noise: Noise
    ) -> Tensor:
        s, kept = denoiser.deviation, float(levels.kept[index])
        signal, following = float(levels.signal[index]), float(levels.following[index])
        gamma = self.gamma * s * (1.0 if self.gamma_course == "constant" else (1 - signal) ** 0.5)
        rho, mu = (
            strength * _course(course, levels, index)
            for strength, course in ((self.rho, self.rho_course), (self.mu, self.mu_course))
        )
        if self.likelihood == "gaussian":
            rho, mu = rho * (1 - kept) * s**2, mu * (1 - signal) * s**2
        scaled, level = x / signal**0.5, s * (1 / signal - 1) ** 0.5
        moved = torch.zeros_like(x)
        if rho > 0:
            with torch.enable_grad():
                seen = scaled.detach().requires_grad_()
                clean = denoiser(seen, level)
            gradient = self._gradient(clean.detach(), problem, gamma, noise)
            moved = rho / signal**0.5 * torch.autograd.grad(clean, seen, gradient)[0]
            clean = clean.detach()
        else:
            clean = denoiser(scaled, level)
        better = clean
        for _ in range(self.iterations if mu > 0 else 0):
            better = better + mu * self._gradient(better, problem, gamma, noise)
        spread = self.eta**2 * (1 - following) / (1 - signal) * (1 - kept)  # variance of the noise that is added
        direction = (x - signal**0.5 * clean) / (1 - signal) ** 0.5
        before = following**0.5 * better + (1 - following - spread) ** 0.5 * direction + moved / kept**0.5
        return before + s * spread**0.5 * noise(x) if spread > 0 else before

    def _gradient(self, x: Tensor, problem: Problem, gamma: float, noise: Noise) -> Tensor:
        r"""Return :math:`\nabla \log \tilde f(x)`."""
        if self.likelihood == "gaussian":
            return problem.pull(problem.residual(x), gamma)
        images = [x + gamma * noise(x) for _ in range(self.draws)] if gamma > 0 else [x]
        residuals = [problem.residual(image) for image in images]
        norms = torch.stack([torch.linalg.vector_norm(r.flatten(1), dim=1) for r in residuals])
        shares = torch.softmax(-norms, 0) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        wide = (-1, *(1,) * (x.ndim - 1))
        parts = [share.reshape(wide) * problem.physics.A_adjoint(r) for share, r in zip(shares, residuals, strict=True)]
        return torch.stack(parts).sum(0)


def _course(course: Course, levels: Levels, index: int) -> float:
    if course == "constant":
        return 1.0
    values = levels.kept if course == "increase" else 1 - levels.kept
    return float(values[index] / values.mean())
