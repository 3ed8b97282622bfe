"""Galaxy stamps with their truth and point-spread functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from numpy import ndarray
from numpy.random import Generator

from recon.datasets.galaxies.profiles import SPLITS, Galaxy, GalaxySource, ParametricGalaxies
from recon.datasets.galaxies.psf import PSFError, PSFSample
from recon.datasets.galaxies.rendering import (
    galaxy_grid,
    galaxy_transform,
    psf_grid,
    psf_stamp_and_transform,
    widened,
)
from recon.datasets.galaxies.survey import LSST, GalaxySurvey
from recon.datasets.random import Number
from recon.physics.errors import DataError, OptionError

CHUNK = 64  # galaxies that a process makes at a time
# What each random stream of a galaxy is for: changing how one is used leaves the others as they were.
_GALAXY, _POSE, _PSF, _BRIGHTNESS, _NOISE, _PSF_ERROR = range(6)

CATALOGUE = np.dtype(
    [
        ("id", "i8"),  # of the stamp
        ("galaxy", "i8"),  # its number in the simulation
        ("kind", "U10"),
        ("row", "i8"),  # of the catalogue that it is from
        ("snr", "f8"),
        ("flux", "f8"),  # counts, before the stamp cuts it
        ("sigma", "f8"),  # noise of a pixel without source
        ("sky", "f8"),  # counts a pixel that the stamp still has
        ("g1", "f8"),  # applied reduced shear
        ("g2", "f8"),
        ("magnification", "f8"),
        ("rotation", "f8"),  # radians, before the shear
        ("intrinsic_g1", "f8"),  # after the rotation, before the shear; NaN where not known
        ("intrinsic_g2", "f8"),
        ("half_light_radius", "f8"),  # arcsec
        ("x_offset", "f8"),  # arcsec
        ("y_offset", "f8"),
        ("psf_fwhm", "f8"),  # of the seeing, arcsec
        ("psf_e1", "f8"),  # distortion of the seeing
        ("psf_e2", "f8"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Every galaxy at equal steps of rotation and both signs of a known shear [Nakajima & Bernstein 2007].

    The rotations cancel shape noise in the mean; stamps of either sign share their noise, so it cancels in ``m``. The
    stamps of a galaxy follow each other: for +g all rotations, then for -g.

    Parameters
    ----------
    g1, g2
        Reduced shear of the first sign.
    rotations
        Number of them, in steps of pi over it.
    """

    g1: float = 0.02
    g2: float = 0.0
    rotations: int = 4

    def __post_init__(self) -> None:
        if self.rotations < 1 or not 0 < math.hypot(self.g1, self.g2) < 1:
            raise OptionError("no ring", found=self, expected="rotations >= 1 and 0 < |g| < 1")

    @property
    def size(self) -> int:
        """Stamps a galaxy."""
        return 2 * self.rotations


@dataclass(frozen=True, kw_only=True, eq=False)
class GalaxySample:
    """Simulated stamps; pixel ``n//2`` is the centre of truth (but for its offset) and PSF.

    Parameters
    ----------
    observed, truth
        ``(stamp, y, x)``, counts a pixel. Truth is the galaxy at the pixels' centres, without PSF, pixel response, sky
        or noise; ``observed`` has its sky under Poisson noise.
    psf
        ``(stamp, y, x)``, sum 1: the effective PSF, with the pixel response in it (or with an error, what a method is
        told). It maps truth to observation, and shear comes before it.
    catalogue
        One row a stamp, of dtype `CATALOGUE`.
    survey
        What they were made for.
    """

    observed: Float32[ndarray, "stamp y x"]
    truth: Float32[ndarray, "stamp y x"]
    psf: Float32[ndarray, "stamp y x"]
    catalogue: Shaped[ndarray, " stamp"]
    survey: GalaxySurvey

    def __len__(self) -> int:
        return len(self.observed)


@dataclass(frozen=True, kw_only=True)
class GalaxyRecipe:
    """Everything that stamps depend on; galaxy ``i`` depends on it and on ``i`` alone.

    Parameters
    ----------
    survey
        Telescope and distributions.
    galaxies
        Where galaxies come from.
    split
        ``"train"``, ``"validation"`` or ``"test"``: no galaxy is in two of them.
    seed
        Of all random choices.
    snr
        Signal-to-noise ratio of all stamps, instead of the survey's distribution; nothing else changes with it.
    ring
        Make rings instead of single stamps. A galaxy's flux is then that of its SNR before shear.
    psf_error
        Give a wrong PSF.
    """

    survey: GalaxySurvey = LSST
    galaxies: GalaxySource = field(default_factory=ParametricGalaxies)
    split: str = "train"
    seed: int = 0
    snr: Number | None = None
    ring: Ring | None = None
    psf_error: PSFError | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise OptionError("there is no such split", found=self.split, expected=" ".join(SPLITS))
        if self.seed < 0:
            raise OptionError("a negative seed", found=self.seed)
        if self.snr is not None and not 0 < self.snr < math.inf:
            raise OptionError("no signal-to-noise ratio", found=self.snr, expected="a positive number")

    @property
    def stamps_a_galaxy(self) -> int:
        """1, or the size of a ring."""
        return 1 if self.ring is None else self.ring.size

    def rng(self, stream: int, galaxy: int, member: int = 0) -> Generator:
        """Return the generator of one stream of one galaxy."""
        return np.random.default_rng([self.seed, SPLITS[self.split], galaxy, stream, member])


