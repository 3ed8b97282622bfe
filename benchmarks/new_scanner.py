"""A new scanner without ground truth: how much of the gain of supervised fine-tuning measurements alone give.

``python benchmarks/new_scanner.py [--quick] [--model NAME] [--work DIR] [--only PART] [--shift NAME] [--figure PNG]``

Parts: ``shifts``, scans simulated of validation volumes (never of test ones) unlike what the network was trained on;
``real``, brains that were undersampled when they were acquired, on whose own measurements the network is fine-tuned.

For each shift the network as it is (zero), fine-tuned on the measurements of 1, 4 and 16 scans (self), fine-tuned with
the truth of 16 scans (supervised: the upper bound), and trained from scratch on the measurements of 16. All take the
same steps, and their weights are chosen by held-out measurements. Gap closed is (self - zero) / (supervised - zero) in
dB of the normalised mean squared error of the magnitude, over scans of other planes.

Of the real brains samples are left out before anything else, which fine-tuning never sees: how well they are predicted
is the figure. Runs that are done are kept in the work folder, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classical import DATA
from common import record
from deepinv.models import Reconstructor
from torch import Tensor

import recon
from recon import datasets, metrics
from recon.checkpoint import constructor_arguments, registered_name
from recon.datasets.anatomy import Planes, Variation, Volume, load_volume
from recon.datasets.atomic import atomic_path
from recon.figures import save_comparison
from recon.finetuning.holding_out import HeldOut
from recon.finetuning.loop import Descent
from recon.finetuning.measurements import Measurement
from recon.finetuning.splitting import split
from recon.models.learned import LearnedReconstructor
from recon.physics.errors import DataError, ReconError
from recon.prepare import Preparation, prepare
from recon.result import Result
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.training.examples import Example, collate
from recon.training.network import build

AS_THEY_ARE = Variation(
    rotation=0, zoom=(1, 1), stretch=0, gamma=(1, 1), curve=0, sharpen=1, resolution=(1, 1), exact=1
)
SEED, TEST_SEED = 9_000_011, 9_500_021
BRAIN, NECK = "brain-MR_Gd.nii.gz", "neck-t2s.nii.gz"
USUAL = Acquisition(masks={"poisson": 1.0}, acceleration=(6.0, 6.0), coils=(8, 8), noise=(0.01, 0.01))
REAL = ("brain-smallfov-8ch.cfl", "brain-poisson-8ch.npz")
PARTS = ("shifts", "real")
LEFT_OUT = 0.08  # of the real samples, or lines


@dataclass(frozen=True)
class Shift:
    """Scans unlike those of the network's training."""

    volume: str
    acquisition: Acquisition


SHIFTS = {
    "anatomy": Shift(NECK, USUAL),
    "coils": Shift(BRAIN, replace(USUAL, coils=(2, 2), acceleration=(3.0, 3.0))),
    "noise": Shift(BRAIN, replace(USUAL, noise=(0.08, 0.08))),
    "mask": Shift(BRAIN, replace(USUAL, masks={"poisson": 1.0}, acceleration=(18.0, 18.0))),
    "phase": Shift(BRAIN, replace(USUAL, tissue_phase=(0.8, 0.8), layers=0.0)),
}


STANDARD = Descent(steps=150, every=10, patience=5)


@dataclass(frozen=True)
class Study:
    """How large it is."""

    scans: tuple[int, ...] = (1, 4, 16)
    tested: int = 12
    seeds: int = 3
    descent: Descent = STANDARD
    largest: int = 256


QUICK = Study(scans=(1, 4), tested=2, seeds=1, descent=Descent(steps=10, every=5), largest=96)


