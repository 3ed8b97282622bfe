"""Moments under a weight that is the same for all objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import OptionError
from recon.shear.shapes import Distorted


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedMoments(Distorted):
    """Second moments under a fixed weight, one row an object; e1, e2 and g are NaN where ``flags`` is not 0.

    Parameters
    ----------
    flux
        Weighted sum, units of the stamp times pixel.
    x, y
        Weighted centroid, pixels counted from 0.
    size
        Root of half the trace of the weighted moments, pixels.
    e1, e2
        Distortion of the weighted moments: rounder than the galaxy.
    flags
        1 where the sum is not positive, or the moments are not those of an ellipse.
    """

    flux: Float[Tensor, " b"]
    x: Float[Tensor, " b"]
    y: Float[Tensor, " b"]
    size: Float[Tensor, " b"]
    e1: Float[Tensor, " b"]
    e2: Float[Tensor, " b"]
    flags: Int32[Tensor, " b"]


def weighted_moments(stamps: Float[Tensor, "b 1 y x"], sigma: Number) -> WeightedMoments:
    r"""Measure second moments about the pixel ``n // 2`` under a round Gaussian weight.

    .. math:: Q = \frac{\sum w I\, r r^T}{\sum w I},\quad w = e^{-r^2 / 2\sigma^2},\quad
              e_1 = \frac{Q_{xx} - Q_{yy}}{Q_{xx} + Q_{yy}},\; e_2 = \frac{2 Q_{xy}}{Q_{xx} + Q_{yy}}

    Nothing iterates, so nothing fails to converge: the numerators are linear in the pixels [Kaiser, Squires &
    Broadhurst 1995], which suits a calibration by responses.

    Parameters
    ----------
    stamps
        Sky-subtracted.
    sigma
        Of the weight, pixels.

    Raises
    ------
    OptionError
        A weight without width.
    """
    if not sigma > 0:
        raise OptionError("a weight without width", found=sigma, expected="pixels > 0")
    rows, columns = stamps.shape[-2:]
    y, x = (torch.arange(n, dtype=stamps.dtype, device=stamps.device) - n // 2 for n in (rows, columns))
    wy, wx = torch.exp(-0.5 * (y / sigma) ** 2), torch.exp(-0.5 * (x / sigma) ** 2)
    # the weight is separable: degree q along y, then p along x
    along_y = torch.stack([wy, wy * y, wy * y * y])
    along_x = torch.stack([wx, wx * x, wx * x * x], 1)
    sums = along_y @ stamps[:, 0] @ along_x  # [q, p]
    flux = sums[:, 0, 0]
    qxx, qxy, qyy = sums[:, 0, 2] / flux, sums[:, 1, 1] / flux, sums[:, 2, 0] / flux
    trace = qxx + qyy
    e1, e2 = (qxx - qyy) / trace, 2 * qxy / trace
    good = (flux > 0) & (trace > 0) & (e1.square() + e2.square() < 1)
    return WeightedMoments(
        flux=flux,
        x=columns // 2 + sums[:, 0, 1] / flux,
        y=rows // 2 + sums[:, 1, 0] / flux,
        size=(0.5 * trace).clamp(min=0).sqrt(),
        e1=torch.where(good, e1, torch.nan),
        e2=torch.where(good, e2, torch.nan),
        flags=(~good).to(torch.int32),
    )
