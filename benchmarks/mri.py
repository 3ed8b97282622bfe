"""Learned networks beside classical methods: on real k-space, and on scans simulated from volumes kept apart.

``python benchmarks/mri.py [--model NAME_OR_CHECKPOINT ...] [--only PART ...] [--seeds N] [--scans N] [--figure PNG]``

Parts: ``real``, a fully sampled brain of 8 coils, undersampled by masks of several seeds; ``test``, planes of volumes
that no weights have seen; ``validation``, planes of the volumes by which weights were chosen and calibrated;
``hold-out``, a brain that was undersampled when it was acquired, by the error at samples left out.

Masks: 4x equispaced and 8x random lines, 5x and 10x Poisson discs (on the real brain those of `sigpy.mri.poisson` with
24x24 samples of calibration, as in `classical.py`). Every method gets the same data, coil maps estimated from the
undersampled data, and noise level estimated likewise (known, where simulated). Magnitudes are compared where the
reference's maps are not zero; ``masked`` and ``frame`` are the PSNR of `classical.py`. Intervals are bootstrap ones of
95 %, over seeds or scans.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sigpy.mri
import torch
from classical import CALIBRATION, DATA, brain, scores
from common import record
from deepinv.models import Reconstructor
from torch import Tensor

import recon
from recon import datasets, metrics
from recon.calibration import espirit, noise_level
from recon.datasets.anatomy import Planes, Variation, load_volume
from recon.datasets.masks import make_mask
from recon.figures import save_comparison
from recon.physics import MultiCoilMRI
from recon.physics.errors import CalibrationError, DataError, ReconError
from recon.physics.layout import to_channels
from recon.prepare import Preparation, prepare
from recon.result import Result
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.training.examples import Example, collate, make_example
from recon.trust import hold_out_error

MODELS = ("zero-filled", "cg-sense", "tv", "l1-wavelet", "unet", "varnet", "recurrentvarnet")
SETTINGS = {"4x equispaced": ("equispaced", 4), "5x Poisson": ("poisson", 5)}
SETTINGS |= {"10x Poisson": ("poisson", 10), "8x random": ("random", 8)}
VOLUMES = {
    "test": ("brain-chris_t1.nii.gz", "brain-chris_PD.nii.gz"),
    "validation": ("brain-MR_Gd.nii.gz", "neck-t2s.nii.gz"),
}
PARTS = ("real", "test", "validation", "hold-out")
AS_THEY_ARE = Variation(
    rotation=0, zoom=(1, 1), stretch=0, gamma=(1, 1), curve=0, sharpen=1, resolution=(1, 1), exact=1
)
SEED = 7_000_003  # of the simulated scans; training and its validation use others
FIGURE = ("10x Poisson", 0)  # setting and seed
NOT_SHOWN = ("zero-filled", "tv")  # in the figure, which is to stay small
COLUMNS = {"inside": ".2f", "masked": ".2f", "frame": ".2f", "ssim": ".4f", "nmse": ".5f", "hfen": ".4f", "vif": ".4f"}


@dataclass(frozen=True)
class Case:
    """One undersampled slice with its reference, both in the units of the example."""

    example: Example
    reference: Tensor
    inside: Tensor


def real_cases(folder: Path, setting: str, seeds: int) -> Iterator[Case]:
    """Undersample the real brain."""
    k = brain(folder)
    full = espirit(k, calibration=CALIBRATION, sets=1).maps
    reference = MultiCoilMRI(full).combine(k)[0].abs()
    inside = full.abs().sum((0, 1, 2)) > 0
    name, acceleration = SETTINGS[setting]
    shape = (k.shape[2], k.shape[3])
    for seed in range(seeds):
        if name == "poisson":
            drawn = sigpy.mri.poisson(shape, acceleration, calib=(CALIBRATION, CALIBRATION), seed=seed)
            mask = torch.from_numpy(np.abs(drawn) > 0)
        else:
            mask = make_mask(name, shape, acceleration, generator=seed).expand(shape)
        example = make_example(k[0], mask, target=None, name=f"brain-full-8ch, {setting}, seed {seed}")
        try:
            sigma = float(noise_level(example.y[None], mask[None, None]))
        except CalibrationError:
            sigma = float("nan")
        yield Case(replace(example, sigma=sigma), reference / example.scale, inside)


def simulated_cases(folder: Path, names: Sequence[str], setting: str, scans: int) -> Iterator[Case]:
    """Simulate scans of planes as they are; the same planes, coils and noise levels in every setting."""
    name, acceleration = SETTINGS[setting]
    rate = (float(acceleration), float(acceleration))
    acquisition = Acquisition(masks={name: 1.0}, acceleration=rate, line_acceleration=rate)
    volumes = [load_volume(folder / "mri/volumes" / volume) for volume in names]
    source = Planes(volumes, [1.0] * len(volumes), AS_THEY_ARE)
    for example in SimulatedScans(source, length=scans, acquisition=acquisition, seed=SEED):
        assert example.target is not None
        yield Case(example, example.target.abs(), example.coil_maps.abs().sum(0) > 0)


def evaluate(magnitude: Tensor, case: Case) -> dict[str, float]:
    """Return all figures of one image."""
    shown, reference = magnitude * case.inside, case.reference * case.inside
    figures = scores(magnitude, case.reference, case.inside)
    for name in ("ssim", "nmse", "hfen"):
        figures[name] = getattr(metrics, name)(magnitude, case.reference, case.inside)
    return figures | {"vif": metrics.vif(shown, reference)}


def reconstruct(model: Reconstructor, example: Example) -> Tensor:
    """Return the magnitude."""
    batch = collate([example])
    with torch.no_grad():
        return torch.linalg.vector_norm(model(batch.y, batch.physics())[0], dim=0)


def load_all(names: Sequence[str]) -> dict[str, Reconstructor]:
    """Load the models there are; say why others are left out."""
    models: dict[str, Reconstructor] = {}
    for name in names:
        try:
            model = recon.load_model(name)
        except ReconError as error:
            print(f"skipped: {error}")
            continue
        short = Path(name).stem if recon.zoo.is_file(name) else name
        models[name if short in models else short] = model
    if not models:
        raise DataError("none of the models can be used", found=", ".join(names))
    return models


def summary(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its interval, which one value does not have."""
    mean = float(np.mean(values))
    return (mean, *metrics.bootstrap_interval(values)) if len(values) > 1 else (mean, float("nan"), float("nan"))


