"""Operators of imaging beside deepinv's own: A, its adjoint and both, in turns in one process, the same threads.

Where ours is deepinv's class the ratio is 1 up to noise; CT, single-coil MRI and resampling are computed otherwise.
deepinv's CT gets its exact adjoint (``adjoint_via_backprop``), as ours is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import deepinv
import torch
from common import ratio, time_side_by_side
from deepinv.physics import LinearPhysics

SIZE, REPEATS = 256, 7


def pairs(size: int = SIZE) -> dict[str, tuple[Callable[[], LinearPhysics], Callable[[], LinearPhysics], int]]:
    """Make (ours, deepinv's, channels) by name."""
    from recon.physics import (
        Blur,
        CircularBlur,
        Demosaicing,
        FanCT,
        Inpainting,
        ParallelCT,
        Resampling,
        SingleCoilMRI,
        SuperResolution,
    )
    from recon.physics.inpainting import random_mask
    from recon.physics.kernels import gaussian_kernel, random_motion_kernel

    generator = torch.Generator().manual_seed(0)
    mask = random_mask((size, size), 0.3, generator)
    small, large = gaussian_kernel(1.0), random_motion_kernel(31, generator)
    fan = FanCT((1, size, size), 60)
    told = {
        "pixel_spacing": 1.0,
        "source_radius": fan.source_distance,
        "detector_radius": fan.detector_distance,
        "n_detector_pixels": fan.detectors,
        "detector_spacing": fan.detector_spacing,
    }
    theirs = deepinv.physics
    return {
        "inpainting": (lambda: Inpainting(mask), lambda: theirs.Inpainting((1, size, size), mask[None]), 1),
        "demosaicing": (lambda: Demosaicing((size, size), "bggr"), lambda: theirs.Demosaicing((size, size)), 3),
        "blur, small kernel": (lambda: Blur(small), lambda: theirs.Blur(small), 1),
        "blur, 31 pixels": (lambda: Blur(large), lambda: theirs.Blur(large), 1),
        "circular blur": (
            lambda: CircularBlur(large, (1, size, size)),
            lambda: theirs.BlurFFT((1, size, size), large),
            1,
        ),
        "super-resolution": (
            lambda: SuperResolution(2, (1, size, size)),
            lambda: theirs.Downsampling((1, size, size), "bicubic", 2),
            1,
        ),
        "resampling": (lambda: Resampling(2, (1, size, size)), lambda: theirs.DownsamplingMatlab(2), 1),
        "mri, one coil": (lambda: SingleCoilMRI(mask), lambda: theirs.MRI(mask), 2),
        "ct, parallel": (
            lambda: ParallelCT((1, size, size), 60),
            lambda: theirs.Tomography(60, size, normalize=False),
            1,
        ),
        "ct, fan": (
            lambda: fan,
            lambda: theirs.Tomography(60, size, normalize=False, fan_beam=True, fan_parameters=told),
            1,
        ),
    }


def beside_deepinv(size: int = SIZE, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Time every pair; print and return a row a pair: milliseconds of ours, and how many times faster than deepinv."""
    rows = []
    print(f"\n{'operator':20} {'':8} {'ours, ms':>9} {'deepinv/ours':>13}  (least to greatest)")
    for name, (make_ours, make_theirs, channels) in pairs(size).items():
        x = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
        both = {"ours": make_ours(), "deepinv": make_theirs()}
        y = {who: physics.A(x) for who, physics in both.items()}
        for what in ("A", "adjoint", "normal"):
            tasks = {who: _task(physics, what, x, y[who]) for who, physics in both.items()}
            seconds = time_side_by_side(tasks, repeats, warmup=2)
            middle, low, high = ratio(seconds["deepinv"], seconds["ours"])
            ours = 1e3 * sorted(seconds["ours"])[len(seconds["ours"]) // 2]
            print(f"{name:20} {what:8} {ours:9.2f} {middle:13.2f}  ({low:.2f} to {high:.2f})")
            rows.append({"operator": name, "what": what, "ms": ours, "ratio": middle, "low": low, "high": high})
    return rows


def _task(physics: LinearPhysics, what: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    if what == "A":
        return lambda: physics.A(x)
    return (lambda: physics.A_adjoint(y)) if what == "adjoint" else (lambda: physics.A_adjoint_A(x))
