"""What a catalogue of deblurred galaxies says of each: columns, flags, and how they are measured."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
import torch
from jaxtyping import Float, Int32
from numpy import ndarray
from torch import Tensor

from recon.datasets.stamp_cleaning import StampFlag
from recon.galaxies.responses import NAMES
from recon.shear import MomentFlag, adaptive_moments

_MOMENTS_BIT = 10  # after those of `StampFlag`
POOR_FIT = 2.0
"""Mean squared residual, in units of the noise, above which a deblurred stamp does not explain its data."""


class ObjectFlag(IntFlag):
    """What a row of the catalogue is to be taken with; 0: nothing. The first ten bits are those of `StampFlag`."""

    BAD_PIXELS = StampFlag.BAD_PIXELS
    """Pixels that are not finite; masked."""
    MASKED = StampFlag.MASKED
    """Pixels masked by the mask, or by a weight of zero."""
    ALL_MASKED = StampFlag.ALL_MASKED
    """No pixel is left: no image, no measurement."""
    NO_FLUX = StampFlag.NO_FLUX
    """The sum of the pixels that are left is not positive."""
    BAD_WEIGHT = StampFlag.BAD_WEIGHT
    """Weights, or a noise level, below zero or not finite."""
    TRUNCATED = StampFlag.TRUNCATED
    """The stamp reaches over the edge of its image."""
    NEIGHBOURS = StampFlag.NEIGHBOURS
    """Pixels of neighbours in the stamp; masked."""
    PSF_MOVED = StampFlag.PSF_MOVED
    """The PSF was off its centre and was moved by whole pixels."""
    PSF_NORMALISED = StampFlag.PSF_NORMALISED
    """The PSF did not sum to 1."""
    BAD_PSF = StampFlag.BAD_PSF
    """The PSF cannot be used: no image, no measurement."""
    MOMENTS_EMPTY = MomentFlag.EMPTY << _MOMENTS_BIT
    """No moments: the deblurred stamp is 0."""
    MOMENTS_NOT_POSITIVE = MomentFlag.NOT_POSITIVE << _MOMENTS_BIT
    """No moments: no Gaussian fits the deblurred stamp."""
    MOMENTS_OUT_OF_RANGE = MomentFlag.OUT_OF_RANGE << _MOMENTS_BIT
    """No moments: they grew, or the centre moved, beyond all bounds."""
    MOMENTS_NOT_CONVERGED = MomentFlag.NOT_CONVERGED << _MOMENTS_BIT
    """No moments: they did not converge."""
    MOMENTS_COLLAPSED = MomentFlag.COLLAPSED << _MOMENTS_BIT
    """No moments: their weight shrank to nothing."""
    NOT_FINITE = 1 << 15
    """The model gave values that are not finite: no image, no measurement."""
    POOR_FIT = 1 << 16
    """The deblurred stamp, blurred again, misses the data: ``chi2`` above 2."""
    NO_ERRORS = 1 << 17
    """Errors were asked for, and the object could not be measured again in noise."""


UNUSABLE = ObjectFlag.ALL_MASKED | ObjectFlag.BAD_PSF
"""Objects that are not deblurred."""
UNMEASURED = (
    UNUSABLE
    | ObjectFlag.NOT_FINITE
    | ObjectFlag.MOMENTS_EMPTY
    | ObjectFlag.MOMENTS_NOT_POSITIVE
    | ObjectFlag.MOMENTS_OUT_OF_RANGE
    | ObjectFlag.MOMENTS_NOT_CONVERGED
    | ObjectFlag.MOMENTS_COLLAPSED
)
"""Objects without shape."""

MEASURED = ("flux", "flux_gaussian", "x", "y", "size", "e1", "e2", "g1", "g2")
"""The columns that have an error beside them, ``NAME_error``."""
ABOUT = {
    "id": "name or number in the input",
    "x_image": "column of the centroid in the image that the stamp is from",
    "y_image": "row of the centroid in the image that the stamp is from",
    "flux": "sum of the deblurred stamp",
    "flux_gaussian": "of the best-fitting elliptical Gaussian",
    "x": "column of the centroid in the stamp, from 0",
    "y": "row of the centroid in the stamp, from 0",
    "size": "det(M)^(1/4) of the adaptive moments M",
    "e1": "distortion (a^2-b^2)/(a^2+b^2), along x",
    "e2": "distortion, along x = y",
    "g1": "reduced shear (a-b)/(a+b), along x; not calibrated",
    "g2": "reduced shear, along x = y; not calibrated",
    "chi2": "mean squared residual over the variance of the noise",
    "sigma": "noise of a pixel",
    "r_e1": "e1 of the stamp reconvolved by a round PSF, with noise added, for the responses",
    "r_e2": "e2 of that stamp",
    "r11": "response d r_e1 / d g1; the mean shear of many is <r>^-1 <r_e>",
    "r12": "response d r_e1 / d g2",
    "r21": "response d r_e2 / d g1",
    "r22": "response d r_e2 / d g2",
    "flags": "of recon.galaxies.catalogue.ObjectFlag",
}
"""What the columns are."""
_PIXELS = ("x", "y", "size", "x_image", "y_image")
_FLUXES = ("flux", "flux_gaussian", "sigma")


def about() -> dict[str, str]:
    """Return what each column is, errors included."""
    errors = {f"{name}_error": f"standard deviation of {name} through noise" for name in MEASURED}
    return ABOUT | errors


def units(of_pixels: str | None) -> dict[str, str]:
    """Return the unit of each column that has one; ``of_pixels`` is that of the stamps."""
    found = dict.fromkeys(_PIXELS, "pix")
    if of_pixels is not None:
        found |= dict.fromkeys(_FLUXES, of_pixels)
    return found | {f"{name}_error": unit for name, unit in found.items() if name in MEASURED}


def names(flags: int) -> list[str]:
    """Return the names of the flags in ``flags``, in lower case."""
    return [flag.name.lower() for flag in ObjectFlag if flags & flag and flag.name]


def measure(x: Float[Tensor, "b 1 y x"]) -> tuple[dict[str, Float[Tensor, " b"]], Int32[Tensor, " b"]]:
    """Measure deblurred stamps: the columns `MEASURED`, NaN where there are none, and flags that say why."""
    moments = adaptive_moments(x)
    values = {
        "flux": x.sum((1, 2, 3), dtype=torch.float64).to(x.dtype),
        "flux_gaussian": moments.flux,
        "x": moments.x,
        "y": moments.y,
        "size": moments.sigma,
        "e1": moments.e1,
        "e2": moments.e2,
        "g1": moments.g1,
        "g2": moments.g2,
    }
    return values, moments.flags << _MOMENTS_BIT


def blank(n: int, *, responses: bool = False) -> dict[str, ndarray]:
    """Return columns of NaN for ``n`` objects that nothing is known of yet, in the order of the catalogue."""
    columns = [name for measured in MEASURED for name in (measured, f"{measured}_error")]
    return {name: np.full(n, np.nan, np.float32) for name in (*columns, *(NAMES if responses else ()), "chi2", "sigma")}
