"""Parameters for the tests of evolution strategies."""

from __future__ import annotations

import torch
from torch import nn

D = 6
"""How many numbers a parameter has where nothing else is said."""


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*(shape or (D,)), generator=torch.Generator().manual_seed(seed)).double())
