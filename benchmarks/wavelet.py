r"""L1-wavelet to the same objective value against sigpy and BART: iterations and seconds.

All solve :math:`\min_x \tfrac12 \|Ax - y\|^2 + \lambda \|Wx\|_1` from zero with the same data, coil maps and lambda,
all coefficients penalised (so do sigpy and BART), no random shifts. Against sigpy the wavelet is db4 with its number
of levels, against BART dau2 (db2) with its, and ours is shifted to where the peer's grid of coefficients lies. What is
left of differences is the image's border: ours is periodic, sigpy's continued by zeros, BART's mirrored. So each has
to come within 0.1 % of the least value of the objective with its own W (sigpy's and BART's by their own code); how far
the peer's image is then from the least value of our objective, and from our image, stands beside it. Where borders
matter a peer's W is not orthogonal and its threshold not quite the proximal map, so that its own objective settles
above its minimum; a second figure therefore takes the iterations after which ours has the value, in our objective,
of the peer's image.

A solver's time is that of a run from nothing with the number of iterations that takes it there. BART's is that of its
command, on files in memory where the machine has such a folder; what reading and writing files of that size takes it
(``bart scale``) is measured beside it and taken off in the second figure. All have the same threads.

``python benchmarks/wavelet.py [--data FOLDER]``
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pywt
import sigpy
import sigpy.mri
import torch
from classical import DATA, brain
from common import ratio, record, time_side_by_side
from numpy import ndarray
from torch import Tensor

from recon.calibration.espirit import espirit
from recon.physics import MultiCoilMRI
from recon.pogm import pogm
from recon.regularisation import backprojection, largest_eigenvalue
from recon.sparsity import SparseDetails
from recon.wavelets import Wavelets

LAMBDA, TOLERANCE, MANY = 0.003, 1e-3, 300


class ShiftedWavelets(Wavelets):
    """With the grid of the coefficients where a peer has it."""

    shift: tuple[int, ...] = (0, 0)

    def analysis(self, x: Tensor, shift: None = None) -> Tensor:  # noqa: ARG002
        """Transform with the own shift."""
        return super().analysis(x, self.shift)

    def synthesis(self, c: Tensor, shift: None = None) -> Tensor:  # noqa: ARG002
        """Transform back with the own shift."""
        return super().synthesis(c, self.shift)


class SparseEverything(SparseDetails):
    """Penalises the low-pass part too, as sigpy and BART do."""

    def __init__(self, wavelets: Wavelets, strength: float) -> None:
        super().__init__(wavelets, strength)
        self._low = (..., *(slice(0, 0) for _ in wavelets.low))


@dataclass
class Case:
    """Data, operator and objective; images are complex ``(y, x)``."""

    name: str
    y: Tensor
    maps: Tensor
    mask: Tensor
    physics: MultiCoilMRI = field(init=False)

    def __post_init__(self) -> None:
        self.physics = MultiCoilMRI(self.maps, self.mask)

    def misfit(self, x: Tensor) -> float:
        residual = (self.physics.expand(x[None]) - self.y) * self.physics.mask
        return 0.5 * float(residual.abs().square().sum())

    def objective(self, x: Tensor, penalty: Callable[[Tensor], float]) -> float:
        return self.misfit(x) + LAMBDA * penalty(x)


def simulated() -> Case:
    """16 coils, 320x320, Poisson-disc 6x."""
    shape, coils = (320, 320), 16
    image = torch.from_numpy(sigpy.shepp_logan(shape)).to(torch.complex64)
    maps = torch.from_numpy(sigpy.mri.birdcage_maps((coils, *shape))).to(torch.complex64)[None]
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    mask = torch.from_numpy(np.abs(sigpy.mri.poisson(shape, 6, calib=(24, 24), seed=0)) > 0)
    noise = torch.randn((1, coils, *shape), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    y = (MultiCoilMRI(maps).expand(image[None]) + 0.01 * noise) * mask
    return Case("16 coils 320x320, simulated", y, maps, mask)


def measured(folder: Path) -> Case:
    """8 coils, 230x180, a real brain, Poisson-disc 5x."""
    k = brain(folder)
    mask = torch.from_numpy(np.abs(sigpy.mri.poisson(k.shape[2:], 5, calib=(24, 24), seed=0)) > 0)
    y = k * mask
    maps = espirit(y, mask, sets=1).maps[:, 0]
    return Case("8 coils 230x180, brain", y / MultiCoilMRI(maps).combine(k).abs().max(), maps, mask)


def first_within(values: list[float], least: float) -> int:
    """Return the number of iterations, counted from 1, from which on the objective stays within the tolerance."""
    outside = [n for n, value in enumerate(values, 1) if value > (1 + TOLERANCE) * least]
    return (outside[-1] if outside else 0) + 1


class Ours:
    """Our solver with the wavelet and levels of a peer."""

    def __init__(self, case: Case, order: int, levels: int) -> None:
        self.case, self.order, self.levels, self.shift = case, order, levels, (0, 0)

    def prox(self) -> SparseEverything:
        wavelets = ShiftedWavelets(self.case.physics.spatial, order=self.order, levels=self.levels)
        wavelets.shift = self.shift
        return SparseEverything(wavelets, LAMBDA)

    def penalty(self, x: Tensor) -> float:
        return float(self.prox().penalty(x[None, None]))

    def move_grid_to(self, x: Tensor) -> None:
        """Shift the wavelets to where the penalty of a peer's solution is least."""
        for axis in (0, 1, 0, 1):
            penalties = []
            for shift in range(2**self.levels):
                self.shift = (shift, self.shift[1]) if axis == 0 else (self.shift[0], shift)
                penalties.append(self.penalty(x))
            best = int(np.argmin(penalties))
            self.shift = (best, self.shift[1]) if axis == 0 else (self.shift[0], best)

    def run(self, iterations: int, seen: list[Tensor] | None = None) -> Tensor:
        """Do everything that a call does: operator, wavelets, step, iterations."""
        physics = MultiCoilMRI(self.case.maps, self.case.mask)
        prox = self.prox()

        def watched(z: Tensor, gamma: float) -> Tensor:
            x = prox(z, gamma)
            seen.append(x[0, 0])
            return x

        b = backprojection(self.case.y, physics)
        step = 1 / largest_eigenvalue(physics)
        return pogm(physics.normal, b, prox if seen is None else watched, step, max_iter=iterations)[0, 0]

    def iterates(self) -> list[Tensor]:
        seen: list[Tensor] = []
        self.run(MANY, seen)
        return seen


