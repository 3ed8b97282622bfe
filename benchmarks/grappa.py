"""GRAPPA beside pygrappa on a real brain: error of the lines left out, seconds.

``python benchmarks/grappa.py [--data FOLDER] [--repeats N]``

Every R-th line and 24 calibration lines of brain-full-8ch. pygrappa has its default regularisation 0.01; mdgrappa a
kernel that reaches as far as ours, cgrappa the (5, 5) that it can have. Ours has 0.01 once, and once the strength that
it takes from the noise. Exact data: noise-free k-space whose samples are sums of their neighbours, in double precision
and with little regularisation.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pygrappa
import torch
from common import ratio, record, time_side_by_side
from torch import Tensor

from recon.calibration import noise_level
from recon.models.grappa import grappa

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
CALIBRATION = 24


def brain(folder: Path) -> Tensor:
    """Fully sampled k-space (1, coil, y, x)."""
    samples = np.fromfile(folder / "mri/kspace/brain-full-8ch.cfl", dtype=np.complex64)
    return torch.from_numpy(samples.reshape(8, 180, 230).transpose(0, 2, 1).copy())[None]


def harmonic(coils: int = 8) -> Tensor:
    """K-space (1, coil, y, x) of coils whose maps are sums of nine harmonics."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(1, 1, 66, 62, generator=generator, dtype=torch.complex128)
    kernel = torch.randn(coils, 1, 3, 3, generator=generator, dtype=torch.complex128)
    return torch.nn.functional.conv2d(spectrum, kernel)


def theirs(k: Tensor, kernel: tuple[int, int], lamda: float = 0.01, fast: bool = False) -> Tensor:
    """Fill by pygrappa, whose kernel is counted in samples of the full grid."""
    lines = slice(k.shape[3] // 2 - CALIBRATION // 2, k.shape[3] // 2 + CALIBRATION // 2)
    fill = pygrappa.cgrappa if fast else pygrappa.mdgrappa
    samples = k[0].to(torch.complex128 if fast else k.dtype).numpy()  # cgrappa knows no other
    filled = fill(samples, samples[:, :, lines].copy(), kernel_size=kernel, coil_axis=0, lamda=lamda)
    return torch.from_numpy(filled)[None]


def sampling(shape: torch.Size, step: int) -> Tensor:
    """Mask of every ``step``-th line and the calibration lines."""
    mask = torch.zeros(shape[2:], dtype=torch.bool)
    mask[:, ::step] = True
    mask[:, shape[3] // 2 - CALIBRATION // 2 : shape[3] // 2 + CALIBRATION // 2] = True
    return mask


def exact(step: int) -> dict[str, float]:
    """Relative errors on exact data, away from the edges."""
    k = harmonic()
    mask = sampling(k.shape, step)
    filled = {
        "ours": grappa(k * mask, mask, regularisation=1e-12),
        "pygrappa.mdgrappa": theirs(k * mask, (5, 4 * step - 1), 1e-12),
    }
    inside = (..., slice(8, -8), slice(12, -12))
    return {name: float((f - k)[inside].norm() / k[inside].norm()) for name, f in filled.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    k = brain(options.data)
    header = f"{'':4}{'method':22}{'error of lines left out':>24}{'seconds':>10}"
    print(header + f"{'mdgrappa over it':>26}{'cgrappa over it':>26}")
    rows = []
    for step in (2, 3, 4):
        mask = sampling(k.shape, step)
        y = k * mask
        sigma = float(noise_level(y, mask))
        same = (5, 4 * step - 1)  # four lines, as ours
        tasks = {
            "pygrappa.mdgrappa": lambda y=y, same=same: theirs(y, same),
            "pygrappa.cgrappa": lambda y=y: theirs(y, (5, 5), fast=True),
            "ours, 0.01": lambda y=y, mask=mask: grappa(y, mask, regularisation=0.01),
            "ours, from the noise": lambda y=y, mask=mask, sigma=sigma: grappa(y, mask, sigma=sigma),
        }
        results = {name: task() for name, task in tasks.items()}
        seconds = time_side_by_side(tasks, options.repeats, warmup=0)
        left_out = k[..., ~mask]
        for name, filled in results.items():
            error = float((filled - k)[..., ~mask].norm() / left_out.norm())
            ratios = {peer: ratio(seconds[peer], seconds[name]) for peer in list(tasks)[:2]}
            columns = "".join(f"{m:9.1f} ({least:.1f} to {most:.1f})".rjust(26) for m, least, most in ratios.values())
            print(f"{step:2}x {name:22}{error:24.3f}{float(np.median(seconds[name])):10.3f}{columns}")
            rows.append(
                {"acceleration": step, "method": name, "error": error, "seconds": seconds[name], "ratio": ratios}
            )
    on_exact = {step: exact(step) for step in (2, 3)}
    for step, errors in on_exact.items():
        print(f"{step}x on exact data:", ", ".join(f"{name} {value:.1e}" for name, value in errors.items()))
    record(
        "grappa",
        {"data": "brain-full-8ch", "calibration": CALIBRATION, "rows": rows, "error_on_exact_data": on_exact},
        "pygrappa",
    )


if __name__ == "__main__":
    main()
