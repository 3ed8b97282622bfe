"""Image quality of the classical methods on a real brain, retrospectively undersampled; nothing is set by hand.

``python benchmarks/classical.py [--data FOLDER] [--seeds N] [--peers]``

Reference: all data, combined by the coil maps of all data; magnitudes are compared, the peak is the reference's
maximum. Three scores: ``inside``, mean over the pixels where the reference's maps are not zero; ``masked``, errors
outside of them set to zero and the mean over the frame (the same by a constant, and what a published 36.5 and 33.5 dB
of sigpy's L1-wavelet refer to); ``frame``, everything. Coil maps come from the undersampled data.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import sigpy.mri
import torch
from common import record
from deepinv.models import Reconstructor
from torch import Tensor

from recon.calibration.espirit import espirit
from recon.models import registry
from recon.physics import MultiCoilMRI
from recon.physics.layout import to_complex

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
METHODS = ("rss", "zero-filled", "cg-sense", "tv", "tgv", "l1-wavelet")
SIGPY_LAMBDA = {5: 0.003, 10: 0.002}  # found by hand, at unit image scale
CALIBRATION = 24
SCORES = ("inside", "masked", "frame")


def brain(folder: Path) -> Tensor:
    """Fully sampled k-space (1, coil, y, x)."""
    samples = np.fromfile(folder / "mri/kspace/brain-full-8ch.cfl", dtype=np.complex64)
    return torch.from_numpy(samples.reshape(8, 180, 230).transpose(0, 2, 1).copy())[None]


def scores(x: Tensor, reference: Tensor, inside: Tensor) -> dict[str, float]:
    """PSNR of magnitudes in dB, three ways."""
    error = (x - reference).square()
    peak = reference.max().square()
    means = {"inside": error[inside].mean(), "masked": (error * inside).mean(), "frame": error.mean()}
    return {name: float(10 * torch.log10(peak / mean)) for name, mean in means.items()}


def sigpy_l1(y: Tensor, mask: Tensor, weight: float) -> Tensor:
    """Reconstruct by sigpy with its own maps, the better of its usual settings."""
    k = y[0].numpy()
    maps = sigpy.mri.app.EspiritCalib(k, calib_width=CALIBRATION, show_pbar=False).run()
    app = sigpy.mri.app.L1WaveletRecon(k, maps, weight, weights=mask.numpy().astype(np.float32), show_pbar=False)
    return torch.from_numpy(np.abs(app.run()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="also run sigpy's L1WaveletRecon")
    options = parser.parse_args()
    k = brain(options.data)
    full = espirit(k, calibration=CALIBRATION, sets=1).maps
    reference = MultiCoilMRI(full).combine(k)[0].abs()
    k, reference = k / reference.max(), reference / reference.max()
    inside = full.abs().sum((0, 1, 2)) > 0

    found: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    for acceleration in (5, 10):
        for seed in range(options.seeds):
            drawn = sigpy.mri.poisson(k.shape[2:], acceleration, calib=(CALIBRATION, CALIBRATION), seed=seed)
            mask = torch.from_numpy(np.abs(drawn) > 0)
            y = k * mask
            physics = MultiCoilMRI(espirit(y, mask, sets=1).maps, mask)
            for name in METHODS:
                model: Reconstructor = registry[name]()
                start = time.perf_counter()
                x = model(y, physics)
                seconds = time.perf_counter() - start
                magnitude = x[0, 0] if x.shape[1] == 1 else to_complex(x)[0, 0].abs()
                chosen = getattr(model, "details", {})
                found[acceleration, name].append({**scores(magnitude, reference, inside), "seconds": seconds, **chosen})
            if options.peers:
                start = time.perf_counter()
                magnitude = sigpy_l1(y, mask, SIGPY_LAMBDA[acceleration])
                seconds = time.perf_counter() - start
                found[acceleration, "sigpy L1"].append({**scores(magnitude, reference, inside), "seconds": seconds})
    report(found, options.seeds)


def report(found: dict[tuple[int, str], list[dict[str, float]]], seeds: int) -> None:
    print(f"PSNR in dB, mean ± standard deviation over {seeds} masks; no method was given a number")
    print(f"{'':4}{'':12}{'inside':>15}{'masked':>15}{'frame':>15}{'seconds':>9}  chosen")
    rows = []
    for (acceleration, name), runs in found.items():
        row: dict[str, object] = {"acceleration": acceleration, "method": name}
        line = f"{acceleration:2}x {name:12}"
        for score in SCORES:
            values = np.array([run[score] for run in runs])
            row[score] = [round(float(values.mean()), 3), round(float(values.std(ddof=min(1, seeds - 1))), 3)]
            line += f"{values.mean():8.2f} ± {values.std(ddof=min(1, seeds - 1)):4.2f}"
        seconds = float(np.median([run["seconds"] for run in runs]))
        row["seconds"] = round(seconds, 3)
        chosen = {key: [run[key] for run in runs] for key in runs[0] if key not in (*SCORES, "seconds")}
        row["chosen"] = chosen
        text = ", ".join(f"{key} {min(values):.3g} to {max(values):.3g}" for key, values in chosen.items())
        print(f"{line}{seconds:9.2f}  {text}")
        rows.append(row)
    record("classical", {"data": "brain-full-8ch", "seeds": seeds, "rows": rows})


if __name__ == "__main__":
    main()
