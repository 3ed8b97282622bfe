"""Multiplicative and additive bias of the mean shear, with and without calibration through the pipeline.

``python benchmarks/shear_bias.py [--method NAME ...] [--model NAME=FILE ...] [--galaxies N] [--snr SNR ...]``

Rings of simulated LSST-like galaxies that no weights have seen, each at two rotations and shears of +-0.02, with an
elliptical PSF of its own. A method is ``ESTIMATOR`` or ``ESTIMATOR@MODEL``: ``regauss`` and ``moments`` (adaptive,
without a correction for the PSF), on the stamps or on what a model deblurs. Uncalibrated, a shape counts as shear;
calibrated, by the response of all of it, reconstruction and measurement, to a shear of 0.01. Errors are those of a
jackknife over galaxies. Bins are of the true half-light radius and the modulus of the PSF's distortion.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from common import record
from deepinv.models import Reconstructor
from galaxies import physics_of, tensors
from torch import Tensor

import recon
from recon.datasets.galaxies import LSST, Ring, simulate_galaxies
from recon.physics.errors import OptionError
from recon.shear import ShearResponses, adaptive_moments, bias, bias_in_bins, regauss, shear_responses

METHODS = ("regauss", "moments@wiener", "moments@richardson-lucy", "moments@galaxy-admm")
ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "regauss": regauss,
    "moments": lambda x, _psf: adaptive_moments(x),
}
SNRS = (20.0, 40.0, 100.0, 200.0)
RING = Ring(g1=0.02, rotations=2)
SEED = 23
CHUNK = 64  # galaxies
EDGES = {"half-light radius": (0.0, 0.35, 0.55, 9.0), "PSF distortion": (0.0, 0.015, 0.022, 1.0)}


@dataclass(frozen=True)
class Method:
    """A measurement, after a model or without one."""

    name: str
    estimator: Callable[[Tensor, Tensor], Any]
    model: Reconstructor | None


def method_named(name: str, files: dict[str, str]) -> Method:
    """Build a method from its name.

    Raises
    ------
    OptionError
        No such estimator.
    """
    estimator, _, model = name.partition("@")
    if estimator not in ESTIMATORS:
        raise OptionError("there is no such estimator", found=estimator, expected=" ".join(ESTIMATORS))
    loaded = recon.load_model(files.get(model, model)).eval() if model else None
    return Method(name, ESTIMATORS[estimator], loaded)


@torch.no_grad()
def measure(method: Method, snr: float, galaxies: int) -> dict[str, Any]:
    """Return the biases of one method at one signal-to-noise ratio."""
    plain, calibrated, columns = [], [], {name: [] for name in ("galaxy", "g1", "g2", "size", "psf")}
    start = time.perf_counter()
    for first in range(0, galaxies, CHUNK):
        n = min(CHUNK, galaxies - first)
        sample = simulate_galaxies(n, LSST, split="test", seed=SEED, snr=snr, ring=RING, start=first)
        y, _, psf, sigma = tensors(sample)
        table = sample.catalogue
        rotation = torch.arange(len(y)) % RING.rotations  # stamps of one galaxy and rotation share their noise
        ids = torch.from_numpy(table["galaxy"].astype("int64")) * RING.rotations + rotation
        x = y if method.model is None else method.model(y, physics_of(psf, sigma))
        plain.append(ShearResponses.without(method.estimator(x, psf)))
        calibrated.append(shear_responses(y, psf, sigma, method.estimator, method.model, ids=ids, seed=SEED))
        for name, values in (
            ("galaxy", table["galaxy"]),
            ("g1", table["g1"]),
            ("g2", table["g2"]),
            ("size", table["half_light_radius"]),
            ("psf", (table["psf_e1"] ** 2 + table["psf_e2"] ** 2) ** 0.5),
        ):
            columns[name].append(torch.from_numpy(values.copy()))
    seconds = time.perf_counter() - start
    joined = {name: torch.cat(parts) for name, parts in columns.items()}
    shear, group = torch.stack([joined["g1"], joined["g2"]], 1), joined["galaxy"]
    answers = ShearResponses.joined(calibrated)
    figures: dict[str, Any] = {
        "method": method.name,
        "snr": snr,
        "galaxies": galaxies,
        "seconds": seconds,
        "uncalibrated": asdict(bias(ShearResponses.joined(plain), shear, group)),
        "calibrated": asdict(bias(answers, shear, group)),
    }
    for name, values in (("half-light radius", joined["size"]), ("PSF distortion", joined["psf"])):
        edges = EDGES[name]
        bins = bias_in_bins(answers, shear, group, values, edges, blocks=50)
        figures[name] = [{"low": edges[i], "high": edges[i + 1]} | asdict(b) for i, b in enumerate(bins)]
    return figures


def show(figures: dict[str, Any]) -> None:
    for kind in ("uncalibrated", "calibrated"):
        b = figures[kind]
        print(
            f"{figures['method']:26} SNR {figures['snr']:<5g} {kind:12} m {1e3 * b['m']:+8.2f} "
            f"+- {1e3 * b['m_error']:.2f}"
            f"  c1 {1e4 * b['c1']:+7.2f} +- {1e4 * b['c1_error']:.2f}  c2 {1e4 * b['c2']:+7.2f} +- "
            f"{1e4 * b['c2_error']:.2f}  (m in 1e-3, c in 1e-4; {b['number']} shapes)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=METHODS, metavar="ESTIMATOR[@MODEL]")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME=FILE", help="weights of a model")
    parser.add_argument("--snr", nargs="+", type=float, default=SNRS)
    parser.add_argument("--galaxies", type=int, default=2000)
    args = parser.parse_args()
    files = dict(entry.split("=", 1) for entry in args.model)
    for name in args.method:
        method = method_named(name, files)
        for snr in args.snr:
            figures = measure(method, snr, args.galaxies)
            show(figures)
            record("shear_bias", figures, "galsim")


if __name__ == "__main__":
    main()
