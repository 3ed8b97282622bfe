"""Exponential average of the weights over training steps."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from recon.physics.errors import OptionError


class ExponentialAverage(WeightAveraging):
    r"""Averages weights as :math:`\bar\theta \leftarrow d_n \bar\theta + (1 - d_n) \theta`.

    :math:`d_n = \min(d, (1 + n) / (10 + n))` after n averages, so that a short run does not end near its start.
    Validation uses the average. A checkpoint holds both: the average as ``state_dict``.

    Parameters
    ----------
    decay
        d, at least 0 and below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise OptionError("an average decays by a factor", found=decay, expected="0 or more, below 1")
        super().__init__(use_buffers=False, avg_fn=partial(_averaged, decay))

    def averaged(self) -> nn.Module:
        """Return the averaged Lightning module; there is one while it is being fitted."""
        assert self._average_model is not None
        return self._average_model.module


def _averaged(decay: float, average: Tensor, current: Tensor, n: Tensor) -> Tensor:
    d = ((1 + n) / (10 + n)).clamp_max(decay).to(average.device)
    return torch.lerp(current, average, d.to(average.dtype))
