"""Stamps sheared a little: deconvolved by the PSF, sheared, and reconvolved with a round one, without interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.shear.moments import adaptive_moments

Shear = tuple[float, float]

_MARGIN = 8  # pixels beyond the stamp before the reconvolved image repeats
_FASTEST = 0.98 * math.pi  # wave number, radians a pixel, up to which a stamp is sheared
_KEPT = 1e-6  # of the target's transform: what is below is left out
_NARROWEST = 1.15  # sigma of the target, pixels: a narrower one would not end before the fastest wave
_LEAST_TRANSFER = 1e-4  # of the PSF: division stops there


@dataclass(frozen=True, kw_only=True, eq=False)
class ShearedStamps:
    """The same objects under several small shears.

    Parameters
    ----------
    images
        One ``(b, 1, y, x)`` a shear.
    psf
        ``(b, 1, y, x)``: the round Gaussian that all images now have, sum 1, centre at ``n // 2``.
    noise
        ``(b,)``: standard deviation of a pixel of the images before their shear; their noise is correlated.
    """

    images: list[Float[Tensor, "b 1 y x"]]
    psf: Float[Tensor, "b 1 y x"]
    noise: Float[Tensor, " b"]


def target_sigma(psf: Float[Tensor, "b 1 h w"], step: Number) -> Float[Tensor, " b"]:
    """Return the sigma, in pixels, of a round Gaussian that a sheared galaxy can be reconvolved with.

    As wide as the PSF's major axis, and wider by the shear, so that no wave is amplified much.

    Raises
    ------
    DataError
        A PSF whose size cannot be measured.
    """
    m = adaptive_moments(psf, guess=2.0)
    if not bool(m.converged.all()):
        bad = (~m.converged).nonzero()[:, 0].tolist()
        raise DataError("PSFs whose size cannot be measured", found=f"{len(bad)}, the first is {bad[0]}")
    e = torch.hypot(m.e1, m.e2)
    return (m.sigma * ((1 + e) / (1 - e)) ** 0.25 * (1 + 2 * step)).clamp(min=_NARROWEST)


def sheared_stamps(
    stamps: Float[Tensor, "b 1 y x"],
    psf: Float[Tensor, "p 1 h w"],
    shears: Sequence[Shear],
    *,
    noise: Float[Tensor, " b"] | Number = 0.0,
    sigma: Float[Tensor, " b"] | Number | None = None,
    added: Float[Tensor, "b 1 y x"] | None = None,
    centre: Float[Tensor, "b 2"] | None = None,
) -> ShearedStamps:
    r"""Shear the galaxies before their PSF [Huff & Mandelbaum 2017; Sheldon & Huff 2017, sec. 3].

    .. math:: \hat I'(k) = \frac{\hat I(S k)}{\hat P(S k)}\, e^{-\frac12 \sigma^2 k^2}

    The transform at the sheared wave vectors is summed over the pixels, exactly, as a product of matrices that all
    stamps share. A stamp counts as the whole sky.

    Shearing the image shears its noise too, and the estimator answers to that. Noise of the same level that was
    sheared the other way (turned by 90 degrees, sheared, turned back) can be added [Sheldon & Huff 2017, sec. 4]: the
    answers cancel.

    Parameters
    ----------
    stamps
        Square and sky-subtracted; masked pixels filled.
    psf
        One a stamp or one for all, sum 1, centre at ``n // 2``.
    shears
        (g1, g2) each.
    noise
        Standard deviation of a pixel.
    sigma
        Of the round Gaussian PSF of the result, pixels; None: from `target_sigma` for the largest shear.
    added
        Noise as that of the stamps, to be sheared the other way; the same for all shears. None: add none.
    centre
        x, y of the point that stays where it is, in pixels from ``n // 2``; best the galaxy's centroid, as stamps are
        cut out where galaxies are seen. None: the pixel ``n // 2``.

    Raises
    ------
    ShapeError
        Stamps that are not square; PSFs of another number.
    OptionError
        A shear of 1 or more.
    DataError
        A PSF whose size cannot be measured.
    """
    b, _, rows, columns = stamps.shape
    if rows != columns:
        raise ShapeError("stamps to be sheared are square", found=(rows, columns))
    if len(psf) not in (1, b):
        raise ShapeError("PSFs that do not fit the stamps", found=len(psf), expected=f"1 or {b}")
    largest = max((math.hypot(*shear) for shear in shears), default=0.0)
    if not shears or largest >= 0.5:
        raise OptionError("shears that are small", found=list(shears), expected="at least one, below 0.5")
    if sigma is None:
        sigma = target_sigma(psf, largest)
    width = torch.as_tensor(sigma, dtype=stamps.dtype, device=stamps.device).expand(b)
    level = torch.as_tensor(noise, dtype=stamps.dtype, device=stamps.device).expand(b)

    k, period = _wave_vectors(rows, float(width.min()), stamps)
    gaussian = torch.exp(-0.5 * width[:, None].square() * k.square().sum(1))
    back = _back(k, rows, period)
    sources = stamps if added is None else torch.cat([stamps, torch.rot90(added, 1, (2, 3))])
    images = []
    for g1, g2 in shears:
        at = k @ _matrix(g1, g2, k)
        waves = _waves(at, (rows, columns))
        of_psf = waves if psf.shape[2:] == stamps.shape[2:] else _waves(at, (psf.shape[2], psf.shape[3]))
        ratio = gaussian / _bounded(_transform(psf, of_psf))
        spectrum = _transform(sources, waves)
        turned = ratio if centre is None else ratio * torch.polar(torch.ones_like(gaussian), centre @ (at - k).T)
        spectrum = spectrum * (turned if added is None else torch.cat([turned, ratio]))
        parts = (torch.cat([spectrum.real, spectrum.imag], 1) @ back).view(-1, 1, rows, columns)
        images.append(parts if added is None else parts[:b] + torch.rot90(parts[b:], -1, (2, 3)))
    unsheared = _transform(psf, _waves(k, (psf.shape[2], psf.shape[3])))
    weight = torch.where((k == 0).all(1), 1.0, 2.0).to(k)  # the other half-plane mirrors this one
    variance = (weight * (gaussian / _bounded(unsheared).abs()).square()).sum(1) / period**2
    return ShearedStamps(
        images=images,
        psf=_gaussian_stamps(width, rows),
        noise=level * (variance * (1 if added is None else 2)).sqrt(),
    )


def _matrix(g1: float, g2: float, like: Tensor) -> Float[Tensor, "2 2"]:
    """Return the shear of unit determinant; symmetric, so it is its own transpose in k."""
    return torch.tensor([[1 + g1, g2], [g2, 1 - g1]], dtype=like.dtype, device=like.device) / math.sqrt(
        1 - g1 * g1 - g2 * g2
    )


def _wave_vectors(n: int, sigma: float, like: Tensor) -> tuple[Float[Tensor, "k 2"], int]:
    """Return the wave vectors (x, y) of half the plane that the target keeps, and the period of their images."""
    period = n + _MARGIN
    step = 2 * math.pi / period
    fastest = min(_FASTEST, math.sqrt(-2 * math.log(_KEPT)) / sigma)
    line = torch.arange(-(period // 2) + 1, period // 2, dtype=like.dtype, device=like.device) * step
    ky, kx = torch.meshgrid(line, line, indexing="ij")
    half = (ky > 0) | ((ky == 0) & (kx >= 0))
    inside = half & (kx.square() + ky.square() <= fastest**2)
    return torch.stack([kx[inside], ky[inside]], 1), period


def _phases(k: Float[Tensor, "k 2"], shape: tuple[int, int]) -> Float[Tensor, "k pixel"]:
    """Return k.r for all pixels, the origin at ``n // 2``."""
    y, x = (torch.arange(n, dtype=k.dtype, device=k.device) - n // 2 for n in shape)
    return (k[:, 1, None, None] * y[:, None] + k[:, 0, None, None] * x).flatten(1)


def _waves(k: Float[Tensor, "k 2"], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of k.r ``(k, pixel)``."""
    phases = _phases(k, shape)
    return phases.cos(), phases.sin()


def _transform(images: Float[Tensor, "b 1 h w"], waves: tuple[Tensor, Tensor]) -> Complex[Tensor, "b k"]:
    """Sum the pixels times exp(-i k.r)."""
    flat = images.flatten(1)
    return torch.complex(flat @ waves[0].T, -(flat @ waves[1].T))


def _back(k: Float[Tensor, "k 2"], n: int, period: int) -> Float[Tensor, "two_k pixel"]:
    """Return the matrix from (real, imaginary) spectra of half the plane to pixels."""
    cosine, sine = _waves(k, (n, n))
    weight = torch.where((k == 0).all(1), 1.0, 2.0).to(k)[:, None] / period**2
    return torch.cat([weight * cosine, -weight * sine])


def _bounded(transfer: Tensor) -> Tensor:
    """Keep a transfer function from vanishing."""
    size = transfer.abs()
    return torch.where(size < _LEAST_TRANSFER, _LEAST_TRANSFER, transfer)


def _gaussian_stamps(sigma: Float[Tensor, " b"], n: int) -> Float[Tensor, "b 1 y x"]:
    line = torch.arange(n, dtype=sigma.dtype, device=sigma.device) - n // 2
    profile = torch.exp(-0.5 * (line / sigma[:, None]).square())
    psf = profile[:, None, :, None] * profile[:, None, None, :]
    return psf / psf.sum((2, 3), keepdim=True)
