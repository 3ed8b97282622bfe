"""Adaptive moments: the elliptical Gaussian that fits a galaxy best, in batches and with gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from recon.datasets.random import Number
from recon.physics.errors import OptionError, ShapeError
from recon.shear.gaussian_weight import central_products, linearise, monomials, raw_moments, weights
from recon.shear.search import chunks, find_moments, solve_small, starting_point
from recon.shear.shapes import Distorted


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments(Distorted):
    """Adaptive moments, one row an object; NaN where ``flags`` is not 0.

    Parameters
    ----------
    flux
        Of the best-fitting elliptical Gaussian, units of the stamp times pixel (galsim's ``moments_amp``).
    x, y
        Centroid: column and row counted from 0.
    sigma
        ``det(M)**(1/4)``, pixels.
    e1, e2
        Distortion (galsim's ``observed_shape.e1``).
    flags
        Of `MomentFlag`.
    flux_error, sigma_error, e1_error, e2_error
        Standard deviations that follow from the noise to first order; None where the noise is not known.
    """

    flux: Float[Tensor, " b"]
    x: Float[Tensor, " b"]
    y: Float[Tensor, " b"]
    sigma: Float[Tensor, " b"]
    e1: Float[Tensor, " b"]
    e2: Float[Tensor, " b"]
    flags: Int32[Tensor, " b"]
    flux_error: Float[Tensor, " b"] | None = None
    sigma_error: Float[Tensor, " b"] | None = None
    e1_error: Float[Tensor, " b"] | None = None
    e2_error: Float[Tensor, " b"] | None = None

    @property
    def converged(self) -> Bool[Tensor, " b"]:
        """Where there are moments."""
        return self.flags == 0


def adaptive_moments(
    stamps: Float[Tensor, "b 1 y x"],
    weight: Float[Tensor, "k 1 v u"] | None = None,
    *,
    noise: Float[Tensor, " b"] | Number | None = None,
    guess: Number = 5.0,
) -> Moments:
    r"""Measure adaptive moments [Bernstein & Jarvis 2002, sec. 3; Hirata & Seljak 2003, sec. 2].

    They are the fixed point of measuring under a Gaussian weight of the moments measured:

    .. math:: \sum w I (r-c) = 0,\quad \sum w I (r-c)(r-c)^T = \tfrac12 M \sum w I,\quad
              w = e^{-\frac12 (r-c)^T M^{-1} (r-c)}

    galsim.hsm walks there in damped steps. Here the Newton steps of these conditions do, started where a Gaussian
    galaxy would have its own; objects for which they fail go galsim's way, step by step, so that what
    galsim.hsm refuses is refused. Gradients with the stamps are those of the fixed point (implicit function theorem).

    Parameters
    ----------
    stamps
        Sky-subtracted.
    weight
        Inverse variance; as in galsim, pixels count where it is positive, and count the same. Gives the errors too.
    noise
        Standard deviation of a pixel, for the errors, where there is no ``weight``.
    guess
        Sigma in pixels from which the search starts, at the pixel ``n // 2``.

    Raises
    ------
    ShapeError
        A weight of another shape.
    OptionError
        A guess that is not positive.
    """
    if not 0 < guess < math.inf:
        raise OptionError("no size to start from", found=guess, expected="pixels > 0")
    if weight is not None and (weight.shape[-2:] != stamps.shape[-2:] or len(weight) not in (1, len(stamps))):
        raise ShapeError("a weight that does not fit the stamps", found=tuple(weight.shape), expected=stamps.shape)
    pixels = stamps if weight is None else torch.where(weight > 0, stamps, 0)
    pixels = pixels[:, 0]
    with torch.no_grad():
        theta, flux, flags = find_moments(pixels.detach(), float(guess))
    good = flags == 0
    theta = torch.where(good[:, None], theta, starting_point(pixels, float(guess)))
    if pixels.requires_grad:
        attached, flux_attached = _attached(pixels[good], theta[good])
        theta, flux = theta.index_put((good,), attached), flux.index_put((good,), flux_attached)
    errors: dict[str, Tensor] = {}
    if weight is not None or noise is not None:
        variance = _variance(stamps, weight, noise)
        with torch.no_grad():
            errors = _errors(pixels.detach(), theta.detach(), variance)
        errors = {name: torch.where(good, value, torch.nan) for name, value in errors.items()}
    return Moments(
        **{name: torch.where(good, value, torch.nan) for name, value in _named(theta, flux, stamps.shape).items()},
        flags=flags,
        **errors,
    )


def _named(theta: Tensor, flux: Tensor, shape: torch.Size) -> dict[str, Tensor]:
    x, y, xx, xy, yy = theta.unbind(-1)
    trace = xx + yy
    return {
        "flux": flux,
        "x": x + shape[-1] // 2,
        "y": y + shape[-2] // 2,
        "sigma": (xx * yy - xy.square()) ** 0.25,
        "e1": (xx - yy) / trace,
        "e2": 2 * xy / trace,
    }


def _attached(pixels: Tensor, theta: Tensor) -> tuple[Float[Tensor, "b 5"], Float[Tensor, " b"]]:
    """Give fixed point and flux their gradients: those of one Newton step whose Jacobian is held."""
    basis = monomials((pixels.shape[1], pixels.shape[2]), pixels).flatten(1)
    at = linearise(raw_moments(pixels.flatten(1), theta, basis), theta)
    attached = theta - solve_small(at.jacobian.detach(), at.residual)
    return attached, 2 * raw_moments(pixels.flatten(1), attached, basis)[:, 0]


# --- errors -----------------------------------------------------------------------------------------------------


def _variance(stamps: Tensor, weight: Tensor | None, noise: Tensor | Number | None) -> Float[Tensor, "b y x"]:
    if weight is not None:
        variance = torch.where(weight > 0, 1 / weight, 0)
        return variance.expand_as(stamps)[:, 0]
    level = torch.as_tensor(noise, dtype=stamps.dtype, device=stamps.device)
    return level.square().expand(len(stamps))[:, None, None].expand_as(stamps[:, 0])


def _errors(pixels: Tensor, theta: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Propagate independent pixel noise through the fixed point, to first order."""
    basis = monomials((pixels.shape[1], pixels.shape[2]), pixels).flatten(1)
    step = chunks(pixels).step
    parts = []
    for image, t, v in zip(
        pixels.flatten(1).split(step), theta.split(step), variance.flatten(1).split(step), strict=True
    ):
        w = weights(t, basis)
        at = linearise((w * image) @ basis.T, t)
        # noise n moves the means by sum w n (phi - mean) / A, and theta by -J^-1 of that
        means = at.amplitude[:, None, None]
        change = torch.zeros(len(t), 5, 6, dtype=t.dtype, device=t.device)
        change[:, :, 1:] = torch.eye(5, dtype=t.dtype, device=t.device)
        change[:, :, 0] = -at.mean[:, 1:]
        of_theta = -torch.linalg.solve_ex(at.jacobian, change / means)[0]
        of_flux = 2 * at.amplitude[:, None] * (at.growth[:, None] @ of_theta)[:, 0]
        of_flux[:, 0] += 2
        rows = torch.stack([of_flux, *_derivatives(t, of_theta)], 1)
        noise = central_products((w.square() * v) @ basis.T, t[:, :2])
        parts.append(torch.einsum("bij,bjk,bik->bi", rows, noise, rows).clamp(min=0).sqrt())
    names = ("flux_error", "sigma_error", "e1_error", "e2_error")
    return dict(zip(names, torch.cat(parts).unbind(-1), strict=True))


def _derivatives(theta: Tensor, of_theta: Float[Tensor, "b 5 6"]) -> list[Float[Tensor, "b 6"]]:
    """Return how sigma, e1 and e2 follow theta."""
    xx, xy, yy = (theta[:, i, None] for i in (2, 3, 4))
    dxx, dxy, dyy = (of_theta[:, i] for i in (2, 3, 4))
    det, trace = xx * yy - xy * xy, xx + yy
    return [
        0.25 * det**-0.75 * (yy * dxx + xx * dyy - 2 * xy * dxy),
        2 * (yy * dxx - xx * dyy) / trace**2,
        2 * dxy / trace - 2 * xy * (dxx + dyy) / trace**2,
    ]
