"""LISTA: iterative soft thresholding whose matrices and thresholds are learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.onebit import follow
from recon.physics.errors import DataError, OptionError, ShapeError

_THRESHOLD = 0.1  # at the start, of measurements with a mean square of 1


@registry.register("lista")
class LISTA(LearnedReconstructor):
    r"""Unrolled iterative soft thresholding with a learned matrix in each layer [1]_, in the coupled form [2]_.

    .. math:: x_{t+1} = \mathrm{soft}\left( x_t + W_t (y - A x_t),\; \theta_t \right), \qquad x_0 = 0

    for real images that are sparse in themselves, and one operator A: that of the first training batch, from which all
    layers start as :math:`W_t = A^T / \|A\|^2`. The matrices ``layers.*.weight`` may be made of one bit a number
    (`recon.onebit`). Measurements are scaled to a mean square of 1 and the image is scaled back, so that it is in their
    unit.

    Parameters
    ----------
    measurements, unknowns
        Of one image: m and n.
    layers
        Their number.

    References
    ----------
    .. [1] Gregor, LeCun, Learning fast approximations of sparse coding, ICML 2010.
    .. [2] Chen, Liu, Wang, Yin, Theoretical linear convergence of unfolded ISTA, NeurIPS 2018.
    """

    def __init__(self, measurements: int, unknowns: int, layers: int = 16) -> None:
        super().__init__()
        if min(measurements, unknowns, layers) < 1:
            raise OptionError(
                "LISTA has a measurement, an unknown and a layer", found=f"{measurements}, {unknowns}, {layers}"
            )
        self.measurements, self.unknowns = measurements, unknowns
        self.layers = nn.ModuleList(_nothing(measurements, unknowns) for _ in range(layers))
        self.log_thresholds = nn.Parameter(torch.full((layers,), math.log(_THRESHOLD)))

    @property
    def started(self) -> bool:
        """Whether there are weights, of an operator."""
        first: Any = self.layers[0].weight
        return bool(first.any())

    @torch.no_grad()
    def start(self, physics: LinearPhysics, y: Float[Tensor, "b *measured"]) -> None:
        """Make every layer an iteration of ISTA for an operator; ``y`` is an example of its measurements."""
        first = next(self.parameters())
        identity = torch.eye(self.measurements, dtype=y.dtype, device=y.device).reshape(-1, *y.shape[1:])
        adjoint = physics.A_adjoint(identity).flatten(1).T
        adjoint = adjoint / torch.linalg.matrix_norm(adjoint, ord=2).square()
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            if is_parametrized(layer):
                layer.weight = adjoint.to(first)  # sets what the parametrization is of
            else:
                layer.weight.copy_(adjoint)
        follow(self)

    def forward(self, y: Float[Tensor, "b *measured"], physics: LinearPhysics) -> Float[Tensor, "b *image"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements, of any unit.
        physics
            The operator that the network was trained for.

        Raises
        ------
        ShapeError
            Numbers of measurements or unknowns that are not the network's.
        DataError
            Measurements that are not finite.
        """
        if y.is_complex() or y[0].numel() != self.measurements:
            raise ShapeError(
                "measurements that do not fit the network",
                found=f"{tuple(y.shape)} {y.dtype}",
                expected=f"{self.measurements} real numbers an image",
            )
        if not bool(torch.isfinite(y).all()):
            raise DataError("the measurements are not finite")
        scale = y.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (y.ndim - 1))
        scale = torch.where(scale > 0, scale, 1)
        y = y / scale
        x, residual = torch.zeros_like(physics.A_adjoint(y)), y
        if x[0].numel() != self.unknowns:
            raise ShapeError("an operator that does not fit the network", found=x[0].numel(), expected=self.unknowns)
        if self.training and not self.started:
            self.start(physics, y)
        for t, layer in enumerate(self.layers):
            if t:
                residual = y - physics.A(x)
            z = x + layer(residual.flatten(1)).view_as(x)
            x = z.sign() * torch.relu(z.abs() - self.log_thresholds[t].exp())
        return x * scale.reshape(-1, *[1] * (x.ndim - 1))


def _nothing(measurements: int, unknowns: int) -> nn.Linear:
    """Make the layer of no operator yet, which is how a network is known that has not been started."""
    layer = nn.Linear(measurements, unknowns, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
