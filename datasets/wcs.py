"""The local Jacobian of a FITS header's world coordinates, as galsim has it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

_ARCSEC = 3600.0
_SCALE_KEYS = ("GS_SCALE", "PIXSCALE", "PIXSCAL1", "SECPIX", "PIXELSCL")


def jacobians(header: Any, x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> Float[ndarray, "n 2 2"] | None:
    """Return d(u, v)/d(x, y) in arcseconds a pixel at pixels (x, y) counted from 0; None: the header does not say.

    u points to the west and v to the north, as `galsim.JacobianWCS` of a celestial WCS; the linear coordinates of a
    header without sky are u and v themselves.
    """
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header)
            if wcs.has_celestial:
                found = _celestial(wcs.celestial, np.asarray(x, float), np.asarray(y, float))
                return found if np.isfinite(found).all() else None
        except (ValueError, KeyError, TypeError, IndexError, MemoryError, AssertionError, AttributeError):
            return None
        linear = _linear(header)
    return None if linear is None else np.broadcast_to(linear, (len(x), 2, 2)).copy()


def _celestial(wcs: Any, x: ndarray, y: ndarray) -> ndarray:
    out = np.empty((len(x), 2, 2))
    dec0 = wcs.all_pix2world(x, y, 0)[1]
    for column, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
        ra1, dec1 = wcs.all_pix2world(x + dx, y + dy, 0)
        ra0, dec2 = wcs.all_pix2world(x - dx, y - dy, 0)
        turn = (ra1 - ra0 + 180) % 360 - 180
        out[:, 0, column] = -turn * np.cos(np.radians(dec0)) * _ARCSEC
        out[:, 1, column] = (dec1 - dec2) * _ARCSEC
    return out


def _linear(header: Any) -> ndarray | None:
    """Take the matrix of coordinates in arcseconds (galsim's files name no unit), or a pixel scale by its name."""
    unit = str(header.get("CUNIT1", "")).strip().lower()
    factor = {"": 1.0, "arcsec": 1.0, "deg": _ARCSEC, "arcmin": 60.0, "mas": 1e-3}.get(unit)
    named = header.get("CTYPE1", "").strip() == "LINEAR" if isinstance(header.get("CTYPE1", ""), str) else False
    matrix = None
    if factor is not None and (named or unit):
        rows = range(1, 3)
        if any(f"CD{i}_{j}" in header for i in rows for j in rows):
            matrix = np.array([[header.get(f"CD{i}_{j}", 0.0) for j in rows] for i in rows], float)
        elif "CDELT1" in header:
            steps = np.array([header["CDELT1"], header.get("CDELT2", header["CDELT1"])], float)
            turn = np.array([[header.get(f"PC{i}_{j}", float(i == j)) for j in rows] for i in rows], float)
            matrix = steps[:, None] * turn
    if matrix is not None and np.isfinite(matrix).all() and np.linalg.det(matrix) != 0:
        return matrix * factor
    for key in _SCALE_KEYS:
        value = header.get(key)
        if isinstance(value, int | float) and np.isfinite(value) and value > 0:
            return float(value) * np.eye(2)
    return None
