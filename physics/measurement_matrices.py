"""Measurement matrices with orthonormal rows, and how many rows a sampling ratio means."""

from __future__ import annotations

import math

import torch
from deepinv.physics import SinglePixelCamera
from deepinv.physics.singlepixel import diagonal_index_matrix, hadamard_2d
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import OptionError

ROUNDINGS = ("half-up", "half-even", "up", "down")
HADAMARD_ORDERINGS = ("sequency", "cake_cutting", "zig_zag", "xy", "random")
DCT_ORDERINGS = ("zig_zag", "random")
_ORTHONORMAL = 1e-4  # how far a matrix times its transpose may be from the identity: files round


def measurements_at(ratio: float, n: int, rounding: str = "half-up") -> int:
    """Return the measurements m of a block of n pixels at a sampling ratio; at least one.

    ISTA-Net takes ``"half-up"`` (but ``"down"`` at 1 and 4 %), COAST ``"up"``, and R-COAST ``"half-even"``, which
    differ at 50 % of 1089 pixels.

    Raises
    ------
    OptionError
        A ratio that is not above 0 and at most 1, or an unknown rounding.
    """
    if not 0 < ratio <= 1:
        raise OptionError("no such sampling ratio", found=ratio, expected="above 0 and at most 1")
    exact = round(ratio * n, 9)  # 0.07 * 100 is 7.000000000000001
    if rounding == "up":
        m = math.ceil(exact)
    elif rounding == "down":
        m = math.floor(exact)
    elif rounding == "half-even":
        m = round(exact)
    elif rounding == "half-up":
        m = math.floor(exact + 0.5)
    else:
        raise OptionError("no such rounding", found=rounding, expected=f"one of {', '.join(ROUNDINGS)}")
    return max(m, 1)


def gaussian_matrix(
    m: int, n: int, generator: torch.Generator, *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "m n"]:
    """Draw m orthonormal rows: Gaussian numbers, orthogonalised, so that every direction is as likely.

    Raises
    ------
    OptionError
        m is not from 1 to n.
    """
    _check_count(m, n)
    drawn = torch.randn(n, m, dtype=torch.float64, generator=generator, device=generator.device)
    q, r = torch.linalg.qr(drawn)
    return (q * torch.sign(torch.diagonal(r))).mT.contiguous().to(dtype)  # the same on every LAPACK


def hadamard_matrix(
    m: int,
    block: tuple[int, int],
    ordering: str = "cake_cutting",
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "m n"]:
    """Take m rows of the two-dimensional Hadamard transform, as a single-pixel camera does.

    Parameters
    ----------
    m
        Rows.
    block
        (h, w), powers of 2; a square for the cake-cutting order.
    ordering
        Which patterns come first: those of `deepinv.physics.SinglePixelCamera`, or ``"random"`` (the mean is always
        among them).
    generator
        For ``"random"``.

    Raises
    ------
    OptionError
        A block that has no Hadamard transform, an unknown ordering, or m not from 1 to n.
    """
    h, w = block
    _check_count(m, h * w)
    if any(side & (side - 1) for side in block) or min(block) < 1:
        raise OptionError(
            "a Hadamard transform has sides that are powers of 2", found=f"{h} x {w}", cure="Take blocks of 32 x 32"
        )
    if ordering not in HADAMARD_ORDERINGS:
        raise OptionError("no such ordering", found=ordering, expected=f"one of {', '.join(HADAMARD_ORDERINGS)}")
    if ordering == "cake_cutting" and h != w:
        raise OptionError("the cake-cutting order is one of squares", found=f"{h} x {w}", cure="Take zig_zag")
    rows = hadamard_2d(torch.eye(h * w, dtype=torch.float64).unflatten(1, block)).flatten(1)
    if ordering == "random":
        return rows[_random_rows(m, h * w, generator)].to(dtype)
    chosen = SinglePixelCamera(m, (1, h, w), ordering=ordering).mask.flatten().bool().cpu()
    return rows[chosen].to(dtype)


def dct_matrix(
    m: int,
    block: tuple[int, int],
    ordering: str = "zig_zag",
    generator: torch.Generator | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "m n"]:
    """Take m rows of the two-dimensional discrete cosine transform (type 2, orthonormal).

    Parameters
    ----------
    m
        Rows.
    block
        (h, w).
    ordering
        ``"zig_zag"``: the lowest frequencies; ``"random"``: any, the mean among them.
    generator
        For ``"random"``.

    Raises
    ------
    OptionError
        An unknown ordering, or m not from 1 to n.
    """
    h, w = block
    _check_count(m, h * w)
    rows = torch.kron(_dct(h), _dct(w))
    if ordering == "random":
        return rows[_random_rows(m, h * w, generator)].to(dtype)
    if ordering != "zig_zag":
        raise OptionError("no such ordering", found=ordering, expected=f"one of {', '.join(DCT_ORDERINGS)}")
    return rows[diagonal_index_matrix(h, w).flatten().argsort()[:m]].to(dtype)


def has_orthonormal_rows(matrix: Float[Tensor, "m n"]) -> bool:
    """Whether the rows are orthonormal, as far as a file's rounding lets them."""
    wide = matrix.double()
    products = wide @ wide.mT
    identity = torch.eye(len(products), dtype=products.dtype, device=products.device)
    return bool((products - identity).abs().max() <= _ORTHONORMAL)


def _dct(n: int) -> Float[Tensor, "n n"]:
    k, i = torch.meshgrid(torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64), indexing="ij")
    rows = torch.cos(torch.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows


def _random_rows(m: int, n: int, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise OptionError("random rows need a generator")
    others = torch.randperm(n - 1, generator=generator, device=generator.device).cpu()[: m - 1] + 1
    return torch.cat((torch.zeros(1, dtype=torch.long), others.sort().values))


def _check_count(m: int, n: int) -> None:
    if not 1 <= m <= n:
        raise OptionError("no such number of measurements", found=m, expected=f"1 to {n}, the pixels of a block")
