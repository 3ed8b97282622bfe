"""From galsim's images to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from recon.physics.errors import OptionError, ShapeError


def arrays_of_galsim(images: Sequence[Any], psf: Any, weight: Sequence[Any] | None) -> dict[str, Any]:
    """Return pixels, psf, weight and Jacobian of galsim images, as `Stamps` takes them."""
    import galsim

    if isinstance(images, galsim.Image):
        images = [images]
    if not images:
        raise OptionError("no galsim image was given")
    jacobian = _jacobians(images)
    if isinstance(psf, galsim.GSObject):
        if jacobian is None:
            raise OptionError("a PSF cannot be drawn without a pixel scale", cure="Give the images a scale or a WCS")
        size = 2 * (max(images[0].array.shape) // 2) + 1
        wcs = images[0].wcs.local(image_pos=images[0].true_center)
        psf = psf.drawImage(nx=size, ny=size, wcs=wcs, use_true_center=False)  # convolved by the pixel
        psf /= psf.array.sum()
    psfs = [psf] if isinstance(psf, galsim.Image) else psf
    return {
        "pixels": _stack(images, "stamps"),
        "psf": _stack(psfs, "PSFs"),
        "weight": None if weight is None else _stack(weight, "weights"),
        "jacobian": jacobian,
    }


def _stack(images: Sequence[Any], what: str) -> ndarray:
    shapes = {image.array.shape for image in images}
    if len(shapes) != 1:
        raise ShapeError(f"{what} of several sizes", found=sorted(shapes), expected="one size")
    return np.stack([image.array for image in images])


def _jacobians(images: Sequence[Any]) -> ndarray | None:
    if any(image.wcs is None for image in images):
        return None
    local = [image.wcs.jacobian(image_pos=image.true_center) for image in images]
    found = np.array([[[j.dudx, j.dudy], [j.dvdx, j.dvdy]] for j in local], float)
    return found[:1] if (found == found[0]).all() else found
