"""Small random multi-coil measurements, and deepinv's operator of the same."""

from __future__ import annotations

import deepinv
import torch


def random_scan(seed, spatial, coils=4, batch=1, sets=1, mask="2d", dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, sets, coils, *spatial, dtype=dtype.to_complex(), generator=g)
    maps = maps / maps.abs().square().sum((1, 2), keepdim=True).sqrt()
    lines = {"2d": spatial, "y": (*spatial[:-1], 1), "x": (*(1 for _ in spatial[:-1]), spatial[-1]), "full": ()}[mask]
    sampled = torch.rand(batch, 1, *lines, generator=g) < 0.6 if lines else torch.ones(spatial, dtype=torch.bool)
    sampled.view(-1)[0] = True  # never empty
    x = torch.randn(batch, 2 * sets, *spatial, dtype=dtype, generator=g)
    return maps, sampled, x


def of_deepinv(physics):
    b = physics.mask.shape[0]
    mask = physics.mask.expand(b, 2, *physics.spatial).to(physics.coil_maps.real.dtype)
    return deepinv.physics.MultiCoilMRI(
        mask=mask, coil_maps=physics.coil_maps[:, 0].contiguous(), three_d=len(physics.spatial) == 3
    )


def relative(a, b):
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))
