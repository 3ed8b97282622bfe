r"""Gradients of long computations from perturbed parameters, a truncation at a time.

The loss of an unroll is the sum of the losses of its truncations. What is estimated is the gradient of its mean over
parameters with Gaussian noise of standard deviation sigma added; for a quadratic loss that is the gradient itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from recon.datasets.random import Seed, as_generator
from recon.physics.errors import DataError, OptionError
from recon.training.evolution.unroll import Unroll

Noise = dict[str, Float[Tensor, "pair *shape"]]


class EvolutionStrategy(ABC):
    r"""Antithetic evolution strategies on an unroll.

    Of each truncation with losses :math:`L^\pm_i` at parameters :math:`\theta \pm \epsilon_i`,

    .. math:: g = \frac{1}{2 \sigma^2 N} \sum_{i=1}^N (L^+_i - L^-_i)\, \xi_i

    with a direction :math:`\xi_i` that is the strategy's. Between truncations the parameters may be changed, as by an
    optimiser. Each of the 2 N particles keeps one state of the unroll, and nothing else of the iterations before.

    Parameters
    ----------
    parameters
        What is trained, by name.
    unroll
        The computation.
    pairs
        N.
    sigma
        Standard deviation of the perturbations.
    seed
        Of them.
    vectorise
        All particles at once, by `torch.func.vmap`; False: one after the other, for operators that it cannot take.

    Raises
    ------
    OptionError
        No pair, no perturbation, no parameter.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        unroll: Unroll,
        *,
        pairs: int = 8,
        sigma: float = 0.1,
        seed: Seed = 0,
        vectorise: bool = True,
    ) -> None:
        check_population(parameters, pairs, sigma)
        self.parameters, self.unroll = dict(parameters), unroll
        self.pairs, self.sigma, self.vectorise = pairs, sigma, vectorise
        self.index = 0  # of the next truncation
        self._generator = as_generator(seed)
        self._states: Any = None

    @torch.no_grad()
    def backward(self) -> Float[Tensor, ""]:
        """Do the next truncation, and add the estimate of its loss's gradient to the parameters' ``grad``.

        Returns
        -------
        Tensor
            Mean loss of the particles in this truncation.

        Raises
        ------
        DataError
            A loss that is not finite.
        """
        noise, direction = self._noise()
        losses = self._losses(noise)
        weights = differences(losses, f" in truncation {self.index}") / (2 * self.sigma**2 * self.pairs)
        for name, parameter in self.parameters.items():
            add_gradient(parameter, torch.tensordot(weights, direction[name], dims=1))
        self.index = (self.index + 1) % self.unroll.truncations
        return losses.mean()

    @abstractmethod
    def _noise(self) -> tuple[Noise, Noise]:
        """Perturbations of this truncation, and directions."""

    def _losses(self, noise: Noise) -> Float[Tensor, " particle"]:
        """Go on with each particle from its own state."""
        first = self.index == 0
        losses, self._states = self._each(noise, self.unroll.start() if first else self._states, shared=first)
        return losses

    def _each(self, noise: Noise, states: Any, *, shared: bool) -> tuple[Float[Tensor, " particle"], Any]:
        """Advance all particles, from one shared state or from one of each."""
        particles = {
            name: torch.cat((parameter + noise[name], parameter - noise[name]))
            for name, parameter in self.parameters.items()
        }
        if self.vectorise:
            advance = vmap(lambda p, state: self.unroll.advance(p, state, self.index), (0, None if shared else 0))
            return advance(particles, states)
        losses, after = [], []
        for i in range(2 * self.pairs):
            one = {name: value[i] for name, value in particles.items()}
            loss, state = self.unroll.advance(one, states if shared else states[i], self.index)
            losses.append(loss)
            after.append(state)
        return torch.stack(losses), after

    def _draw(self) -> Noise:
        return {
            name: self.sigma * normal(p, self.pairs, *p.shape, generator=self._generator)
            for name, p in self.parameters.items()
        }


class TruncatedES(EvolutionStrategy):
    r"""Each truncation by itself: :math:`\xi = \epsilon`, drawn anew, from where unperturbed parameters have led to.

    What parameters do to later truncations is not seen, so that the estimate is biased, unless there is one truncation
    only: then it is the usual evolution strategy.
    """

    def _noise(self) -> tuple[Noise, Noise]:
        noise = self._draw()
        return noise, noise

    def _losses(self, noise: Noise) -> Float[Tensor, " particle"]:
        state = self.unroll.start() if self.index == 0 else self._states
        losses, _ = self._each(noise, state, shared=True)
        if self.index + 1 < self.unroll.truncations:
            mean = {name: parameter.detach() for name, parameter in self.parameters.items()}
            _, self._states = self.unroll.advance(mean, state, self.index)
        return losses


class PES(EvolutionStrategy):
    r"""Persistent evolution strategies [1]_: :math:`\epsilon` drawn anew, :math:`\xi` the sum of a particle's so far.

    Unbiased. Its variance grows with the number of truncations, unless all of their gradients are alike.

    References
    ----------
    .. [1] Vicol, Metz, Sohl-Dickstein, Unbiased gradient estimation in unrolled computation graphs with persistent
       evolution strategies, ICML 2021, algorithm 2.
    """

    _sum: Noise

    def _noise(self) -> tuple[Noise, Noise]:
        noise = self._draw()
        self._sum = noise if self.index == 0 else {name: self._sum[name] + value for name, value in noise.items()}
        return noise, self._sum


class ESSingle(EvolutionStrategy):
    r"""ES-Single [1]_: one :math:`\epsilon` for a particle's whole unroll, :math:`\xi = \epsilon`.

    Its variance does not depend on the number of truncations. While the parameters are held the estimates of an unroll
    add up to that of the usual evolution strategy on the whole of it.

    References
    ----------
    .. [1] Vicol, Kolter, Swersky, Low-variance gradient estimation in unrolled computation graphs with ES-Single,
       ICML 2023, algorithm 1.
    """

    _held: Noise

    def _noise(self) -> tuple[Noise, Noise]:
        if self.index == 0:
            self._held = self._draw()
        return self._held, self._held


def check_population(parameters: Mapping[str, nn.Parameter], pairs: int, sigma: float) -> None:
    """Raise `OptionError` where there is nothing to perturb, or no perturbation."""
    if not parameters or pairs < 1 or not sigma > 0:
        raise OptionError(
            "a strategy has parameters, pairs of particles and a perturbation",
            found=f"{len(parameters)} parameters, {pairs} pairs, sigma {sigma:g}",
        )


def differences(losses: Float[Tensor, " particle"], where: str = "") -> Float[Tensor, " pair"]:
    """Return the losses of the first half less those of the second, whose perturbations are opposite.

    Raises
    ------
    DataError
        A loss that is not finite; ``where`` ends what the message says.
    """
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        raise DataError(
            f"the loss of perturbed parameters is not finite{where}",
            found=f"{int((~finite).sum())} of {len(losses)} particles",
            cure="Lower sigma, or the learning rate",
        )
    plus, minus = losses.chunk(2)
    return plus - minus


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to a parameter's gradient, as back-propagation does."""
    gradient = gradient.reshape(parameter.shape).to(parameter.dtype)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def normal(like: Tensor, *shape: int, generator: torch.Generator) -> Tensor:
    """Draw normal numbers of a shape, of the type and on the device of a tensor."""
    return torch.randn(shape, dtype=like.dtype, generator=generator).to(like.device)
