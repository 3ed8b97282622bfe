"""PSF-corrected shapes by galsim.hsm, object by object."""

from __future__ import annotations

import functools
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32
from numpy import ndarray
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import OptionError, ShapeError
from recon.shear.shapes import Distorted

ESTIMATORS = ("REGAUSS", "LINEAR", "BJ", "KSB")
_CHUNK = 256  # objects a task


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedShapes(Distorted):
    """Shapes before the PSF, one row an object; NaN where ``flags`` is not 0.

    Parameters
    ----------
    e1, e2
        Distortion before the PSF. The mean shear of many is ``mean(e) / (2 (1 - mean(e1^2)))``. KSB gives shear
        estimates, of which this is the distortion.
    e_error
        Standard deviation of a component of e from the noise.
    resolution
        1 - (size of the PSF / size of the image)^2.
    flags
        1 where galsim failed.
    """

    e1: Float[Tensor, " b"]
    e2: Float[Tensor, " b"]
    e_error: Float[Tensor, " b"]
    resolution: Float[Tensor, " b"]
    flags: Int32[Tensor, " b"]


def regauss(
    stamps: Float[Tensor, "b 1 y x"],
    psf: Float[Tensor, "p 1 h w"],
    weight: Float[Tensor, "k 1 v u"] | None = None,
    *,
    noise: Float[Tensor, " b"] | Number | None = None,
    estimator: str = "REGAUSS",
    pool: Executor | None = None,
) -> CorrectedShapes:
    """Measure by `galsim.hsm.EstimateShear` [Hirata & Seljak 2003].

    Parameters
    ----------
    stamps
        Sky-subtracted.
    psf
        With the pixel response in it.
    weight
        Inverse variance; pixels count where it is positive.
    noise
        Standard deviation of a pixel, for the errors.
    estimator
        One of `ESTIMATORS`.
    pool
        Processes that share the work.

    Raises
    ------
    OptionError
        An estimator that galsim lacks.
    ShapeError
        PSFs or weights of another number.
    """
    if estimator not in ESTIMATORS:
        raise OptionError("there is no such estimator", found=estimator, expected=" ".join(ESTIMATORS))
    b = len(stamps)
    for what, array in (("PSFs", psf), ("weights", weight)):
        if array is not None and len(array) not in (1, b):
            raise ShapeError(f"{what} that do not fit the stamps", found=len(array), expected=f"1 or {b}")
    images = stamps[:, 0].detach().cpu().numpy()
    psfs = np.broadcast_to(psf[:, 0].detach().cpu().numpy(), (b, *psf.shape[2:]))
    good = None if weight is None else np.broadcast_to(weight[:, 0].detach().cpu().numpy() > 0, images.shape)
    variance = np.zeros(b) if noise is None else torch.as_tensor(noise).double().square().cpu().expand(b).numpy()
    parts = [slice(first, first + _CHUNK) for first in range(0, b, _CHUNK)]
    tasks = [(images[p], psfs[p], None if good is None else good[p], variance[p]) for p in parts]
    work = functools.partial(_estimate, estimator)
    found = np.concatenate([np.zeros((0, 5)), *(map(work, tasks) if pool is None else pool.map(work, tasks))])
    values = torch.from_numpy(found).to(stamps.device, stamps.dtype)
    e1, e2, error, resolution, failed = values.unbind(1)
    return CorrectedShapes(
        e1=e1,
        e2=e2,
        e_error=torch.full_like(error, torch.nan) if noise is None else error,
        resolution=resolution,
        flags=failed.to(torch.int32),
    )


def _estimate(estimator: str, task: tuple[ndarray, ndarray, ndarray | None, ndarray]) -> ndarray:
    """Return e1, e2, error, resolution and failure of some objects."""
    import galsim

    images, psfs, good, variance = task
    out = np.full((len(images), 5), np.nan)
    out[:, 4] = 1
    for index, (image, psf) in enumerate(zip(images, psfs, strict=True)):
        if not np.isfinite(image).all() or (good is not None and not good[index].any()):
            continue
        n = image.shape
        result = galsim.hsm.EstimateShear(
            galsim.Image(np.ascontiguousarray(image)),
            galsim.Image(np.ascontiguousarray(psf)),
            weight=None if good is None else galsim.Image(good[index].astype(np.int32)),
            sky_var=float(variance[index]),
            shear_est=estimator,
            guess_centroid=galsim.PositionD(n[1] // 2 + 1, n[0] // 2 + 1),
            strict=False,
        )
        if result.error_message or result.correction_status != 0:
            continue
        if result.meas_type == "g":
            shear = galsim.Shear(g1=result.corrected_g1, g2=result.corrected_g2)
            e1, e2 = shear.e1, shear.e2
        else:
            e1, e2 = result.corrected_e1, result.corrected_e2
        out[index] = e1, e2, result.corrected_shape_err, result.resolution_factor, 0
    return out