class Sigpy:
    """sigpy's `L1WaveletRecon` with its defaults (db4)."""

    def __init__(self, case: Case) -> None:
        self.k, self.maps = case.y[0].numpy(), case.maps[0].numpy()
        self.weights = case.mask.numpy().astype(np.float32)
        self.transform = sigpy.linop.Wavelet(self.k.shape[1:], wave_name="db4")

    def penalty(self, x: Tensor) -> float:
        return float(np.abs(self.transform(x.numpy())).sum())

    def app(self, iterations: int) -> sigpy.mri.app.L1WaveletRecon:
        return sigpy.mri.app.L1WaveletRecon(
            self.k, self.maps, LAMBDA, weights=self.weights, max_iter=iterations, show_pbar=False
        )

    def run(self, iterations: int) -> Tensor:
        return torch.from_numpy(self.app(iterations).run())

    def iterates(self) -> list[Tensor]:
        app, seen = self.app(MANY), []
        for _ in range(MANY):
            app.alg.update()
            seen.append(torch.from_numpy(app.x.copy()))
        return seen


class Bart:
    """``bart pics -R W`` without random shifts and without scaling."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.folder, self.shape = folder, case.physics.spatial
        self.write("k", case.y[0].permute(1, 2, 0)[:, :, None].numpy())
        self.write("maps", case.maps[0].permute(1, 2, 0)[:, :, None].numpy())
        # Its FFT has another constant phase for some sizes.
        self.phase = torch.ones((), dtype=torch.complex64)
        measured = case.physics.expand(self.run(5)[None]) * case.mask
        self.phase = torch.vdot(measured.flatten(), case.y.flatten()).sgn()

    def write(self, name: str, array: ndarray) -> None:
        (self.folder / f"{name}.hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
        array.astype(np.complex64).ravel(order="F").tofile(self.folder / f"{name}.cfl")

    def read(self, name: str) -> ndarray:
        return np.fromfile(self.folder / f"{name}.cfl", np.complex64)

    def call(self, *arguments: str) -> None:
        subprocess.run(["bart", *arguments], cwd=self.folder, check=True, capture_output=True)

    def penalty(self, x: Tensor) -> float:
        self.write("x", x.numpy())
        self.call("wavelet", "-D", "3", "x", "c")
        return float(np.abs(self.read("c")).sum())

    def run(self, iterations: int) -> Tensor:
        self.call("pics", "-n", "-w", "1", "-i", str(iterations), "-R", f"W:3:0:{LAMBDA}", "k", "maps", "out")
        return torch.from_numpy(self.read("out").reshape(self.shape[::-1]).T.copy()) * self.phase

    def files(self) -> None:
        """Read and write as much as `run` does, or a little less."""
        self.call("scale", "1", "k", "copy")

    def enough(self, good: Callable[[Tensor], bool]) -> tuple[int, Tensor]:
        """Find the least number of iterations by bisection, for each image is a run."""
        low, high, image = 0, MANY, self.run(MANY)
        while high - low > 1:
            middle = (low + high) // 2 if high < 64 else max(low + 1, high // 2)
            x = self.run(middle)
            if good(x):
                high, image = middle, x
            else:
                low = middle
        return high, image


def compare(case: Case, ours: Ours, peer: Sigpy | Bart, name: str) -> dict[str, object]:
    if isinstance(peer, Sigpy):
        images = peer.iterates()
        final = images[-1]
        values = [case.objective(x, peer.penalty) for x in images]
        least = min(values)
        count = first_within(values, least)
        theirs = images[count - 1]
    else:
        final = peer.run(MANY)
        least = case.objective(final, peer.penalty)
        count, theirs = peer.enough(lambda x: case.objective(x, peer.penalty) <= (1 + TOLERANCE) * least)
    ours.move_grid_to(final)
    our_values = [case.objective(x, ours.penalty) for x in ours.iterates()]
    our_count, our_least = first_within(our_values, min(our_values)), min(our_values)
    found = {"ours": (our_count, our_least), name: (count, least)}
    distance = float(torch.linalg.vector_norm(ours.run(our_count) - theirs) / torch.linalg.vector_norm(theirs))

    value = case.objective(theirs, ours.penalty)
    excess = value / our_least - 1
    level_count = 1 + next(n for n, ours_value in enumerate(our_values) if ours_value <= value)

    tasks: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.run(our_count),
        "ours, to the peer's value": lambda: ours.run(level_count),
        name: lambda: peer.run(count),
    }
    if isinstance(peer, Bart):
        tasks["files"] = peer.files
    seconds = time_side_by_side(tasks)
    times = ratio(seconds[name], seconds["ours"])
    print(f"{case.name}, against {name}")
    for who, (n, objective) in found.items():
        took = float(np.median(seconds[who]))
        print(
            f"  {who:6} {n:4} iterations {took:7.3f} s {1e3 * took / n:6.1f} ms each, least objective {objective:.5f}"
        )
    print(f"  its image by our objective: {100 * excess:+.2f} % of the least; images differ by {100 * distance:.2f} %")
    print(f"  times faster: {times[0]:.2f} ({times[1]:.2f} to {times[2]:.2f})")
    to_value = ratio(seconds[name], seconds["ours, to the peer's value"])
    print(f"  times faster to its value in our objective, {level_count} iterations: {to_value[0]:.2f}")
    row: dict[str, object] = {
        "case": case.name,
        "peer": name,
        "iterations": {who: n for who, (n, _) in found.items()},
        "least_objective": {who: value for who, (_, value) in found.items()},
        "peer_image_excess_by_our_objective": excess,
        "image_distance": distance,
        "seconds": seconds,
        "times_faster": times,
        "iterations_to_the_peers_value": level_count,
        "times_faster_to_the_peers_value": to_value,
    }
    if isinstance(peer, Bart):
        net = ratio([a - b for a, b in zip(seconds[name], seconds["files"], strict=True)], seconds["ours"])
        print(f"  times faster, its files taken off: {net[0]:.2f} ({net[1]:.2f} to {net[2]:.2f})")
        row["times_faster_without_files"] = net
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    options = parser.parse_args()
    memory = Path("/dev/shm")
    rows = []
    for case in (simulated(), measured(options.data)):
        spatial = case.physics.spatial
        rows.append(compare(case, Ours(case, 4, pywt.dwtn_max_level(spatial, "db4")), Sigpy(case), "sigpy"))
        if shutil.which("bart") is None:
            print("no bart here: not compared")
            continue
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            levels = int(np.log2(min(spatial) / 16))  # it halves down to 16
            rows.append(compare(case, Ours(case, 2, levels), Bart(case, Path(folder)), "BART"))
    record("wavelet", {"lambda": LAMBDA, "tolerance": TOLERANCE, "rows": rows})


if __name__ == "__main__":
    main()
