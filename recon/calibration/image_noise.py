r"""Noise of images and sinograms from themselves: its level, or the level and the gain of Poisson-Gaussian noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recon.physics.errors import CalibrationError

_MAD = 0.6744897501960817  # median of |n| for a standard normal n
_LEAST = 64  # differences that an estimate is made of at least
_CELL = 8  # side of the cells whose mean and variance are compared
_BINS = 24

# High-pass filters of norm 1: Daubechies' wavelet with two vanishing moments, neighbours; and none.
_ROOT = math.sqrt(3)
_DB2 = torch.tensor([1 - _ROOT, _ROOT - 3, 3 + _ROOT, -1 - _ROOT], dtype=torch.float64) / (4 * math.sqrt(2))
_HAAR = torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2)
_NONE = torch.ones(1, dtype=torch.float64)


@dataclass(frozen=True)
class NoiseEstimate:
    r"""Noise of :math:`y = \gamma\,\mathrm{Poisson}(z / \gamma) + \sigma n`.

    Parameters
    ----------
    sigma
        Standard deviation of the Gaussian part.
    gain
        :math:`\gamma`; None: no Poisson part was looked for.
    """

    sigma: float
    gain: float | None = None


def image_noise_level(image: Float[Tensor, "b c y x"], known: Bool[Tensor, "#b #c y x"] | None = None) -> float:
    r"""Estimate the standard deviation of white noise from the finest diagonal wavelet coefficients [1]_.

    Their median magnitude hardly sees edges. Coefficients that touch an unknown pixel are left out; where that leaves
    too few, those of 2 x 2 pixels are taken, and last the differences of neighbours.

    Parameters
    ----------
    image
        All channels and images count alike.
    known
        False where a pixel was not measured; None: all were.

    Raises
    ------
    CalibrationError
        Too few pixels stand side by side.

    References
    ----------
    .. [1] Donoho, Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 1994.
    """
    mask = None if known is None else known.expand_as(image)
    for vertical, horizontal in ((_DB2, _DB2), (_HAAR, _HAAR), (_NONE, _HAAR), (_HAAR, _NONE)):
        details = _details(image, mask, vertical, horizontal)
        if details.numel() >= _LEAST:
            return float(details.abs().median()) / _MAD
    raise CalibrationError(
        "too few pixels stand side by side for an estimate of the noise",
        expected=f"at least {_LEAST} pairs",
        cure="Give the noise level (sigma)",
    )


def poisson_gaussian_noise(image: Float[Tensor, "b c y x"]) -> NoiseEstimate:
    r"""Estimate gain and level by a line through the local variance against the local mean [1]_.

    .. math:: \operatorname{var}(y) = \gamma\, \operatorname{mean}(y) + \sigma^2 .

    The variance of all cells of alike mean is that of their diagonal details, by the median, which leaves edges out.

    Parameters
    ----------
    image
        With brighter and darker regions; all channels and images count alike.

    Raises
    ------
    CalibrationError
        An image too small, or of one brightness.

    References
    ----------
    .. [1] Foi et al., Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data, IEEE TIP
       2008.
    """
    y = image.double().flatten(0, 1)[:, None]
    details = torch.nn.functional.conv2d(y, (_DB2[:, None] * _DB2)[None, None].to(y.device))
    means = torch.nn.functional.avg_pool2d(y, 4, stride=1)  # over what each coefficient sees
    cells = [_in_cells(values) for values in (means, details)]
    if cells[0].shape[0] < 2 * _BINS:
        raise CalibrationError("an image too small for its gain and noise level", found=tuple(image.shape))
    order = cells[0].mean(1).argsort()
    binned_means, variances, weights = [], [], []
    for part in order.chunk(_BINS):
        values = cells[1][part].flatten()
        binned_means.append(cells[0][part].mean())
        variances.append((values.abs().median() / _MAD) ** 2)
        weights.append(math.sqrt(values.numel()))
    m, v = torch.stack(binned_means), torch.stack(variances)
    if float(m.max() - m.min()) <= 1e-6 * float(m.abs().max()):
        raise CalibrationError("an image of one brightness does not tell gain from noise level")
    return _line(m, v, torch.tensor(weights, dtype=torch.float64, device=m.device))


def _line(m: Tensor, v: Tensor, weights: Tensor) -> NoiseEstimate:
    """Fit ``v = gain m + sigma^2``, both at least 0; the error of a variance grows with it, which is weighted."""
    w = weights / v.clamp_min(1e-3 * float(v.max()) + torch.finfo(v.dtype).tiny)
    for _ in range(3):  # with the fitted variances as weights, robust against bins of texture
        rows = torch.stack([m, torch.ones_like(m)], 1) * w[:, None]
        gain, square = torch.linalg.lstsq(rows, (v * w)[:, None]).solution[:, 0].tolist()
        if square < 0:
            gain, square = float((w**2 * m * v).sum() / (w**2 * m * m).sum()), 0.0
        if gain < 0:
            gain, square = 0.0, float((w**2 * v).sum() / (w**2).sum())
        fitted = (gain * m + square).clamp_min(torch.finfo(v.dtype).tiny)
        excess = (v / fitted - 1).clamp_min(0)
        w = weights / fitted / (1 + (excess / 0.3) ** 2)
    return NoiseEstimate(sigma=math.sqrt(square), gain=gain)


def _details(image: Tensor, mask: Tensor | None, vertical: Tensor, horizontal: Tensor) -> Tensor:
    kernel = (vertical[:, None] * horizontal)[None, None].to(image.device)
    if any(k > n for k, n in zip(kernel.shape[2:], image.shape[2:], strict=True)):
        return image.new_empty(0)
    details = torch.nn.functional.conv2d(image.double().flatten(0, 1)[:, None], kernel)
    if mask is None:
        return details.flatten()
    seen = torch.nn.functional.conv2d(mask.double().flatten(0, 1)[:, None], torch.ones_like(kernel))
    return details[seen > kernel[0, 0].numel() - 0.5]


def _in_cells(values: Tensor) -> Tensor:
    """Return ``(cell, value)``; what is left over at the right and the bottom is dropped."""
    cells = values.unfold(2, _CELL, _CELL).unfold(3, _CELL, _CELL)
    return cells.reshape(-1, _CELL * _CELL)
