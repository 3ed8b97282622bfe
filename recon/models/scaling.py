"""The scale at which learned models see their data."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.physics import MultiCoilMRI
from recon.physics.layout import to_complex

_PEAK = 0.999
_MOST = 2**24  # values that torch.quantile sorts


def unit_scale(y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI) -> Float[Tensor, "b 1 1 1"]:
    """Return the 99.9th percentile of the zero-filled image's magnitude, an item of the batch each; 1 where it is 0.

    The magnitude is the root sum of squares over sets of coil maps. Divided by it, data of any unit look alike.
    """
    return peak(torch.linalg.vector_norm(to_complex(physics.A_adjoint(y)), dim=1))


def peak(magnitude: Float[Tensor, "b *image"]) -> Float[Tensor, "b 1 1 1"]:
    """Return the 99.9th percentile of each image of a batch; 1 where it is 0."""
    magnitude = magnitude.flatten(1)
    if magnitude.shape[1] > _MOST:
        magnitude = magnitude[:, :: magnitude.shape[1] // _MOST + 1]
    scale = torch.quantile(magnitude, _PEAK, dim=1)
    return torch.where(scale > 0, scale, 1)[:, None, None, None]
