"""A small U-Net that knows the noise level: the denoiser of diffusion models, and of plug-and-play."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import torch
from deepinv.models import Denoiser
from deepinv.physics import Denoising, LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from recon.models import registry
from recon.models.conditioning import as_map, head_of, margins, noise_of
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import OptionError, ShapeError

Sigma: TypeAlias = float | Tensor
DEVIATION = 0.35
"""Root mean square of images of magnitude 1, where nobody tells another."""

_GROUP = 16  # channels that a 3 x 3 kernel sees: the fewest that fill the vector units of a processor
_FREQUENCIES = 16  # of the noise level's logarithm
_LEAST = 1e-6  # noise level below which nothing is told from none


class NoiseUNet(Denoiser):
    r"""Denoiser of images in white noise of any level, about the mean of the image given the noisy one.

    .. math:: D(x, \sigma) = \frac{s^2}{s^2 + \sigma^2} x
        + \frac{\sigma s}{\sqrt{s^2 + \sigma^2}} F\Bigl(\frac{x}{\sqrt{s^2 + \sigma^2}}, \tfrac14 \ln \sigma\Bigr)

    with the network F, whose input and target have unit variance at all levels [1]_, eq. 7. F is a U-Net of residual
    blocks whose kernels see 16 channels and which mix them by 1 x 1 convolutions (as in
    `recon.models.ram_light.RAMLight`, several times faster on a processor than dense ones); the noise level scales and
    shifts the features of each block.

    Parameters
    ----------
    channels
        Numbers of channels that images may have, 1 (real) and 2 (complex); each has a head and a tail of its own.
    widths
        Features of each scale, multiples of 16.
    blocks
        Residual blocks of each scale, on the way down and on the way up.
    deviation
        s: root mean square of the images, whose largest magnitude is about 1.

    References
    ----------
    .. [1] Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022.
    """

    def __init__(
        self,
        channels: Sequence[int] = (1, 2),
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (2, 2, 3, 4),
        deviation: float = DEVIATION,
    ) -> None:
        super().__init__()
        fits = len(widths) == len(blocks) > 1 and min(*channels, *widths, *blocks) > 0 and deviation > 0
        if not fits or any(width % _GROUP for width in widths):
            raise OptionError(
                "no denoiser",
                found=f"channels {tuple(channels)}, widths {tuple(widths)}, blocks {tuple(blocks)}, "
                f"deviation {deviation:g}",
                expected=f"two scales at least, multiples of {_GROUP}, some blocks each, a positive deviation",
            )
        self.channels, self.deviation = tuple(channels), deviation
        told = 4 * _FREQUENCIES
        self.level = nn.Sequential(nn.Linear(2 * _FREQUENCIES, told), nn.SiLU())
        self.head = nn.ModuleList(nn.Conv2d(c, widths[0], 3, padding=1) for c in channels)
        self.tail = nn.ModuleList(_faint(nn.Conv2d(widths[0], c, 3, padding=1)) for c in channels)

        def stage(scale: int) -> nn.ModuleList:
            return nn.ModuleList(_Block(widths[scale], told) for _ in range(blocks[scale]))

        last, pairs = len(widths) - 1, list(pairwise(widths))
        self.down, self.body = nn.ModuleList(stage(scale) for scale in range(last)), stage(last)
        self.up = nn.ModuleList(stage(scale) for scale in range(last))
        self.pool = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.unpool = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)

    def forward(self, x: Float[Tensor, "b c y x"], sigma: Sigma) -> Float[Tensor, "b c y x"]:
        """Denoise.

        Parameters
        ----------
        x
            Noisy images, of magnitude 1 without the noise.
        sigma
            Standard deviation of the noise of each channel: a number, or one an image.

        Raises
        ------
        ShapeError
            Images of another number of channels, another number of levels than images.
        """
        index, (height, width) = head_of(self.channels, x.shape[1]), x.shape[2:]
        level = as_map(sigma, x).clamp_min(_LEAST)
        if level.shape[2:] != (1, 1):
            raise ShapeError("a denoiser of white noise", found=tuple(level.shape), expected=f"({len(x)},)")
        total = (level.square() + self.deviation**2).sqrt()
        multiple = 2 ** len(self.down)
        below, right = margins((height, width), multiple, multiple)
        scaled = pad(x / total, (0, right, 0, below), mode="replicate").to(next(self.head.parameters()).dtype)
        told = self.level(_waves(level.flatten().expand(len(x)).log() / 4).to(scaled.dtype))
        features = self.head[index](scaled.contiguous(memory_format=torch.channels_last))
        found = self.tail[index](self._unet(features, told))[..., :height, :width].to(x.dtype)
        return (self.deviation / total) ** 2 * x + level * self.deviation / total * found

    def _unet(self, x: Tensor, told: Tensor) -> Tensor:
        skips = []
        for stage, pool in zip(self.down, self.pool, strict=True):
            for block in stage.children():
                x = block(x, told)
            skips.append(x)
            x = pool(x)
        for block in self.body:
            x = block(x, told)
        for stage, unpool in zip(reversed(self.up), reversed(self.unpool), strict=True):
            x = unpool(x) + skips.pop()
            for block in stage.children():
                x = block(x, told)
        return x


@registry.register("diffusion-denoiser")
class DiffusionDenoiser(LearnedReconstructor):
    """Denoiser of a diffusion model of brain slices: removes white noise of any level, from images of magnitude 1.

    The samplers ``diffusion-tfg``, ``diffusion-dps`` and ``diffusion-diffpir`` and the plug-and-play methods ``dpir``,
    ``pnp-admm`` and ``red`` use its weights for any linear operator. By itself it denoises images: where the operator
    is the identity, the posterior mean is what a denoiser gives.

    Parameters
    ----------
    channels, widths, blocks, deviation
        As of `NoiseUNet`, which is the attribute ``denoiser``.
    """

    def __init__(
        self,
        channels: Sequence[int] = (1, 2),
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (2, 2, 3, 4),
        deviation: float = DEVIATION,
    ) -> None:
        super().__init__()
        self.denoiser = NoiseUNet(channels, widths, blocks, deviation)

    def forward(self, y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
        """Denoise images of magnitude 1.

        Parameters
        ----------
        y
            Noisy images ``(b, c, y, x)``.
        physics
            deepinv's `Denoising`, whose noise model tells the level.

        Raises
        ------
        OptionError
            Another operator, or one that does not tell the noise level.
        ShapeError
            Images of another number of channels.
        """
        if not isinstance(physics, Denoising):
            raise OptionError(
                "this model takes images in noise",
                found=type(physics).__name__,
                cure="Give its weights to diffusion-tfg, dpir or pnp-admm for other operators",
            )
        sigma, _ = noise_of(physics, None, None, y)
        if sigma is None:
            raise OptionError("a denoiser needs the noise level", cure="Give the operator a noise model")
        return self.denoiser(y, sigma)


class _Block(nn.Module):
    """Residual block: each group of channels by its own 3 x 3 kernels, scaled and shifted, then all channels mixed."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width // _GROUP)
        self.modulation = _faint(nn.Linear(told, 2 * width))
        self.mix = _faint(nn.Conv2d(width, width, 1, bias=False))

    def forward(self, x: Float[Tensor, "b d y x"], told: Float[Tensor, "b e"]) -> Float[Tensor, "b d y x"]:
        """Return features of the same size."""
        gain, shift = self.modulation(told)[:, :, None, None].chunk(2, dim=1)
        return x + self.mix(silu(self.conv(x) * (1 + gain) + shift))


def _waves(u: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
    """Sines and cosines of a number of about unit size, from slow to fast."""
    frequencies = torch.logspace(-1, 1.2, _FREQUENCIES, dtype=u.dtype, device=u.device)
    angles = u[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), 1)


def _faint(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start near zero, so that an untrained network shrinks images as if they had no structure."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
    return layer
