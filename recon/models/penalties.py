"""The network that chooses the penalties of unrolled ADMM."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

_SIDE = 128  # of the padded PSF
_CHANNELS = (1, 4, 8, 16, 16)
_HIDDEN = 64
_LEAST = 1e-6


class PenaltyNet(nn.Module):
    """Positive numbers from a PSF and a level, as penalties of a number of iterations [1]_.

    It sees the modulation transfer function of the PSF, squared, on 128x128 frequencies, which does not depend on where
    the PSF is centred. A larger PSF loses its border.

    Parameters
    ----------
    count
        Of the numbers.

    References
    ----------
    .. [1] Li, Alexander, MNRAS Letters 522, 2023, fig. 1 (SubNet).
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(_stage(a, b) for a, b in pairwise(_CHANNELS)))
        features = _CHANNELS[-1] * (_SIDE >> (len(_CHANNELS) - 1)) ** 2
        self.perceptron = nn.Sequential(
            nn.Linear(features + 1, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, count),
            nn.Softplus(),
        )

    def forward(self, psf: Float[Tensor, "#b 1 h w"], level: Float[Tensor, " b"]) -> Float[Tensor, "b count"]:
        """Return the numbers of each item of the batch."""
        spectrum = torch.fft.fft2(pad(psf, _to_side(psf.shape[-1]) + _to_side(psf.shape[-2]))).abs().square()
        features = self.stages(spectrum).flatten(1).expand(len(level), -1)
        return self.perceptron(torch.cat((features, level[:, None].to(features.dtype)), 1)).to(psf.dtype) + _LEAST


def _to_side(size: int) -> tuple[int, int]:
    missing = _SIDE - size
    return missing // 2, missing - missing // 2  # negative: cropped


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(2)]
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)
