"""Iterative linear algebra on batches of images: conjugate gradients and the largest eigenvalue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Num
from torch import Tensor

from recon.physics.errors import OptionError

Operator = Callable[[Tensor], Tensor]


@dataclass
class History:
    r"""What `conjugate_gradient` did; give it an empty one and it is filled.

    Parameters
    ----------
    residuals
        :math:`\|b - Nx\| / \|b\|` of each batch element, before the first iteration and after each.
    """

    residuals: list[Float[Tensor, "b"]] = field(default_factory=list)

    @property
    def iterations(self) -> int:
        """Number of iterations done."""
        return max(len(self.residuals) - 1, 0)


def conjugate_gradient(
    normal: Operator,
    b: Num[Tensor, "b ..."],
    x0: Num[Tensor, "b ..."] | None = None,
    *,
    max_iter: int = 50,
    tol: float = 1e-6,
    history: History | None = None,
) -> Num[Tensor, "b ..."]:
    r"""Solve :math:`Nx = b` for a Hermitian positive semidefinite :math:`N` [Hestenes, Stiefel 1952].

    Each batch element has its own step sizes and stops on its own. On a singular :math:`N` with :math:`b` in its
    range, and ``x0`` zero, the iterates go to the solution of least norm.

    Without gradients the vectors are updated in place; with them every operation is recorded, so that
    the result can be differentiated through all iterations.

    Parameters
    ----------
    normal
        Applies :math:`N` to a tensor of the shape of ``b``; must not change it.
    b
        Right-hand side, real or complex, the batch first.
    x0
        Start; zero by default.
    max_iter
        Most iterations.
    tol
        Stop where :math:`\|b - Nx\| \le` ``tol`` :math:`\|b\|`; 0 does ``max_iter`` iterations.
    history
        Filled with the relative residuals.
    """
    if max_iter < 0 or tol < 0:
        raise OptionError("iterations and tolerance must not be negative", found=f"{max_iter}, {tol}")
    in_place = not torch.is_grad_enabled()
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - normal(x0)
    p = r.clone()
    norm_b, rho = _dot(b, b), _dot(r, r)
    if history is not None:
        history.residuals[:] = [_relative(rho, norm_b)]
    for _ in range(max_iter):
        active = rho > tol**2 * norm_b
        if not bool(active.any()):
            break
        q = normal(p)
        curvature = _dot(p, q)
        # A converged element, or a direction that N maps to zero, is left as it is.
        alpha = torch.where(active & (curvature > 0), rho / curvature.clamp_min(_TINY), 0)
        x = _add_scaled(x, alpha, p, in_place)
        r = _add_scaled(r, -alpha, q, in_place)
        rho_next = _dot(r, r)
        beta = rho_next / rho.clamp_min(_TINY)
        p = _scale_add(p, beta, r, in_place)
        rho = rho_next
        if history is not None:
            history.residuals.append(_relative(rho, norm_b))
    return x


def max_eigenvalue(
    operator: Operator, x0: Num[Tensor, "b ..."], *, max_iter: int = 100, tol: float = 1e-4
) -> Float[Tensor, "b"]:
    r"""Largest eigenvalue of a Hermitian positive semidefinite operator by power iteration, for each batch element.

    The Rayleigh quotient grows towards the eigenvalue from below.

    Parameters
    ----------
    operator
        Maps a tensor of the shape of ``x0`` to another.
    x0
        Start, not orthogonal to the leading eigenvector: a random one will do.
    max_iter, tol
        Stop after ``max_iter`` iterations, or once no quotient changes by more than ``tol`` of itself.
    """
    with torch.no_grad():
        x = x0 / _wide(_dot(x0, x0).sqrt().clamp_min(_TINY), x0)
        value = torch.zeros_like(_dot(x, x))
        for _ in range(max_iter):
            image = operator(x)
            previous, value = value, _dot(x, image)
            norm = _dot(image, image).sqrt()
            if bool(((value - previous).abs() <= tol * value.abs()).all()):
                break
            x = image / _wide(norm.clamp_min(_TINY), image)
    return value


_TINY = 1e-37  # below every squared norm that float32 can hold, so a division stays finite


def _wide(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.reshape(-1, *(1,) * (like.ndim - 1))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _relative(squared: Tensor, squared_norm: Tensor) -> Tensor:
    return (squared / squared_norm.clamp_min(_TINY)).sqrt().detach()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Real part of the inner product of each batch element."""
    a, b = _real(a).flatten(1), _real(b).flatten(1)
    if a.shape[0] == 1:  # one BLAS call, no product in between
        return torch.dot(a[0], b[0])[None]
    return torch.linalg.vecdot(a, b)


def _add_scaled(y: Tensor, scalars: Tensor, x: Tensor, in_place: bool) -> Tensor:
    """``y + scalars * x`` with one real scalar a batch element."""
    if in_place:
        _real(y).addcmul_(_wide(scalars, _real(y)), _real(x))
        return y
    return y + _wide(scalars, x) * x


def _scale_add(y: Tensor, scalars: Tensor, x: Tensor, in_place: bool) -> Tensor:
    """``scalars * y + x``."""
    if in_place:
        return y.mul_(_wide(scalars, y)).add_(x)
    return _wide(scalars, y) * y + x