@dataclass
class Work:
    """Runs that are done, by what they depend on."""

    folder: Path

    def get(self, what: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Take a run from the folder, or make it and put it there."""
        key = json.dumps(what, sort_keys=True, default=str)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if path.exists():
            return json.loads(path.read_text())["found"]
        found = make()
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps({"what": json.loads(key), "found": found}))
        return found


def half_of(volume: Volume, first: int) -> Volume:
    """Every second plane, so that those that are trained and tested on differ."""
    return replace(volume, planes=tuple(planes[first::2] for planes in volume.planes))


@dataclass(frozen=True)
class Scanner:
    """Scans of one shift: of every second plane to be tuned on, of the others to be judged by."""

    folder: Path
    shift: Shift
    study: Study

    @cached_property
    def volume(self) -> Volume:
        return load_volume(self.folder / "mri/volumes" / self.shift.volume)

    def tuned_on(self, count: int, seed: int) -> list[Example]:
        return self._scans(half_of(self.volume, 0), count, SEED + seed)

    @cached_property
    def tested_on(self) -> list[Example]:
        return self._scans(half_of(self.volume, 1), self.study.tested, TEST_SEED)

    def _scans(self, volume: Volume, count: int, seed: int) -> list[Example]:
        source = Planes([volume], [1.0], AS_THEY_ARE, self.study.largest)
        scans = SimulatedScans(source, length=count, acquisition=self.shift.acquisition, seed=seed)
        return [scans[index] for index in range(count)]

    @torch.no_grad()
    def error(self, model: Reconstructor) -> list[float]:
        """NMSE of the magnitude in dB below 0, of each test scan."""
        found = []
        for example in self.tested_on:
            assert example.target is not None
            batch = collate([example])
            magnitude = torch.linalg.vector_norm(model(batch.y, batch.physics())[0], dim=0)
            inside = example.coil_maps.abs().sum(0) > 0
            found.append(-10 * float(np.log10(metrics.nmse(magnitude, example.target.abs(), inside))))
        return found


def supervised(
    examples: Sequence[Example],
) -> Callable[[Reconstructor, Measurement, torch.Generator], tuple[Tensor, Tensor]]:
    """Return the loss that compares with the truth, of the form of ssdu: relative l2 and l1."""
    targets = {example.name: collate([example]).target for example in examples}

    def loss(model: Reconstructor, measurement: Measurement, _rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x, target = model(measurement.y, measurement.physics), targets[measurement.name]
        difference = x - target
        return difference.norm() / target.norm() + difference.abs().sum() / target.abs().sum(), x

    return loss


def untrained(model: Reconstructor, seed: int) -> Reconstructor:
    """Return the same network with random weights."""
    assert isinstance(model, LearnedReconstructor)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(registered_name(type(model)), constructor_arguments(model))


def run_of(scanner: Scanner, model: Reconstructor, method: str, count: int, seed: int) -> dict[str, Any]:
    """Fine-tune and test once."""
    examples = scanner.tuned_on(count, seed)
    start = untrained(model, seed) if method == "scratch" else model
    loss = supervised(examples) if method == "supervised" else "ssdu"
    data = [collate([example]) for example in examples]
    tuned = recon.finetune(
        start,
        data,
        loss=loss,
        null_space="none",
        descent=scanner.study.descent,
        how=Preparation(device="cpu"),
        seed=seed,
    )
    course = tuned.course
    return {
        "dB": scanner.error(tuned.model),
        "held out": [course.before, course.after],
        "step": course.step,
        "stop": course.stop,
    }


def shifts(options: argparse.Namespace, model: Reconstructor, study: Study, work: Work) -> list[dict[str, Any]]:
    """Do all runs of all shifts; print and return a row each."""
    rows, weights = [], checksum(model)
    print(f"{'shift':10}{'method':12}{'scans':>6}{'NMSE, dB':>10}{'gap closed':>12}   each seed")
    for name in options.shift:
        scanner = Scanner(options.data, SHIFTS[name], study)
        base = {"shift": name, "of": asdict(SHIFTS[name]), "weights": weights, "study": asdict(study)}
        zero = work.get({**base, "method": "zero"}, lambda s=scanner: {"dB": s.error(model)})
        start = float(np.mean(zero["dB"]))
        most = max(study.scans)
        wanted = [("supervised", most), *(("self", count) for count in study.scans), ("scratch", most)]
        rows.append({"shift": name, "method": "zero", "dB": start})
        print(f"{name:10}{'zero':12}{'':6}{start:10.2f}")
        gain = float("nan")
        for method, count in wanted:
            found = []
            for seed in range(study.seeds):
                what = {**base, "method": method, "scans": count, "seed": seed}
                found.append(work.get(what, partial(run_of, scanner, model, method, count, seed)))
            each = [float(np.mean(run["dB"])) for run in found]
            mean = float(np.mean(each))
            if method == "supervised":
                gain = mean - start
            closed = (mean - start) / gain if method == "self" and gain > 0 else float("nan")
            row = {"shift": name, "method": method, "scans": count, "dB": mean, "seeds": each, "closed": closed}
            row["steps"] = [run["step"] for run in found]
            row["worst"] = min(each) - start
            rows.append(row)
            share = f"{closed:12.0%}" if np.isfinite(closed) else f"{'':12}"
            print(
                f"{name:10}{method:12}{count:6}{mean:10.2f}{share}   {', '.join(f'{v:.2f}' for v in each)}", flush=True
            )
    for count in study.scans:
        closed = [row["closed"] for row in rows if row["method"] == "self" and row["scans"] == count]
        known = [value for value in closed if np.isfinite(value)]
        if known:
            print(f"median gap closed with {count} scans: {np.median(known):.0%} over {len(known)} shifts")
            rows.append({"method": "median gap closed", "scans": count, "closed": float(np.median(known))})
    return rows


def real_parts(folder: Path, name: str, seed: int) -> HeldOut:
    """Return a real brain in two parts: what fine-tuning sees of it, and the samples that it does not."""
    scan = datasets.open(folder / "mri/kspace" / name)
    if not isinstance(scan, datasets.Scan):
        raise DataError("raw k-space was expected", file=folder / name)
    problem = prepare(scan, 0, Preparation(device="cpu"))
    whole = Measurement(y=problem.y, physics=problem.physics, name=name)
    kept, left_out = split(whole, LEFT_OUT, torch.Generator().manual_seed(SEED + seed))
    return HeldOut(kept, whole, left_out)


def real_run(folder: Path, name: str, model: Reconstructor, study: Study, seed: int) -> dict[str, Any]:
    """Fine-tune on what is left of a real brain, and predict the rest before and after."""
    part = real_parts(folder, name, seed)
    whole, left_out = part.whole, part.left_out
    assert left_out is not None
    tuned = recon.finetune(
        model, part.kept, loss="ssdu", descent=study.descent, how=Preparation(device="cpu"), seed=seed
    )
    energy = float(whole.y[left_out.expand_as(whole.y)].abs().square().sum())
    noise = 2 * float(whole.deviation.square()) * int(left_out.sum()) * whole.y.shape[1]
    return {
        "before": part.error(model),
        "after": part.error(tuned.model),
        "classical": part.error(recon.load_model("l1-wavelet")),
        "noise alone": noise / energy,
        "step": tuned.course.step,
    }


def real(options: argparse.Namespace, model: Reconstructor, study: Study, work: Work) -> list[dict[str, Any]]:
    """Do all runs on real brains; print and return a row each."""
    rows, weights = [], checksum(model)
    print(f"\n{'left-out samples':26}{'before':>10}{'after':>10}{'l1-wavelet':>12}{'noise alone':>13}   steps")
    for name in REAL:
        found = []
        for seed in range(study.seeds):
            what = {"real": name, "weights": weights, "descent": asdict(study.descent), "seed": seed, "share": LEFT_OUT}
            found.append(work.get(what, partial(real_run, options.data, name, model, study, seed)))
        means = {
            key: float(np.mean([run[key] for run in found])) for key in ("before", "after", "classical", "noise alone")
        }
        figures = f"{means['before']:10.4f}{means['after']:10.4f}{means['classical']:12.4f}{means['noise alone']:13.4f}"
        print(f"{name:26}{figures}   {', '.join(str(run['step']) for run in found)}", flush=True)
        rows.append({"data": name, **means, "all": found})
    return rows


def draw(options: argparse.Namespace, model: Reconstructor, study: Study) -> None:
    """Write the image of the brain that wraps, before and after fine-tuning on all its samples."""
    scan = datasets.open(options.data / "mri/kspace" / REAL[0])
    tuned = recon.finetune(model, scan, loss="ssdu", descent=study.descent, how=Preparation(device="cpu"))
    results: dict[str, Result] = {}
    for name, each in (("before", model), ("after", tuned.model)):
        results[name] = recon.reconstruct(scan, model=each, device="cpu")
    save_comparison(results, options.figure, overwrite=True)
    print(f"{options.figure}: {options.figure.stat().st_size / 1000:.0f} kB")


def checksum(model: Reconstructor) -> str:
    """Hash the weights, on which all runs depend."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--model", default="recurrentvarnet", help="name or checkpoint")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--shift", nargs="+", choices=list(SHIFTS), default=list(SHIFTS), help="default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/new_scanner"), help="where finished runs are kept")
    parser.add_argument(
        "--quick", action="store_true", help="small images, few steps: shows that it runs; not recorded"
    )
    parser.add_argument("--figure", type=Path, help="also write the real brain before and after")
    options = parser.parse_args(arguments)
    study, work = QUICK if options.quick else Study(), Work(options.work)
    try:
        model = recon.load_model(options.model)
        rows: dict[str, list[dict[str, Any]]] = {}
        for part in options.only:
            rows[part] = (shifts if part == "shifts" else real)(options, model, study, work)
        if not options.quick:
            record("new_scanner", {"model": options.model, "weights": checksum(model), "study": asdict(study), **rows})
        if options.figure is not None:
            draw(options, model, study)
    except ReconError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
