"""Shapes and fluxes of galaxies by every method, beside those of the truth.

``python benchmarks/galaxies.py [--model NAME[=FILE] ...] [--only PART ...] [--number N] [--figure PNG]``

Parts: ``snr``, simulated LSST-like stamps of galaxies that no weights have seen, the same galaxies and PSFs at each
signal-to-noise ratio; ``psf``, stamps of the survey's own range of ratios whose given PSF is wrong in shear or seeing;
``real``, a COSMOS galaxy of known shear, and the galaxies of the Hubble deep field as ground-based seeing and noise
leave them.

Shapes are those of [Li & Alexander 2023]: FPFS moments under shapelets of 0.6", each stamp lifted to a least value of
0. ``dg`` is the median of the difference of moduli from the truth, ``vector`` that of the difference of vectors,
each at most 1; ``flux`` is the median relative error of the stamp's sum. Intervals are bootstrap ones of 95 % over
galaxies. Times are those of batches, the measurement left out. A model may be named several times, with several files
(seeds).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classical import DATA
from common import record
from deepinv.physics import GaussianNoise
from matplotlib.figure import Figure
from torch import Tensor

import recon
from recon.datasets.galaxies import LSST, GalaxySample, PSFError, simulate_galaxies
from recon.datasets.readers import ReadOptions
from recon.galaxies.opening import open_stamps
from recon.models import registry
from recon.physics import PSFConvolution
from recon.physics.errors import ReconError
from recon.shear import fpfs

SNRS = (20, 40, 60, 80, 100, 150, 200)
PSF_ERRORS = {"none": None} | {f"shear {s:g}": PSFError(shear=s) for s in (0.05, 0.1, 0.2)}
PSF_ERRORS |= {f'FWHM {d:g}"': PSFError(fwhm=d) for d in (0.05, 0.1, 0.2)}
LEARNED = ("tikhonet", "shapenet", "galaxy-admm")
SEED = 11
PARTS = ("snr", "psf", "real")
BATCH = 64
_REPLICATES = 1000


@dataclass(frozen=True)
class Method:
    """How stamps become stamps of which shapes are measured; ``deconvolves`` false: the measurement does it."""

    name: str
    run: Callable[[Tensor, PSFConvolution], Tensor]
    deconvolves: bool = True


@dataclass
class Outcome:
    """What a method made of stamps."""

    g: Tensor
    flux: Tensor
    seconds: float
    images: Tensor = field(repr=False)


def methods(wanted: Sequence[str]) -> Iterator[Method]:
    """Classical methods, and the learned ones whose weights are there."""
    yield Method("no deconvolution", lambda y, _: y)
    yield Method("fpfs", lambda y, _: y, deconvolves=False)
    yield Method("wiener", registry["wiener"]())
    for n in (10, 30, 100):
        yield Method(f"richardson-lucy({n})", registry["richardson-lucy"](n, pedestal=False))
    yield Method("richardson-lucy", registry["richardson-lucy"]())
    for name in wanted or LEARNED:
        label, _, file = name.partition("=")
        try:
            yield Method(label, recon.load_model(file or label))
        except ReconError as error:
            print(f"{label} is left out: {error}")


def physics_of(psf: Tensor, sigma: Tensor) -> PSFConvolution:
    return PSFConvolution(psf, noise_model=GaussianNoise(sigma))


@torch.no_grad()
def apply(method: Method, y: Tensor, psf: Tensor, sigma: Tensor) -> Outcome:
    """Deconvolve in batches and measure."""
    parts, seconds = [], 0.0
    for first in range(0, len(y), BATCH):
        part = slice(first, first + BATCH)
        physics = physics_of(psf[part], sigma[part])
        start = time.perf_counter()
        parts.append(method.run(y[part], physics))
        seconds += time.perf_counter() - start
    x = torch.cat(parts)
    return Outcome(shape(x, None if method.deconvolves else psf), x.sum((1, 2, 3)), seconds / len(y), x)


def shape(x: Tensor, psf: Tensor | None = None, pixel_scale: float = LSST.pixel_scale) -> Tensor:
    """Return (b, 2)."""
    found = fpfs(x.double(), None if psf is None else psf.double(), pixel_scale=pixel_scale, lift=True)
    return torch.stack([found.g1, found.g2], 1)


def tensors(sample: GalaxySample) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y without its sky, truth, PSF, sigma."""
    sky = torch.from_numpy(sample.catalogue["sky"].astype(np.float32))
    y, truth, psf = (torch.from_numpy(a)[:, None] for a in (sample.observed, sample.truth, sample.psf))
    return y - sky[:, None, None, None], truth, psf, torch.from_numpy(sample.catalogue["sigma"].astype(np.float32))


def errors(outcome: Outcome, truth: Tensor) -> dict[str, Any]:
    """Return the figures of one row, with their intervals."""
    true = shape(truth)
    modulus = (outcome.g.norm(dim=1) - true.norm(dim=1)).abs()
    vector = (outcome.g - true).norm(dim=1)
    flux = outcome.flux / truth.sum((1, 2, 3)) - 1
    figures: dict[str, Any] = {"milliseconds": 1000 * outcome.seconds}
    for name, values in (("dg", modulus), ("vector", vector)):
        capped = torch.where(torch.isfinite(values), values, 1.0).clamp_max(1).numpy()
        figures[name], figures[f"{name}_interval"] = float(np.median(capped)), median_interval(capped)
    figures["flux"], figures["flux_interval"] = float(flux.median()), median_interval(flux.numpy())
    return figures


