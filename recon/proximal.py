"""Proximal maps of total variation and of total generalised variation, on several real channels.

Both are iterated. They keep their dual fields from call to call, so that a solver that calls them again with a similar
image needs few iterations; and they do more with each call, for accelerated methods need ever smaller errors
[Schmidt, Le Roux, Bach 2011].
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recon.differences import (
    gradient,
    gradient_adjoint,
    magnitude,
    project,
    symmetric_gradient,
    symmetric_gradient_adjoint,
    without_far_edge,
)

_MORE_AFTER = 4  # calls after which an iteration is added
_BALANCE = 300  # image over weight at which primal and dual steps are equal

Image = Float[Tensor, "b channel *spatial"]
Weight = Float[Tensor, "b 1 *spatial_or_ones"]


def total_variation(x: Image) -> Float[Tensor, "b"]:
    """Isotropic total variation, joint over the channels [Rudin 1992; Bredies 2010 for several channels]."""
    return magnitude(gradient(x)).flatten(1).sum(1)


class TVProx:
    r"""Proximal map of total variation by the fast dual projection method [Beck, Teboulle 2009, section 4].

    .. math:: \arg\min_x \tfrac12 \|x - z\|^2 + \lambda \|\nabla x\|_{2,1} = z - \nabla^T p^\star

    Parameters
    ----------
    weight
        :math:`\lambda` of each batch element, ``(b, 1, ...)``.
    iterations
        Projections in the first call.
    """

    def __init__(self, weight: Weight, iterations: int = 4) -> None:
        self.weight, self.iterations, self.calls = weight, iterations, 0
        self.p: Tensor | None = None

    def __call__(self, z: Image) -> Image:
        """Denoise ``z``."""
        p = torch.zeros((z.ndim - 2, *z.shape), dtype=z.dtype, device=z.device) if self.p is None else self.p
        step = 1 / _gradient_norm_squared(z)
        r, t = p, 1.0
        for _ in range(self.iterations + self.calls // _MORE_AFTER):
            p_next = project(gradient(z - gradient_adjoint(r)).mul_(step).add_(r), self.weight)
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            r = torch.lerp(p, p_next, 1 + (t - 1) / t_next)
            p, t = p_next, t_next
        self.p = p
        self.calls += 1
        return z - gradient_adjoint(p)


class TGVProx:
    r"""Proximal map of second-order total generalised variation by the primal-dual method [Chambolle, Pock 2011].

    .. math:: \arg\min_x \tfrac12 \|x - z\|^2 +
        \min_w \alpha_1 \|\nabla x - w\|_{2,1} + \alpha_0 \|E w\|_{2,1}

    with :math:`\alpha_1` = ``weight`` and :math:`\alpha_0 = 2 \alpha_1` [Knoll 2011, eq. 5 and section
    "Numerical solution"]. At the far edge, where x has no difference, w is free: else a slope would end there.

    Parameters
    ----------
    weight
        :math:`\alpha_1` of each batch element, ``(b, 1, ...)``.
    iterations
        Primal-dual steps in the first call.
    """

    def __init__(self, weight: Weight, iterations: int = 6) -> None:
        self.weight, self.iterations, self.calls = weight, iterations, 0
        self.w: Tensor | None = None
        self.p: Tensor
        self.q: Tensor
        self.x: Tensor

    def __call__(self, z: Image) -> Image:
        """Denoise ``z``."""
        if self.w is None:
            self.x = z
            self.p, self.w = torch.zeros_like(gradient(z)), torch.zeros_like(gradient(z))
            self.q = torch.zeros_like(symmetric_gradient(self.w))
        x, w, p, q = self.x, self.w, self.p, self.q
        # Fields are as large as the image's steps, dual fields as the weight: the steps of both are balanced so that
        # neither has further to go.
        size, weight = z.abs().flatten(1).amax(1), self.weight.flatten(1).amax(1)
        balance = size / (_BALANCE * weight).clamp_min(torch.finfo(z.dtype).tiny)
        balance = balance.clamp(1, 30).reshape(-1, *(1,) * (z.ndim - 1))
        # Norm of K = [grad, -1; 0, E], with |E| <= |grad|.
        a = _gradient_norm_squared(z)
        norm = math.sqrt(a + 0.5 + math.sqrt(a + 0.25))
        tau, sigma = balance / norm, 1 / (balance * norm)
        x_bar, w_bar = x, w
        for _ in range(self.iterations + self.calls // _MORE_AFTER):
            p = project(without_far_edge(gradient(x_bar).sub_(w_bar)).mul_(sigma).add_(p), self.weight)
            q = project(symmetric_gradient(w_bar).mul_(sigma).add_(q), 2 * self.weight)
            x_next = (x + tau * (z - gradient_adjoint(p))) / (1 + tau)
            w_next = w + tau * (p - symmetric_gradient_adjoint(q))
            x_bar, w_bar = 2 * x_next - x, 2 * w_next - w
            x, w = x_next, w_next
        self.x, self.w, self.p, self.q = x, w, p, q
        self.calls += 1
        return x


def _gradient_norm_squared(z: Tensor) -> int:
    return 4 * (z.ndim - 2)
