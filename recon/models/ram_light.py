"""A light network for every linear operator, made for processors without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from deepinv.physics import DecomposablePhysics, LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from recon.models import registry
from recon.models.conditioning import (
    Level,
    Measurements,
    PaddedOperator,
    as_map,
    given,
    margins,
)
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import DataError, OptionError
from recon.physics.linalg import conjugate_gradient, max_eigenvalue

_GROUP = 16  # channels that a 3 x 3 kernel sees: the fewest that fill the vector units of a processor
_TYPICAL = 2.0  # peak of an image over its root mean square
_UNKNOWN = 0.01  # noise level over the peak, where nobody tells it
_LEAST = 1e-3  # noise level over the peak that is told from none
_SLOPE = 0.15  # difference of neighbouring pixels over the peak, typically: tells how much noise is smoothed
_LEAST_SMOOTHING = 0.03  # with less, so few iterations would not fill in what is not measured
_ITERATIONS, _TOLERANCE = 12, 3e-3  # of conjugate gradients for the first estimate
_NORM_ITERATIONS, _NORM_TOLERANCE = 20, 5e-3  # of the norm of an operator


@registry.register("ram-light")
class RAMLight(LearnedReconstructor):
    r"""A light model for every linear operator, after RAM [1]_: a bias-free U-Net that asks the operator on the way.

    Like `recon.models.ram.RAM` it takes images of 1, 2 (complex) and 3 channels, Poisson-Gaussian noise, numbers or
    maps. Unlike it, it takes operators and data of any scale, :math:`f(cy, cA) = f(y, A)` and
    :math:`f(cy) = c f(y)` for noise that grows likewise; kernels see 16 channels and mix them by 1 x 1 convolutions
    (several times faster on a processor, and in training more so, than dense or depthwise ones); the operator is asked
    at the two finest scales only, where it tells the gradient :math:`A^T(Ax - y)` at what the features stand for; and
    the proximal step, the first estimate, is that of a smooth image: what is not measured is filled in.

    Parameters
    ----------
    channels
        Numbers of channels that images may have; each has a head and a tail of its own.
    widths
        Features of each scale, multiples of 16.
    blocks
        Residual blocks of each scale, on the way down and on the way up.
    questions
        How often the operator is asked at each scale, on the way down and on the way up: at most once a block, and
        nowhere but at the first scales.

    References
    ----------
    .. [1] Terris et al., Reconstruct Anything Model: a lightweight foundation model for computational imaging,
       arXiv 2503.08915.
    """

    compressed = True

    def __init__(
        self,
        channels: Sequence[int] = (1, 2, 3),
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (2, 3, 4, 6),
        questions: Sequence[int] = (2, 1),
    ) -> None:
        super().__init__()
        fits = len(widths) == len(blocks) > len(questions) and min(*channels, *widths, *blocks) > 0
        asked = [*questions, *[0] * (len(widths) - len(questions))]
        if (
            not fits
            or any(w % _GROUP for w in widths)
            or any(not 0 <= q <= b for q, b in zip(asked, blocks, strict=True))
        ):
            raise OptionError(
                "no network",
                found=f"channels {tuple(channels)}, widths {tuple(widths)}, blocks {tuple(blocks)}, "
                f"questions {tuple(questions)}",
                expected=f"a multiple of {_GROUP} and some blocks a scale, and at most one question a block",
            )
        self.channels = tuple(channels)
        self.head = nn.ModuleList(nn.Conv2d(2 * c + 2, widths[0], 3, padding=1, bias=False) for c in channels)
        self.tail = nn.ModuleList(_faint(nn.Conv2d(widths[0], c, 3, padding=1, bias=False)) for c in channels)

        def stage(scale: int) -> nn.ModuleList:
            parts: list[nn.Module] = []
            for number in range(blocks[scale]):
                parts += [Question(widths[scale], channels, 2**scale)] if number < asked[scale] else []
                parts += [Block(widths[scale])]
            return nn.ModuleList(parts)

        last = len(widths) - 1
        pairs = list(pairwise(widths))
        self.down, self.body = nn.ModuleList(stage(scale) for scale in range(last)), stage(last)
        self.up = nn.ModuleList(stage(scale) for scale in range(last))
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
            Their operator; where it has an attribute ``sqnorm``, that is believed to be its squared norm. Without one,
            y is an image to be denoised.
        sigma, gain
            Of the noise, as in `recon.models.conditioning.given`.

        Raises
        ------
        OptionError, ShapeError, DataError
            As there; maps that do not fit, an operator that measures nothing.
        """
        told = given(y, physics, sigma, gain, self.channels)
        index, square = told.head, squared_norm(told.physics, told.projected)
        multiple = 2 ** len(self.down)
        padded = PaddedOperator(told.physics, margins(told.projected.shape[2:], multiple, multiple))
        projected = padded.pad(told.projected) / square
        scale = _TYPICAL * projected.flatten(1).square().mean(1).sqrt().reshape(-1, 1, 1, 1)
        unit = torch.where(scale > 0, scale, torch.ones_like(scale))
        noise = _levels(told.sigma, told.gain, unit, square, projected, padded)
        problem = Problem(padded, square, projected / unit)
        start = problem.estimate(effective(noise, problem.projected))

        features = self.head[index](
            torch.cat((start, problem.projected, noise), 1).contiguous(memory_format=torch.channels_last)
        )
        out = self.tail[index](self._unet(features, problem, index)).to(start.dtype)
        return padded.crop(start + out) * scale

    def _unet(self, x: Tensor, problem: Problem, index: int) -> Tensor:
        def through(stage: nn.Module, x: Tensor) -> Tensor:
            for part in stage.children():
                x = part(x, problem, index) if isinstance(part, Question) else part(x)
            return x

        skips = []
        for stage, pool in zip(self.down, self.pool, strict=True):
            skips.append(through(stage, x))
            x = pool(skips[-1])
        x = through(self.body, x)
        for stage, unpool in zip(reversed(self.up), reversed(self.unpool), strict=True):
            x = through(stage, unpool(x) + skips.pop())
        return x


