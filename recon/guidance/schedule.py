"""The noise levels of a diffusion model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_HIGHEST = 30.0  # noise level of the first step, over the root mean square of the images


@dataclass(frozen=True, eq=False)
class Levels:
    r"""Shares of the signal's variance, :math:`\bar\alpha_t`, from noise to image.

    The state at a level is :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, s\, n` for images of
    root mean square s, so that a denoiser sees :math:`x_t / \sqrt{\bar\alpha_t}` in noise of level
    :math:`s \sqrt{1/\bar\alpha_t - 1}`.

    Parameters
    ----------
    signal
        Of each step, rising.
    following
        That of the next step; 1 after the last.
    """

    signal: Float[Tensor, " n"]
    following: Float[Tensor, " n"]

    @property
    def kept(self) -> Float[Tensor, " n"]:
        r""":math:`\alpha_t = \bar\alpha_t / \bar\alpha_{t-1}`."""
        return self.signal / self.following


def cosine_levels(steps: int) -> Levels:
    r"""Take steps even in the angle :math:`\theta` of the cosine schedule, :math:`\bar\alpha = \cos^2 \theta` [1]_.

    The first level is 30 times the images' root mean square. Of the schedules in use it loses least of the variance of
    the samples in few steps.

    References
    ----------
    .. [1] Nichol, Dhariwal, Improved denoising diffusion probabilistic models, ICML 2021.
    """
    angles = torch.linspace(math.atan(_HIGHEST), 0, steps + 1, dtype=torch.float64)
    signal = angles.cos().square()
    return Levels(signal[:-1], signal[1:])
