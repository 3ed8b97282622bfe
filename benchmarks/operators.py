"""A^H A and CG-SENSE against deepinv, sigpy, mrpro and BART; how time and memory grow with coils and matrix.

All solve the same problem with the same iterations, and the table says by how much their images differ from ours.
Each library runs in a process of its own, as it does for its user (what one does to the memory allocator would
change another's time), and the processes take turns. BART's figure is that of its command, files in memory where
the machine has such a folder; the second one takes off what the same command needs for one iteration, so that it
holds iterations alone. All have the same threads: OMP_NUM_THREADS, or all cores.

With the argument ``pairs`` only the operators of imaging are timed, beside deepinv's (`operator_pairs`).
"""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from common import ratio, record, time_side_by_side
from operator_pairs import beside_deepinv

ITERATIONS, REPEATS = 30, 5
SCALING = [(c, 256) for c in (4, 8, 16, 32)] + [(16, n) for n in (128, 192, 256, 320, 384, 512)]
BARS = {"gram": {"deepinv": 4, "sigpy": 3}, "cg": {"deepinv": 4, "sigpy": 3, "bart": 2, "mrpro": 2}}


def problem(coils: int, n: int, lines: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make maps ``(coil, y, x)``, a mask ``(y, x)`` (``lines``: along x only) and noisy k-space of a phantom."""
    import sigpy
    import sigpy.mri

    generator = torch.Generator().manual_seed(0)
    maps = torch.from_numpy(sigpy.mri.birdcage_maps((coils, n, n), r=1.2)).to(torch.complex64)
    maps = maps / maps.abs().square().sum(0).sqrt()
    distance = torch.arange(n) - n // 2
    if lines:
        mask = ((distance % 4 == 0) | (distance.abs() < n // 24)).expand(n, n)
    else:
        radius = (distance[:, None] ** 2 + distance**2).sqrt() / n
        mask = torch.rand(n, n, generator=generator) < (0.04 / (radius**2 + 0.02)).clamp(max=1) * 0.5
        mask |= radius < 12 / n
    image = torch.from_numpy(sigpy.shepp_logan((n, n))).to(torch.complex64)
    k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(maps * image, (-2, -1)), norm="ortho"), (-2, -1))
    noise = torch.randn(k.shape, dtype=k.dtype, generator=generator)
    return maps, mask, (k + 0.01 * noise) * mask


def tasks_of_recon(maps: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> dict[str, Callable]:
    from recon.physics import MultiCoilMRI

    physics = MultiCoilMRI(maps[None], mask)
    channels = torch.view_as_real(x)[None].movedim(-1, 1)

    def as_complex(image: torch.Tensor) -> np.ndarray:
        return torch.complex(image[0, 0], image[0, 1]).numpy()

    return {
        "gram": lambda: as_complex(physics.A_adjoint_A(channels)),
        "cg": lambda: as_complex(physics.A_dagger(y[None], max_iter=ITERATIONS, tol=0.0)),
    }


def tasks_of_deepinv(maps: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> dict[str, Callable]:
    from deepinv.physics import MultiCoilMRI

    physics = MultiCoilMRI(mask=mask.float(), coil_maps=maps[None])
    channels = torch.view_as_real(x)[None].movedim(-1, 1)
    samples = torch.view_as_real(y)[None].movedim(-1, 1)

    def as_complex(image: torch.Tensor) -> np.ndarray:
        return torch.complex(image[0, 0], image[0, 1]).numpy()

    return {
        "gram": lambda: as_complex(physics.A_adjoint_A(channels)),
        "cg": lambda: as_complex(physics.A_dagger(samples, solver="CG", max_iter=ITERATIONS, tol=0.0)),
    }


def tasks_of_sigpy(maps: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> dict[str, Callable]:
    import sigpy.mri

    S, M, k, image = maps.numpy(), mask.numpy().astype(np.float32), y.numpy(), x.numpy()
    normal = sigpy.mri.linop.Sense(S, weights=M).N
    options = {"weights": M, "max_iter": ITERATIONS, "show_pbar": False}
    return {"gram": lambda: normal(image), "cg": lambda: sigpy.mri.app.SenseRecon(k, S, **options).run()}


def tasks_of_mrpro(maps: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> dict[str, Callable]:
    import mrpro

    n = mask.shape[0]
    where = torch.argwhere(mask)
    ky, kx = ((where[:, axis] - n // 2).float()[None, None, None, :, None] for axis in (0, 1))
    trajectory = mrpro.data.KTrajectory(kz=torch.zeros(1, 1, 1, 1, 1), ky=ky, kx=kx)
    size = mrpro.data.SpatialDimension(1, n, n)
    fourier = mrpro.operators.FourierOp(recon_matrix=size, encoding_matrix=size, traj=trajectory)
    model = fourier @ mrpro.operators.SensitivityOp(maps[None, :, None])
    normal, samples = model.gram, y[:, mask][None, :, None, :, None]
    image = x[None, None, None]

    def solve() -> np.ndarray:
        (b,) = model.H(samples)
        (found,) = mrpro.algorithms.optimizers.cg(
            normal, b, initial_value=torch.zeros_like(b), max_iterations=ITERATIONS, tolerance=0.0
        )
        return found[0, 0, 0].numpy()

    def apply() -> np.ndarray:
        return normal(image)[0][0, 0, 0].numpy()

    return {"gram": apply, "cg": solve}


class Bart:
    """BART's command on files."""

    def __init__(self, folder: Path, maps: torch.Tensor, y: torch.Tensor) -> None:
        self.folder, self.n = folder, y.shape[-1]
        for name, array in (("maps", maps), ("kspace", y)):
            # column-major (x, y, z, coil) is our (coil, y, x) in row-major order, with x and y named the other way
            (folder / f"{name}.hdr").write_text(f"# Dimensions\n{self.n} {self.n} 1 {len(array)}\n")
            array.numpy().astype(np.complex64).tofile(folder / f"{name}.cfl")

    def pics(self, _work: str, iterations: int) -> tuple[float, np.ndarray]:
        """Reconstruct by conjugate gradients; seconds of the command, and the image."""
        command = ["bart", "pics", "-S", "-l2", "-r0", f"-i{iterations}", "kspace", "maps", "out"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        start = time.perf_counter()
        subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        return seconds, np.fromfile(self.folder / "out.cfl", np.complex64).reshape(self.n, self.n)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


PEERS = {"recon": tasks_of_recon, "deepinv": tasks_of_deepinv, "sigpy": tasks_of_sigpy, "mrpro": tasks_of_mrpro}


def serve(name: str, lines: bool, orders: Connection) -> None:
    """Do the work that the parent orders, in a process of its own; answer with seconds and the image."""
    prepare()
    maps, mask, y = problem(16, 320, lines)
    x = torch.randn(320, 320, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    tasks = PEERS[name](maps, mask, y, x)
    while (work := orders.recv()) is not None:
        start = time.perf_counter()
        image = tasks[work]()
        orders.send((time.perf_counter() - start, image))


class Worker:
    """A library in its own process."""

    def __init__(self, name: str, lines: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, lines, theirs), daemon=True)
        self.process.start()

    def __call__(self, work: str) -> tuple[float, np.ndarray]:
        """Do the work; seconds and image."""
        self.orders.send(work)
        return self.orders.recv()

    def stop(self) -> None:
        """End the process."""
        self.orders.send(None)
        self.process.join()


def compare(title: str, work: str, tasks: dict[str, Callable[[str], tuple[float, np.ndarray]]]) -> dict[str, object]:
    """Time one work, the libraries in turns, and print it."""
    images = {name: task(work)[1] for name, task in tasks.items()}
    differences = {name: difference(image, images["recon"]) for name, image in images.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(REPEATS if work == "cg" else 5 * REPEATS):
        for name, task in tasks.items():
            seconds[name].append(task(work)[0])
    if "bart" in seconds:
        pairs = zip(seconds["bart"], seconds.pop("bart, one iteration"), strict=True)
        seconds["bart, iterations only"] = [(all_ - one) * ITERATIONS / (ITERATIONS - 1) for all_, one in pairs]
        del differences["bart, one iteration"]
    print(
        f"\n{title}\n{'':24}{'median':>10}{'least':>10}{'times slower (least, most)':>30}{'differs by':>12}{'bar':>6}"
    )
    figures: dict[str, object] = {"work": title, "seconds": seconds, "difference": differences}
    ratios = {}
    for name, times in seconds.items():
        median, least, most = ratios[name] = ratio(times, seconds["recon"])
        bar = BARS[work].get(name, "")
        apart = f"{differences[name]:.1e}" if name in differences else ""
        spread = f"{median:.1f} ({least:.1f}, {most:.1f})"
        print(
            f"{name:24}{np.median(times) * 1e3:7.1f} ms{min(times) * 1e3:7.1f} ms{spread:>30}{apart:>12}{bar:>6}",
            flush=True,
        )
    return figures | {"ratio": ratios}


def side_by_side(folder: Path) -> list[dict[str, object]]:
    results = []
    for lines in (False, True):
        maps, mask, y = problem(16, 320, lines)
        workers = {name: Worker(name, lines) for name in PEERS}
        kind = f"16 coils, 320x320, {'lines' if lines else '2D mask'}, {mask.float().mean():.0%} sampled"
        results.append(compare(f"A^H A, {kind}", "gram", dict(workers)))
        solvers: dict[str, Callable[[str], tuple[float, np.ndarray]]] = dict(workers)
        if shutil.which("bart"):
            bart = Bart(folder, maps, y)
            solvers |= {
                "bart": partial(bart.pics, iterations=ITERATIONS),
                "bart, one iteration": partial(bart.pics, iterations=1),
            }
        results.append(compare(f"CG-SENSE, {ITERATIONS} iterations, {kind}", "cg", solvers))
        for worker in workers.values():
            worker.stop()
    return results


def peak_and_time(name: str, coils: int, n: int) -> None:
    """Print time and peak memory of one application of A^H A; run in a process of its own."""
    maps, mask, y = problem(coils, n)
    x = torch.randn(n, n, dtype=torch.complex64)
    task = PEERS[name](maps, mask, y, x)["gram"]
    del y
    status = Path("/proc/self/status")
    before = float("nan")
    if status.exists():
        ctypes.CDLL(None).malloc_trim(0)  # what the setting up has freed is not to be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # peak := what is held now
        before = _field(status, "VmHWM")
    task()
    peak = _field(status, "VmHWM") - before if status.exists() else float("nan")
    seconds = time_side_by_side({"gram": task}, repeats=4 * REPEATS, warmup=2)["gram"]
    print(json.dumps({"seconds": min(seconds), "median": float(np.median(seconds)), "peak_mb": peak / 1024}))


def _field(status: Path, name: str) -> float:
    return float(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith(name)))


def scaling() -> list[dict[str, float]]:
    print("\nA^H A against C N log2 N (least of 20 runs), and memory above maps, mask and image at its peak")
    header = f"{'coils':>6}{'matrix':>8}{'ms':>9}{'ns / (C N log2 N)':>20}{'peak MB':>9}"
    print(header + f"{'deepinv ms':>12}{'peak MB':>9}")
    rows = []
    for coils, n in SCALING:
        row: dict[str, float] = {"coils": coils, "matrix": n}
        for name in ("recon", "deepinv"):
            command = [sys.executable, __file__, name, str(coils), str(n)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row |= {f"{name}_{key}": value for key, value in json.loads(output.splitlines()[-1]).items()}
        row["ns_per_cnlogn"] = row["recon_seconds"] * 1e9 / (coils * n * n * math.log2(n * n))
        rows.append(row)
        print(
            f"{coils:6}{n:8}{row['recon_seconds'] * 1e3:9.2f}{row['ns_per_cnlogn']:20.3f}{row['recon_peak_mb']:9.1f}"
            f"{row['deepinv_seconds'] * 1e3:12.2f}{row['deepinv_peak_mb']:9.1f}"
        )
    return rows


def roofline() -> dict[str, float]:
    """Measure what bounds A^H A here: its FFTs alone, and the bandwidth its data would need."""
    import recon.physics.coils  # noqa: F401  (the allocator as recon has it)

    maps, _, _ = problem(16, 320)
    groups = [maps[i : i + 4].clone() for i in range(0, 16, 4)]

    def transforms() -> None:
        for images in groups:
            torch.fft.fft2(torch.fft.fft2(images))

    copy, large = torch.empty(1 << 25), torch.ones(1 << 25)
    square = torch.ones(1024, 1024)
    seconds = time_side_by_side(
        {"fft": transforms, "copy": lambda: copy.copy_(large), "matmul": lambda: square @ square}, repeats=20, warmup=3
    )
    fft = min(seconds["fft"])
    figures = {
        "fft_ms": fft * 1e3,
        "fft_gflops": 2 * 16 * 5 * 320**2 * math.log2(320**2) / fft / 1e9,
        "memory_gb_per_s": 2 * 4 * (1 << 25) / min(seconds["copy"]) / 1e9,
        "matmul_gflops": 2 * 1024**3 / min(seconds["matmul"]) / 1e9,
        # maps are read twice, and nothing else leaves the cache
        "traffic_ms": 2 * maps.numel() * 8 / (2 * 4 * (1 << 25) / min(seconds["copy"])) * 1e3,
    }
    print(
        f"\nthe FFTs of A^H A alone: {figures['fft_ms']:.1f} ms at {figures['fft_gflops']:.0f} GFLOP/s "
        f"(matrix product: {figures['matmul_gflops']:.0f}); reading the maps twice from memory at "
        f"{figures['memory_gb_per_s']:.0f} GB/s: {figures['traffic_ms']:.1f} ms"
    )
    return figures


def prepare() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    torch.set_grad_enabled(False)


def main() -> None:
    prepare()
    if len(sys.argv) == 4:
        peak_and_time(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return
    if sys.argv[1:] == ["pairs"]:
        record("operators", {"pairs": beside_deepinv()})
        return
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        comparison = side_by_side(Path(folder))
    figures = {"comparison": comparison, "scaling": scaling(), "roofline": roofline(), "pairs": beside_deepinv()}
    record("operators", figures, "mrpro", "sigpy")


if __name__ == "__main__":
    main()
