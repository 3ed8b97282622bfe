"""Whether the intervals of a checkpoint cover what they promise, on volumes and a scan that it has never seen.

``python benchmarks/calibration.py CHECKPOINT [--data FOLDER] [--slices N] [--calibrate N [--write]]``

Scans are simulated of random planes of the volumes, as in training. The scale comes from the checkpoint's card, or,
with ``--calibrate``, from N slices of volumes that were validated on (``--write`` stores it in the card). Coverage is
then measured on slices of the test volumes, and on a real brain of which samples are left out: there the reference has
noise of its own, and coils, noise and object are not simulated, so that nothing is promised.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record

from recon import datasets
from recon.calibration import noise_level
from recon.cards import Card
from recon.checkpoint import load_checkpoint
from recon.conformal import Calibration, Judged, calibrate, covered, judge
from recon.datasets.anatomy import Planes, Variation, load_volume
from recon.datasets.atomic import atomic_path
from recon.datasets.masks import make_mask
from recon.hallucination import hallucination_map
from recon.physics.layout import to_channels
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.training.examples import Example, collate, make_example

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
VALIDATION = ("brain-MR_Gd.nii.gz", "neck-t2s.nii.gz")
TEST = ("brain-chris_t1.nii.gz", "brain-chris_PD.nii.gz")
REAL = (("poisson", 5), ("poisson", 10), ("random", 4))


def simulated(folder: Path, names: tuple[str, ...], count: int, seed: int) -> Iterator[Example]:
    volumes = [load_volume(folder / "mri" / "volumes" / name) for name in names]
    source = Planes(volumes, [1.0] * len(volumes), Variation())
    return iter(SimulatedScans(source, length=count, acquisition=Acquisition(), seed=seed))


def real(folder: Path, mask_name: str, rate: float, seeds: int) -> list[Example]:
    """Undersample a fully sampled brain; its noise level by the corners of full k-space."""
    k = torch.from_numpy(datasets.open(folder / "mri/kspace/brain-full-8ch.cfl").slice(0))
    everything = torch.ones(1, 1, *k.shape[1:], dtype=torch.bool)
    sigma = float(noise_level(k[None], everything))
    masks = [make_mask(mask_name, tuple(k.shape[1:]), rate, center=24, generator=seed) for seed in range(seeds)]
    return [
        make_example(k, mask, target=k, sigma=sigma, name=f"brain-full-8ch, {mask_name} {rate:g}x, seed {seed}")
        for seed, mask in enumerate(masks)
    ]


def figures(judged: list[Judged], calibration: Calibration) -> dict[str, Any]:
    found = covered(judged, calibration)
    follows = [float(np.corrcoef(item.deviation, item.error)[0, 1]) for item in judged]
    return {
        "coverage": found.mean,
        "slices": len(found.slices),
        "slice_quartiles": np.percentile(found.slices, (0, 25, 50, 75, 100)).round(4).tolist(),
        "half_width": found.half_width,
        "error": found.error,
        "correlation": float(np.mean(follows)),
    }


@torch.no_grad()
def unseen_share(model: torch.nn.Module, example: Example) -> float:
    """Energy of the hallucination map over that of the whole error."""
    batch = collate([example])
    physics = batch.physics()
    x = model(batch.y, physics)
    assert example.target is not None
    truth = to_channels(example.target[None, None])
    return float((hallucination_map(x, truth, physics).norm() / (x - truth).norm()) ** 2)


def tell(name: str, row: dict[str, Any]) -> None:
    numbers = "  ".join(f"{key} {row[key]:.4f}" for key in ("coverage", "half_width", "error", "correlation"))
    print(f"{name:>28}  {numbers}  slices {row['slice_quartiles']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--slices", type=int, default=60, help="of each test volume")
    parser.add_argument("--seeds", type=int, default=5, help="masks of each kind on the real brain")
    parser.add_argument("--calibrate", type=int, default=0, metavar="N", help="slices of the validation volumes")
    parser.add_argument("--write", action="store_true", help="store the new calibration in the card")
    options = parser.parse_args()
    model, card = load_checkpoint(options.checkpoint)
    card = card or Card(name=options.checkpoint.stem)

    entry = dict(card.calibration)
    if options.calibrate:
        examples = simulated(options.data, VALIDATION, options.calibrate, seed=101)
        entry = calibrate(model, examples, data=VALIDATION)
        if options.write:
            beside = options.checkpoint.with_suffix(".json")
            with atomic_path(beside, overwrite=True) as temporary:
                temporary.write_text(replace(card, calibration=entry).as_json(), encoding="utf-8")
    calibration = Calibration.from_card(entry)
    if calibration is None:
        parser.error("the card has no calibration: give --calibrate 200")
    print(f"{calibration.level:.0%} intervals, scale {calibration.scale:.3f}, floor {calibration.floor:.5f}")

    rows: dict[str, Any] = {}
    for name in TEST:
        examples = simulated(options.data, (name,), options.slices, seed=202)
        rows[name] = figures(judge(model, examples, replicas=calibration.replicas, seed=1), calibration)
        tell(name, rows[name])
    for mask, rate in REAL:
        brain = real(options.data, mask, rate, options.seeds)
        name = f"brain-full-8ch {mask} {rate}x"
        rows[name] = figures(judge(model, brain, replicas=calibration.replicas, seed=1), calibration)
        rows[name]["unseen_share"] = unseen_share(model, brain[0])
        tell(name, rows[name])
    record("calibration", {"checkpoint": card.name, "sha256": card.sha256, "calibration": entry, "rows": rows})


if __name__ == "__main__":
    main()
