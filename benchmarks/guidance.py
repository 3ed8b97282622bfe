"""Guided diffusion against plug-and-play and total variation, on slices of a brain that nothing was trained on.

``python benchmarks/guidance.py [--denoiser FILE] [--tasks TASK ...] [--images N] [--samples N] [--steps N]``

Tasks: inpainting (30 % of the pixels), single-coil MRI (4x, complex images), super-resolution (2x). The numbers of
the samplers (TFG: rho, mu, gamma, recurrence, iterations; DPS: weight; DiffPIR: strength, zeta) are searched on
slices of brain-MR_Gd, the denoiser's validation volume, by the PSNR of the posterior mean; the test is on slices of
brain-chris_t1. The same denoiser serves all but total variation.

Figures: PSNR and SSIM of the magnitude with intervals of the mean over slices (bootstrap, 95 %), the share of pixels of
the head whose truth lies within 1.645 standard deviations of the samples (0.9 where the spread is right and Gaussian),
and seconds a slice.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from classical import DATA
from common import record
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise
from torch import Tensor
from torch.nn.functional import interpolate

from recon import guidance, metrics
from recon.datasets.anatomy import load_volume
from recon.datasets.masks import make_mask
from recon.datasets.phase import random_phase, tissue_phase
from recon.datasets.random import child_generator
from recon.guidance import DPS, TFG, Axis, DiffPIR
from recon.guidance.sampling import Method
from recon.guidance.search import Example, Trial
from recon.models import registry
from recon.models.plug_and_play import PlugAndPlay
from recon.physics.inpainting import Inpainting, random_mask
from recon.physics.layout import to_channels
from recon.physics.single_coil import SingleCoilMRI
from recon.physics.superresolution import SuperResolution
from recon.training.data.images import window
from recon.zoo import load_model

VALIDATION, TEST = "brain-MR_Gd.nii.gz", "brain-chris_t1.nii.gz"
SIDE, SIGMA = 128, 0.02
PLACES = (0.5, 0.4, 0.6, 0.45, 0.55, 0.35, 0.65)  # of the slices along the axis
HEAD = 0.1  # of the peak: where coverage counts
NINETY = 1.645

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """An operator, and whether its images are complex."""

    operator: Callable[[Shape, torch.Generator], LinearPhysics]
    channels: int = 1


TASKS: Mapping[str, Task] = {
    "inpainting 30 %": Task(lambda shape, rng: Inpainting(random_mask(shape[1:], 0.3, rng), shape)),
    "MRI 4x": Task(
        lambda shape, rng: SingleCoilMRI(make_mask("gaussian", shape[1:], 4.0, center=16, generator=rng)), 2
    ),
    "super-resolution 2x": Task(lambda shape, _rng: SuperResolution(2, shape)),
}
STARTS: Mapping[str, tuple[Method, Mapping[str, Axis]]] = {
    "tfg": (
        TFG(rho=0.25, mu=0.125, gamma=0.25),
        {
            "rho": Axis(2.0, 2.0),
            "mu": Axis(2.0, 2.0),
            "gamma": Axis(2.0, 1.0),
            "recurrence": Axis(2.0, 2.0),
            "iterations": Axis(2.0, 4.0),
        },
    ),
    "dps": (DPS(weight=0.25), {"weight": Axis(2.0, 16.0)}),
    "diffpir": (DiffPIR(strength=1.0, zeta=0.125), {"strength": Axis(2.0, 32.0), "zeta": Axis(2.0, 1.0)}),
}
FIXED = ("dpir", "pnp-admm", "red")


def slices_of(volume: Path, channels: int) -> Iterator[Tensor]:
    """Axial slices of a volume at ``SIDE`` pixels, of magnitude 1, with a phase where they are complex."""
    pixels = load_volume(volume).pixels
    for number, place in enumerate(PLACES):
        plane = pixels[round(place * (len(pixels) - 1))]
        size = [max(round(side * SIDE / max(plane.shape)), 1) for side in plane.shape]
        plane = interpolate(plane[None, None], size=size, mode="bilinear", antialias=True)[0].clamp_min(0)
        rng = child_generator(7, number)
        plane = window(plane / plane.max(), (SIDE, SIDE), rng)[0]  # with air where it is smaller
        if channels == 1:
            yield plane[None]
            continue
        phase = random_phase(rng)((SIDE, SIDE), 0.3) + tissue_phase(plane, 0.1, rng)
        yield to_channels(torch.polar(plane, phase)[None, None])[0]


def examples(task: str, volume: Path, count: int) -> list[Example]:
    """Slices, measured in noise."""
    found, kind = [], TASKS[task]
    for number, truth in enumerate(islice(slices_of(volume, kind.channels), count)):
        rng = child_generator(zlib.crc32(task.encode()), number)
        physics = kind.operator((kind.channels, SIDE, SIDE), rng)
        physics.noise_model = GaussianNoise(SIGMA)
        exact = physics.A(truth[None])
        y = exact + SIGMA * torch.randn(exact.shape, generator=rng)
        if kind.channels == 2 or isinstance(physics, Inpainting):
            y = y * physics.mask
        found.append(Example(y, physics, truth[None]))
    return found


def figures_of(image: Tensor, truth: Tensor) -> dict[str, float]:
    x, reference = (torch.linalg.vector_norm(a[0], dim=0) for a in (image, truth))
    return {"psnr": metrics.psnr(x, reference), "ssim": metrics.ssim(x, reference)}


def coverage(posterior: guidance.Posterior, truth: Tensor) -> float:
    """Share of the head's pixels that lie within 1.645 standard deviations of the mean of the samples."""
    inside = torch.linalg.vector_norm(truth, dim=1) > HEAD
    samples, reference = (
        x if truth.shape[1] == 1 else torch.linalg.vector_norm(x, dim=-3, keepdim=True)
        for x in (posterior.samples, truth)
    )
    near = (samples.mean(0) - reference).abs() <= NINETY * samples.std(0) * (1 + 1 / len(samples)) ** 0.5
    return float(near[:, 0][inside].float().mean())


