r"""Images that minimise a data term plus a penalty of their derivatives, and how strong the penalty is.

The strength comes from the noise, not from the user. With noise of level :math:`\sigma` the gradient of the data term
has noise of standard deviation :math:`\sigma_b = \sigma \sqrt{\operatorname{tr}(A^H A) / n}`, and the weight is

.. math:: \lambda = 0.4\, \sigma_b \left( \frac{\sigma}{0.01\, s} \right)^{1/3}

with s the image's 99.9th percentile. Thresholding rules have the first two factors; the third says that a penalty on
edges, which costs contrast, pays the more the noisier the data are. The two numbers were set on 20 cases: one raw scan
and volumes of two organs, Poisson-disc and equispaced sampling, noise of 0.2 to 6 % of the image. In all of them the
image is within 0.5 dB of the one of the best weight. Where the noise is neither known nor seen in outer k-space,
left-out samples choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Bool, Complex, Float, Num
from torch import Tensor

from recon.calibration import noise_level
from recon.physics import MultiCoilMRI
from recon.physics.errors import CalibrationError
from recon.physics.layout import to_channels, to_complex
from recon.regularisation import (
    CoilOperator,
    backprojection,
    check_measurements,
    largest_eigenvalue,
    least_on_path,
    leave_out,
    normal_of,
    single,
)

_KAPPA = 0.4
_REFERENCE_NOISE = 0.01
_SEARCH_START, _SEARCH_ITERATIONS = 0.02, 60
_FIRST, _FALL = 0.01, 0.7  # relative weight of the first iteration, and its fall from one to the next
_TYPICAL = 0.002  # relative weight where nothing can be left out
_ROUNDING = 100  # machine epsilons of the largest weight below which a weight says nothing


class Prox(Protocol):
    """A proximal map that is iterated, and goes on where its last call stopped."""

    weight: Float[Tensor, "b 1 *spatial"]
    calls: int

    def __call__(self, z: Float[Tensor, "b channel *spatial"]) -> Float[Tensor, "b channel *spatial"]:
        """Denoise ``z``."""
        ...


MakeProx = Callable[[Float[Tensor, "b 1 *spatial"]], Prox]
"""Makes the proximal map of a penalty from its weight at each pixel."""


def penalised(
    y: Num[Tensor, "b ..."],
    physics: LinearPhysics,
    make_prox: MakeProx,
    *,
    regularisation: float | None,
    max_iter: int,
    tol: float,
) -> tuple[Float[Tensor, "b channel *spatial"], dict[str, float]]:
    r"""Minimise :math:`\tfrac12\|Ax - y\|^2 + \lambda R(x)` by FISTA, each image of a batch with its own weight.

    Parameters
    ----------
    y, physics
        Measurements and their operator.
    make_prox
        Of R.
    regularisation
        :math:`\lambda` for data scaled so that the zero-filled image's 99.9th percentile is 1; None: see the module.
    max_iter, tol
        Stop after so many iterations, or once the image changes by less than ``tol`` of itself.

    Returns
    -------
    tuple
        The images, and what was done: ``regularisation`` and ``iterations``; those of further images
        of a batch with their number.

    Raises
    ------
    ShapeError
        Measurements that do not fit the operator.
    """
    check_measurements(y, physics)
    sigmas = noise_levels(y, physics)
    images: list[Tensor] = []
    details: dict[str, float] = {}
    for index in range(y.shape[0]):
        y_i, physics_i = single(y, physics, index)
        b = backprojection(y_i, physics_i)
        norm = largest_eigenvalue(physics_i, b)
        relative = regularisation
        if relative is None and sigmas is not None:
            relative = _noise_weight(b, norm, physics_i, sigmas[index])
        if relative is None:
            relative = _weight_by_hold_out(y_i, physics_i, make_prox)
        x, iterations = _minimise(b, norm, physics_i, make_prox, relative, max_iter, tol)
        images.append(x)
        end = f"_{index}" if index else ""
        details |= {f"regularisation{end}": relative, f"iterations{end}": float(iterations)}
    return _as_channels(torch.cat(images)), details


def noise_weight(y: Num[Tensor, "1 ..."], physics: LinearPhysics, sigma: float) -> float:
    """Weight for a noise level, by the rule of the module, for data scaled to a zero-filled image of 1."""
    b = backprojection(y, physics)
    return _noise_weight(b, largest_eigenvalue(physics, b), physics, sigma)


def _noise_weight(b: Num[Tensor, "1 set *spatial"], norm: float, physics: LinearPhysics, sigma: float) -> float:
    """Return `noise_weight`, by the back-projection and the largest eigenvalue."""
    scale = image_scale(b)
    if scale == 0:
        return 0.0
    # b, in whose units the scale is, grows with the square of the operator, the noise of y seen in it only once.
    noise = sigma * math.sqrt(norm) / scale
    return _KAPPA * backprojected_noise(physics, sigma, b) / scale * (noise / _REFERENCE_NOISE) ** (1 / 3)


def backprojected_noise(physics: LinearPhysics, sigma: float, like: Num[Tensor, "1 set *spatial"]) -> float:
    r"""Find the standard deviation of the real part of :math:`A^H n` over the pixels that are seen.

    The trace of :math:`A^H A` is found by one random probe [Hutchinson 1989].
    """
    generator = torch.Generator().manual_seed(0)
    parts = 2 if like.is_complex() else 1
    signs = 2 * torch.randint(0, 2, (parts, *like.shape), generator=generator).to(like.device, like.real.dtype) - 1
    probe = torch.complex(signs[0], signs[1]) if like.is_complex() else signs[0]
    image = normal_of(physics)(probe)
    trace = float(torch.linalg.vecdot(probe.flatten(), image.flatten()).real) / parts
    return sigma * math.sqrt(max(trace, 0.0) / max(int((image != 0).sum()), 1))


def _weight_by_hold_out(y: Tensor, physics: LinearPhysics, make_prox: MakeProx) -> float:
    split = leave_out(y, physics)
    if split is None:
        return _TYPICAL
    b = backprojection(split.y, split.physics)
    norm = largest_eigenvalue(split.physics, b)

    def error(relative: float) -> float:
        x, _ = _minimise(b, norm, split.physics, make_prox, relative, _SEARCH_ITERATIONS, 0.0)
        return split.error(x)

    return least_on_path(error, _SEARCH_START, ratio=0.5)


def _minimise(
    b: Tensor, norm: float, physics: LinearPhysics, make_prox: MakeProx, relative: float, max_iter: int, tol: float
) -> tuple[Tensor, int]:
    """Minimise by FISTA [Beck, Teboulle 2009, eq. 4.1-4.3], the momentum dropped where it points uphill.

    The restart is that of O'Donoghue, Candès 2015. FISTA bears an inexact proximal map that gets more exact.
    ``b`` is the back-projection, ``norm`` the largest eigenvalue.
    """
    normal = normal_of(physics)
    tiny = torch.finfo(b.real.dtype).tiny
    step = 1 / max(norm, tiny)
    weight = step * relative * image_scale(b) * _penalised_pixels(physics, b)
    prox = make_prox(weight)
    x = z = _start(b, normal, step)
    t = 1.0
    for iteration in range(max_iter):
        # Strong first: what is missing is filled from the large structures down to the small ones.
        prox.weight = weight * max(1.0, _FIRST / max(relative, tiny) * _FALL**iteration)
        previous = x
        x = prox(_as_channels(z - step * (normal(z) - b)).contiguous())
        x = to_complex(x) if b.is_complex() else x
        change = x - previous
        if float(torch.linalg.vector_norm(change)) <= tol * float(torch.linalg.vector_norm(x)):
            break
        uphill = float(torch.linalg.vecdot((z - x).flatten(), change.flatten()).real) > 0
        t, last = (1.0, 1.0) if uphill else ((1 + math.sqrt(1 + 4 * t * t)) / 2, t)
        z = x + ((last - 1) / t) * change
    return x, prox.calls


def _start(b: Tensor, normal: Callable[[Tensor], Tensor], step: float) -> Tensor:
    r"""Return :math:`A^H y / A^H A 1` where that is an average (no weight is negative), else a gradient step from 0.

    It has the right brightness at pixels that are hardly measured, such as a blur's border, which steps reach late.
    """
    if b.is_complex():
        return step * b
    weight = normal(torch.ones_like(b))
    rounding = _ROUNDING * torch.finfo(b.dtype).eps * float(weight.abs().max())  # FFTs leave some where it is zero
    if float(weight.min()) < -rounding:
        return step * b
    return torch.where(weight > rounding, b / weight.clamp_min(torch.finfo(b.dtype).tiny), 0)


def _as_channels(x: Tensor) -> Tensor:
    return to_channels(x) if x.is_complex() else x


def _penalised_pixels(physics: LinearPhysics, b: Tensor) -> Tensor:
    if isinstance(physics, CoilOperator):
        return inner_pixels(physics.coil_maps).to(b.real.dtype)
    return torch.ones_like(b[:, :1])


def inner_pixels(maps: Complex[Tensor, "b set coil *spatial"]) -> Bool[Tensor, "b 1 *spatial"]:
    """Pixels that the coils see, with their next neighbours along each axis.

    Differences are penalised there only: a border between what is seen and what is not must not count as an edge.
    """
    seen = (maps != 0).flatten(1, 2).any(1, keepdim=True)
    inner = seen.clone()
    for dim in range(2, seen.ndim):
        n = seen.shape[dim]
        inner.narrow(dim, 0, n - 1).logical_and_(seen.narrow(dim, 1, n - 1))
    return inner


def image_scale(b: Num[Tensor, "1 set *spatial"]) -> float:
    """99.9th percentile of the zero-filled image."""
    magnitude = torch.linalg.vector_norm(b, dim=1).flatten()
    return float(magnitude.kthvalue(max(1, round(0.999 * magnitude.numel()))).values)


def noise_levels(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> list[float] | None:
    """Noise level of each image of a batch: what the operator's noise model says, else what outer k-space says.

    None where neither says one above 0.
    """
    sigma = getattr(physics.noise_model, "sigma", None)
    if sigma is None and isinstance(physics, MultiCoilMRI):
        try:
            sigma = noise_level(y, physics.mask)
        except CalibrationError:
            return None
    if sigma is None:
        return None
    levels = torch.as_tensor(sigma, dtype=torch.float64).flatten().expand(y.shape[0]).tolist()
    return levels if min(levels) > 0 else None
