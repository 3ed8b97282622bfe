"""The residual U-Net that denoises galaxies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from recon.physics.errors import OptionError


class ResUNet(nn.Module):
    """U-Net of residual blocks without any bias [1]_: the denoiser of [2]_, of images of one channel.

    Nothing in it knows a scale: ``f(c x) = c f(x)`` for c > 0, so that it takes data of any unit. Skip connections are
    sums. Sides are filled up to a multiple of 2 to the number of scales by copies of the last row and column. A new one
    is the identity, so that iterations with it are plain deconvolution from the first step of training on.

    Parameters
    ----------
    widths
        Channels of each scale; the size is halved between them.
    blocks
        Residual blocks of a scale, on the way down and on the way up.

    References
    ----------
    .. [1] Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022.
    .. [2] Li, Alexander, Galaxy image deconvolution for weak gravitational lensing with unrolled plug-and-play ADMM,
       MNRAS Letters 522, 2023.
    """

    def __init__(self, widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 2) -> None:
        super().__init__()
        if len(widths) < 2 or min(*widths, blocks) < 1:
            raise OptionError("a U-Net has two scales and a channel at least", found=f"{tuple(widths)}, {blocks}")
        pairs = list(pairwise(widths))
        self.head = _conv(1, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(*(_Residual(a) for _ in range(blocks)), nn.Conv2d(a, b, 2, stride=2, bias=False))
            for a, b in pairs
        )
        self.body = nn.Sequential(*(_Residual(widths[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False), *(_Residual(a) for _ in range(blocks)))
            for a, b in reversed(pairs)
        )
        self.tail = _conv(widths[0], 1)
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Let the first channel go straight from head to tail, and nothing come up from the smaller scales."""
        last = next(self.up[-1].children())
        with torch.no_grad():
            for ends in (self.head.weight[:1], self.tail.weight):
                ends.zero_()
                ends[0, 0, 1, 1] = 1
            for weight in last.parameters():
                weight.zero_()

    def forward(self, x: Float[Tensor, "b 1 y x"]) -> Float[Tensor, "b 1 y x"]:
        """Denoise; the result has the precision of ``x`` also where the layers run at a lower one."""
        scales = [self.head(padded(x, 2 ** len(self.down)))]
        for down in self.down:
            scales.append(down(scales[-1]))
        z = self.body(scales[-1])
        for up in self.up:
            z = up(z + scales.pop())
        return self.tail(z + scales.pop())[..., : x.shape[-2], : x.shape[-1]].to(x.dtype)


def padded(x: Float[Tensor, "b 1 y x"], multiple: int) -> Float[Tensor, "b 1 yy xx"]:
    """Fill sides up to a multiple, below and to the right, by copies of the last row and column."""
    below, right = (-n % multiple for n in x.shape[-2:])
    return pad(x, (0, right, 0, below), mode="replicate") if below or right else x


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
