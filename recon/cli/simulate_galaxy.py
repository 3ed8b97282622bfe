"""``recon simulate galaxy``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from recon.cli.common import add_json, print_json, print_pairs, progress_bar
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from recon.datasets.galaxies import GalaxyRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what ``simulate galaxy`` takes."""
    add_json(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a .fits file (SCI, PSF, VARIANCE, TRUTH, CATALOG), or a folder of shards, which goes on where it stopped",
    )
    parser.add_argument("--number", type=int, default=1000, help="of galaxies (default: 1000)")
    parser.add_argument("--survey", default="lsst", help="lsst lsst-poisson euclid roman jwst (default: lsst)")
    parser.add_argument("--snr", type=float, help="of all stamps (default: the survey's distribution)")
    parser.add_argument("--catalogue", type=Path, help="COSMOS catalogue (real_galaxy_catalog_23.5.fits)")
    parser.add_argument("--parametric", action="store_true", help="take the catalogue's fits instead of its images")
    parser.add_argument("--split", default="train", help="train validation test: sets without a common galaxy")
    parser.add_argument("--ring", type=float, metavar="G1", help="each galaxy at 4 rotations under +G1 and -G1")
    parser.add_argument("--target-fwhm", type=float, metavar="ARCSEC", help="truth at the resolution of a Gaussian")
    parser.add_argument("--psf-shear-error", type=float, default=0.0, metavar="S", help="PSF wrong by this shear")
    parser.add_argument("--psf-fwhm-error", type=float, default=0.0, metavar="ARCSEC", help="PSF wrong by this FWHM")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def run(args: argparse.Namespace) -> int:
    """Simulate, and write stamps with their truth."""
    from recon.datasets.atomic import check_target
    from recon.datasets.galaxies import write_fits, write_shards

    is_file = args.out.suffix.lower() in (".fits", ".fit")
    if is_file:
        check_target(args.out, overwrite=args.overwrite)
    elif args.out.suffix:
        raise OptionError(
            "simulated stamps are not written in this format", file=args.out, expected=".fits or a folder"
        )
    recipe = _recipe(args)
    with progress_bar(quiet=args.json) as bar:
        task = bar.add_task("galaxies", total=args.number)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if is_file:
            write_fits(recipe, args.number, args.out, overwrite=args.overwrite, workers=args.jobs, progress=progress)
        else:
            write_shards(recipe, args.number, args.out, workers=args.jobs, progress=progress)
    survey = recipe.survey
    facts = {
        "output": str(args.out),
        "survey": survey.name,
        "galaxies": args.number,
        "stamps": args.number * recipe.stamps_a_galaxy,
        "shape (y, x)": [survey.n, survey.n],
        "pixel scale (arcsec)": survey.pixel_scale,
        "noise level": survey.noise.sigma,
    }
    if args.json:
        print_json(facts)
    else:
        print_pairs("simulated", facts.items())
    return 0


def _recipe(args: argparse.Namespace) -> GalaxyRecipe:
    from dataclasses import replace

    from recon.datasets.galaxies import (
        CatalogueGalaxies,
        GalaxyRecipe,
        ParametricGalaxies,
        PSFError,
        Ring,
        survey_named,
    )

    if args.parametric and args.catalogue is None:
        raise OptionError("--parametric belongs to a catalogue", cure="Name one with --catalogue")
    wrong = args.psf_shear_error or args.psf_fwhm_error
    return GalaxyRecipe(
        survey=replace(survey_named(args.survey), target_fwhm=args.target_fwhm),
        galaxies=ParametricGalaxies()
        if args.catalogue is None
        else CatalogueGalaxies(file=args.catalogue, parametric=args.parametric),
        split=args.split,
        seed=args.seed,
        snr=args.snr,
        ring=None if args.ring is None else Ring(g1=args.ring),
        psf_error=PSFError(shear=args.psf_shear_error, fwhm=args.psf_fwhm_error) if wrong else None,
    )
