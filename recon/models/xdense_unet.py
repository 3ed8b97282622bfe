"""The densely connected U-Net of Tikhonet and ShapeNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.models.resunet import padded
from recon.physics.errors import OptionError


class XDenseUNet(nn.Module):
    """U-Net of dense blocks of separable convolutions [1]_, of images of one channel.

    A layer sees the results of all layers before it in its block, and adds ``growth`` channels.

    Parameters
    ----------
    width
        Channels of the first convolution.
    growth
        Channels that a layer adds.
    layers
        Of each scale, the last one at the bottom; the size is halved between them.

    References
    ----------
    .. [1] Sureau, Lechat, Starck, Deep learning for a space-variant deconvolution in galaxy surveys, A&A 641, 2020.
    """

    def __init__(self, width: int = 32, growth: int = 12, layers: Sequence[int] = (4, 5, 6, 7)) -> None:
        super().__init__()
        if len(layers) < 2 or min(*layers, width, growth) < 1:
            raise OptionError("a dense U-Net has two scales, and a layer in each", found=f"{width}, {tuple(layers)}")
        self.head = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.down, self.shrink, self.grow, self.up = (nn.ModuleList() for _ in range(4))
        channels, beside = width, []
        for count in layers[:-1]:
            self.down.append(_Dense(channels, growth, count))
            dense = channels + growth * count
            beside.append(channels + dense)  # the block's input once more
            self.shrink.append(_down(beside[-1], dense))
            channels = dense
        self.body = _Dense(channels, growth, layers[-1])
        channels += growth * layers[-1]
        for count, below in zip(reversed(layers[:-1]), reversed(layers[1:]), strict=True):
            self.grow.append(nn.Conv2d(channels, growth * below, 1))
            channels = beside.pop() + growth * below
            self.up.append(_Dense(channels, growth, count))
            channels += growth * count
        self.tail = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        """Denoise; the result has the precision of ``x`` also where the layers run at a lower one."""
        z, scales = self.head(padded(x, 2 ** len(self.down))), []
        for dense, shrink in zip(self.down, self.shrink, strict=True):
            scales.append(torch.cat((z, dense(z)), 1))
            z = shrink(scales[-1])
        z = self.body(z)
        for grow, dense in zip(self.grow, self.up, strict=True):
            enlarged = nn.functional.interpolate(grow(z), scale_factor=2, mode="nearest")
            z = dense(torch.cat((scales.pop(), enlarged), 1))
        return self.tail(z)[..., : x.shape[-2], : x.shape[-1]].to(x.dtype)


class _Dense(nn.Module):
    """Layers of normalisation, ReLU, 3x3 convolution of each channel by itself, and 1x1 convolution."""

    def __init__(self, channels: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(channels + growth * index, growth) for index in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat((layer(x), x), 1)
        return x


def _layer(channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, growth, 1, bias=False),
    )


def _down(channels: int, fewer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, fewer, 1, bias=False), nn.MaxPool2d(2)
    )
