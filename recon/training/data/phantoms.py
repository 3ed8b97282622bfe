"""Heads that never were: ellipses, ventricles, a folded cortex, vessels and texture, each drawn anew."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from recon.datasets.random import Seed, as_generator

_SMALL = 12  # ellipses in the brain
_EDGE = 1.5  # pixels over which an ellipse's rim fades


def random_head(shape: tuple[int, int], generator: Seed = 0) -> Float[Tensor, "y x"]:
    """Draw the magnitude of a slice of a head, from 0 to about 1.

    Parameters
    ----------
    shape
        (y, x).
    generator
        Generator or seed; the same seed gives the same head.
    """
    rng = as_generator(generator)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    # A smooth warp, the same for everything: no outline stays an ellipse.
    y = y + 0.05 * _smooth(shape, 3, rng)
    x = x + 0.05 * _smooth(shape, 3, rng)
    turn = uniform(-0.3, 0.3)
    y, x = y * math.cos(turn) - x * math.sin(turn), y * math.sin(turn) + x * math.cos(turn)
    width = _EDGE * 2 / min(shape)

    def ellipse(cy: float, cx: float, ry: float, rx: float, angle: float = 0.0) -> Tensor:
        v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        u = (y - cy) * math.sin(angle) + (x - cx) * math.cos(angle)
        distance = (torch.sqrt((v / ry) ** 2 + (u / rx) ** 2) - 1) * min(ry, rx)
        return torch.sigmoid(-distance / (width / 4))

    ry, rx = uniform(0.75, 0.9), uniform(0.6, 0.75)
    scalp, skull, brain = (ellipse(0, 0, ry * f, rx * f) for f in (1.0, 0.93, 0.86))
    grey, white, fluid = uniform(0.3, 1.0), uniform(0.3, 1.0), uniform(0.0, 1.0)
    folds = torch.sigmoid(12 * _smooth(shape, 14, rng))  # cortex: bands of grey matter towards the rim
    depth = ellipse(0, 0, ry * 0.66, rx * 0.66)
    matter = white + (grey - white) * folds * (1 - 0.85 * depth)
    image = uniform(0.4, 1.0) * (scalp - skull) + 0.05 * (skull - brain) + matter * brain
    for side in (-1, 1):  # ventricles
        shape_of = ellipse(uniform(-0.1, 0.1), side * uniform(0.08, 0.14), uniform(0.15, 0.28), 0.06, side * 0.3)
        image = image + (fluid - image) * shape_of
    for _ in range(_SMALL):
        where, angle = uniform(0, 0.7), uniform(0, 2 * math.pi)
        spot = ellipse(
            where * ry * math.sin(angle),
            where * rx * math.cos(angle),
            uniform(0.015, 0.12),
            uniform(0.015, 0.12),
            uniform(0, math.pi),
        )
        image = image + (uniform(0, 1.1) - image) * spot * uniform(0.3, 1.0)
    texture = 1 + 0.06 * _smooth(shape, 40, rng) + 0.15 * _smooth(shape, 2, rng)
    return (image * texture).clamp_min(0)


def _smooth(shape: tuple[int, int], cycles: int, rng: torch.Generator) -> Float[Tensor, "y x"]:
    """Random field of mean square about 1 whose finest detail has ``cycles`` a field of view."""
    coarse = torch.randn(1, 1, 2 * cycles, 2 * cycles, generator=rng)
    return interpolate(coarse, size=shape, mode="bicubic", align_corners=False)[0, 0]
