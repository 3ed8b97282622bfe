"""Finite differences on images of any number of spatial axes, and their adjoints: what TV and TGV are made of.

Images are ``(b, channel, *spatial)``. Vector fields carry their components in front, ``(d, b, channel, *spatial)``,
and so do symmetric tensor fields, with ``d (d + 1) / 2`` components.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def gradient(x: Float[Tensor, "b channel *spatial"]) -> Float[Tensor, "d b channel *spatial"]:
    """Forward differences along each spatial axis; zero at the far edge (Neumann)."""
    p = torch.empty((x.ndim - 2, *x.shape), dtype=x.dtype, device=x.device)
    for i in range(p.shape[0]):
        _forward_difference(x, i + 2, p[i])
    return p


def gradient_adjoint(p: Float[Tensor, "d b channel *spatial"]) -> Float[Tensor, "b channel *spatial"]:
    """Adjoint of `gradient`, the negative divergence."""
    x = torch.zeros_like(p[0])
    for i in range(p.shape[0]):
        _add_adjoint(x, p[i], i + 2)
    return x


def without_far_edge(p: Float[Tensor, "d b channel *spatial"]) -> Float[Tensor, "d b channel *spatial"]:
    """Set to zero, in place, the components that have no forward difference."""
    for i in range(p.shape[0]):
        p[i].select(i + 2, -1).zero_()
    return p


def symmetric_gradient(w: Float[Tensor, "d b channel *spatial"]) -> Float[Tensor, "sym b channel *spatial"]:
    r"""Symmetrised derivative :math:`E w = (\nabla w + \nabla w^T) / 2` [Knoll 2011, eq. 6].

    The diagonal comes first, then the upper triangle by rows. Off-diagonal entries stand twice in the
    tensor and once here, times :math:`\sqrt 2`: the Euclidean norm of the components is the tensor's.
    """
    d = w.shape[0]
    q = torch.empty((d * (d + 1) // 2, *w.shape[1:]), dtype=w.dtype, device=w.device)
    for i in range(d):
        _forward_difference(w[i], i + 2, q[i])
    for k, (i, j) in enumerate(_pairs(d), start=d):
        _forward_difference(w[i], j + 2, q[k])
        q[k] += _forward_difference(w[j], i + 2, torch.empty_like(w[j]))
        q[k] *= math.sqrt(0.5)
    return q


def symmetric_gradient_adjoint(q: Float[Tensor, "sym b channel *spatial"]) -> Float[Tensor, "d b channel *spatial"]:
    """Adjoint of `symmetric_gradient`."""
    d = q.ndim - 3
    w = torch.zeros((d, *q.shape[1:]), dtype=q.dtype, device=q.device)
    for i in range(d):
        _add_adjoint(w[i], q[i], i + 2)
    for k, (i, j) in enumerate(_pairs(d), start=d):
        mixed = q[k] * math.sqrt(0.5)
        _add_adjoint(w[i], mixed, j + 2)
        _add_adjoint(w[j], mixed, i + 2)
    return w


def magnitude(p: Float[Tensor, "d b channel *spatial"]) -> Float[Tensor, "b 1 *spatial"]:
    """Euclidean norm at each pixel over components and channels.

    Joint over the channels, so that it does not depend on the phase of a complex image, nor on how two
    sets of coil maps share the signal.
    """
    return p.square().sum(dim=(0, 2)).sqrt_()[:, None]


def project(
    p: Float[Tensor, "d b channel *spatial"], radius: Float[Tensor, "b *ones"]
) -> Float[Tensor, "d b channel *spatial"]:
    """Project onto fields whose `magnitude` is at most ``radius``, in place."""
    longest = torch.maximum(magnitude(p), radius).clamp_min_(torch.finfo(p.dtype).tiny)
    return p.mul_(radius / longest)


def _pairs(d: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(d) for j in range(i + 1, d)]


def _forward_difference(x: Tensor, dim: int, out: Tensor) -> Tensor:
    n = x.shape[dim]
    torch.sub(x.narrow(dim, 1, n - 1), x.narrow(dim, 0, n - 1), out=out.narrow(dim, 0, n - 1))
    out.select(dim, n - 1).zero_()
    return out


def _add_adjoint(x: Tensor, p: Tensor, dim: int) -> None:
    n = x.shape[dim]
    inner = p.narrow(dim, 0, n - 1)
    x.narrow(dim, 1, n - 1).add_(inner)
    x.narrow(dim, 0, n - 1).sub_(inner)
