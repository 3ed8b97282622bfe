"""Orthogonal Daubechies wavelets with periodic boundary, any size, as matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import EllipsisType

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from recon.physics.errors import OptionError, ShapeError
from recon.physics.layout import last_axes

_SHORTEST = 8  # an axis is halved only while its low-pass part keeps this many samples
_MOST_LEVELS = 4


class Wavelets:
    r"""Multilevel separable wavelet transform [Mallat 1989], orthogonal for every size.

    Each level is an orthogonal matrix an axis, :math:`X \mapsto W_y X W_x^T`, followed by the same on the low-pass
    corner; `synthesis` is the transpose. On an even axis W is pywt's ``periodization`` mode. An odd axis of n samples
    has :math:`(n + 1) / 2` low-pass and :math:`(n - 1) / 2` high-pass coefficients, and W is the orthogonal matrix
    closest to the periodised filters (their polar factor): they differ near the seam only.

    Parameters
    ----------
    spatial
        Sizes of the transformed axes, the last ones.
    order
        Vanishing moments: 1 is Haar, 4 is db4.
    levels
        Number of levels; None: at most 4, each axis halved only while 8 low-pass samples remain (a volume of few
        slices is then transformed along the other axes).
    dtype, device
        Of the images.
    """

    def __init__(
        self,
        spatial: Sequence[int],
        *,
        order: int = 4,
        levels: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.spatial = tuple(spatial)
        if not 1 <= order <= 10:
            raise OptionError("no such wavelet", found=f"order {order}", expected="1 to 10 vanishing moments")
        most = math.floor(math.log2(min(self.spatial)))
        if levels is not None and not 0 <= levels <= most:
            raise OptionError("no such number of levels", found=levels, expected=f"0 to {most} for {self.spatial}")
        shortest = 2 * _SHORTEST if levels is None else 2
        self.sizes = [self.spatial]
        self._matrices: list[list[Tensor | None]] = []
        while len(self._matrices) < (_MOST_LEVELS if levels is None else levels):
            size = self.sizes[-1]
            halved = [n >= shortest for n in size]
            if not any(halved):
                break
            self._matrices.append(
                [
                    torch.tensor(analysis_matrix(n, order), dtype=dtype, device=device) if yes else None
                    for n, yes in zip(size, halved, strict=True)
                ]
            )
            self.sizes.append(tuple((n + 1) // 2 if yes else n for n, yes in zip(size, halved, strict=True)))

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self._matrices)

    @property
    def low(self) -> tuple[int, ...]:
        """Size of the low-pass corner of the coefficients."""
        return self.sizes[-1]

    def analysis(
        self, x: Float[Tensor, "*batch_and_spatial"], shift: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch_and_spatial"]:
        """Transform real images over the last axes; the low-pass part of each level lies in the low corner.

        Parameters
        ----------
        x
            ``(..., *spatial)``. A complex image is transformed as two real ones.
        shift
            Transform the image rolled by this much an axis [cycle spinning, Coifman, Donoho 1995]; costs nothing.

        Raises
        ------
        ShapeError
            An image of another size.
        """
        self._check(x)
        return self._levels(x, 0, shift)

    def _levels(self, x: Tensor, level: int, shift: Sequence[int] | None) -> Tensor:
        if level == self.levels:
            return x
        c = _along_axes(x, _rolled(self._matrices[level], shift))
        if level + 1 == self.levels:
            return c
        corner = self._corner(level + 1)
        if not c.requires_grad:
            c[corner] = self._levels(c[corner], level + 1, None)
            return c
        out = c.clone()
        out[corner] = self._levels(c[corner], level + 1, None)
        return out

    def synthesis(
        self, c: Float[Tensor, "*batch_and_spatial"], shift: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch_and_spatial"]:
        """Inverse and transpose of `analysis` with the same shift."""
        self._check(c)
        x = c[self._corner(self.levels)]
        for level in reversed(range(self.levels)):
            if level + 1 == self.levels:
                whole = c[self._corner(level)]
            else:
                whole = c[self._corner(level)].clone()
                whole[self._corner(level + 1)] = x
            matrices = _rolled(self._matrices[level], shift if level == 0 else None)
            transposed = [None if m is None else m.T for m in matrices]
            x = _along_axes(whole, transposed)
        return x

    def _corner(self, level: int) -> tuple[EllipsisType | slice, ...]:
        return last_axes(slice(0, n) for n in self.sizes[level])

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[-len(self.spatial) :]) != self.spatial:
            raise ShapeError("an image of another size", found=tuple(x.shape), expected=f"(..., {self.spatial})")


def _rolled(matrices: Sequence[Tensor | None], shift: Sequence[int] | None) -> Sequence[Tensor | None]:
    """Matrices that first roll: W R with R x = x rolled."""
    if shift is None:
        return matrices
    return [None if m is None else m.roll(-s, dims=1) for m, s in zip(matrices, shift, strict=True)]


def _along_axes(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply each of the last axes by its matrix; None leaves it."""
    last = matrices[-1]
    if last is not None:
        x = x @ last.T
    for axis in range(-len(matrices), -1):
        matrix = matrices[axis]
        if matrix is None:
            continue
        # Axes behind this one are columns of one product.
        x = matrix @ x if axis == -2 else (matrix @ x.flatten(axis + 1)).unflatten(-1, x.shape[axis + 1 :])
    return x


@cache
def analysis_matrix(n: int, order: int) -> Float[ndarray, "n n"]:
    """One level of the periodic wavelet transform of ``n`` samples as an orthogonal matrix, low-pass rows first."""
    h = daubechies(order)
    g = h[::-1] * (-1.0) ** np.arange(len(h))
    taps, low = np.arange(len(h)), (n + 1) // 2
    W = np.zeros((n, n))
    for i in range(n):
        row, kernel = (2 * i, h) if i < low else (2 * (i - low), g)
        np.add.at(W[i], (row + taps - len(h) // 2 + 1) % n, kernel)
    if n % 2:
        U, _, V = np.linalg.svd(W)
        W = U @ V
    W.setflags(write=False)
    return W


@cache
def daubechies(order: int) -> Float[ndarray, "taps"]:
    r"""Low-pass filter of minimum phase with ``order`` vanishing moments [Daubechies 1988], of norm 1.

    The roots of :math:`\sum_k \binom{p-1+k}{k} y^k`, :math:`y = (2 - z - 1/z) / 4`, that lie inside the unit
    circle, and p roots at -1.
    """
    polynomial = [math.comb(order - 1 + k, k) for k in reversed(range(order))]
    h = np.ones(1, dtype=complex)
    for y in np.roots(polynomial):
        z = np.roots([1, 4 * y - 2, 1])
        h = np.convolve(h, [1, -z[np.abs(z).argmin()]])
    for _ in range(order):
        h = np.convolve(h, [1, 1])
    h = h.real
    h = h * math.sqrt(2) / h.sum()
    h.setflags(write=False)
    return h
