"""Wiener deconvolution of galaxy stamps."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.models.convolution import Grid, Stamps
from recon.models.stamps import check_stamps, filled, noise_levels, scale, seen_pixels
from recon.physics.errors import OptionError
from recon.physics.psf import PSFConvolution

_RADII = 24  # exponential discs that are tried
_SMALLEST, _LARGEST = 0.2, 0.25  # scale lengths: in pixels; as a part of the stamp
_ROUNDING = 1e-6  # of the spectrum, relative to the flux
_RINGS = 32  # of frequencies, in which the spectrum is averaged


@registry.register("wiener")
class Wiener(Reconstructor):
    r"""Wiener filter with the spectrum of an exponential disc, whose size comes from the data.

    .. math:: \hat x = \frac{\bar{\hat H} S}{|\hat H|^2 S + N \sigma^2} \hat y, \quad S(k) = F^2 (1 + k^2 r^2)^{-3}

    F is the flux, and of all r the one under which the data's power spectrum is the likeliest [Whittle 1953]. The
    filter is divided by its value at k = 0, so that flux is kept.

    Parameters
    ----------
    balance
        A number instead of :math:`N \sigma^2 / S`, the same at all frequencies.

    Raises
    ------
    OptionError
        A balance that is not positive.
    """

    stamps = True  # what it is for; models without it take k-space

    def __init__(self, balance: float | None = None) -> None:
        super().__init__()
        if balance is not None and not balance > 0:
            raise OptionError("a Wiener filter balances by a positive number", found=balance)
        self.balance = balance

    def forward(self, y: Float[Tensor, "b 1 y x"], physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
        """Deconvolve.

        Parameters
        ----------
        y
            Stamps, of any unit, the sky taken off.
        physics
            Their PSFs, and where known their noise and weights (see `recon.models.stamps.noise_levels`).

        Raises
        ------
        OptionError
            Other physics.
        ShapeError, DataError
            Stamps that do not fit them; pixels that are not finite and not masked.
        """
        physics = check_stamps(y, physics)
        grid, seen = Grid.of(physics, y), seen_pixels(y, physics)
        data, sigma = filled(y, grid, seen), noise_levels(y, physics)
        alpha = scale(data, grid, sigma)
        Y = grid.spectrum(data / alpha)
        ratio = self.balance or noise_to_signal(Y, grid, sigma / alpha[:, 0, 0, 0])
        gain = 1 / (grid.HtH + ratio)
        return alpha * grid.stamps(gain / (grid.HtH * gain)[..., :1, :1] * grid.H.conj() * Y)


def noise_to_signal(Y: Tensor, grid: Grid, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 1 grid_y half_grid_x"]:
    """Divide the power of the noise, never below rounding errors, by that of the disc which fits best."""
    pixels = grid.shape[0] * grid.shape[1]
    flux = Y[..., :1, :1].abs()
    noise = (pixels * sigma[:, None, None, None].square()).maximum((_ROUNDING * flux).square()).clamp_min(_ROUNDING**2)
    power = (flux.square() - noise).clamp_min(1e-2 * flux.square()).clamp_min(1e-3)
    k2, ring = _frequencies(grid, Y.real)
    rings = torch.zeros(_RINGS, dtype=Y.real.dtype, device=Y.device).index_add_(0, ring, torch.ones_like(k2.flatten()))

    def by_ring(x: Stamps) -> Float[Tensor, "b ring"]:
        total = torch.zeros(len(x), _RINGS, dtype=x.dtype, device=x.device).index_add_(1, ring, x.flatten(1))
        return total / rings.clamp_min(1)

    observed, mtf = by_ring(Y.abs().square()), by_ring(grid.HtH)
    largest = _LARGEST * min(grid.shape)
    radii = _SMALLEST * (largest / _SMALLEST) ** torch.linspace(0, 1, _RADII, dtype=k2.dtype, device=k2.device)
    best, chosen = torch.full_like(sigma, torch.inf), radii[0].expand(len(Y))
    for r in radii:
        model = mtf * by_ring((power * (1 + k2 * r * r) ** -3).expand_as(Y.real)) + noise.flatten(1)
        unlikely = ((model.log() + observed / model) * rings)[:, 1:].sum(1)  # the first ring holds the flux
        chosen = torch.where(unlikely < best, r, chosen)
        best = torch.minimum(unlikely, best)
    return noise / (power * (1 + k2 * chosen[:, None, None, None].square()) ** -3)


def _frequencies(grid: Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    """Squared angular frequencies of the half plane, and the ring that each is in."""
    Y, X = grid.grid
    ky = torch.fft.fftfreq(Y, dtype=like.dtype, device=like.device)[:, None]
    kx = torch.fft.rfftfreq(X, dtype=like.dtype, device=like.device)
    k2 = (2 * torch.pi) ** 2 * (ky * ky + kx * kx)
    ring = (k2.sqrt() / k2.max().sqrt() * (_RINGS - 1)).round().long().flatten()
    return k2, ring
