"""The isotropic undecimated wavelet transform that suits round objects."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_SPLINE = (3 / 8, 1 / 4, 1 / 16)  # the B3 spline: middle, and to either side


class Starlets:
    r"""Starlet transform on a periodic grid [1]_, as products of Fourier transforms.

    Plane j of an image is the difference of its smoothings by B3 splines of :math:`2^j` and :math:`2^{j+1}` pixels; the
    last plane is the last smoothing. The sum of all planes is the image.

    Parameters
    ----------
    grid
        (y, x) of the grid.
    planes
        Number of wavelet planes; None: as many as fit.
    dtype, device
        Of the images.

    References
    ----------
    .. [1] Starck, Fadili, Murtagh, The undecimated wavelet decomposition and its reconstruction, IEEE TIP 16, 2007.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        planes: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.grid = grid
        self.planes = max(1, int(math.log2(min(grid))) - 1) if planes is None else planes
        smooth = [torch.ones(grid[0], grid[1] // 2 + 1, dtype=dtype, device=device)]
        wy = 2 * math.pi * torch.fft.fftfreq(grid[0], dtype=dtype, device=device)
        wx = 2 * math.pi * torch.fft.rfftfreq(grid[1], dtype=dtype, device=device)
        for j in range(self.planes):
            smooth.append(smooth[-1] * _spline(2**j * wy)[:, None] * _spline(2**j * wx))
        filters = [a - b for a, b in pairwise(smooth)]
        self.filters: Float[Tensor, "plane y half_x"] = torch.stack([*filters, smooth[-1]])

    def analysis(self, X: Complex[Tensor, "b 1 y half_x"]) -> Float[Tensor, "b plane y x"]:
        """Return the planes of images, which are given by their ``rfft2``."""
        return torch.fft.irfft2(X * self.filters, s=self.grid)

    def adjoint(self, planes: Float[Tensor, "b plane y x"]) -> Complex[Tensor, "b 1 y half_x"]:
        """Return the ``rfft2`` of the adjoint's images."""
        return (torch.fft.rfft2(planes, s=self.grid) * self.filters).sum(1, keepdim=True)

    def norm(self) -> float:
        """Largest singular value of the analysis."""
        return float(self.filters.square().sum(0).max().sqrt())


def _spline(w: Tensor) -> Tensor:
    a, b, c = _SPLINE
    return a + 2 * b * torch.cos(w) + 2 * c * torch.cos(2 * w)
