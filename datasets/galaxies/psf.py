"""Point-spread functions drawn at random: Kolmogorov seeing and aberrated optics, through galsim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from recon.physics.errors import OptionError

_FINE = 1000  # steps of a tabulated distribution


@dataclass(frozen=True)
class SeeingTable:
    """Distribution of the seeing's FWHM in arcsec: a spline through weights, as in [Li & Alexander 2023]."""

    fwhm: tuple[float, ...] = (0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    weights: tuple[float, ...] = (0.0, 20.0, 17.0, 13.0, 9.0, 0.0)

    def draw(self, rng: Generator) -> float:
        """Draw one FWHM."""
        grid, cumulative = _cumulative(self)
        return float(np.interp(rng.uniform(), cumulative, grid))


@cache
def _cumulative(table: SeeingTable) -> tuple[ndarray, ndarray]:
    from scipy.interpolate import CubicSpline

    grid = np.linspace(table.fwhm[0], table.fwhm[-1], _FINE)
    density = np.clip(CubicSpline(table.fwhm, table.weights, bc_type="natural")(grid), 0, None)
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return grid, cumulative / cumulative[-1]


@dataclass(frozen=True)
class SeeingNormal:
    """Normal distribution of the seeing's FWHM in arcsec, cut at a third of its mean."""

    mean: float
    std: float

    def draw(self, rng: Generator) -> float:
        """Draw one FWHM."""
        return max(float(rng.normal(self.mean, self.std)), self.mean / 3)


@dataclass(frozen=True, kw_only=True)
class Optics:
    """A telescope's pupil and what is wrong with its wavefront.

    Parameters
    ----------
    lam_over_diam
        Least and greatest wavelength over diameter, arcsec.
    obscuration
        Least and greatest linear central obscuration.
    defocus, aberration
        Standard deviation, in waves, of the defocus and of each of the two astigmatisms, two comas, two trefoils and
        the spherical aberration.
    oversampling
        Of galsim's pupil transform: 0.5 is enough behind an atmosphere.
    """

    lam_over_diam: tuple[float, float]
    obscuration: tuple[float, float]
    defocus: float
    aberration: float
    oversampling: float = 1.5


@dataclass(frozen=True, kw_only=True)
class PSFSample:
    """One point-spread function: what it was drawn as, and galsim's profile of it.

    Parameters
    ----------
    fwhm
        Of the seeing, arcsec; 0 without an atmosphere.
    e1, e2
        Distortion of the seeing.
    lam_over_diam
        Of the optics, arcsec; 0 without.
    obscuration, oversampling
        Of the optics.
    aberrations
        Zernike coefficients in waves, in galsim's order (Noll, from 0).
    shear
        Reduced shear of the whole, on top.
    """

    fwhm: float = 0.0
    e1: float = 0.0
    e2: float = 0.0
    lam_over_diam: float = 0.0
    obscuration: float = 0.0
    oversampling: float = 1.5
    aberrations: tuple[float, ...] = ()
    shear: tuple[float, float] = (0.0, 0.0)

    def profile(self) -> Any:
        """Build the galsim profile, without the pixel."""
        import galsim

        parts = []
        if self.fwhm > 0:
            parts.append(galsim.Kolmogorov(fwhm=self.fwhm).shear(e1=self.e1, e2=self.e2))
        if self.lam_over_diam > 0:
            parts.append(
                galsim.OpticalPSF(
                    lam_over_diam=self.lam_over_diam,
                    obscuration=self.obscuration,
                    aberrations=list(self.aberrations),
                    oversampling=self.oversampling,
                    pad_factor=1.0,
                )
            )
        profile = parts[0] if len(parts) == 1 else galsim.Convolve(parts)
        return profile if self.shear == (0.0, 0.0) else profile.shear(g1=self.shear[0], g2=self.shear[1])


@dataclass(frozen=True, kw_only=True)
class PSFModel:
    """What point-spread functions are drawn from.

    Parameters
    ----------
    seeing
        Distribution of the seeing; None in space.
    ellipticity
        Least and greatest distortion of the seeing.
    optics
        The telescope; None for seeing alone.
    """

    seeing: SeeingTable | SeeingNormal | None = None
    ellipticity: tuple[float, float] = (0.0, 0.0)
    optics: Optics | None = None

    def __post_init__(self) -> None:
        if self.seeing is None and self.optics is None:
            raise OptionError("a point-spread function of nothing", expected="seeing or optics")

    def draw(self, rng: Generator) -> PSFSample:
        """Draw one; the same generator state gives the same."""
        sample = PSFSample()
        if self.seeing is not None:
            fwhm = self.seeing.draw(rng)
            e, angle = rng.uniform(*self.ellipticity), rng.uniform(0, 2 * math.pi)
            sample = replace(sample, fwhm=fwhm, e1=e * math.cos(angle), e2=e * math.sin(angle))
        if self.optics is not None:
            waves = rng.normal(0.0, [self.optics.defocus] + [self.optics.aberration] * 7)
            sample = replace(
                sample,
                lam_over_diam=float(rng.uniform(*self.optics.lam_over_diam)),
                obscuration=float(rng.uniform(*self.optics.obscuration)),
                oversampling=self.optics.oversampling,
                aberrations=(0.0, 0.0, 0.0, 0.0, *(float(wave) for wave in waves)),
            )
        return sample


@dataclass(frozen=True, kw_only=True)
class PSFError:
    """How wrong the point-spread function is that a method is given; the images are made with the right one.

    Parameters
    ----------
    shear
        Added to both components of the shear, each with a random sign.
    fwhm
        Added to the seeing's FWHM, arcsec, with a random sign.
    """

    shear: float = 0.0
    fwhm: float = 0.0

    def apply(self, sample: PSFSample, rng: Generator) -> PSFSample:
        """Return what the method is told.

        Raises
        ------
        OptionError
            An error of the FWHM where there is no seeing, or as large as the seeing itself.
        """
        signs: Sequence[float] = rng.choice([-1.0, 1.0], size=3).tolist()
        if self.fwhm and sample.fwhm + signs[2] * self.fwhm <= 0:
            raise OptionError(
                "the error of the FWHM does not fit the seeing", found=self.fwhm, expected=f"below {sample.fwhm:.3g}"
            )
        return replace(
            sample,
            fwhm=sample.fwhm + signs[2] * self.fwhm,
            shear=(sample.shear[0] + signs[0] * self.shear, sample.shear[1] + signs[1] * self.shear),
        )
