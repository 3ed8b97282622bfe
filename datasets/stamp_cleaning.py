"""What is wrong with stamps and their PSFs, told by flags; every object keeps its row."""

from __future__ import annotations

import warnings
from enum import IntFlag

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray

_BORDER = 2  # pixels at the edge of a stamp, where there is mostly sky
_MIN_SKY = 12  # pixels from which a noise level is taken
_MAD = 1.4826  # of a normal distribution
_FLOOR = 1e-6  # of the peak: the noise of a stamp without any
_CORE = 0.1  # of the peak: the part of a PSF whose centroid is its centre
_OFF_CENTRE = 0.75  # pixels; half a pixel is how even stamps are often centred, and no whole pixel mends it
SUM_TOLERANCE = 1e-3


class StampFlag(IntFlag):
    """What was found about an object before anything was measured; 0: nothing."""

    BAD_PIXELS = 1
    """Pixels that are not finite; masked."""
    MASKED = 2
    """Pixels masked by the mask, or by a weight of zero."""
    ALL_MASKED = 4
    """No pixel is left."""
    NO_FLUX = 8
    """The sum of the pixels that are left is not positive."""
    BAD_WEIGHT = 16
    """Weights, or a noise level, below zero or not finite; masked, or estimated."""
    TRUNCATED = 32
    """The stamp reaches over the edge of its image."""
    NEIGHBOURS = 64
    """Pixels of neighbours in the stamp; masked."""
    PSF_MOVED = 128
    """The PSF was off its centre and was moved by whole pixels."""
    PSF_NORMALISED = 256
    """The PSF did not sum to 1."""
    BAD_PSF = 512
    """No PSF: it is not finite, or its sum is not positive. A delta stands for it."""


def names(flags: int) -> list[str]:
    """Return the names of the flags in ``flags``, in lower case."""
    return [flag.name.lower() for flag in StampFlag if flags & flag and flag.name]


