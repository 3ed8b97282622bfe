"""One network against methods for each task: PSNR and SSIM with intervals, on images that nothing was trained on.

``python benchmarks/tasks.py [--light FILE] [--network ROW=FILE ...] [--denoiser FILE] [--rows ROW ...] [--images N]``

Rows: denoising, photons, inpainting, blur, motion blur and super-resolution of BSD68; compressed sensing of Set11;
single- and multi-coil MRI of a brain (brain-chris, T1 and PD); CT of a head. Methods: back-projection, least squares
(``A_dagger``), total variation, wavelets, plug-and-play (deepinv's DPIR) with a denoiser, networks for one task, and
``ram-light``. A learned method takes part where there are weights for it: those of the package, or of the file given.
A row ends with the difference of the light model to the best of the others, image by image.

Intervals are those of the mean over images, by bootstrap, 95 %. The peak is the reference's largest magnitude.
"""

from __future__ import annotations

import argparse
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from classical import DATA
from common import record
from deepinv.models import Reconstructor
from deepinv.optim import DPIR
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise, PoissonGaussianNoise
from torch import Tensor, nn

from recon import metrics
from recon.datasets.anatomy import load_volume
from recon.datasets.coils import random_loops
from recon.datasets.masks import make_mask
from recon.datasets.phase import random_phase, tissue_phase
from recon.datasets.random import child_generator
from recon.models import registry
from recon.physics import MultiCoilMRI
from recon.physics.blur import Blur
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.ct import FanCT, ParallelCT
from recon.physics.denoising import Denoising
from recon.physics.errors import CheckpointError, ReconError
from recon.physics.inpainting import Inpainting, random_mask
from recon.physics.kernels import gaussian_kernel, random_motion_kernel
from recon.physics.layout import to_channels
from recon.physics.measurement_matrices import gaussian_matrix, measurements_at
from recon.physics.single_coil import SingleCoilMRI
from recon.physics.superresolution import SuperResolution
from recon.training.data.images import decoded, image_files, read_attenuation
from recon.zoo import load_model

BRAIN_SLICES = (60, 75, 90, 105, 120)  # of brain-chris_t1, and a quarter of these of brain-chris_PD

Shape = tuple[int, int, int]
Make = Callable[[Shape, torch.Generator], LinearPhysics]


@dataclass(frozen=True)
class Row:
    """A task on a set of images."""

    images: Callable[[Path], Iterator[Tensor]]
    operator: Make


def pictures(folder: str) -> Callable[[Path], Iterator[Tensor]]:
    def read(data: Path) -> Iterator[Tensor]:
        for file in image_files([data / "natural" / folder]):
            x = decoded(file)[:1]
            yield x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]

    return read