def median_interval(values: np.ndarray) -> list[float]:
    """Return the bootstrap interval of 95 % of a median."""
    draws = np.random.default_rng(0).integers(len(values), size=(_REPLICATES, len(values)))
    return np.quantile(np.median(values[draws], axis=1), [0.025, 0.975]).tolist()


def simulated(case: str, snr: float | None, psf_error: PSFError | None, todo: list[Method], number: int) -> list[dict]:
    """Return one row a method."""
    sample = simulate_galaxies(number, LSST, split="test", seed=SEED, snr=snr, psf_error=psf_error)
    y, truth, psf, sigma = tensors(sample)
    rows = []
    for method in todo:
        rows.append({"case": case, "method": method.name} | errors(apply(method, y, psf, sigma), truth))
        print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    low, high = row["dg_interval"]
    print(
        f"{row['case']:>14} {row['method']:22} dg {row['dg']:.4f} ({low:.4f}-{high:.4f})  vector {row['vector']:.4f}  "
        f"flux {100 * row['flux']:+.2f} %  {row['milliseconds']:.2f} ms",
        flush=True,
    )


def hubble(todo: list[Method], number: int) -> list[dict]:
    """Blur the galaxies of the Hubble deep field to ground-based seeing, its pixels taken for 0.2"."""
    truth = hubble_galaxies(number)
    psf = torch.from_numpy(simulate_galaxies(len(truth), LSST, split="test", seed=SEED).psf)[:, None]
    sharp = physics_of(psf, torch.ones(len(truth))).A(truth)
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(SEED))
    rows = []
    for snr in (20, 100):
        sigma = truth.flatten(1).norm(dim=1) / snr
        y = sharp + sigma[:, None, None, None] * noise
        for method in todo:
            row = errors(apply(method, y, psf, sigma), truth)
            rows.append({"case": f"HDF SNR {snr}", "method": method.name, "galaxies": len(truth)} | row)
            print_row(rows[-1])
    return rows


def hubble_galaxies(number: int) -> Tensor:
    """Cut the brightest galaxies out, on a dark sky."""
    import skimage.data
    from skimage.color import rgb2gray

    image = rgb2gray(skimage.data.hubble_deep_field()).astype(np.float32)
    half = LSST.n // 2
    stamps = np.stack([image[y - half : y + half, x - half : x + half] for y, x in bright_positions(image, number)])
    truth = torch.from_numpy(stamps)[:, None]
    return (truth - truth.flatten(1).median(1).values[:, None, None, None]).clamp_min(0)


def bright_positions(image: np.ndarray, number: int) -> list[tuple[int, int]]:
    """Return the brightest separate peaks that a stamp around fits into the image, as (y, x)."""
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian

    found = peak_local_max(
        gaussian(image, 2), min_distance=12, exclude_border=LSST.n // 2, num_peaks=number, threshold_rel=0.1
    )
    return [(int(y), int(x)) for y, x in found]


def cosmos(todo: list[Method], folder: Path = DATA / "galaxy") -> list[dict]:
    """Print the shape of one COSMOS galaxy, sheared by g1 = 0.02; there is no truth beside it."""
    stamps = open_stamps(folder / "cosmos-147246-g1_0.02.fits", ReadOptions(psf=folder / "cosmos-147246-psf.fits"))
    batch = stamps.batch(0, 1)
    rows = []
    for method in todo:
        g = apply(method, batch.y, batch.psf, batch.sigma).g[0].tolist()
        rows.append({"case": "COSMOS 147246", "method": method.name, "g": g})
        print(f"{'COSMOS 147246':>14} {method.name:22} g1 {g[0]:+.4f}  g2 {g[1]:+.4f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME[=FILE]")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--number", type=int, default=1000, help="galaxies of each case")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    todo = list(methods(args.model))
    rows: list[dict] = []
    if "snr" in args.only:
        for snr in SNRS:
            rows += simulated(f"SNR {snr}", snr, None, todo, args.number)
    if "psf" in args.only:
        for name, psf_error in PSF_ERRORS.items():
            rows += simulated(f"PSF {name}", None, psf_error, todo, args.number)
    if "real" in args.only:
        rows += hubble(todo, args.number)
        rows += cosmos(todo)
    record("galaxies", {"number": args.number, "rows": rows}, "galsim")
    if args.figure:
        draw(rows, args.figure)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the median error of every method against the signal-to-noise ratio."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    cases = [row for row in rows if row["case"].startswith("SNR ")]
    for name in dict.fromkeys(row["method"] for row in cases):
        mine = [row for row in cases if row["method"] == name]
        x = [float(row["case"].removeprefix("SNR ")) for row in mine]
        line = axes.plot(x, [row["dg"] for row in mine], "-o", ms=3, lw=2 if name in LEARNED else 1, label=name)[0]
        axes.fill_between(x, *np.transpose([row["dg_interval"] for row in mine]), color=line.get_color(), alpha=0.15)
    axes.set(xlabel="signal-to-noise ratio", ylabel="median error of the shape", yscale="log")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
