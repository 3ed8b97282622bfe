"""Stamps simulated a second and core, by survey; and what galsim's drawImage takes for truth, PSF and observation."""

from __future__ import annotations

import argparse
import time

import galsim
import numpy as np
from common import record

from recon.datasets.galaxies import LSST, SURVEYS, GalaxyRecipe, simulate_galaxies


def by_draw_image(n: int) -> float:
    """Seconds a galaxy: the same LSST galaxies and PSFs, three drawings each; knots, which take longer, left out."""
    recipe = GalaxyRecipe(survey=LSST)
    sharp = galsim.Gaussian(fwhm=LSST.resolution)
    seconds = []
    for number in range(n):
        galaxy = recipe.galaxies.draw(recipe.rng(0, number), number, recipe.split)
        if galaxy.knots is not None:
            continue
        psf = LSST.psf.draw(recipe.rng(2, number))
        size = {"nx": LSST.n, "ny": LSST.n, "scale": LSST.pixel_scale}
        start = time.process_time()
        seen = galsim.Convolve(galaxy.profile, sharp).shear(g1=0.02, g2=0.01)
        profile = psf.profile()
        seen.drawImage(method="no_pixel", **size)
        profile.drawImage(**size)
        galsim.Convolve(seen, profile).drawImage(**size)
        seconds.append(time.process_time() - start)
    return float(np.mean(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=200)
    args = parser.parse_args()
    figures = {}
    for name, survey in SURVEYS.items():
        simulate_galaxies(32, survey)  # galsim tabulates each Sersic index once
        start = time.process_time()
        simulate_galaxies(args.number, survey, start=32)
        figures[name] = args.number / (time.process_time() - start)
        print(f"{name}: {figures[name]:.0f} stamps a second and core", flush=True)
    drawn = 1 / by_draw_image(args.number)
    print(f"galsim's drawImage, lsst: {drawn:.0f}")
    record("galaxy_simulation", {"stamps_a_second_and_core": figures, "draw_image_lsst": drawn}, "galsim")


if __name__ == "__main__":
    main()
