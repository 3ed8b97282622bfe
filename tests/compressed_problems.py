"""Small problems of block compressed sensing for the tests, and what they do to networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recon.physics import BlockCompressedSensing
from recon.physics.measurement_matrices import gaussian_matrix

SIDE = 6
NAMES = ("ista-net", "ista-net-plus", "recursive-ista-net-plus", "coast", "recursive-coast")


def measured(
    size: tuple[int, int] = (13, 18), m: int = 12, *, batch: int = 1, channels: int = 1, side: int = SIDE, seed: int = 0
) -> tuple[Tensor, Tensor, BlockCompressedSensing]:
    """An image, its measurements, their operator."""
    g = torch.Generator().manual_seed(seed)
    physics = BlockCompressedSensing(gaussian_matrix(m, side**2, g), size, (side, side))
    x = torch.rand(batch, channels, *size, generator=g)
    return x, physics.A(x), physics


def moment(side: int = SIDE, n: int = 400) -> tuple[Tensor, Tensor]:
    """Smooth blocks and their second moment."""
    g = torch.Generator().manual_seed(5)
    blocks = torch.randn(n, side**2, generator=g).cumsum(1) / side + 0.5
    return blocks, blocks.T @ blocks


def still(model: nn.Module) -> nn.Module:
    """A network whose prior does nothing: gradient descent with steps of rho over the squared norm."""
    with torch.no_grad():
        for block in model.blocks:
            last = block.G if hasattr(block, "G") else block.tail
            last.weight.zero_()
            if last.bias is not None:
                last.bias.zero_()
            block.step.fill_(1.0)
    return model.eval()


def constant(unit: nn.Module, gains: Tensor) -> None:
    """Let a unit give the same gains for all turns."""
    with torch.no_grad():
        unit[-1].weight.zero_()
        unit[-1].bias.copy_(gains.detach())
