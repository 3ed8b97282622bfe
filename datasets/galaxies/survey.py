"""Surveys: a telescope's point-spread functions, pixels and noise, and how galaxies are sheared and how bright."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from numpy.random import Generator

from recon.datasets.galaxies.camera import LETTER_CAMERA, Camera, Noise
from recon.datasets.galaxies.psf import Optics, PSFModel, SeeingNormal, SeeingTable
from recon.datasets.random import Number
from recon.physics.errors import OptionError


@dataclass(frozen=True)
class PowerLaw:
    """Density proportional to ``value**slope`` from ``low`` to ``high``."""

    low: float
    high: float
    slope: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise OptionError("a range of nothing", found=(self.low, self.high), expected="0 < low < high")

    def draw(self, rng: Generator) -> float:
        """Draw one value."""
        u, power = rng.uniform(), self.slope + 1
        if power == 0:
            return self.low * (self.high / self.low) ** u
        low, high = self.low**power, self.high**power
        return float((low + u * (high - low)) ** (1 / power))


@dataclass(frozen=True, kw_only=True)
class GalaxySurvey:
    """How stamps are made [Li & Alexander 2023]; lengths in arcsec.

    Parameters
    ----------
    name
        For headers and tables.
    psf
        Distribution of the point-spread function.
    noise
        Of a pixel.
    n
        Side of the stamps, pixels.
    pixel_scale
        Arcsec.
    snr
        Distribution of the signal-to-noise ratio [Mandelbaum et al. 2014, GREAT3],
        ``sqrt(sum(truth**2)) / noise.sigma``, which sets the flux.
    flux
        Distribution of the total flux instead, counts.
    shear
        Distribution of the reduced shear's modulus.
    magnification
        Least and greatest.
    offset
        Greatest shift of a galaxy along each axis.
    resolution
        FWHM of a Gaussian that smooths galaxies before anything else: they have no detail that their truth could not
        show. Of a pixel and a quarter, samples of the galaxy determine it, and the PSF stamp maps truth to observation.
    target_fwhm
        None: the truth is the galaxy. Else the galaxy seen through a round Gaussian of this FWHM, for methods that
        shall deconvolve to that.
    """

    name: str
    psf: PSFModel
    noise: Noise
    n: int = 48
    pixel_scale: float = 0.2
    snr: PowerLaw = field(default_factory=lambda: PowerLaw(18.0, 220.0, -0.7))
    flux: PowerLaw | None = None
    shear: PowerLaw = field(default_factory=lambda: PowerLaw(0.01, 0.05, 1.0))
    magnification: tuple[Number, Number] = (1.0, 1.1)
    offset: float = 0.05
    resolution: float = 0.25
    target_fwhm: float | None = None

    def __post_init__(self) -> None:
        if self.n < 4 or not self.pixel_scale > 0:
            raise OptionError(
                "stamps of this size cannot be drawn", found=(self.n, self.pixel_scale), expected="n >= 4"
            )
        if not 1 <= self.magnification[0] <= self.magnification[1]:
            raise OptionError("a magnification below 1", found=self.magnification, expected="1 <= low <= high")
        if self.target_fwhm is not None and not self.target_fwhm > 0:
            raise OptionError("a target resolution that is not positive", found=self.target_fwhm, expected="arcsec > 0")


_LSST_OPTICS = Optics(
    lam_over_diam=(0.017, 0.024), obscuration=(0.1, 0.5), defocus=0.36, aberration=0.07, oversampling=0.5
)


def _lam_over_diam(wavelength: float, diameter: float) -> tuple[float, float]:
    """Return lambda/D in arcsec of a wavelength in micrometres and a diameter in metres, twice."""
    value = math.degrees(wavelength * 1e-6 / diameter) * 3600
    return value, value


def _space(wavelength: float, diameter: float, obscuration: float, wavefront: float) -> PSFModel:
    """Return a telescope in space: monochromatic at the band's middle, round pupil, small aberrations (waves)."""
    optics = Optics(
        lam_over_diam=_lam_over_diam(wavelength, diameter),
        obscuration=(obscuration, obscuration),
        defocus=wavefront,
        aberration=wavefront / 2,
    )
    return PSFModel(optics=optics)


LSST = GalaxySurvey(
    name="lsst",
    psf=PSFModel(seeing=SeeingTable(), ellipticity=(0.01, 0.03), optics=_LSST_OPTICS),
    noise=LETTER_CAMERA.noise(0.2),
)
# The first version of the letter (arXiv 2211.01567v1): Poisson noise, sky of 1000 ADU per square arcsecond kept in.
LSST_POISSON = GalaxySurvey(
    name="lsst-poisson",
    psf=PSFModel(seeing=SeeingNormal(0.67, 0.18), ellipticity=(0.0, 0.25), optics=_LSST_OPTICS),
    noise=Noise(sky=1000 * 0.2**2, read=5.0, poisson=True),
    flux=PowerLaw(4e3, 5e4, -1.0),
)
# Diameters, obscurations, bands and pixels as published; sky and zero points only to the order of magnitude.
EUCLID = GalaxySurvey(
    name="euclid",
    psf=_space(0.725, 1.2, 0.33, 0.02),
    noise=Camera(exposure=2260, zero_point=25.7, sky_magnitude=22.3, read_noise=4.5, reads=4, gain=3.5).noise(0.1),
    n=64,
    pixel_scale=0.1,
    resolution=0.125,
)
ROMAN = GalaxySurvey(
    name="roman",
    psf=_space(1.58, 2.37, 0.32, 0.02),
    noise=Camera(exposure=700, zero_point=26.4, sky_magnitude=22.3, read_noise=8.0, reads=5, dark=0.005).noise(0.11),
    n=64,
    pixel_scale=0.11,
    resolution=0.1375,
)
JWST = GalaxySurvey(
    name="jwst",
    psf=_space(1.5, 6.5, 0.12, 0.03),
    noise=Camera(exposure=1000, zero_point=28.0, sky_magnitude=22.5, read_noise=10.0, reads=2, dark=0.002).noise(0.031),
    n=96,
    pixel_scale=0.031,
    resolution=0.04,
)

SURVEYS = {survey.name: survey for survey in (LSST, LSST_POISSON, EUCLID, ROMAN, JWST)}


def survey_named(name: str) -> GalaxySurvey:
    """Return one of `SURVEYS`.

    Raises
    ------
    OptionError
        There is none of this name.
    """
    if name not in SURVEYS:
        raise OptionError("there is no such survey", found=name, expected=" ".join(SURVEYS))
    return SURVEYS[name]
