"""Where galaxies come from: a COSMOS catalogue of the user's, or Sersic profiles and knots drawn at random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.random import Generator

from recon.physics.errors import FileFormatError, OptionError

SPLITS = {"train": 0, "validation": 1, "test": 2}
_FRACTIONS = {"train": (0.0, 0.63), "validation": (0.63, 0.7), "test": (0.7, 1.0)}  # 40,000 of 56,000 are not tested on
_SHUFFLE = 31415  # of a catalogue before it is split


@dataclass(frozen=True, kw_only=True, eq=False)
class Galaxy:
    """A galaxy before it is turned, sheared and seen.

    Parameters
    ----------
    profile
        galsim profile.
    knots
        ``(knot, 3)``: x, y (arcsec) and flux of point sources on top of the profile.
    kind
        ``"bulge+disc"``, ``"sersic"``, ``"knots"``, ``"catalogue"``.
    index
        Row of the catalogue, or the galaxy's own number.
    g1, g2
        Its reduced shear before turning, where known, else NaN.
    half_light_radius
        Arcsec, circularised, of the disc or single profile; NaN where not known.
    """

    profile: Any
    knots: Float64[ndarray, "knot 3"] | None = None
    kind: str
    index: int
    g1: float = math.nan
    g2: float = math.nan
    half_light_radius: float = math.nan


@runtime_checkable
class GalaxySource(Protocol):
    """What galaxies are taken from; the sets of two splits share no galaxy."""

    def draw(self, rng: Generator, index: int, split: str) -> Galaxy:
        """Return galaxy ``index`` of a split; ``rng`` is its own."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParametricGalaxies:
    """Bulge + disc, single Sersic and knotty discs in plausible proportions, for machines without a catalogue.

    Sizes are log-normal about the median of COSMOS galaxies of F814W < 23.5; ellipticities are Rayleigh distributed.

    Parameters
    ----------
    half_light_radius
        Median, arcsec.
    scatter
        Standard deviation of its natural logarithm.
    ellipticity
        Rayleigh parameter of the intrinsic reduced shear.
    greatest_ellipticity
        Larger ones are drawn again.
    """

    half_light_radius: float = 0.45
    scatter: float = 0.4
    ellipticity: float = 0.25
    greatest_ellipticity: float = 0.7

    def draw(self, rng: Generator, index: int, split: str) -> Galaxy:  # noqa: ARG002 - each split has its own rng
        """Draw one galaxy, whose number is ``index``."""
        import galsim

        radius = float(np.clip(self.half_light_radius * math.exp(rng.normal(0, self.scatter)), 0.1, 1.6))
        g = math.inf
        while g > self.greatest_ellipticity:
            g = float(rng.rayleigh(self.ellipticity))
        kind = str(rng.choice(["bulge+disc", "sersic", "knots"], p=[0.55, 0.3, 0.15]))
        knots = None
        if kind == "bulge+disc":
            bulge = float(rng.beta(1.5, 3.0))
            ratio, roundness = rng.uniform(0.3, 0.8), rng.uniform(0.3, 1.0)
            profile = galsim.Add(
                galsim.DeVaucouleurs(flux=bulge, half_light_radius=ratio * radius).shear(g1=g * roundness, g2=0),
                galsim.Exponential(flux=1 - bulge, half_light_radius=radius).shear(g1=g, g2=0),
            )
        elif kind == "sersic":
            # galsim tabulates each new index for 50 ms: a grid of indices is tabulated once
            index_n = float(rng.choice([0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]))
            profile = galsim.Sersic(n=index_n, half_light_radius=radius).shear(g1=g, g2=0)
        else:
            share, number = rng.uniform(0.1, 0.5), int(rng.integers(5, 40))
            profile = galsim.Exponential(flux=1 - share, half_light_radius=radius).shear(g1=g, g2=0)
            knots = _exponential_knots(rng, number, radius, share, g)
        return Galaxy(profile=profile, knots=knots, kind=kind, index=index, g1=g, g2=0.0, half_light_radius=radius)


def _exponential_knots(rng: Generator, number: int, radius: float, flux: float, g: float) -> ndarray:
    """Point sources that follow an exponential disc sheared by ``g`` along x."""
    r = rng.gamma(
        2.0, radius / 1.678346990, size=number
    )  # the radial law of r exp(-r/h); half the light within 1.678 h
    angle = rng.uniform(0, 2 * math.pi, size=number)
    stretch = math.sqrt((1 + g) / (1 - g))
    x, y = r * np.cos(angle) * stretch, r * np.sin(angle) / stretch
    return np.stack([x - x.mean(), y - y.mean(), np.full(number, flux / number)], axis=1)


@dataclass(frozen=True, kw_only=True)
class CatalogueGalaxies:
    """Galaxies of a COSMOS catalogue in galsim's format.

    Parameters
    ----------
    file
        ``real_galaxy_catalog_23.5.fits``; beside it its image and PSF files, or for ``parametric`` its ``_fits`` file.
    parametric
        Take the parametric fits instead of the HST images.
    """

    file: Path
    parametric: bool = False

    def __len__(self) -> int:
        return len(_catalogue(self.file, self.parametric)[1])

    def draw(self, rng: Generator, index: int, split: str) -> Galaxy:  # noqa: ARG002 - a catalogue's order is fixed
        """Return galaxy ``index`` of the split; the catalogue begins again after its last one.

        Raises
        ------
        FileFormatError
            The catalogue or its images cannot be read.
        """
        catalogue, order = _catalogue(self.file, self.parametric)
        first, last = (round(part * len(order)) for part in _FRACTIONS[split])
        if first == last:
            raise OptionError("no galaxy is left for this split", file=self.file, found=len(order))
        row = int(order[first + index % (last - first)])
        try:
            if self.parametric:
                return Galaxy(profile=catalogue.makeGalaxy(row, gal_type="parametric"), kind="catalogue", index=row)
            import galsim

            real = galsim.RealGalaxy(catalogue, index=row)
        except (OSError, ValueError, IndexError) as error:
            raise FileFormatError(f"galaxy {row} cannot be read: {error}", file=self.file) from error
        # the galaxy as Hubble saw it stands for the galaxy: undoing Hubble's PSF would bring artefacts
        profile = galsim.Convolve(real, real.original_psf)
        return Galaxy(profile=profile, kind="catalogue", index=row)


@lru_cache(maxsize=4)
def _catalogue(file: Path, parametric: bool) -> tuple[Any, ndarray]:
    """Open a catalogue; and the order in which its rows are taken."""
    import galsim

    if not file.is_file():
        raise FileFormatError("there is no such catalogue", file=file)
    try:
        if parametric:
            catalogue = galsim.COSMOSCatalog(file.name, dir=str(file.parent), use_real=False, exclusion_level="none")
        else:
            catalogue = galsim.RealGalaxyCatalog(file.name, dir=str(file.parent))
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"this is no COSMOS catalogue: {error}",
            file=file,
            cure="Take real_galaxy_catalog_23.5.fits as galsim's download gives it, with its files beside it",
        ) from error
    return catalogue, np.random.default_rng(_SHUFFLE).permutation(catalogue.nobjects)
