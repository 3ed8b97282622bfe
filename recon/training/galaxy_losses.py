"""Losses for galaxies, in units of each stamp's noise, so that faint and bright ones count alike.

Where the noise is not known, or there is none, the unit is the target's root mean square.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recon.physics.errors import ShapeError
from recon.training.batches import TrainingBatch, target_of

Images = Float[Tensor, "b channel y x"]

_SCALES = 3
_WINDOW = 0.1  # width of the one under which shapes are compared, in sides of the stamp


def multi_scale(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean absolute difference at full, half and a quarter of the resolution, weighted 1, 1/2, 1/4 [1]_.

    References
    ----------
    .. [1] Li, Alexander, MNRAS Letters 522, 2023.
    """
    difference = _difference(x, batch)
    smallest = min(difference.shape[-2:])
    scales = [2**s for s in range(_SCALES) if 2**s <= smallest]
    return torch.stack([avg_pool2d(difference, s).abs().mean() / s for s in scales]).sum()


def mse(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean square of the difference."""
    return _difference(x, batch).square().mean()


def shape(x: Images, batch: TrainingBatch) -> Float[Tensor, ""]:
    r"""Mean square error of the moments 1, x, y, x^2 + y^2, x^2 - y^2 and 2 x y under a Gaussian window.

    Those of order two are relative to the target's size, those of order one to its square root, flux to flux. The
    window is a tenth of the stamp wide, at its middle; moments are linear in the image, so that the loss is convex, as
    the shape constraint of [1]_.

    References
    ----------
    .. [1] Nammour et al., ShapeNet: shape constraint for galaxy image deconvolution, A&A 663, 2022.
    """
    target = target_of(batch)
    error, true = _moments(x - _same(x, target)), _moments(target)
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    flux, size = true[:, 0].abs().clamp_min(tiny), true[:, 3].abs().clamp_min(tiny)
    first = (flux * size).sqrt()
    return (error / torch.stack((flux, first, first, size, size, size), 1)).square().mean()


def _moments(x: Images) -> Float[Tensor, "b moment"]:
    h, w = x.shape[-2:]
    rows = (torch.arange(h, dtype=x.dtype, device=x.device) - h // 2)[:, None]
    columns = torch.arange(w, dtype=x.dtype, device=x.device) - w // 2
    r2 = rows**2 + columns**2
    window = torch.exp(-r2 / (2 * (_WINDOW * min(h, w)) ** 2))
    one = torch.ones_like(r2)
    polynomials = torch.stack((one, columns * one, rows * one, r2, columns**2 - rows**2, 2 * rows * columns))
    return torch.einsum("bcyx,myx->bm", x, window * polynomials)


def _difference(x: Images, batch: TrainingBatch) -> Images:
    target = _same(x, target_of(batch))
    rms = target.square().mean((1, 2, 3)).sqrt()
    sigma = batch.sigma.to(rms)
    unit = torch.where(sigma > 0, sigma, rms)  # false for NaN
    return (x - target) / torch.where(unit > 0, unit, 1)[:, None, None, None]


def _same(x: Tensor, target: Tensor) -> Images:
    if x.shape != target.shape:
        raise ShapeError(
            "the network's output does not fit the target", found=tuple(x.shape), expected=tuple(target.shape)
        )
    return target
