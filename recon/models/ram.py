"""Reconstruct Anything Model: one network for every linear operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.functional import sinc_filter
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from recon.models import registry
from recon.models.conditioning import (
    Level,
    Measurements,
    PaddedOperator,
    as_map,
    divided,
    each,
    given,
    margins,
)
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import OptionError

_IMAGES = 2  # that a block makes of its features for the operator to be applied to
_MULTIPLE, _LEAST = 2, 64  # of the size at the coarsest scale, and of the image
_LEAST_SIGMA, _LEAST_GAIN = 5e-3, 1e-4
_TAPS = 4  # of the anti-alias filter, a coarse pixel


@registry.register("ram")
class RAM(LearnedReconstructor):
    r"""Reconstruct Anything Model [1]_: a U-Net without biases that asks the operator in each block, not unrolled.

    It takes any linear operator of norm about 1, images of 1, 2 (complex) and 3 channels, and Poisson-Gaussian noise
    :math:`y = \gamma\,\mathrm{Poisson}(Ax/\gamma) + \sigma n`. It gives what ``deepinv.models.RAM`` gives, with weights
    of which it can be used (``recon import-weights``), in less time.

    Parameters
    ----------
    channels
        Numbers of channels that images may have; each has a head and a tail of its own.
    widths
        Features of each scale.
    blocks
        Residual blocks of each scale, on the way down and on the way up.

    References
    ----------
    .. [1] Terris et al., Reconstruct Anything Model: a lightweight foundation model for computational imaging,
       arXiv 2503.08915.
    """

    compressed = True

    def __init__(
        self, channels: Sequence[int] = (1, 2, 3), widths: Sequence[int] = (64, 128, 256, 512), blocks: int = 4
    ) -> None:
        super().__init__()
        if min(*channels, *widths, blocks) < 1 or len(widths) < 2 or len(set(channels)) < len(channels):
            raise OptionError(
                "RAM has heads for several numbers of channels, and two scales at least",
                found=f"channels {tuple(channels)}, widths {tuple(widths)}, blocks {blocks}",
            )
        self.channels = tuple(channels)
        self.step = nn.Parameter(torch.ones(1))
        self.head = nn.ModuleList(_conv(c + 2, widths[0]) for c in channels)
        self.tail = nn.ModuleList(_conv(widths[0], c) for c in channels)

        def stage(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, channels) for _ in range(blocks))

        fine, pairs = widths[:-1], list(pairwise(widths))
        self.down, self.body = nn.ModuleList(stage(width) for width in fine), stage(widths[-1])
        self.up = nn.ModuleList(stage(width) for width in fine)
        self.pool = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in pairs)
        self.unpool = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in pairs)

    def forward(
        self, y: Measurements, physics: LinearPhysics | None = None, *, sigma: Level = None, gain: Level = None
    ) -> Float[Tensor, "b c y x"]:
        """Reconstruct; without an operator, denoise.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator, of norm about 1; without one, y is an image to be denoised.
        sigma, gain
            Of the noise, as in `recon.models.conditioning.given`.

        Raises
        ------
        OptionError, ShapeError, DataError
            As there; and maps that do not fit.
        """
        told, unit = given(y, physics, sigma, gain, self.channels), _unit(y)
        y, projected, index = divided(y, unit), told.projected / unit.reshape(-1, 1, 1, 1), told.head
        of_sigma = _level(told.sigma, _LEAST_SIGMA, unit, projected)
        of_gain = _level(told.gain, _LEAST_GAIN, unit, projected)

        scales = len(self.down)
        operator = PaddedOperator(
            told.physics, margins(projected.shape[2:], _MULTIPLE * 2**scales, max(_LEAST, 2 ** (scales + 1)))
        )
        start = operator.pad(projected)
        amplitude = each(y)[0].flatten(1).abs().mean(1)
        ratio = amplitude / (of_sigma.expand(len(start), -1, -1, -1).amax((1, 2, 3)) + 1e-4)
        gamma = self.step * (1 / (1e-4 + 1 / ratio)).reshape(-1, 1, 1, 1)
        x = operator.prox(y, start, gamma.clamp_min(1e-8).to(start.dtype))

        maps = [
            operator.noise_map(level, x, least) for level, least in ((of_sigma, _LEAST_SIGMA), (of_gain, _LEAST_GAIN))
        ]
        features = self.head[index](torch.cat((x, *maps), 1).contiguous(memory_format=torch.channels_last))
        out = self._unet(features, start, operator, index)
        return operator.crop(self.tail[index](out).to(x.dtype)) * unit.reshape(-1, 1, 1, 1)

    def _unet(self, x: Tensor, start: Tensor, operator: PaddedOperator, index: int) -> Tensor:
        channels = self.channels[index]
        coarse = [CoarseOperator(operator, 2**scale) for scale in range(len(self.down) + 1)]
        seen = [level.krylov(level.down(start), channels) for level in coarse]

        def through(stage: nn.Module, x: Tensor, scale: int) -> Tensor:
            for block in stage.children():
                x = block(x, seen[scale], coarse[scale].krylov, index, channels)
            return x

        skips = [x]
        for scale, (stage, pool) in enumerate(zip(self.down, self.pool, strict=True)):
            skips.append(pool(through(stage, skips[-1], scale)))
        x = through(self.body, skips[-1], len(self.down))
        for scale in reversed(range(len(self.down))):
            x = through(self.up[scale], self.unpool[scale](x + skips.pop()), scale)
        return x + skips.pop()


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution; and beside the second one what the operator makes of the features."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(width, width), _conv(width, width)
        self.gain = nn.Parameter(torch.ones(1))
        self.decode = nn.ModuleList(_conv(width, _IMAGES * c) for c in channels)
        self.encode = nn.ModuleList(Encoder(2 * (_IMAGES + 1) * c, width) for c in channels)

    def forward(
        self, x: Tensor, seen: Tensor, krylov: Callable[[Tensor, int], Tensor], index: int, channels: int
    ) -> Tensor:
        """Return features of the same size; ``seen`` are the Krylov powers of the measurements."""
        u = self.conv1(x).relu_()
        images = self.decode[index](u).to(seen.dtype)
        told = self.encode[index](torch.cat((seen, krylov(images, channels)), 1))
        v = self.conv2(u)
        return torch.addcmul(v.add_(x), self.gain.to(v.dtype), told)


class Encoder(nn.Module):
    """From images to features: two steps, each with a way round by a 1 x 1 convolution.

    The first way round costs nothing: its kernel is added to the middle of the 3 x 3 one, as both have the same input.
    """

    def __init__(self, images: int, width: int) -> None:
        super().__init__()
        self.first, self.middle, self.last = _conv(images, images), _conv(images, images), _conv(images, width)
        self.first_skip = nn.Conv2d(images, images, 1, bias=False)
        self.last_skip = nn.Conv2d(images, width, 1, bias=False)

    def forward(self, images: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d y x"]:
        """Return features that are not negative."""
        images = images.contiguous(memory_format=torch.channels_last)
        a = conv2d(images, self.first.weight + _in_the_middle(self.first_skip), padding=1)
        return self.last(self.middle(a).relu_()).add_(self.last_skip(a)).relu_()


class CoarseOperator:
    r""":math:`A_s = A U_s`, the operator on images so many times as coarse; :math:`U_s` is a periodic sinc filter."""

    def __init__(self, operator: PaddedOperator, factor: int) -> None:
        self.operator, self.factor = operator, factor

    def krylov(self, images: Float[Tensor, "b c y x"], channels: int) -> Float[Tensor, "b d y x"]:
        r"""Return :math:`u` and :math:`s^2 A_s^T A_s u` for each image, of ``channels`` channels, side by side."""
        fine = self.up(images).split(channels, 1)
        normal = self.factor**2 * self.down(torch.cat([self.operator.normal(u) for u in fine], 1))
        pairs = zip(images.split(channels, 1), normal.split(channels, 1), strict=True)
        return torch.cat([part for pair in pairs for part in pair], 1)

    def up(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c yy xx"]:
        """Apply :math:`U_s`."""
        return x if self.factor == 1 else _up(_up(x, self.factor).mT, self.factor).mT

    def down(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c yy xx"]:
        """Apply the adjoint of `up`."""
        return x if self.factor == 1 else _down(_down(x, self.factor).mT, self.factor).mT


def _down(x: Float[Tensor, "b c y x"], factor: int) -> Float[Tensor, "b c y xx"]:
    """Filter and decimate the last axis."""
    kernel = _kernel(factor).to(x)
    reach = _TAPS // 2 * factor - 1
    return _windows(pad(x, (reach, reach, 0, 0), mode="circular"), kernel[:, None], factor)[..., 0]


def _up(x: Float[Tensor, "b c y x"], factor: int) -> Float[Tensor, "b c y xx"]:
    """Apply the adjoint of `_down`: each fine pixel is a weighted sum of the nearest coarse ones."""
    weights = _fine_weights(factor).to(x)
    return _windows(pad(x, (_TAPS // 2, _TAPS // 2, 0, 0), mode="circular"), weights, 1).flatten(-2)


def _windows(x: Float[Tensor, "b c y x"], weights: Float[Tensor, "tap d"], step: int) -> Float[Tensor, "b c y place d"]:
    """Weigh windows along the last axis, as one product of matrices: a batch of small ones is many times slower."""
    windows = x.unfold(-1, len(weights), step)
    with torch.autocast(x.device.type, enabled=False):
        return (windows.reshape(-1, len(weights)) @ weights).unflatten(0, windows.shape[:-1])


@lru_cache
def _kernel(factor: int) -> Float[Tensor, " tap"]:
    """One axis of deepinv's filter, which is a product of two."""
    return sinc_filter(factor, length=_TAPS * factor)[0, 0].double().sum(0)


