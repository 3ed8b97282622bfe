"""Simulated stamps as one FITS file that the stamp reader opens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.datasets.galaxies.shards import GalaxyShards, Progress, no_progress, write_shards
from recon.datasets.galaxies.simulation import GalaxyRecipe

_ROWS = 256  # stamps written at a time


def write_fits(
    recipe: GalaxyRecipe,
    n: int,
    path: str | Path,
    *,
    overwrite: bool = False,
    workers: int = 1,
    progress: Progress = no_progress,
) -> None:
    """Simulate ``n`` galaxies into the cubes SCI, PSF, VARIANCE, TRUTH ``(stamp, y, x)`` and the table CATALOG.

    Memory does not grow with ``n``. VARIANCE is that of the background; under Poisson noise SCI keeps its sky, which
    the header and the table tell.

    Raises
    ------
    OutputError
        The file exists, or cannot be written.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        spool = temporary.parent / "shards"  # a FITS file's cubes follow each other: they are put together at the end
        shards = write_shards(recipe, n, spool, workers=workers, progress=progress)
        _write(recipe, shards, temporary)
        shutil.rmtree(spool)


def _write(recipe: GalaxyRecipe, shards: GalaxyShards, path: Path) -> None:
    from astropy.io import fits
    from astropy.table import Table

    survey, rows = recipe.survey, len(shards)
    primary = fits.PrimaryHDU()
    described = {
        "SURVEY": (survey.name, "what was simulated"),
        "SPLIT": (recipe.split, "galaxies of other splits are others"),
        "SEED": (recipe.seed, "of all random choices"),
        "SIGMA": (survey.noise.sigma, "noise of a pixel without source, counts"),
        "SKY": (survey.noise.sky if survey.noise.poisson else 0.0, "counts a pixel that SCI still has"),
        "GAIN": (survey.noise.gain, "electrons a count"),
    }
    primary.header.update(described)
    primary.writeto(path)

    def cube(name: str, read: Callable[[slice], ndarray]) -> None:
        header = fits.ImageHDU(name=name).header
        header["BITPIX"], header["NAXIS"] = -32, 3
        for axis, length in enumerate((*shards.shape[::-1], rows), start=1):
            header.set(f"NAXIS{axis}", length, after="NAXIS" if axis == 1 else f"NAXIS{axis - 1}")
        for axis in (1, 2):
            header[f"CTYPE{axis}"], header[f"CUNIT{axis}"] = "LINEAR", "arcsec"
            header[f"CRPIX{axis}"], header[f"CRVAL{axis}"] = survey.n // 2 + 1, 0.0
            header[f"CD{axis}_{axis}"] = survey.pixel_scale
        header["PIXSCALE"] = (survey.pixel_scale, "arcsec")
        if name in ("SCI", "TRUTH"):
            header["BUNIT"] = "adu"
        header.update(described)
        with fits.StreamingHDU(str(path), header) as stream:
            for start in range(0, rows, _ROWS):
                stream.write(np.ascontiguousarray(read(slice(start, min(start + _ROWS, rows))), np.float32))

    cube("SCI", lambda part: shards.read("observed", part))
    cube("PSF", lambda part: shards.read("psf", part))
    cube("VARIANCE", lambda part: np.full((part.stop - part.start, *shards.shape), survey.noise.sigma**2))
    cube("TRUTH", lambda part: shards.read("truth", part))
    table = fits.table_to_hdu(Table(shards.catalogue))
    fits.append(str(path), table.data, fits.BinTableHDU(table.data, name="CATALOG").header)