def simulate_galaxies(
    n: int,
    survey: GalaxySurvey = LSST,
    *,
    galaxies: GalaxySource = ParametricGalaxies(),  # noqa: B008 - frozen
    split: str = "train",
    seed: int = 0,
    snr: Number | None = None,
    ring: Ring | None = None,
    psf_error: PSFError | None = None,
    start: int = 0,
    workers: int = 1,
) -> GalaxySample:
    """Simulate ``n`` galaxies: one stamp each, or a ring each.

    Parameters
    ----------
    n
        Number of galaxies.
    survey, galaxies, split, seed, snr, ring, psf_error
        As in `GalaxyRecipe`.
    start
        Number of the first galaxy; the same galaxy comes out in whatever piece it is made.
    workers
        Processes.

    Raises
    ------
    OptionError
        A setting that does not exist.
    FileFormatError
        The catalogue cannot be read.
    DataError
        A galaxy without light.
    """
    recipe = GalaxyRecipe(
        survey=survey, galaxies=galaxies, split=split, seed=seed, snr=snr, ring=ring, psf_error=psf_error
    )
    return joined(list(pieces(recipe, n, start=start, workers=workers, chunk=CHUNK)))


def pieces(recipe: GalaxyRecipe, n: int, *, start: int, workers: int, chunk: int) -> Iterator[GalaxySample]:
    """Simulate galaxies ``start`` to ``start + n`` in order, ``chunk`` at a time, in some processes."""
    if n < 1 or start < 0 or workers < 1 or chunk < 1:
        raise OptionError("nothing to simulate", found=f"n={n}, start={start}, workers={workers}", expected="n >= 1")
    ranges = [range(first, min(first + chunk, start + n)) for first in range(start, start + n, chunk)]
    if workers == 1 or len(ranges) == 1:
        yield from (simulate_range(recipe, numbers) for numbers in ranges)
        return
    # forking a process in which torch has threads can hang
    with ProcessPoolExecutor(min(workers, len(ranges)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(functools.partial(simulate_range, recipe), ranges)


def joined(samples: list[GalaxySample]) -> GalaxySample:
    """Put samples of one survey behind one another."""
    return GalaxySample(
        observed=np.concatenate([sample.observed for sample in samples]),
        truth=np.concatenate([sample.truth for sample in samples]),
        psf=np.concatenate([sample.psf for sample in samples]),
        catalogue=np.concatenate([sample.catalogue for sample in samples]),
        survey=samples[0].survey,
    )


def simulate_range(recipe: GalaxyRecipe, numbers: range) -> GalaxySample:
    """Simulate the galaxies of some numbers, in this process."""
    maker = _Maker(recipe)
    size = recipe.stamps_a_galaxy
    n = recipe.survey.n
    images = np.empty((3, len(numbers) * size, n, n), np.float32)
    catalogue = np.zeros(len(numbers) * size, CATALOGUE)
    for place, number in enumerate(numbers):
        rows = slice(place * size, (place + 1) * size)
        maker.make(number, images[:, rows], catalogue[rows])
    observed, truth, psf = images
    return GalaxySample(observed=observed, truth=truth, psf=psf, catalogue=catalogue, survey=recipe.survey)


def _matrix(rotation: float, g1: float, g2: float, magnification: float) -> Float64[ndarray, "2 2"]:
    """Return the map from a galaxy's coordinates to the sky: rotation, shear of unit determinant, magnification."""
    c, s = math.cos(rotation), math.sin(rotation)
    shear = np.array([[1 + g1, g2], [g2, 1 - g1]]) / math.sqrt(1 - g1**2 - g2**2)
    return math.sqrt(magnification) * shear @ np.array([[c, -s], [s, c]])


class _Maker:
    """Makes one galaxy's stamps after the other."""

    def __init__(self, recipe: GalaxyRecipe) -> None:
        survey = recipe.survey
        self.recipe, self.survey = recipe, survey
        self.grid = galaxy_grid(survey.n, survey.pixel_scale)
        self.psf_grid = psf_grid(survey.n, survey.pixel_scale)
        self.target = 1.0 if survey.target_fwhm is None else self.grid.gaussian(survey.target_fwhm)

    def make(self, number: int, images: ndarray, rows: ndarray) -> None:
        """Fill the images ``(3, stamp, y, x)`` (observed, truth, psf) and catalogue rows of a galaxy."""
        recipe, survey = self.recipe, self.survey
        observed, truth, psf = images
        galaxy = recipe.galaxies.draw(recipe.rng(_GALAXY, number), number, recipe.split)
        sample = survey.psf.draw(recipe.rng(_PSF, number))
        stamp, transfer = psf_stamp_and_transform(sample.profile(), self.psf_grid)
        psf[:] = self._given_psf(number, sample, stamp)
        transfer = widened(transfer, self.psf_grid, self.grid)

        rows["galaxy"], rows["id"] = number, number * len(rows) + np.arange(len(rows))
        rows["kind"], rows["row"], rows["half_light_radius"] = galaxy.kind, galaxy.index, galaxy.half_light_radius
        rows["psf_fwhm"], rows["psf_e1"], rows["psf_e2"] = sample.fwhm, sample.e1, sample.e2
        rows["sigma"], rows["sky"] = survey.noise.sigma, survey.noise.sky if survey.noise.poisson else 0.0
        self._pose(number, rows)
        _set_intrinsic(galaxy, rows)

        scale = None
        if recipe.ring is not None:  # one flux for all members: that of the galaxy before shear
            unsheared = rows[:1].copy()
            unsheared["g1"] = unsheared["g2"] = 0.0
            scale = self._brightness(number, self.grid.stamp(self._transform(galaxy, unsheared[0]) * self.target))
        for member, row in enumerate(rows):
            transform = self._transform(galaxy, row)
            image = self.grid.stamp(transform * self.target)
            flux = self._brightness(number, image) if scale is None else scale
            truth[member] = flux * image
            noise_member = member if recipe.ring is None else member % recipe.ring.rotations
            observed[member] = self._noisy(flux * self.grid.stamp(transform * transfer), number, noise_member)
            row["flux"] = flux * transform[len(transform) // 2, 0].real
            row["snr"] = flux * math.sqrt(float(np.sum(image**2))) / survey.noise.sigma

    def _pose(self, number: int, rows: ndarray) -> None:
        """Draw rotation, shear, magnification and place."""
        survey, ring = self.survey, self.recipe.ring
        rng = self.recipe.rng(_POSE, number)
        rotation, angle = rng.uniform(0, 2 * math.pi, 2)
        g = survey.shear.draw(rng)
        rows["magnification"] = rng.uniform(*survey.magnification)
        rows["x_offset"], rows["y_offset"] = rng.uniform(-survey.offset, survey.offset, 2)
        if ring is None:
            rows["rotation"], rows["g1"], rows["g2"] = rotation, g * math.cos(angle), g * math.sin(angle)
            return
        sign = np.repeat([1.0, -1.0], ring.rotations)
        rows["rotation"] = rotation + np.tile(np.arange(ring.rotations), 2) * math.pi / ring.rotations
        rows["g1"], rows["g2"] = sign * ring.g1, sign * ring.g2

    def _transform(self, galaxy: Galaxy, row: np.void) -> ndarray:
        matrix = _matrix(row["rotation"], row["g1"], row["g2"], row["magnification"])
        offset = (float(row["x_offset"]), float(row["y_offset"]))
        return galaxy_transform(galaxy, self.grid, matrix, offset, self.survey.resolution)

    def _brightness(self, number: int, image: ndarray) -> float:
        """Return what the unit galaxy's image is multiplied with."""
        recipe, survey = self.recipe, self.survey
        rng = recipe.rng(_BRIGHTNESS, number)
        if survey.flux is not None and recipe.snr is None:
            return survey.flux.draw(rng)
        snr = survey.snr.draw(rng) if recipe.snr is None else recipe.snr
        norm = math.sqrt(float(np.sum(image**2)))
        if not 0 < norm < math.inf:
            raise DataError(f"galaxy {number} has no light that could be scaled", found=norm)
        return snr * survey.noise.sigma / norm

    def _noisy(self, image: ndarray, number: int, member: int) -> ndarray:
        noise = self.survey.noise
        rng = self.recipe.rng(_NOISE, number, member)
        if not noise.poisson:
            return image + rng.normal(0.0, noise.sigma, image.shape)
        electrons = rng.poisson(np.clip((image + noise.sky) * noise.gain, 0, None))
        return electrons / noise.gain + rng.normal(0.0, noise.read, image.shape)

    def _given_psf(self, number: int, sample: PSFSample, stamp: ndarray) -> ndarray:
        """Return the PSF stamp that a method is told."""
        error = self.recipe.psf_error
        if error is None:
            return stamp
        wrong = error.apply(sample, self.recipe.rng(_PSF_ERROR, number))
        return psf_stamp_and_transform(wrong.profile(), self.psf_grid)[0]


def _set_intrinsic(galaxy: Galaxy, rows: ndarray) -> None:
    """Turn the intrinsic shear by the rotation."""
    c, s = np.cos(2 * rows["rotation"]), np.sin(2 * rows["rotation"])
    rows["intrinsic_g1"] = galaxy.g1 * c - galaxy.g2 * s
    rows["intrinsic_g2"] = galaxy.g1 * s + galaxy.g2 * c