def sampled(method: Method, data: Sequence[Example], denoiser: Reconstructor, samples: int) -> list[dict[str, float]]:
    rows = []
    for number, one in enumerate(data):
        start = time.perf_counter()
        posterior = guidance.sample(one.y, one.physics, denoiser, method, samples=samples, seed=number)
        seconds = time.perf_counter() - start
        first = figures_of(posterior.samples[0], one.truth)
        rows.append(
            figures_of(posterior.mean, one.truth)
            | {"psnr of a sample": first["psnr"], "coverage": coverage(posterior, one.truth), "seconds": seconds}
        )
    return rows


@torch.no_grad()
def restored(model: Reconstructor, data: Sequence[Example]) -> list[dict[str, float]]:
    rows = []
    for one in data:
        start = time.perf_counter()
        image = model(one.y, one.physics)
        rows.append(figures_of(image, one.truth) | {"seconds": time.perf_counter() - start})
    return rows


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Mean of each figure and its interval, which has no width where there is one slice."""
    table = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        mean = float(values.mean())
        table[name] = (mean, *metrics.bootstrap_interval(values)) if len(values) > 1 else (mean, mean, mean)
    return table


def measure(task: str, denoiser: Reconstructor, options: argparse.Namespace) -> dict[str, object]:
    """Search on validation, measure on the test; the same measurements for all."""
    volumes = options.data / "mri" / "volumes"
    validation = examples(task, volumes / VALIDATION, options.validation)
    test = examples(task, volumes / TEST, options.images)
    table: dict[str, object] = {}
    chosen: dict[str, str] = {}
    for name, (start, axes) in STARTS.items():
        quick = dataclasses.replace(start, steps=options.steps)  # type: ignore[type-var]
        trials = guidance.search(
            quick,
            validation,
            denoiser,
            axes,
            rounds=options.rounds,
            samples=2,
            progress=tell if options.verbose else None,
        )
        chosen[name] = str(trials[0].method)
        table[name] = summary(sampled(trials[0].method, test, denoiser, options.samples))
        show(task, name, table[name], f"after {len(trials)} trials: {chosen[name]}")
    for name in FIXED:
        cls = registry[name]
        assert issubclass(cls, PlugAndPlay)
        table[name] = summary(restored(cls(denoiser), test))
        show(task, name, table[name])
    table["tv"] = summary(restored(registry["tv"](), test))
    show(task, "tv", table["tv"])
    return {"figures": table, "numbers": chosen}


def tell(trial: Trial) -> None:
    print(f"    {trial.score:6.2f} dB  {trial.method}", flush=True)


def show(task: str, name: str, table: object, note: str = "") -> None:
    assert isinstance(table, dict)
    print(f"{task}, {name}: " + ", ".join(f"{key} {value[0]:.4g}" for key, value in table.items()), note, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--denoiser", default="diffusion-denoiser", help="weights: a name, or a file")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--images", type=int, default=5, help="slices of the test, at most 7")
    parser.add_argument("--validation", type=int, default=2, help="slices that the search sees, at most 7")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="noise levels of all samplers")
    parser.add_argument("--rounds", type=int, default=5, help="of the search, at most")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--verbose", action="store_true", help="print each trial of the search")
    parser.add_argument("--no-record", action="store_true", help="do not add to results/")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    denoiser = load_model(options.denoiser)
    table = {task: measure(task, denoiser, options) for task in options.tasks}
    if not options.no_record:
        told = {key: getattr(options, key) for key in ("images", "validation", "samples", "steps", "rounds")}
        record("guidance", {**told, "denoiser": str(options.denoiser), "table": table})


if __name__ == "__main__":
    main()
