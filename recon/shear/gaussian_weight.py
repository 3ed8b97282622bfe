"""Moments of stamps under an elliptical Gaussian weight, and how they change with the weight.

All sums of one weight come from two matrix products: the exponent is a polynomial of degree 2 in (x, y), so that it is
coefficients times monomials, and the moments up to degree 4 are the weighted pixels times monomials.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

# Degrees (p, q) of x^p y^q; the first 6 make the exponent and the second moments. A 16th that is nil follows them:
# products of matrices 15 wide take three times as long.
MONOMIALS = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
MONOMIALS += [(p, n - p) for n in (3, 4) for p in range(n, -1, -1)]
_LEAST_POWER = -40.0  # smaller weights would become denormal numbers, which are slow


def inverse(M: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    """Invert symmetric matrices (xx, xy, yy)."""
    xx, xy, yy = M.unbind(-1)
    return torch.stack([yy, -xy, xx], -1) / (xx * yy - xy.square())[:, None]


def is_positive(M: Float[Tensor, "b 3"]) -> Tensor:
    """Tell where symmetric matrices (xx, xy, yy) are positive definite."""
    xx, xy, yy = M.unbind(-1)
    return (xx > 0) & (yy > 0) & (xx * yy - xy.square() > 0)


def lesser_eigenvalue(M: Float[Tensor, "b 3"]) -> Float[Tensor, " b"]:
    """Return the lesser eigenvalue of symmetric matrices (xx, xy, yy)."""
    xx, xy, yy = M.unbind(-1)
    return 0.5 * (xx + yy - torch.hypot(xx - yy, 2 * xy))


def monomials(shape: tuple[int, int], like: Tensor) -> Float[Tensor, "16 y x"]:
    """Evaluate the monomials on a stamp, their origin at the pixel ``n // 2``."""
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) - n // 2 for n in shape)
    return torch.stack([*(x[None, :] ** p * y[:, None] ** q for p, q in MONOMIALS), 0 * x * y[:, None]])


def exponent(theta: Float[Tensor, "b 5"]) -> Float[Tensor, "b 6"]:
    """Return the coefficients of -1/2 (r - c)' M^-1 (r - c) for theta = (x, y, Mxx, Mxy, Myy)."""
    x, y = theta[:, 0], theta[:, 1]
    xx, xy, yy = inverse(theta[:, 2:]).unbind(-1)
    constant = -0.5 * (xx * x * x + 2 * xy * x * y + yy * y * y)
    return torch.stack([constant, xx * x + xy * y, xy * x + yy * y, -0.5 * xx, -xy, -0.5 * yy], -1)


def weights(theta: Float[Tensor, "b 5"], basis: Float[Tensor, "number pixel"]) -> Float[Tensor, "b pixel"]:
    """Evaluate the Gaussian weight of each object."""
    power = exponent(theta) @ basis[:6]
    if theta.requires_grad:
        return power.clamp(min=_LEAST_POWER).exp()
    return power.clamp_(min=_LEAST_POWER).exp_()


def raw_moments(
    pixels: Float[Tensor, "b pixel"], theta: Float[Tensor, "b 5"], basis: Float[Tensor, "16 pixel"]
) -> Float[Tensor, "b 16"]:
    """Sum the weighted pixels times the monomials."""
    w = weights(theta, basis)
    return (w * pixels if w.requires_grad or pixels.requires_grad else w.mul_(pixels)) @ basis.T


