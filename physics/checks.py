"""Whether an operator is what it says: linear, with an adjoint that is its adjoint; and whether data are its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor
from torch.linalg import vector_norm

from recon.physics.errors import DataError, OperatorError, OptionError, ShapeError

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}


def check_operator(
    physics: Physics,
    img_size: Sequence[int] | None = None,
    *,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> None:
    r"""Check by random numbers that an operator is linear, finite and deterministic, and its adjoint is its adjoint.

    .. math:: A(ax + bz) = a\,Ax + b\,Az, \qquad \langle Ax, v \rangle = \langle x, A^H v \rangle .

    Costs four forward operations and one adjoint.

    Parameters
    ----------
    physics
        The operator.
    img_size
        (c, y, x); None: its own ``img_size``.
    batch, dtype, device
        Of the random images.
    seed
        Of the random numbers.

    Raises
    ------
    OperatorError
        It is not linear, or its adjoint is not its adjoint: says by how much.
    OptionError
        The size of its images is not known.
    """
    size = getattr(physics, "img_size", None) if img_size is None else img_size
    if size is None:
        raise OptionError("the size of the operator's images is not known", cure="Give img_size=(c, y, x)")
    if not isinstance(physics, LinearPhysics):
        raise OperatorError("an operator that is not linear", found=type(physics).__name__, expected="a LinearPhysics")
    generator = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(batch, *size, dtype=dtype, generator=generator).to(device) for _ in range(2))
    tolerance = _TOLERANCE[dtype]
    with torch.no_grad():
        y, other = physics.A(x), physics.A(z)
        if not bool(torch.isfinite(y).all()):
            raise OperatorError("the operator gives values that are not finite")
        apart, together = 2 * y - 3 * other, physics.A(2 * x - 3 * z)
        off = float(vector_norm(together - apart) / vector_norm(apart).clamp_min(1e-30))
        if off > tolerance:
            raise OperatorError(
                "the operator is not linear",
                found=f"A(2x - 3z) off 2A(x) - 3A(z) by {off:.1%}",
                cure="A constant offset (dark current, background) is subtracted from the measurements instead",
            )
        v = torch.randn(y.shape, dtype=y.dtype, generator=generator).to(y.device)
        back = physics.A_adjoint(v)
        if back.shape != x.shape:
            raise OperatorError(
                "the adjoint gives an image of another shape", found=tuple(back.shape), expected=tuple(x.shape)
            )
        left, right = float(_inner(y, v)), float(_inner(x, back))
        scale = float(vector_norm(y) * vector_norm(v))
        if not abs(left - right) <= tolerance * scale / max(v.numel(), 1) ** 0.5 + 1e-6 * scale:
            raise OperatorError(
                "the adjoint is not the operator's adjoint",
                found=f"<Ax, v> = {left:.6g} but <x, A_adjoint v> = {right:.6g}",
                cure="Leave the adjoint out to have it made by automatic differentiation",
            )


def check_measurements(y: Tensor, physics: Physics) -> None:
    """Check that measurements are finite and of the shape that the operator gives, where it knows its images' size.

    Costs one forward operation on as many images as there are measurements: parameters may differ between them.

    Raises
    ------
    DataError, ShapeError
        They are not; the message tells what was found and expected.
    """
    if y.numel() == 0:
        raise DataError("there is no measurement", found=tuple(y.shape))
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise DataError("the measurements have values that are not finite", found=f"{bad} of {y.numel()}")
    size = getattr(physics, "img_size", None)
    if size is None:
        return
    if len(size) == 2:  # of operators that take any number of channels
        size = (y.shape[1], *size)
    dtype = y.real.dtype if y.is_complex() else y.dtype
    with torch.no_grad():
        expected = physics.A(torch.zeros(len(y), *size, dtype=dtype, device=y.device)).shape[1:]
    if y.shape[1:] != expected:
        raise ShapeError(
            "measurements that are not the operator's",
            found=tuple(y.shape),
            expected=f"(b, {', '.join(map(str, expected))})",
        )


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (_real(a).double() * _real(b).double()).sum()