@lru_cache
def _fine_weights(factor: int) -> Float[Tensor, "coarse fine"]:
    """Weights of five coarse pixels, from two before to two behind, in each of the fine ones of a coarse pixel."""
    kernel = _kernel(factor)
    place = (_TAPS // 2 - torch.arange(_TAPS + 1))[:, None] * factor + torch.arange(factor) + _TAPS // 2 * factor - 1
    inside = (place >= 0) & (place < len(kernel))
    return torch.where(inside, kernel[place.clamp(0, len(kernel) - 1)], 0)


def _conv(a: int, b: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1, bias=False)


def _in_the_middle(small: nn.Conv2d) -> Tensor:
    return pad(small.weight, (1, 1, 1, 1))


def _unit(y: Measurements) -> Float[Tensor, " b"]:
    """Return 1, or the largest magnitude of faint measurements, which the network would take for noise."""
    peak = each(y)[0].abs().flatten(1).amax(1)
    peak = torch.where(peak == 0, 1e-12, peak)
    return torch.where(peak > 5 * _LEAST_SIGMA, torch.ones_like(peak), peak)


def _level(value: Level, least: float, unit: Tensor, x: Tensor) -> Tensor:
    if value is None:
        return torch.full((1, 1, 1, 1), least, dtype=x.dtype, device=x.device)
    return (as_map(value, x) / unit.reshape(-1, 1, 1, 1).to(x.dtype)).clamp_min(least)
