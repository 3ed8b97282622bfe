"""Denoisers on images of several sets of coil maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class EachSet(nn.Module):
    """A network of few channels, applied to groups of channels by themselves: a set of coil maps is a batch entry.

    Parameters
    ----------
    network
        ``network(x, sigma) -> x``.
    channels
        That it takes.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x: Float[Tensor, "b c y x"], sigma: Tensor | float | None = None) -> Float[Tensor, "b c y x"]:
        """Apply the network; the noise level, where it takes one, is the same for a batch."""
        images = x.reshape(-1, self.channels, *x.shape[-2:])
        return self.network(images, sigma).reshape(x.shape)
