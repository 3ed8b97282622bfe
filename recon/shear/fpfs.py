"""Shapelet moments in Fourier space, with the PSF divided out (FPFS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import OptionError, ShapeError

_KEPT = 1e-10  # of the shapelets' Gaussian: frequencies where less is left carry nothing but noise over a small PSF
_LEAST_TRANSFER = 1e-5  # of the PSF, below which dividing by it is of no use


@dataclass(frozen=True, kw_only=True, eq=False)
class FpfsShapes:
    """FPFS moments, one row an object.

    Parameters
    ----------
    m00, m22c, m22s, m40
        Shapelet moments of the deconvolved galaxy.
    e1, e2
        Ellipticity ``m22 / (m00 + C)``.
    response
        Shear response of ``e1``, for both components as in the reference.
    flags
        1 where ``m00 + C`` or the response is not positive.
    """

    m00: Float[Tensor, " b"]
    m22c: Float[Tensor, " b"]
    m22s: Float[Tensor, " b"]
    m40: Float[Tensor, " b"]
    e1: Float[Tensor, " b"]
    e2: Float[Tensor, " b"]
    response: Float[Tensor, " b"]
    flags: Int32[Tensor, " b"]

    @property
    def g1(self) -> Float[Tensor, " b"]:
        """``e1 / response`` of each object: a shape. An ensemble's shear is ``mean(e) / mean(response)``."""
        return self.e1 / self.response

    @property
    def g2(self) -> Float[Tensor, " b"]:
        """``e2 / response`` of each object."""
        return self.e2 / self.response


def fpfs(
    stamps: Float[Tensor, "b 1 y x"],
    psf: Float[Tensor, "p 1 h w"] | None = None,
    *,
    sigma: Number = 0.6,
    pixel_scale: Number = 0.2,
    weighting: Number = 1.0,
    lift: bool = False,
) -> FpfsShapes:
    r"""Measure polar shapelet moments [Li et al. 2018, eq. 7-10; Li & Mandelbaum 2023].

    .. math:: M_{nm} = \mathrm{Re} \sum_k \chi_{nm}(k)\, \hat I(k) / \hat P(k),\quad
              e_1 = \frac{M_{22c}}{M_{00} + C},\quad
              R = \frac{1}{\sqrt 2}\,(s_0 - s_4 + 2 e_1^2),\quad s_n = \frac{M_{n0}}{M_{00} + C}

    Parameters
    ----------
    stamps
        Sky-subtracted; the galaxy near the pixel ``n // 2``.
    psf
        Sum 1, centre at ``n // 2``; None: nothing is divided out (for deconvolved stamps).
    sigma
        Of the shapelets, in the units of ``pixel_scale``.
    pixel_scale
        Size of a pixel.
    weighting
        C: large values weigh bright galaxies less; in the units of the stamps.
    lift
        Subtract each stamp's least value first, as the measurements of Li & Alexander 2023 do.

    Raises
    ------
    OptionError
        A size that is not positive.
    ShapeError
        PSFs that do not fit the stamps.
    """
    if not (sigma > 0 and pixel_scale > 0):
        raise OptionError("shapelets without width", found=(sigma, pixel_scale), expected="sigma, pixel_scale > 0")
    images = stamps[:, 0]
    if lift:
        images = images - images.amin((1, 2), keepdim=True)
    ky, kx = (_wave_numbers(n, sigma / pixel_scale, images) for n in images.shape[1:])
    chi = _shapelets(ky[:, None], kx[None, :])
    spectrum = torch.fft.fft2(torch.fft.ifftshift(images, dim=(1, 2)))
    if psf is not None:
        if psf.shape[0] not in (1, len(stamps)):
            raise ShapeError("PSFs that do not fit the stamps", found=len(psf), expected=f"1 or {len(stamps)}")
        transfer = torch.fft.fft2(torch.fft.ifftshift(_fitted(psf[:, 0], images.shape[1:]), dim=(1, 2)))
        used = torch.exp(-0.5 * (ky[:, None].square() + kx.square())) > _KEPT
        used = used & (transfer.abs() > _LEAST_TRANSFER)
        spectrum = torch.where(used, spectrum / torch.where(used, transfer, 1), 0)
    scale = pixel_scale**2 * images.shape[1] * images.shape[2]
    m00, m22c, m22s, m40 = ((spectrum * c).sum((1, 2)).real / scale for c in chi)
    w = m00 + weighting
    e1, e2 = m22c / w, m22s / w
    response = (m00 / w - m40 / w + 2 * e1.square()) / math.sqrt(2)
    return FpfsShapes(
        m00=m00,
        m22c=m22c,
        m22s=m22s,
        m40=m40,
        e1=e1,
        e2=e2,
        response=response,
        flags=(~((w > 0) & (response > 0))).to(torch.int32),
    )


def _wave_numbers(n: int, sigma: float, like: Tensor) -> Float[Tensor, " n"]:
    """In units of 1/sigma (sigma in pixels), so that the shapelets' Gaussian is exp(-k^2/2)."""
    return 2 * math.pi * sigma * torch.fft.fftfreq(n, dtype=like.dtype, device=like.device)


def _shapelets(ky: Tensor, kx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Return the transforms of the shapelets 00, 22 (cosine and sine) and 40.

    .. math:: \chi_{nm} = (-1)^{(n+m)/2} i^n \sqrt{\tfrac{((n-m)/2)!}{((n+m)/2)!}}\, L^m_{(n-m)/2}(k^2)\,
              (k_x + i k_y)^m\, e^{-k^2/2}
    """
    square = kx.square() + ky.square()
    gaussian = torch.exp(-0.5 * square)
    # i^2 = -1 and (-1)^2 = 1 for 22; i^4 = 1 and L_2 = 1 - 2 k^2 + k^4 / 2 for 40
    chi22 = -gaussian / math.sqrt(2)
    return (
        gaussian,
        chi22 * (kx.square() - ky.square()),
        chi22 * 2 * kx * ky,
        gaussian * (1 - 2 * square + 0.5 * square.square()),
    )


def _fitted(psf: Float[Tensor, "b h w"], shape: torch.Size) -> Tensor:
    """Crop or pad to the stamp, centre on centre."""
    for dim, n in zip((-2, -1), shape, strict=True):
        h = psf.shape[dim]
        first = n // 2 - h // 2
        pads = (max(first, 0), max(n - h - max(first, 0), 0))
        start, length = max(-first, 0), min(h, n)
        psf = psf.narrow(dim, start, min(length, h - start))
        psf = torch.nn.functional.pad(psf, pads if dim == -1 else (0, 0, *pads))
        psf = psf.narrow(dim, 0, n)
    return psf
