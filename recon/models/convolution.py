"""Convolution on a grid on which it is a product: what closed forms of deconvolution need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.physics.psf import PSFConvolution

Stamps = Float[Tensor, "b 1 y x"]
Spectrum = Complex[Tensor, "b 1 grid_y half_grid_x"]


class Grid:
    r"""Stamps on a grid, padded with zeros, where :math:`H` is circular: :math:`Hx = C F^{-1}(\hat H\, F P x)`.

    Parameters
    ----------
    H
        Transfer function, ``rfft2`` of the PSF with its centre at index 0.
    grid, shape
        (y, x) of the grid and of the stamps.
    """

    def __init__(
        self, H: Complex[Tensor, "#b 1 grid_y half_grid_x"], grid: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        self.H, self.grid, self.shape = H, grid, shape
        self.HtH = H.real.square() + H.imag.square()

    @classmethod
    def of(cls, physics: PSFConvolution, y: Stamps) -> Grid:
        """Take the physics' own grid, which is padded so that nothing wraps round into the stamp."""
        shape = (int(y.shape[-2]), int(y.shape[-1]))
        return cls(physics.transfer(shape, y.dtype), physics.grid(shape), shape)

    def part(self, rows: slice) -> Grid:
        """Return the convolution of some of the stamps."""
        return Grid(self.H[rows] if len(self.H) > 1 else self.H, self.grid, self.shape)

    def spectrum(self, x: Stamps) -> Spectrum:
        """Pad and transform."""
        return torch.fft.rfft2(x, s=self.grid)

    def stamps(self, X: Spectrum) -> Stamps:
        """Transform back and crop."""
        return torch.fft.irfft2(X, s=self.grid)[..., : self.shape[0], : self.shape[1]]

    def A(self, x: Stamps) -> Stamps:  # noqa: N802 - as operators have it
        """Convolve."""
        return self.stamps(self.H * self.spectrum(x))

    def adjoint(self, y: Stamps) -> Stamps:
        """Correlate."""
        return self.stamps(self.H.conj() * self.spectrum(y))

    def power(self) -> Float[Tensor, " b"]:
        """Sum of the squared PSF."""
        return torch.fft.irfft2(self.HtH, s=self.grid)[:, 0, 0, 0]

    def deblur(self, Y: Spectrum, rhs: Stamps, rho: Float[Tensor, "#b 1 1 1"] | float) -> Stamps:
        r"""Solve :math:`(|\hat H|^2 + \rho)\,\hat x = \bar{\hat H}\,\hat y + F P\,\mathrm{rhs}` and crop."""
        return self.stamps((self.H.conj() * Y + self.spectrum(rhs)) / (self.HtH + rho))


def centred_transfer(psf: Float[Tensor, "b 1 h w"], grid: tuple[int, int]) -> Complex[Tensor, "b 1 grid_y half_grid_x"]:
    """Transfer function of a PSF on any grid; what lies beyond half of the grid from the centre is cut off."""
    for dim, n in zip((-2, -1), grid, strict=True):
        h = psf.shape[dim]
        first = h // 2 - n // 2
        if first > 0:
            psf = psf.narrow(dim, first, min(n, h - first))
        fill = max(0, n - psf.shape[dim])
        psf = torch.nn.functional.pad(psf, [0, fill] if dim == -1 else [0, 0, 0, fill])
        psf = psf.roll(-min(h // 2, n // 2), dim)
    return torch.fft.rfft2(psf)


Denoise = Callable[[Stamps, int], Stamps]
