"""Simulated galaxy stamps through galsim: surveys, galaxies, point-spread functions, noise, rings, shards on disk.

>>> from recon.datasets.galaxies import LSST, simulate_galaxies
>>> sample = simulate_galaxies(2, LSST, snr=50, seed=1)
>>> sample.observed.shape
(2, 48, 48)

A new telescope is a `GalaxySurvey`; a new kind of galaxy is a class with the one method of `GalaxySource`.
"""

from recon.datasets.galaxies.camera import LETTER_CAMERA, Camera, Noise
from recon.datasets.galaxies.fits_output import write_fits
from recon.datasets.galaxies.profiles import CatalogueGalaxies, Galaxy, GalaxySource, ParametricGalaxies
from recon.datasets.galaxies.psf import Optics, PSFError, PSFModel, PSFSample, SeeingNormal, SeeingTable
from recon.datasets.galaxies.shards import GalaxyShards, write_shards
from recon.datasets.galaxies.simulation import GalaxyRecipe, GalaxySample, Ring, simulate_galaxies
from recon.datasets.galaxies.survey import (
    EUCLID,
    JWST,
    LSST,
    LSST_POISSON,
    ROMAN,
    SURVEYS,
    GalaxySurvey,
    PowerLaw,
    survey_named,
)

__all__ = [
    "EUCLID",
    "JWST",
    "LETTER_CAMERA",
    "LSST",
    "LSST_POISSON",
    "ROMAN",
    "SURVEYS",
    "Camera",
    "CatalogueGalaxies",
    "Galaxy",
    "GalaxyRecipe",
    "GalaxySample",
    "GalaxyShards",
    "GalaxySource",
    "GalaxySurvey",
    "Noise",
    "Optics",
    "PSFError",
    "PSFModel",
    "PSFSample",
    "ParametricGalaxies",
    "PowerLaw",
    "Ring",
    "SeeingNormal",
    "SeeingTable",
    "simulate_galaxies",
    "survey_named",
    "write_fits",
    "write_shards",
]
