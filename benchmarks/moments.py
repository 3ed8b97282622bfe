"""Adaptive moments against galsim.hsm called in a loop: microseconds a stamp, times faster, and agreement.

Simulated LSST stamps by signal-to-noise ratio (of the truth, as GREAT3 defines it), and their PSFs. The loop has its
galsim images ready. Both start from the pixel n // 2; one thread.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import galsim
import numpy as np
import torch
from common import ratio, record, time_side_by_side

from recon.datasets.galaxies import simulate_galaxies
from recon.shear import adaptive_moments


def by_galsim(images: list[galsim.Image], centre: galsim.PositionD) -> np.ndarray:
    """Centroid, size and shape of each image; NaN where galsim fails."""
    out = np.full((len(images), 5), np.nan)
    for index, image in enumerate(images):
        r = galsim.hsm.FindAdaptiveMom(image, guess_centroid=centre, strict=False)
        if not r.error_message:
            shape = r.observed_shape
            out[index] = r.moments_centroid.x - 1, r.moments_centroid.y - 1, r.moments_sigma, shape.e1, shape.e2
    return out


def by_us(stamps: torch.Tensor) -> np.ndarray:
    m = adaptive_moments(stamps)
    return torch.stack([m.x, m.y, m.sigma, m.e1, m.e2], 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    bright = simulate_galaxies(args.number, snr=200.0, split="test")
    noise = np.random.default_rng(0).normal(0, bright.survey.noise.sigma, bright.truth.shape)
    cases = {"PSF": bright.psf, "SNR 200": bright.observed}
    for snr in (100, 50, 20, 10):  # the same galaxies, dimmed
        factor = snr / 200
        dimmed = factor * bright.observed + math.sqrt(1 - factor**2) * noise
        cases[f"SNR {snr}"] = dimmed.astype(np.float32)
    for name, stamps in cases.items():
        images = [galsim.Image(stamp) for stamp in stamps]
        y, x = (n // 2 + 1 for n in stamps.shape[1:])
        centre, tensor = galsim.PositionD(x, y), torch.from_numpy(stamps)[:, None]
        seconds = time_side_by_side(
            {"galsim": partial(by_galsim, images, centre), "ours": partial(by_us, tensor)}, args.repeats
        )
        ours, theirs = by_us(tensor), by_galsim(images, centre)
        both = np.isfinite(ours[:, 0]) & np.isfinite(theirs[:, 0])
        difference = np.abs(ours - theirs)[both].max(1)
        row = {
            "stamps": name,
            "number": len(stamps),
            "galsim_us": 1e6 * float(np.median(seconds["galsim"])) / len(stamps),
            "ours_us": 1e6 * float(np.median(seconds["ours"])) / len(stamps),
            "times_faster": ratio(seconds["galsim"], seconds["ours"]),
            "galsim_failed": int(np.isnan(theirs[:, 0]).sum()),
            "same_failures": float(np.mean(np.isnan(ours[:, 0]) == np.isnan(theirs[:, 0]))),
            "difference_99_9_percent": float(np.quantile(difference, 0.999)),
            "beyond_1e-4": int((difference > 1e-4).sum()),
        }
        rows.append(row)
        print(row, flush=True)
    record("moments", {"threads_set": 1, "cases": rows}, "galsim")


if __name__ == "__main__":
    main()