def clean_stamps(
    pixels: Shaped[ndarray, "b y x"],
    weight: Shaped[ndarray, "#b y x"] | None = None,
    sigma: Shaped[ndarray, " b"] | None = None,
    mask: Shaped[ndarray, "#b y x"] | None = None,
) -> tuple[
    Float[ndarray, "b y x"],
    Float[ndarray, "b y x"] | None,
    Float[ndarray, " b"],
    Int[ndarray, " b"],
]:
    """Turn stamps as they were read into stamps that can be computed with.

    Parameters
    ----------
    pixels
        As in the file.
    weight
        Inverse variance; pixels without a positive one are masked.
    sigma
        Standard deviation of the noise; by default that of the weights, else estimated at the stamp's border.
    mask
        A pixel is masked where this is not 0.

    Returns
    -------
    tuple
        Stamps (0 where masked); weights (0 where masked; None: none were given and no pixel is masked); noise level
        of each; flags. All in single precision.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        y = pixels.astype(np.float32)
        finite = np.isfinite(y)
        good = finite.copy()
        flags = np.where(finite.all((1, 2)), 0, StampFlag.BAD_PIXELS).astype(np.int32)
        if mask is not None:
            good &= mask == 0
        if weight is not None:
            weight = weight.astype(np.float32)
            usable = np.isfinite(weight) & (weight >= 0)
            flags |= np.where(np.broadcast_to(usable, y.shape).all((1, 2)), 0, StampFlag.BAD_WEIGHT)
            good &= usable & (weight > 0)
    flags |= np.where((finite & ~good).any((1, 2)), StampFlag.MASKED, 0)
    flags |= np.where(good.any((1, 2)), 0, StampFlag.ALL_MASKED)
    y[~good] = 0
    flags |= np.where(y.sum((1, 2), dtype=np.float64) > 0, 0, StampFlag.NO_FLUX)
    level, bad_level = _noise_level(y, good, weight, sigma)
    flags |= np.where(bad_level, StampFlag.BAD_WEIGHT, 0)
    if weight is not None:
        return y, np.where(good, weight, np.float32(0)), level, flags
    if good.all():
        return y, None, level, flags
    return y, good / level[:, None, None] ** 2, level, flags


def _noise_level(
    y: ndarray, good: ndarray, weight: ndarray | None, sigma: ndarray | None
) -> tuple[Float[ndarray, " b"], ndarray]:
    bad = np.zeros(len(y), bool)
    if sigma is not None:
        level = sigma.astype(np.float32)
    elif weight is not None:
        level = 1 / np.sqrt(_median(np.where(good, weight, np.nan)))
    else:
        return border_noise(y, good), bad
    usable = np.isfinite(level) & (level > 0)
    if not usable.all():
        bad = ~usable & good.any((1, 2))
        level = np.where(usable, level, border_noise(y, good))
    return level.astype(np.float32), bad


def border_noise(y: Float[ndarray, "b y x"], good: Shaped[ndarray, "b y x"]) -> Float[ndarray, " b"]:
    """Estimate the noise of each stamp by the median absolute deviation of the pixels at its border.

    Never zero, so that it can be divided by: a millionth of the peak where the sky has no noise, 1 where there is
    nothing at all.
    """
    known = np.where(good, y, np.nan)
    e = _BORDER
    ring = [known[:, :e], known[:, -e:], known[:, e:-e, :e], known[:, e:-e, -e:]]
    sky = np.concatenate([edge.reshape(len(y), -1) for edge in ring], axis=1)
    too_few = np.isfinite(sky).sum(1) < _MIN_SKY
    level = _MAD * _median(np.abs(sky - _median(sky)[:, None]))
    if too_few.any():
        whole = known[too_few].reshape(int(too_few.sum()), -1)
        level[too_few] = _MAD * _median(np.abs(whole - _median(whole)[:, None]))
    peak = np.abs(y).max((1, 2))
    floor = np.where(peak > 0, _FLOOR * peak, 1)
    return np.fmax(level, floor).astype(np.float32)


def _median(values: ndarray) -> ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows that are masked altogether give NaN
        return np.nanmedian(values.reshape(len(values), -1), axis=1)


def prepare_psfs(
    psf: Shaped[ndarray, "b h w"],
) -> tuple[Float[ndarray, "b h w"], Int[ndarray, " b"]]:
    """Normalise PSFs to sum 1 and move those that are off centre by whole pixels to the index ``n // 2``.

    The centre is the centroid of the core. Less than 3/4 of a pixel stays. What moves over an edge is lost before
    the sum is taken.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        p = psf.astype(np.float32)
        holes = ~np.isfinite(p)
        p[holes] = 0
        total = p.sum((1, 2), dtype=np.float64)
        bad = ~(np.isfinite(total) & (total > 0))
    flags = np.where(bad, StampFlag.BAD_PSF, 0).astype(np.int32)
    flags |= np.where(~bad & (np.abs(total - 1) > SUM_TOLERANCE), StampFlag.PSF_NORMALISED, 0)
    flags |= np.where(~bad & holes.any((1, 2)), StampFlag.PSF_NORMALISED, 0)
    h, w = p.shape[1:]
    p[bad] = 0
    p[bad, h // 2, w // 2] = 1
    shifts = off_centre(p)
    for index in np.flatnonzero(shifts.any(1)):
        p[index] = _moved(p[index], shifts[index])
        flags[index] |= StampFlag.PSF_MOVED
    total = p.sum((1, 2), dtype=np.float64)
    return (p / total[:, None, None]).astype(np.float32), flags


def off_centre(psf: Float[ndarray, "b h w"]) -> Int[ndarray, "b 2"]:
    """Return by how many whole pixels (y, x) each PSF must move for its core to be at the index ``n // 2``."""
    core = np.where(psf > _CORE * psf.max((1, 2), keepdims=True), psf, 0).astype(np.float64)
    total = core.sum((1, 2))
    found = []
    for axis, n in ((1, psf.shape[1]), (2, psf.shape[2])):
        profile = core.sum(3 - axis)
        offset = n // 2 - profile @ np.arange(n) / np.where(total > 0, total, 1)
        found.append(np.where(np.abs(offset) > _OFF_CENTRE, np.round(offset), 0))
    return np.stack(found, 1).astype(np.int64)


def _moved(image: ndarray, shift: ndarray) -> ndarray:
    out = np.zeros_like(image)
    target, origin = [], []
    for n, step in zip(image.shape, shift.tolist(), strict=True):
        target.append(slice(max(step, 0), min(n + step, n)))
        origin.append(slice(max(-step, 0), min(n - step, n)))
    out[tuple(target)] = image[tuple(origin)]
    return out
