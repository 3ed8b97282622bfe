"""ISTA, FISTA and IHT unfolded: one step size an iteration, learned from data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.models.thresholding import IterativeThresholding
from recon.physics.errors import OptionError
from recon.sparse_problem import OBJECTIVES, Sparsity, objectives

_SOFTPLUS_ONE = math.log(math.e - 1)  # softplus of it is 1


class _Unfolded(IterativeThresholding, LearnedReconstructor):
    own_losses = OBJECTIVES

    def __init__(
        self,
        iterations: int = 20,
        *,
        knots: int | None = None,
        learn_thresholds: bool = False,
        regularisation: float | None = None,
        relative: float | None = None,
        sparsity: Sparsity = "auto",
    ) -> None:
        super().__init__(iterations, regularisation=regularisation, relative=relative, sparsity=sparsity)
        if knots is not None and not 1 <= knots <= iterations:
            raise OptionError("no such number of knots", found=knots, expected=f"1 to {iterations}")
        count = iterations if knots is None else knots
        self.step = nn.Parameter(torch.full((count,), _SOFTPLUS_ONE))
        self.threshold = nn.Parameter(torch.full((count,), _SOFTPLUS_ONE)) if learn_thresholds else None

    def schedule(self) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"] | None]:
        """Return the learned factors, interpolated between knots."""
        return self._factors(self.step), None if self.threshold is None else self._factors(self.threshold)

    def with_losses(
        self, y: Tensor, physics: LinearPhysics, names: Sequence[str]
    ) -> tuple[Float[Tensor, "b *image"], dict[str, Float[Tensor, ""]]]:
        """Reconstruct, and return the mean objective of the last image, or of all."""
        problem = self.problem(y, physics)
        return objectives(problem, self.trajectory(problem), names)

    def _factors(self, raw: Float[Tensor, " n"]) -> Float[Tensor, " t"]:
        factors = softplus(raw)
        if len(raw) == self.iterations:
            return factors
        place = torch.linspace(0, len(raw) - 1, self.iterations, dtype=raw.dtype, device=raw.device)
        left = place.floor().long()
        return torch.lerp(factors[left], factors[(left + 1).clamp_max(len(raw) - 1)], place - left)


@registry.register("unfolded-ista")
class UnfoldedISTA(_Unfolded):
    r"""ISTA whose step sizes :math:`a_t` are learned, one an iteration [1]_ [2]_.

    .. math:: x_{t+1} = \Psi^T \mathrm{soft}_{\lambda a_t}\bigl(\Psi (x_t - a_t A^T(Ax_t - y))\bigr),
        \quad a_t = \mathrm{softplus}(s_t) / \|A\|^2

    Untrained it is `recon.models.ista.ISTA`. Trained by its objective, ``objective`` or ``objective-all-layers``, it
    needs no ground truth, and finds the minimum of ISTA in fewer iterations; by ``mse`` it finds what is nearest to the
    truth after T iterations, which is not that minimum.

    Parameters
    ----------
    iterations
        T.
    knots
        So many values are learned, and interpolated over the iterations; None: one an iteration.
    learn_thresholds
        Learn factors of the thresholds too. It then minimises another objective.
    regularisation, relative, sparsity
        As those of `recon.models.ista.ISTA`.

    References
    ----------
    .. [1] Nagahisa, Hayakawa, Iiguni, arXiv 2509.01331, 2025 (supervised against unsupervised).
    .. [2] Ito, Takabe, Wadayama, Trainable ISTA for sparse signal recovery, IEEE TSP 67, 2019.
    """


@registry.register("unfolded-fista")
class UnfoldedFISTA(_Unfolded):
    """FISTA whose step sizes are learned; its momentum is that of theory. Parameters as those of `UnfoldedISTA`."""

    momentum = True


@registry.register("unfolded-iht")
class UnfoldedIHT(_Unfolded):
    """Iterative hard thresholding whose step sizes are learned. Parameters as those of `UnfoldedISTA`.

    The support has no derivative with respect to steps and thresholds: gradients go through the coefficients that are
    kept, and only evolution strategies (`recon.training.evolution`) can learn thresholds.
    """

    penalty = "l0"
