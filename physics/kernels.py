"""Blur kernels of cameras: out of focus or unsteady hands."""

from __future__ import annotations

import math

import torch
from deepinv.physics.functional import gaussian_blur
from jaxtyping import Float
from torch import Tensor

from recon.physics.errors import DataError, OptionError, ShapeError


def gaussian_kernel(sigma: float | tuple[float, float], angle: float = 0.0) -> Float[Tensor, "1 1 h w"]:
    """Make a Gaussian of standard deviation ``sigma`` pixels, or two along axes turned by ``angle`` degrees; sum 1."""
    pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    if not all(s > 0 and math.isfinite(s) for s in pair):
        raise OptionError("the width of a Gaussian blur is positive", found=sigma)
    kernel: Tensor = gaussian_blur(sigma=pair, angle=angle)
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float = 0.0) -> Float[Tensor, "1 1 n n"]:
    """Make the kernel of a steady motion over ``length`` pixels, ``angle`` degrees from the x axis upwards; sum 1.

    The segment is sampled finely, each sample shared between its four nearest pixels.
    """
    if not (length >= 1 and math.isfinite(length)):
        raise OptionError("a motion blur is at least a pixel long", found=length)
    half = math.ceil((length - 1) / 2)
    n, samples = 2 * half + 1, 16 * math.ceil(length) + 1
    t = torch.linspace(-(length - 1) / 2, (length - 1) / 2, samples, dtype=torch.float64)
    place = torch.stack([half - t * math.sin(math.radians(angle)), half + t * math.cos(math.radians(angle))])
    low = place.floor().clamp(0, max(n - 2, 0))
    high_share = place - low
    kernel = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (high_share[0] if dy else 1 - high_share[0]) * (high_share[1] if dx else 1 - high_share[1])
            kernel.index_put_(((low[0] + dy).long(), (low[1] + dx).long()), share, accumulate=True)
    kernel = kernel[:n, :n]
    return (kernel / kernel.sum())[None, None].float()


def random_motion_kernel(size: int, generator: torch.Generator) -> Float[Tensor, "1 1 n n"]:
    """Make the kernel of a random hand movement, an odd ``size`` pixels wide (deepinv's Gaussian process); sum 1."""
    from deepinv.physics.generator import MotionBlurGenerator

    if size < 3 or size % 2 == 0:
        raise OptionError("a kernel of odd size, 3 or more, is needed", found=size)
    seed = int(torch.randint(2**31, (), generator=generator))
    kernel: Tensor = MotionBlurGenerator((size, size), rng=torch.Generator()).step(1, seed=seed)["filter"]
    return kernel / kernel.sum()


def check_fits(kernel: Float[Tensor, "*b h w"], img_size: tuple[int, int, int] | None) -> None:
    """Raise `ShapeError` where a kernel is larger than images (c, y, x); None: their size is not known."""
    if img_size is not None and any(k > n for k, n in zip(kernel.shape[-2:], img_size[-2:], strict=True)):
        raise ShapeError(
            "a kernel larger than the image", found=tuple(kernel.shape[-2:]), expected=f"at most {img_size[-2:]}"
        )


def checked_kernel(kernel: Tensor) -> Float[Tensor, "b c h w"]:
    """Return a kernel as ``(b, c, h, w)``; a bad one raises `ShapeError` or `DataError`."""
    if kernel.ndim in (2, 3):
        kernel = kernel.reshape((1,) * (4 - kernel.ndim) + tuple(kernel.shape))
    if kernel.ndim != 4 or 0 in kernel.shape:
        raise ShapeError("a blur kernel of a shape that cannot be used", found=tuple(kernel.shape), expected="(h, w)")
    if not kernel.is_meta and not (bool(torch.isfinite(kernel).all()) and bool(kernel.any())):
        raise DataError("a blur kernel with values that are not finite, or all zero")
    return kernel
