"""ESPIRiT against sigpy and BART: seconds, times faster, and the angle between their maps and ours.

The 8 coils at 230x180 are the built-in scan, the rest is simulated. BART's time is that of its command, on files in
memory where the machine has such a folder; what reading and writing files of that size takes it (``bart scale``) is
measured beside it and taken off in the second figure. All have the same threads: OMP_NUM_THREADS, or all cores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from common import ratio, record, time_side_by_side
from skimage.data import shepp_logan_phantom

from recon.calibration import CoilMaps, espirit
from recon.physics.fft import fft_centred
from recon.sample import sample_scan

THRESHOLD, CROP = 0.001**0.5, 0.8  # BART's defaults
CASES = [(8, 230, 180), (16, 230, 180), (8, 320, 320), (16, 320, 320)]


def simulated(coils: int, ny: int, nx: int) -> torch.Tensor:
    """k-space of a phantom under Gaussian coils, with noise: ``(coil, y, x)``."""
    phantom = torch.from_numpy(shepp_logan_phantom())[None, None]
    image = torch.nn.functional.interpolate(phantom, (ny, nx), mode="bilinear", antialias=True)[0, 0]
    y, x = torch.meshgrid(torch.linspace(-1, 1, ny), torch.linspace(-1, 1, nx), indexing="ij")
    angle = 2 * torch.pi * torch.arange(coils)[:, None, None] / coils
    ring = 1.0 + 0.4 * (torch.arange(coils)[:, None, None] % 2)
    maps = torch.polar(
        torch.exp(-((y - ring * angle.sin()) ** 2) - (x - ring * angle.cos()) ** 2), angle + x * angle.sin()
    )
    noise = torch.randn(coils, ny, nx, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return fft_centred((maps * image).to(torch.complex64), (-2, -1)) + 0.005 * noise


def measured(coils: int, ny: int, nx: int) -> torch.Tensor:
    """Return the built-in scan where it has this size, else a simulated one."""
    scan = sample_scan()
    if (scan.n_coils, *scan.spatial) == (coils, ny, nx):
        return torch.from_numpy(scan.slice(0))
    return simulated(coils, ny, nx)


def write_cfl(path: Path, array: np.ndarray) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_maps(path: Path, shape: tuple[int, ...]) -> torch.Tensor:
    coils, ny, nx = shape
    return torch.from_numpy(np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(coils, nx, ny)).mT


def degrees(ours: CoilMaps, theirs: torch.Tensor) -> tuple[float, float]:
    """99th percentile and maximum of the angle between both maps, inside the body.

    That is where the first eigenvalue is above 0.95, and the second below 0.8: where both are nearly equal, neither
    peer's power iteration has converged after its 30 or 100 turns.
    """
    first, second = ours.eigenvalues[0]
    body = (first > 0.95) & (second < 0.8)
    a = ours.maps[0, 0][:, body].to(torch.complex128)
    b = theirs[:, body].to(torch.complex128)
    a, b = a / a.norm(dim=0), b / b.norm(dim=0)
    angle = torch.rad2deg(torch.asin((a - (b.conj() * a).sum(0) * b).norm(dim=0).clamp(max=1)))
    return float(angle.quantile(0.99)), float(angle.max())


def run(coils: int, ny: int, nx: int, folder: Path) -> dict[str, object]:
    from sigpy.mri.app import EspiritCalib

    k = measured(coils, ny, nx)
    numpy_k = k.numpy()
    files = {name: folder / f"{name}_{coils}_{ny}" for name in ("kspace", "maps", "copy")}
    write_cfl(files["kspace"], numpy_k.transpose(1, 2, 0)[None])
    bart = shutil.which("bart")

    def ours(sets: Literal[1, 2] = 1) -> CoilMaps:
        return espirit(k[None], threshold=THRESHOLD, crop=CROP, sets=sets)

    def theirs() -> np.ndarray:
        return EspiritCalib(numpy_k, thresh=THRESHOLD, crop=CROP, show_pbar=False).run()

    def command(*words: str | Path) -> None:
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        subprocess.run([bart, *map(str, words)], check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})

    tasks = {"ours": ours, "ours, all automatic": lambda: espirit(k[None]), "sigpy": theirs}
    if bart:
        tasks["bart"] = lambda: command("ecalib", "-m", "1", files["kspace"], files["maps"])
        tasks["bart, files alone"] = lambda: command("scale", "1", files["kspace"], files["copy"])
    seconds = time_side_by_side(tasks)
    found = ours(sets=2)
    figures: dict[str, object] = {
        "coils": coils,
        "shape": [ny, nx],
        "seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "times_faster_than_sigpy": ratio(seconds["sigpy"], seconds["ours"]),
        "degrees_from_sigpy": degrees(found, torch.from_numpy(theirs())),
    }
    if bart:
        bare = [a - b for a, b in zip(seconds["bart"], seconds["bart, files alone"], strict=True)]
        figures["times_faster_than_bart"] = ratio(seconds["bart"], seconds["ours"])
        figures["times_faster_than_bart_without_files"] = ratio(bare, seconds["ours"])
        figures["degrees_from_bart"] = degrees(found, read_maps(files["maps"], (coils, ny, nx)))
    return figures


def main() -> None:
    warnings.filterwarnings("ignore")
    memory = Path("/dev/shm")  # files in memory, so that no disk is measured
    print(f"{torch.get_num_threads()} threads; median seconds; times faster: median (least to greatest) of 5 repeats")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        for case in CASES:
            figures = run(*case, Path(folder))
            record("espirit", figures)
            print(f"\n{case[0]} coils, {case[1]}x{case[2]}")
            for name, value in figures["seconds"].items():
                print(f"  {name:24} {value:8.3f} s")
            for name, value in figures.items():
                if name.startswith("times"):
                    print(f"  {name:40} {value[0]:6.1f} ({value[1]:.1f} to {value[2]:.1f})")
                elif name.startswith("degrees"):
                    print(f"  {name:40} {value[0]:.3f} (99th percentile), {value[1]:.3f} (maximum)")


if __name__ == "__main__":
    main()
