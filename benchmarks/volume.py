"""A volume of 50 slices from file to file: `recon reconstruct` beside a BART script that does the same.

``python benchmarks/volume.py [--slices N] [--repeats N]``

Eight coils, 230 x 180, variable-density Poisson-disc sampling at 5x. BART: for each slice ESPIRiT maps (`ecalib -m 1`)
and L1-wavelets (`pics -R W`) of a fixed strength, in as many processes as there are cores, of one thread each, which
is its faster way here. recon: the command with its defaults (which search the strength once in eight slices, and judge
three slices by left-out samples and noise replicas), and without that judgement. BART is spared the search.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ratio, record, time_side_by_side

import recon
from recon.datasets import Image
from recon.datasets.simulate import simulate_mri
from recon.metrics import psnr

SHAPE = (230, 180)
STRENGTH = 0.003  # of both, in units of the image's maximum
SCRIPT = """
set -e
export OMP_NUM_THREADS=1
one() {
  bart slice 13 $1 all k$1
  bart ecalib -m 1 -r 24 k$1 s$1 > /dev/null
  bart pics -S -l1 -R W:3:0:$STRENGTH -i 50 k$1 s$1 x$1 > /dev/null
}
export -f one
export STRENGTH
seq 0 $(( $SLICES - 1 )) | xargs -P $CORES -I{} bash -c 'one {}'
bart join 13 $(seq -f 'x%g' 0 $(( $SLICES - 1 ))) volume
"""


def head(n: int) -> np.ndarray:
    """Draw ``(slice, y, x)``: an ellipsoid with smaller ones in it, no slice like its neighbour."""
    rng = np.random.default_rng(0)
    grids = np.meshgrid(*(np.linspace(-1, 1, s) for s in (n, *SHAPE)), indexing="ij")
    volume = np.zeros((n, *SHAPE), np.float32)
    for index in range(40):
        centre = rng.uniform(-0.5, 0.5, 3) if index else np.zeros(3)
        axes = rng.uniform(0.08, 0.35, 3) if index else np.array([1.2, 0.85, 0.75])
        inside = sum(((g - c) / a) ** 2 for g, c, a in zip(grids, centre, axes, strict=True)) < 1
        volume += inside * (rng.uniform(-0.4, 0.5) if index else 1.0)
    return np.clip(volume, 0, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    truth = head(options.slices)
    simulation = simulate_mri(truth, coils=8, mask="poisson", acceleration=5.0, center=24, snr=50.0)
    figures: dict[str, object] = {"slices": options.slices, "shape": SHAPE, "coils": 8, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scan = recon.datasets.save(simulation.scan, work / "scan.h5")
        stack = np.stack([simulation.scan.slice(i) for i in range(options.slices)])  # (slice, coil, y, x)
        write_bart(work / "all", stack)

        def command(name: str, *flags: str) -> object:
            out = work / f"{name}.h5"
            run = [sys.executable, "-m", "recon", "reconstruct", str(scan), "--out", str(out), "--jobs", str(cores)]
            return subprocess.run([*run, "--overwrite", "--json", *flags], check=True, capture_output=True)

        tasks = {
            "recon": lambda: command("default"),
            "recon, without trust": lambda: command("bare", "--trust", "none"),
        }
        if shutil.which("bart"):
            environment = {**os.environ, "SLICES": str(options.slices), "CORES": str(cores), "STRENGTH": str(STRENGTH)}
            tasks["bart"] = lambda: subprocess.run(
                ["bash", "-c", SCRIPT], check=True, cwd=work, env=environment, capture_output=True
            )
        seconds = time_side_by_side(tasks, repeats=options.repeats, warmup=0)
        reference = np.stack([np.abs(simulation.truth[i]) for i in range(options.slices)])
        quality = {
            name: psnr(volume_of(work / f"{file}.h5"), reference)
            for name, file in (("recon", "default"), ("recon, without trust", "bare"))
        }
        if "bart" in tasks:
            quality["bart"] = psnr(scaled(read_bart(work / "volume", options.slices), reference), reference)
    for name, times in seconds.items():
        print(f"{name:24s} {np.median(times):7.1f} s  {quality[name]:6.2f} dB")
    figures |= {"seconds": {name: float(np.median(times)) for name, times in seconds.items()}, "psnr": quality}
    if "bart" in seconds:
        for name in ("recon", "recon, without trust"):
            figures[f"{name}: times faster than bart"] = ratio(seconds["bart"], seconds[name])
            print(f"{name}: {figures[f'{name}: times faster than bart']} times faster than the BART script")
    record("volume", figures)


def volume_of(path: Path) -> np.ndarray:
    opened = recon.datasets.open(path)
    assert isinstance(opened, Image)
    return np.abs(np.stack([np.asarray(opened.pixels[i]) for i in range(opened.n_slices)]))


def write_bart(path: Path, stack: np.ndarray) -> None:
    """(slice, coil, y, x) as BART's dims 13, 3, 1, 2."""
    n, coil, y, x = stack.shape
    path.with_suffix(".hdr").write_text(f"# Dimensions\n1 {y} {x} {coil} 1 1 1 1 1 1 1 1 1 {n} 1 1\n")
    stack.transpose(0, 1, 3, 2).astype(np.complex64).tofile(path.with_suffix(".cfl"))


def read_bart(path: Path, n: int) -> np.ndarray:
    return np.abs(np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(n, SHAPE[1], SHAPE[0]).transpose(0, 2, 1))


def scaled(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """BART's image is in units of its own; each slice is given the scale that suits it best."""
    factor = (image * reference).sum((1, 2)) / np.maximum((image**2).sum((1, 2)), 1e-12)
    return image * factor[:, None, None]


if __name__ == "__main__":
    main()