def brains(data: Path) -> Iterator[Tensor]:
    """Axial slices with a phase, each the same whenever it is asked for."""
    for name, scale in (("brain-chris_t1", 1.0), ("brain-chris_PD", 0.25)):
        volume = load_volume(data / "mri" / "volumes" / f"{name}.nii.gz")
        for index in BRAIN_SLICES:
            plane = volume.pixels[min(round(index * scale), len(volume.pixels) - 1)].clamp_min(0)
            plane = plane[: plane.shape[0] // 2 * 2, : plane.shape[1] // 2 * 2]
            rng = child_generator(zlib.crc32(name.encode()), index)
            shape = (plane.shape[0], plane.shape[1])
            phase = random_phase(rng)(shape) + tissue_phase(plane, 0.1, rng)
            yield to_channels(torch.polar(plane, phase)[None, None])[0]


def heads(data: Path) -> Iterator[Tensor]:
    """Read the slice of CT that is for tests, at half its resolution."""
    for x in read_attenuation([data / "ct" / "dicompyler-ct.dcm"]).slices:
        yield torch.nn.functional.avg_pool2d(x[None], 2)


def of_noise(physics: LinearPhysics, sigma: float) -> LinearPhysics:
    physics.noise_model = GaussianNoise(sigma)
    return physics


def photons(_shape: Shape, _rng: torch.Generator) -> LinearPhysics:
    physics = Denoising()
    physics.noise_model = PoissonGaussianNoise(0.1, 0.02)
    return physics


def motion(shape: Shape, rng: torch.Generator) -> LinearPhysics:
    return of_noise(Blur(random_motion_kernel(21, rng), shape), 0.01)


def sensing(ratio: float) -> Make:
    def make(shape: Shape, _rng: torch.Generator) -> LinearPhysics:
        matrix = gaussian_matrix(measurements_at(ratio, 33**2), 33**2, torch.Generator().manual_seed(0))
        return of_noise(BlockCompressedSensing(matrix, shape[1:]), 1e-4)

    return make


def mri(shape: Shape, rng: torch.Generator) -> LinearPhysics:
    mask = make_mask("gaussian", shape[1:], 4.0, center=24, generator=rng)
    return of_noise(SingleCoilMRI(mask), 0.01)


def coils(shape: Shape, rng: torch.Generator) -> LinearPhysics:
    maps = random_loops(8, rng).maps(shape[1:])
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    return of_noise(MultiCoilMRI(maps[None], make_mask("poisson", shape[1:], 8.0, center=24, generator=rng)), 0.01)


def ct(views: int, fan: bool = False) -> Make:
    def make(shape: Shape, _rng: torch.Generator) -> LinearPhysics:
        return of_noise((FanCT if fan else ParallelCT)(shape, views, normalize=True), 0.002)

    return make


ROWS: Mapping[str, Row] = {
    "denoising 15": Row(pictures("bsd68"), lambda _shape, _rng: of_noise(Denoising(), 15 / 255)),
    "denoising 50": Row(pictures("bsd68"), lambda _shape, _rng: of_noise(Denoising(), 50 / 255)),
    "photons": Row(pictures("bsd68"), photons),
    "inpainting": Row(
        pictures("bsd68"), lambda shape, rng: of_noise(Inpainting(random_mask(shape[1:], 0.3, rng), shape), 0.01)
    ),
    "blur": Row(pictures("bsd68"), lambda shape, _rng: of_noise(Blur(gaussian_kernel(1.6), shape), 0.01)),
    "motion blur": Row(pictures("bsd68"), motion),
    "super-resolution 2": Row(pictures("bsd68"), lambda shape, _rng: of_noise(SuperResolution(2, shape), 0.005)),
    "compressed sensing 10 %": Row(pictures("set11"), sensing(0.1)),
    "compressed sensing 25 %": Row(pictures("set11"), sensing(0.25)),
    "MRI 4x": Row(brains, mri),
    "MRI 8 coils 8x": Row(brains, coils),
    "CT 60 views": Row(heads, ct(60)),
    "CT fan 90 views": Row(heads, ct(90, fan=True)),
}


class BackProjection(Reconstructor):
    """Scaled to fit the measurements best."""

    def forward(self, y: Tensor, physics: LinearPhysics) -> Tensor:
        x = physics.A_adjoint(y)
        again = physics.A(x)
        return x * float((again.conj() * y).real.sum() / again.abs().square().sum())


class LeastSquares(Reconstructor):
    """The pseudo-inverse, or where there is filtered back-projection that."""

    def forward(self, y: Tensor, physics: LinearPhysics) -> Tensor:
        return physics.fbp(y) if isinstance(physics, ParallelCT | FanCT) else physics.A_dagger(y)


class PlugAndPlay(Reconstructor):
    """DPIR [Zhang 2022] with a denoiser of one channel, or with one that takes images as they are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor, physics: LinearPhysics) -> Tensor:
        sigma = float(torch.as_tensor(getattr(physics.noise_model, "sigma", 0.02)).max())
        return DPIR(sigma, self._denoise, device=y.device)(y, physics)

    def _denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        inner = getattr(self.network, "denoiser", None)
        if inner is None:
            return self.network(x, sigma=sigma)
        level = float(torch.as_tensor(sigma).max())
        return inner(x.flatten(0, 1)[:, None], level)[:, 0].reshape(x.shape)


def methods(options: argparse.Namespace) -> dict[str, Reconstructor]:
    """All that can be used for every row."""
    found: dict[str, Reconstructor] = {
        "back-projection": BackProjection(),
        "least squares": LeastSquares(),
        "tv": registry["tv"](),
        "l1-wavelet": registry["l1-wavelet"](),
    }
    try:
        found["ram-light"] = load_model(options.light)
    except CheckpointError as error:
        print(f"without ram-light: {error}")
    if options.denoiser:
        found["pnp"] = PlugAndPlay(load_model(options.denoiser))
    elif "ram-light" in found:
        found["pnp, ram-light"] = PlugAndPlay(found["ram-light"])
    return found


def figures_of(x: Tensor, truth: Tensor) -> tuple[float, float]:
    image, reference = (torch.linalg.vector_norm(a, dim=0) if len(a) == 2 else a[0] for a in (x, truth))
    image = image.clamp(0, float(reference.max()))
    return metrics.psnr(image, reference), metrics.ssim(image, reference)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over images and its interval, which has no width where there is one image."""
    mean = float(values.mean())
    return (mean, *metrics.bootstrap_interval(values)) if len(values) > 1 else (mean, mean, mean)


@torch.no_grad()
def measure(name: str, row: Row, found: Mapping[str, Reconstructor], options: argparse.Namespace) -> dict[str, object]:
    """PSNR and SSIM of each method, the same measurements for all; a method that refuses is named."""
    psnr: dict[str, list[float]] = {method: [] for method in found}
    ssim: dict[str, list[float]] = {method: [] for method in found}
    refused: dict[str, str] = {}
    for number, truth in enumerate(islice(row.images(options.data), options.images)):
        rng = child_generator(zlib.crc32(name.encode()), number)
        physics = row.operator((truth.shape[0], truth.shape[1], truth.shape[2]), rng)
        with torch.random.fork_rng():
            torch.manual_seed(number)
            y = physics(truth[None])
        for method, model in found.items():
            if method in refused:
                continue
            try:
                x = model(y, physics)[0]
            except ReconError as error:
                refused[method] = str(error)
                continue
            one, other = figures_of(x, truth)
            psnr[method].append(one)
            ssim[method].append(other)
    result: dict[str, object] = {"images": max(map(len, psnr.values())), "refused": refused}
    whole = {method: np.array(values) for method, values in psnr.items() if method not in refused}
    result["psnr"] = {method: interval(values) for method, values in whole.items()}
    result["ssim"] = {method: interval(np.array(ssim[method])) for method in whole}
    others = {method: values for method, values in whole.items() if "ram-light" not in method}
    if "ram-light" in whole and others:
        best = max(others, key=lambda method: float(others[method].mean()))
        result["ram-light over the best other, dB"] = (best, *interval(whole["ram-light"] - others[best]))
    return result


def show(name: str, result: Mapping[str, object]) -> None:
    psnr, ssim = result["psnr"], result["ssim"]
    assert isinstance(psnr, dict)
    assert isinstance(ssim, dict)
    print(f"\n{name}, {result['images']} images")
    for method, (mean, low, high) in sorted(psnr.items(), key=lambda item: -item[1][0]):
        print(f"  {method:18} {mean:6.2f} dB ({low:.2f} to {high:.2f})   SSIM {ssim[method][0]:.4f}")
    if (key := "ram-light over the best other, dB") in result:
        best, mean, low, high = result[key]  # type: ignore[misc]
        print(f"  ram-light over {best}: {mean:+.2f} dB ({low:+.2f} to {high:+.2f})")
    for method, reason in result["refused"].items():  # type: ignore[attr-defined]
        print(f"  without {method}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--light", default="ram-light", help="weights of the light model")
    parser.add_argument("--network", action="append", default=[], metavar="ROW=FILE", help="a network for one row")
    parser.add_argument("--denoiser", help="for plug-and-play; by default the light model")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--images", type=int, default=12, help="a row, at most")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--no-record", action="store_true", help="do not add to results/")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found, table = methods(options), {}
    own = [text.partition("=") for text in options.network]
    for name in options.rows:
        of_row = {f"network {Path(file).stem}": load_model(file) for row, _, file in own if row == name}
        table[name] = measure(name, ROWS[name], {**found, **of_row}, options)
        show(name, table[name])
    if not options.no_record:
        record("tasks", {"images": options.images, "light": str(options.light), "table": table})


if __name__ == "__main__":
    main()
