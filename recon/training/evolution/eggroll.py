r"""Evolution strategies with perturbations of low rank [1]_.

Each member of a population has its matrices changed by :math:`\sigma E`, :math:`E = A B^T / \sqrt{r}` with normal
A and B of r columns. The entries of E are uncorrelated and of variance 1, so that the estimate is that of full rank in
expectation wherever the loss is quadratic; a layer of the whole population is one product with the matrix that all
share, and two thin ones.

References
----------
.. [1] Sarkar et al., Evolution strategies at the hyperscale, arXiv 2511.16652, 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from recon.datasets.random import Seed, as_generator
from recon.physics.errors import OptionError
from recon.training.evolution.strategies import add_gradient, check_population, differences, normal


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix of each member of a population: ``weight + scale * A B^T``, in factors.

    Parameters
    ----------
    weight
        What all share.
    A, B
        Factors of the members with the positive sign; the second half of the population has the negative.
    scale
        Sigma over the root of the rank.
    """

    weight: Float[Tensor, "m n"]
    A: Float[Tensor, "pair m r"]
    B: Float[Tensor, "pair n r"]
    scale: float

    def linear(self, x: Float[Tensor, "population b n"]) -> Float[Tensor, "population b m"]:
        """Apply each member's matrix to its own rows, without making it."""
        inner = torch.bmm(x, torch.cat((self.B, -self.B)))
        thin = torch.bmm(inner, torch.cat((self.A, self.A)).mT)
        return torch.add(x @ self.weight.T, thin, alpha=self.scale)

    def dense(self) -> Float[Tensor, "population m n"]:
        """Make the matrices, for what needs their entries, as their signs."""
        E = self.scale * (self.A @ self.B.mT)
        return torch.cat((self.weight + E, self.weight - E))

    def weighted_sum(self, weights: Float[Tensor, " pair"]) -> Float[Tensor, "m n"]:
        """Sum the perturbations over sigma, with a weight each: one product of what lies side by side."""
        rank = self.A.shape[2]
        left = (weights[:, None, None] * self.A).movedim(0, 1).flatten(1)
        return left @ self.B.movedim(0, 1).flatten(1).T / rank**0.5


@dataclass(frozen=True, eq=False)
class Dense:
    """A parameter of each member of a population, ``weight + scale * noise`` with independent entries."""

    weight: Float[Tensor, "*shape"]
    noise: Float[Tensor, "pair *shape"]
    scale: float

    def linear(self, x: Float[Tensor, "population b n"]) -> Float[Tensor, "population b m"]:
        """Apply each member's matrix to its own rows."""
        return x @ self.dense().mT

    def dense(self) -> Float[Tensor, "population *shape"]:
        """Make the parameters."""
        E = self.scale * self.noise
        return torch.cat((self.weight + E, self.weight - E))

    def weighted_sum(self, weights: Float[Tensor, " pair"]) -> Float[Tensor, "*shape"]:
        """Sum the perturbations over sigma, with a weight each."""
        return torch.tensordot(weights, self.noise, dims=1)


Population = Mapping[str, LowRank | Dense]


class Eggroll:
    """Estimates gradients from a population with perturbations of low rank.

    Parameters
    ----------
    parameters
        What is trained, by name. Matrices whose sides both exceed the rank get perturbations of low rank, all else
        independent ones.
    pairs
        Half of the population, whose other half has the opposite perturbations.
    rank
        r; None: all perturbations are independent, the usual evolution strategy.
    sigma
        Standard deviation of a perturbation's entries.
    seed
        Of them.

    Raises
    ------
    OptionError
        No pair, no perturbation, no parameter, no rank.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        pairs: int = 64,
        rank: int | None = 1,
        sigma: float = 0.1,
        seed: Seed = 0,
    ) -> None:
        check_population(parameters, pairs, sigma)
        if rank is not None and rank < 1:
            raise OptionError("a perturbation has a rank of at least 1", found=rank)
        self.parameters, self.pairs, self.rank, self.sigma = dict(parameters), pairs, rank, sigma
        self._generator = as_generator(seed)

    @torch.no_grad()
    def backward(self, losses: Callable[[Population], Float[Tensor, " population"]]) -> Float[Tensor, ""]:
        """Add the estimate of the loss's gradient to the parameters' ``grad``.

        Parameters
        ----------
        losses
            Evaluates a population; see `member_losses` for any module.

        Returns
        -------
        Tensor
            Mean loss of the population.

        Raises
        ------
        DataError
            A loss that is not finite.
        """
        population = self.population()
        values = losses(population)
        weights = differences(values) / (2 * self.sigma * self.pairs)
        for name, parameter in self.parameters.items():
            add_gradient(parameter, population[name].weighted_sum(weights))
        return values.mean()

    def population(self) -> dict[str, LowRank | Dense]:
        """Draw a population."""
        return {name: self._perturbed(parameter.detach()) for name, parameter in self.parameters.items()}

    def _perturbed(self, weight: Tensor) -> LowRank | Dense:
        if self.rank is None or weight.ndim != 2 or min(weight.shape) <= self.rank:
            return Dense(weight, self._normal(weight, *weight.shape), self.sigma)
        m, n = weight.shape
        A, B = self._normal(weight, m, self.rank), self._normal(weight, n, self.rank)
        return LowRank(weight, A, B, self.sigma / self.rank**0.5)

    def _normal(self, like: Tensor, *shape: int) -> Tensor:
        return normal(like, self.pairs, *shape, generator=self._generator)


def member_losses(
    module: nn.Module, *inputs: Tensor, vectorise: bool = True
) -> Callable[[Population], Float[Tensor, " population"]]:
    """Evaluate any module, whose output is its loss, with the parameters of each member; matrices are made for it.

    Parameters
    ----------
    module
        Its parameters are named as the population's.
    inputs
        Of the module, the same for all members.
    vectorise
        All members at once, by `torch.func.vmap`; False: one after the other, for what it cannot take.
    """

    def losses(population: Population) -> Float[Tensor, " population"]:
        members = {name: perturbed.dense() for name, perturbed in population.items()}
        if vectorise:
            return vmap(lambda parameters: functional_call(module, parameters, inputs))(members)
        rows = zip(*(value.unbind() for value in members.values()), strict=True)
        return torch.stack([functional_call(module, dict(zip(members, row, strict=True)), inputs) for row in rows])

    return losses
