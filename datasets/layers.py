"""Fat and bone under the skin: thin layers, bright or dark, of a phase of their own, that averaged volumes lack."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.datasets.random import Number, Seed, as_generator

_BODY = 0.05  # share of the image's maximum above which a pixel is of the body
_MOST = 3  # layers
_DEEPEST = 0.88  # where a layer ends at the latest, in the depth
_EDGE = 0.03  # width of a layer's edge, in the depth, which goes from 0 to 1


def with_layers(image: Float[Tensor, "y x"], generator: Seed = 0) -> Complex[Tensor, "y x"]:
    r"""Add one to three layers that follow the outline of the body, and of what is dark inside it.

    A bright layer is put on top of the image, a dark one is taken out of it. Each is off in phase by any angle (fat,
    by its chemical shift; bone and air, by their susceptibility), and brightness and phase vary along it.

    Parameters
    ----------
    image
        Magnitude, not negative.
    generator
        Generator or seed.
    """
    rng = as_generator(generator)

    def uniform(low: Number, high: Number) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    top = float(image.max())
    depth = _smooth((image > _BODY * top).to(image.dtype), uniform(2, 8))
    result = image.to(torch.complex64)
    for _ in range(int(torch.randint(1, _MOST + 1, (), generator=rng))):
        centre = uniform(0.3, 0.8)
        half = min(uniform(0.04, 0.16), _DEEPEST - centre)
        layer = torch.sigmoid((half - (depth - centre).abs()) / _EDGE)
        texture = _texture(image.shape, uniform(1.5, 12), rng)
        turn = torch.polar(torch.ones_like(image), uniform(-math.pi, math.pi) + uniform(0, 1) * texture)
        if uniform(0, 1) < 0.6:
            bright = top * uniform(0.2, 1.2) * (1 + uniform(0, 0.4) * texture).clamp_min(0)
            result = result * (1 - layer) + layer * bright * turn
        else:
            result = result * (1 - layer * uniform(0.5, 1)) * (1 + layer * (turn - 1))
    return result / (result.abs().max() / top if top > 0 else 1)


def _texture(shape: torch.Size, width: float, rng: torch.Generator) -> Float[Tensor, "y x"]:
    """Smooth noise of unit variance."""
    noise = _smooth(torch.randn(*shape, generator=rng), width)
    return noise / noise.std().clamp_min(torch.finfo(noise.dtype).tiny)


def _smooth(x: Float[Tensor, "y x"], width: float) -> Float[Tensor, "y x"]:
    """Gaussian filter of that standard deviation in pixels, the image's edges wrapped."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(x.numpy(), width, mode="wrap"))