def compare(part: str, setting: str, cases: Iterator[Case], models: Mapping[str, Reconstructor]) -> list[dict]:
    """Run all models on all cases of a setting; print and return a row each."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for case in cases:
        for name, model in models.items():
            start = time.perf_counter()
            magnitude = reconstruct(model, case.example)
            seconds = time.perf_counter() - start
            found[name].append({**evaluate(magnitude, case), "seconds": seconds})
    rows = []
    for name, runs in found.items():
        row: dict = {"part": part, "setting": setting, "method": name}
        line = f"{setting:14}{name:18}"
        for score, form in COLUMNS.items():
            mean, low, high = summary([run[score] for run in runs])
            row[score] = [round(v, 5) for v in (mean, low, high)]
            row[f"{score}_all"] = [round(run[score], 5) for run in runs]
            line += f"{f'{mean:{form}} [{low:{form}}, {high:{form}}]':>{28 if form == '.5f' else 25}}"
        row["seconds"] = round(float(np.median([run["seconds"] for run in runs])), 3)
        print(f"{line}{row['seconds']:8.2f}", flush=True)
        rows.append(row)
    return rows + _gains(part, setting, found, models)


def _gains(
    part: str, setting: str, found: Mapping[str, list[dict[str, float]]], models: Mapping[str, Reconstructor]
) -> list[dict]:
    """PSNR of each learned model over the best classical method, of pairs on the same data."""
    classical = [name for name in found if not getattr(models[name], "learned", False)]
    if not classical:
        return []
    inside = {name: np.array([run["inside"] for run in runs]) for name, runs in found.items()}
    best = max(classical, key=lambda name: inside[name].mean())
    rows = []
    for name in found:
        if name not in classical:
            mean, low, high = summary((inside[name] - inside[best]).tolist())
            print(f"{setting:14}{name:18} {mean:+.2f} dB [{low:+.2f}, {high:+.2f}] over {best}")
            rows.append({"part": part, "setting": setting, "method": name, "over": best, "gain": [mean, low, high]})
    return rows


def hold_out(folder: Path, models: Mapping[str, Reconstructor], seeds: int) -> list[dict]:
    """Errors at samples left out, of the really undersampled brain."""
    scan = datasets.open(folder / "mri/kspace/brain-poisson-8ch.npz")
    assert isinstance(scan, datasets.Scan)
    problem = prepare(scan, 0, Preparation(map_sets=1, device="cpu"))
    assert isinstance(problem.physics, MultiCoilMRI)
    rows = []
    print(f"\nhold-out\n{'':32}{'error at samples left out':>30}{'noise alone':>14}")
    for name, model in models.items():
        found = [hold_out_error(model, problem.y, problem.physics, seed=seed) for seed in range(seeds)]
        mean, low, high = summary([each.error for each in found])
        floor = float(np.mean([each.noise_floor for each in found]))
        print(f"{'brain-poisson':14}{name:18}{f'{mean:.4f} [{low:.4f}, {high:.4f}]':>30}{floor:14.4f}", flush=True)
        errors = [round(each.error, 6) for each in found]
        rows.append({"part": "hold-out", "method": name, "error": [mean, low, high], "all": errors, "floor": floor})
    return rows


def draw(folder: Path, models: Mapping[str, Reconstructor], path: Path) -> None:
    """Write images, a detail and differences of one case."""
    setting, seed = FIGURE
    *_, case = real_cases(folder, setting, seed + 1)
    results = {}
    for name, model in models.items():
        if name in NOT_SHOWN:
            continue
        magnitude = reconstruct(model, case.example)
        psnr = scores(magnitude, case.reference, case.inside)["inside"]
        shown = (magnitude * case.inside).to(torch.complex64)[None, None]
        results[f"{name}, {psnr:.1f} dB"] = Result(image=to_channels(shown))
    reference = (case.reference * case.inside)[None]
    save_comparison(results, path, reference=reference, overwrite=True)
    print(f"\n{path}: {setting}, seed {seed}, {path.stat().st_size / 1000:.0f} kB")


def run(options: argparse.Namespace) -> None:
    """Do the parts that are wanted."""
    models = load_all(options.model)
    for part in options.only:
        if part == "hold-out":
            record("mri", {"rows": hold_out(options.data, models, options.seeds)})
            continue
        names = "brain-full-8ch" if part == "real" else ", ".join(VOLUMES[part])
        print(f"\n{part}: {names}; mean [95 % interval] over {options.seeds if part == 'real' else options.scans}")
        head = {"inside": "PSNR inside", "masked": "PSNR masked", "frame": "PSNR frame"}
        titles = (f"{head.get(s, s.upper()):>{28 if f == '.5f' else 25}}" for s, f in COLUMNS.items())
        print(f"{'':32}{''.join(titles)}{'seconds':>8}")
        rows = []
        for setting in options.setting:
            if part == "real":
                cases = real_cases(options.data, setting, options.seeds)
            else:
                cases = simulated_cases(options.data, VOLUMES[part], setting, options.scans)
            rows += compare(part, setting, cases, models)
        record("mri", {"data": names, "seeds": options.seeds, "scans": options.scans, "rows": rows})
    if options.figure is not None:
        draw(options.data, models, options.figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="names or checkpoints")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--setting", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="masks of the real brain, and hold-outs (default: 5)")
    parser.add_argument("--scans", type=int, default=6, help="simulated scans of each part and setting (default: 6)")
    parser.add_argument("--figure", type=Path, help="also write images, a detail and differences, such as docs/mri.png")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except ReconError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
