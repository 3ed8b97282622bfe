"""Whether the hold-out error, which needs no reference, ranks methods as the reference does.

``python benchmarks/trust.py [--data FOLDER] [--seeds N]``

A real brain, retrospectively undersampled by several masks; PSNR is that of `recon.metrics.psnr` against all data
combined by the coil maps of all data, where these are not zero. ``lost`` is what one loses who takes the method of the
least hold-out error in place of the best; ``pairs`` is the share of pairs of methods (over half a decibel apart) that
it puts in the right order.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from common import record

import recon
from recon import datasets
from recon.calibration import espirit
from recon.datasets import Scan
from recon.datasets.masks import make_mask
from recon.metrics import psnr
from recon.physics import MultiCoilMRI
from recon.slices import Trust

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
METHODS = ("zero-filled", "cg-sense", "tv", "l1-wavelet")
MASKS = (("poisson", 5), ("poisson", 10), ("gaussian", 6), ("random", 4), ("equispaced_fraction", 4))


def compare(scan: Scan, reference: torch.Tensor, inside: torch.Tensor) -> list[tuple[float, float]]:
    """PSNR and hold-out error of each method."""
    figures = []
    for name in METHODS:
        result = recon.reconstruct(scan, model=name, whiten="none", map_sets=1, trust=Trust(replicas=0))
        figures.append((psnr(result.magnitude[0], reference, inside), result.metrics["hold_out_error"][0]))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    scan = datasets.open(options.data / "mri/kspace/brain-full-8ch.cfl")
    k = scan.slice(0)
    maps = espirit(torch.from_numpy(k)[None], sets=1).maps
    reference = MultiCoilMRI(maps).combine(torch.from_numpy(k)[None])[0].abs()
    inside = maps.abs().sum(dim=(0, 1, 2)) > 0

    rows = []
    print(f"{'mask':>22}  {'lost dB':>7}  {'pairs':>5}   PSNR/hold-out of {', '.join(METHODS)} (seed 0)")
    for name, rate in MASKS:
        lost, right, examples = [], [], []
        for seed in range(options.seeds):
            mask = make_mask(name, k.shape[-2:], rate, generator=seed).expand(k.shape[-2:]).numpy()
            undersampled = replace(scan, kspace=(k * mask)[None], mask=mask)
            figures = compare(undersampled, reference, inside)
            quality, held_out = np.array(figures).T
            lost.append(float(quality.max() - quality[held_out.argmin()]))
            for i, j in combinations(range(len(METHODS)), 2):
                if abs(quality[i] - quality[j]) > 0.5:
                    right.append(bool((quality[i] > quality[j]) == (held_out[i] < held_out[j])))
            examples.append(figures)
        rows.append({"mask": name, "acceleration": rate, "lost": lost, "pairs": float(np.mean(right)), "all": examples})
        shown = "  ".join(f"{p:.1f}/{h:.3f}" for p, h in examples[0])
        print(f"{name + f' {rate}x':>22}  {np.mean(lost):7.2f}  {np.mean(right):5.2f}   {shown}", flush=True)
    record("trust", {"methods": METHODS, "rows": rows})


if __name__ == "__main__":
    main()