@cache
def _tables(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where moments stand in a 5 x 5 array; binomial coefficients and powers of a shift; products of monomials."""
    place = torch.full((5, 5), len(MONOMIALS))
    for index, (p, q) in enumerate(MONOMIALS):
        place[p, q] = index
    powers = (torch.arange(5)[:, None] - torch.arange(5)).clamp(min=-1) % 6  # 5 stands for none
    binomial = torch.tensor([[float(_choose(p, i)) for i in range(5)] for p in range(5)], dtype=dtype)
    products = torch.tensor([[5 * (p + r) + q + s for r, s in MONOMIALS[:6]] for p, q in MONOMIALS[:6]])
    return place.ravel().to(device), powers.to(device), binomial.to(device), products.to(device)


def _choose(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


def central_products(raw: Float[Tensor, "b 16"], centre: Float[Tensor, "b 2"]) -> Float[Tensor, "b 6 6"]:
    """Return the sums of products of the monomials of degree 2 or less about ``centre``.

    Row and column are 1, dx, dy, dx^2, dx dy, dy^2.
    """
    place, powers, binomial, products = _tables(raw.device, raw.dtype)
    square = raw[:, place].view(-1, 5, 5)
    shifts = []
    for c in (-centre[:, 0], -centre[:, 1]):
        one = torch.ones_like(c)
        series = torch.stack([one, c, c * c, c**3, c**4, torch.zeros_like(c)], -1)
        shifts.append(series[:, powers] * binomial)
    moved = shifts[0] @ square @ shifts[1].transpose(1, 2)
    return moved.reshape(-1, 25)[:, products]


@dataclass(frozen=True)
class Linearised:
    """The conditions of adaptive moments at some weight, and their derivatives.

    The conditions [Hirata & Seljak 2003, eq. 5-8]: under its own weight an object is centred, and its second moments
    are half those of the weight.

    Parameters
    ----------
    amplitude
        ``(b,)`` sum of the weighted pixels.
    residual
        ``(b, 5)``: first moments, and second moments minus M/2.
    jacobian
        ``(b, 5, 5)`` of the residual with theta.
    growth
        ``(b, 5)``: derivative of log amplitude with theta.
    mean
        ``(b, 6)``: mean of 1, dx, dy, dx^2, dx dy, dy^2.
    """

    amplitude: Float[Tensor, " b"]
    residual: Float[Tensor, "b 5"]
    jacobian: Float[Tensor, "b 5 5"]
    growth: Float[Tensor, "b 5"]
    mean: Float[Tensor, "b 6"]


def linearise(raw: Float[Tensor, "b 16"], theta: Float[Tensor, "b 5"]) -> Linearised:
    """Work out residual and Jacobian from the moments under the weight ``theta``."""
    K = central_products(raw, theta[:, :2])
    amplitude = raw[:, 0]
    K = K / amplitude[:, None, None]
    mean = K[:, 0]
    xx, xy, yy = inverse(theta[:, 2:]).unbind(-1)
    zero = torch.zeros_like(xx)
    # dw/dtheta = w * (G phi), phi = 1, dx, dy, dx^2, dx dy, dy^2
    G = torch.stack(
        [
            torch.stack([zero, xx, xy, zero, zero, zero], -1),
            torch.stack([zero, xy, yy, zero, zero, zero], -1),
            torch.stack([zero, zero, zero, 0.5 * xx * xx, xx * xy, 0.5 * xy * xy], -1),
            torch.stack([zero, zero, zero, xx * xy, xx * yy + xy * xy, xy * yy], -1),
            torch.stack([zero, zero, zero, 0.5 * xy * xy, xy * yy, 0.5 * yy * yy], -1),
        ],
        1,
    )
    covariance = K - mean[:, :, None] * mean[:, None, :]
    jacobian = covariance[:, 1:] @ G.transpose(1, 2)
    dx, dy = mean[:, 1], mean[:, 2]
    explicit = torch.zeros_like(jacobian)  # of dx, dy and M/2 themselves
    explicit[:, 0, 0] = explicit[:, 1, 1] = -1
    explicit[:, 2, 0], explicit[:, 3, 0], explicit[:, 3, 1], explicit[:, 4, 1] = -2 * dx, -dy, -dx, -2 * dy
    explicit[:, 2, 2] = explicit[:, 3, 3] = explicit[:, 4, 4] = -0.5
    residual = torch.cat([mean[:, 1:3], mean[:, 3:] - 0.5 * theta[:, 2:]], 1)
    growth = (G @ mean[:, :, None])[..., 0]
    return Linearised(amplitude, residual, jacobian + explicit, growth, mean)