class Block(nn.Module):
    """Residual block: each group of channels by its own 3 x 3 kernels, ReLU, then all channels mixed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width // _GROUP, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Float[Tensor, "b d y x"]) -> Float[Tensor, "b d y x"]:
        """Return features of the same size."""
        return self.mix(self.conv(x).relu_()).add_(x)


class Question(nn.Module):
    """Makes an image of the features, asks the operator for the gradient there, and adds both to the features."""

    def __init__(self, width: int, channels: Sequence[int], factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.decode = nn.ModuleList(_faint(nn.Conv2d(width, c, 3, padding=1, bias=False)) for c in channels)
        self.encode = nn.ModuleList(nn.Conv2d(2 * c, width, 3, padding=1, bias=False) for c in channels)

    def forward(self, x: Float[Tensor, "b d y x"], problem: Problem, index: int) -> Float[Tensor, "b d y x"]:
        """Return features of the same size."""
        image = _coarse(problem.start, self.factor) + self.decode[index](x)
        told = torch.cat((image, problem.gradient(image, self.factor)), 1)
        return self.encode[index](told.contiguous(memory_format=torch.channels_last)).add_(x)


class Problem:
    r"""What is asked: :math:`A^T A u - A^T y` for an operator of norm 1 and images of unit scale, at several scales.

    Parameters
    ----------
    operator
        A.
    square
        Its squared norm.
    projected
        :math:`A^T y` over it and over the unit of the images.

    Attributes
    ----------
    start
        The first estimate: ``projected`` until `estimate` finds a better one.
    """

    def __init__(self, operator: PaddedOperator, square: Tensor, projected: Float[Tensor, "b c y x"]) -> None:
        self.operator, self.square, self.projected = operator, square, projected
        self.start = projected

    def estimate(self, level: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b c y x"]:
        r"""Minimise :math:`\|Au - y\|^2 + \lambda \|\nabla u\|^2` by a few conjugate gradients: the new start."""
        smoothing = (level / _SLOPE).square().clamp_min(_LEAST_SMOOTHING)

        def normal(u: Tensor) -> Tensor:
            return self.operator.normal(u) / self.square + smoothing * laplacian(u)

        with torch.autocast(self.projected.device.type, enabled=False):
            self.start = conjugate_gradient(
                normal, self.projected, self.projected, max_iter=_ITERATIONS, tol=_TOLERANCE
            )
        return self.start

    def gradient(self, image: Float[Tensor, "b c y x"], factor: int) -> Float[Tensor, "b c y x"]:
        """Return the gradient at an image whose pixels are so many times as large."""
        image = image.to(self.projected.dtype)
        fine = image if factor == 1 else interpolate(image, scale_factor=factor, mode="nearest")
        return _coarse(self.operator.normal(fine) / self.square - self.projected, factor)


def laplacian(x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
    r"""Apply :math:`\nabla^T \nabla`, with differences of neighbours inside the image."""
    y, x_ = x.diff(dim=-2), x.diff(dim=-1)
    return -pad(y, (0, 0, 1, 1)).diff(dim=-2) - pad(x_, (1, 1)).diff(dim=-1)


def effective(told: Float[Tensor, "b 2 y x"], image: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 1 1 1"]:
    """Root mean square of the noise: Gaussian, and that of the photons of an average pixel."""
    sigma, gain = told.double().flatten(2).mean(2).unbind(1)
    photons = gain * image.double().abs().flatten(1).mean(1)
    return (sigma.square() + photons).sqrt().to(image.dtype).reshape(-1, 1, 1, 1)


_KNOWN: WeakKeyDictionary[LinearPhysics, tuple[object, Tensor]] = WeakKeyDictionary()


def squared_norm(physics: LinearPhysics, x: Float[Tensor, "b c y x"]) -> Float[Tensor, ""]:
    """Return the largest eigenvalue of the normal operator, of all of a batch; found once as long as nothing changes.

    Raises
    ------
    DataError
        The operator maps everything to zero.
    """
    known = getattr(physics, "sqnorm", None)
    if known is None and isinstance(physics, DecomposablePhysics):
        values = torch.as_tensor(physics.mask).detach()
        known = (values.to(x.dtype) if values.dtype == torch.bool else values.abs()).max() ** 2
    if known is None:
        state = tuple((id(b), -1 if b.is_inference() else b._version) for b in physics.buffers())  # noqa: SLF001
        if physics not in _KNOWN or _KNOWN[physics][0] != (state, x.shape[1:]):
            start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            with torch.autocast(x.device.type, enabled=False):
                value = max_eigenvalue(physics.A_adjoint_A, start, max_iter=_NORM_ITERATIONS, tol=_NORM_TOLERANCE).max()
            _KNOWN[physics] = (state, x.shape[1:]), value
        known = _KNOWN[physics][1]
    known = torch.as_tensor(known, dtype=x.dtype, device=x.device)
    if not bool(known > 0):
        raise DataError("an operator that measures nothing")
    return known


def _levels(
    sigma: Level, gain: Level, unit: Tensor, square: Tensor, x: Tensor, padded: PaddedOperator
) -> Float[Tensor, "b 2 y x"]:
    """Make maps of both levels, for operators of norm 1 and images of unit scale; the margin has the least of each."""
    cropped, maps = padded.crop(x), []
    for value, unknown, least in ((sigma, _UNKNOWN, _LEAST), (gain, 0.0, 0.0)):
        if value is None:
            maps.append(torch.full_like(x[:, :1], unknown))
            continue
        level = (as_map(value, cropped) / (unit * square.sqrt())).clamp_min(least)
        maps.append(padded.noise_map(level, x, least))
    return torch.cat(maps, 1)


def _coarse(x: Float[Tensor, "b c y x"], factor: int) -> Float[Tensor, "b c yy xx"]:
    return x if factor == 1 else avg_pool2d(x, factor)


def _faint(conv: nn.Conv2d) -> nn.Conv2d:
    """Start near zero, so that an untrained network gives about its first estimate."""
    with torch.no_grad():
        conv.weight.mul_(0.1)
    return conv
