"""Newton steps on large networks: the Hessian by conjugate gradients, the empirical Fisher layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.unlearning.budget import Budget
from recon.unlearning.examples import Examples
from recon.unlearning.gradients import Vector, example_gradients, mean_gradient, move, size
from recon.unlearning.layers import restored

_REACH = 1e-3  # of a finite difference, over the norm of the weights
_TOLERANCE = 1e-8  # residual at which conjugate gradients end, over its start


def hessian_product(
    model: Reconstructor, weights: list[nn.Parameter], examples: Examples, budget: Budget, vector: Vector
) -> Vector:
    """Multiply a vector by the Hessian of the mean loss, by a central difference of gradients.

    It is exact for losses that are quadratic, looks over the kinks of rectified units, and asks no second derivative of
    any part of the network.
    """
    length = float(vector.norm())
    if length == 0:
        return torch.zeros_like(vector)
    reach = _REACH * (size(weights) or 1.0) / length
    with restored(weights):
        move(weights, reach * vector)
        above = mean_gradient(model, weights, examples, budget)
        move(weights, -2 * reach * vector)
        below = mean_gradient(model, weights, examples, budget)
    return (above - below) / (2 * reach)


def hessian_solution(
    product: Callable[[Vector], Vector], vector: Vector, *, damping: float, iterations: int
) -> tuple[Vector, int]:
    """Solve ``(H + d I) x = v`` by conjugate gradients, which end where the curvature is negative.

    Parameters
    ----------
    product
        By the Hessian.
    vector
        ``v``.
    damping
        ``d`` over the absolute curvature along ``v``.
    iterations
        At most.

    Returns
    -------
    Tensor, int
        The solution and the products that it took.
    """
    x, residual = torch.zeros_like(vector), vector.clone()
    direction, first = residual.clone(), residual @ residual
    squared, added = first, 0.0
    for i in range(iterations):
        if squared <= _TOLERANCE**2 * first or first == 0:
            return x, i
        along = product(direction)
        if i == 0:
            added = damping * abs(float(direction @ along / squared))
        along = along + added * direction
        curvature = direction @ along
        if curvature <= 0:
            # Along the first direction, which is downhill, go as far as a curvature of the other sign would let.
            ended = x if i else squared / curvature.abs().clamp_min(torch.finfo(x.dtype).tiny) * direction
            return ended, i + 1
        step = squared / curvature
        x = x + step * direction
        residual = residual - step * along
        before, squared = squared, residual @ residual
        direction = residual + squared / before * direction
    return x, iterations


def fisher_solution(
    model: Reconstructor,
    weights: list[nn.Parameter],
    examples: Examples,
    budget: Budget,
    vector: Vector,
    *,
    damping: float,
) -> Vector:
    r"""Solve :math:`(F_l + d_l I) x_l = v_l` in each tensor of weights, F the empirical Fisher information.

    F is the mean of the outer products of the examples' gradients; their number n is small, so that

    .. math:: x_l = \frac1{d_l} \left(v_l - G_l^T (n d_l I + G_l G_l^T)^{-1} G_l v_l\right),

    with the gradients in the rows of :math:`G_l`, is exact (in place of the recursion of WoodFisher [Singh 2020]).

    Parameters
    ----------
    model, weights, examples, budget
        Of the gradients, which are all kept in memory.
    vector
        ``v``.
    damping
        :math:`d_l` over the mean of those eigenvalues of :math:`F_l` that can differ from 0.
    """
    gradients = torch.stack(list(example_gradients(model, weights, examples, budget)))
    parts = [p.numel() for p in weights]
    solved = [_of_block(g, v, damping) for g, v in zip(gradients.split(parts, dim=1), vector.split(parts), strict=True)]
    return torch.cat(solved)


def length_along(
    model: Reconstructor,
    weights: list[nn.Parameter],
    examples: Examples,
    budget: Budget,
    direction: Vector,
    vector: Vector,
) -> float:
    r"""Return how far to go: the minimum of :math:`\frac12 a^2 x^T H x - a\, x^T v` over a [Martens 2015, section 6.4].

    The Fisher information of a loss that is no logarithm of a likelihood has not the Hessian's size, only its shape.
    """
    curvature = float(direction @ hessian_product(model, weights, examples, budget, direction))
    return float(direction @ vector) / abs(curvature) if curvature else 0.0


def _of_block(g: Float[Tensor, "n m"], v: Float[Tensor, " m"], damping: float) -> Float[Tensor, " m"]:
    count = len(g)
    added = damping * float(g.square().sum()) / (count * min(g.shape))
    if added == 0:  # nothing here depends on the weights
        return torch.zeros_like(v)
    # In double precision, which not every device has: small eigenvalues matter, and the matrix is small.
    gram = (g @ g.T).cpu().double() + count * added * torch.eye(count, dtype=torch.float64)
    return (v - g.T @ torch.linalg.solve(gram, (g @ v).cpu().double()).to(v)) / added
