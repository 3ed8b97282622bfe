"""Which model deblurs stamps of which nobody said how."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon.cards import read_card, shipped
from recon.shear import adaptive_moments

LEARNED, CLASSICAL = "galaxy-admm", "starlet"
_OUTSIDE = 0.02  # share of the PSFs that may be narrower or wider than those of the training
_QUANTILES = (0.005, 0.995)


def choose(psf: Float[Tensor, "b 1 h w"]) -> tuple[str, str]:
    """Return the name of the model for stamps of these PSFs, and why: the learned one where it was trained for them."""
    cards = [read_card(path.with_suffix(".json")) for path in shipped().values()]
    card = next((card for card in cards if card.model == LEARNED), None)
    if card is None:
        return CLASSICAL, "of the methods that need no training the one that keeps flux, size and shear best"
    if not card.psf_sigma:
        return LEARNED, "learned, and its weights come with the package"
    low, high = card.psf_sigma
    width = _widths(psf)
    if not len(width) or float(((width < low) | (width > high)).float().mean()) > _OUTSIDE:
        seen = f"of {float(width.median()):.2g} pixels" if len(width) else "that cannot be measured"
        return CLASSICAL, f"PSFs {seen}, where {LEARNED} was trained for {low:.2g} to {high:.2g} (standard deviation)"
    return LEARNED, f"learned, for PSFs of {low:.2g} to {high:.2g} pixels (standard deviation)"


def width_range(psf: Float[Tensor, "b 1 h w"]) -> tuple[float, float]:
    """Return the least and greatest width of PSFs in pixels, rare ones left out."""
    low, high = torch.quantile(_widths(psf), torch.tensor(_QUANTILES, dtype=psf.dtype)).tolist()
    return low, high


def _widths(psf: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " n"]:
    moments = adaptive_moments(psf, guess=2.0)
    return moments.sigma[moments.converged]
