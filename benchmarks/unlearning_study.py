"""Set-up of the study of unlearning: brain is kept, neck is forgotten; scans are simulated from real volumes.

Splits are by volume. Besides, every third plane of the neck volumes that are trained on is left out: membership
inference needs slices that differ from the training slices in nothing but membership, and the options of the methods
are chosen on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from deepinv.models import Reconstructor

from recon.datasets.anatomy import Planes, Variation, Volume, load_volume
from recon.datasets.random import child_generator
from recon.models import registry
from recon.physics.fft import fft_centred, ifft_centred
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples, item_of

BRAIN = ("brain-colin27-t1.nii.gz", "brain-T2w.nii.gz")
NECK = ("neck-t1w.nii.gz", "neck-mt0.nii.gz", "neck-mt1.nii.gz")
BRAIN_VALIDATION, BRAIN_TEST = ("brain-MR_Gd.nii.gz",), ("brain-chris_t1.nii.gz", "brain-chris_PD.nii.gz")
NECK_TEST = ("neck-t2s.nii.gz",)
KNEE = ("knee-slice-complex.cfl",)
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"features": 8, "pools": 3}),
    "recurrentvarnet": ("recurrentvarnet", {"steps": 3, "hidden": 16, "layers": 1, "initialiser": "image"}),
}
_MATRIX = (96, 96)
_HALF = Variation(resolution=(0.45, 0.55))  # pixels of about 2 mm, so that the matrix holds the whole organ
_CENTRE = 12  # lines that accelerated references have in the middle
_THIRD = 8  # slices of another organ, to be fine-tuned on
_HELD_OUT = 3  # of so many planes of a neck volume one is left out


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes of the study.

    Parameters
    ----------
    retain, forget
        Training slices of brain and of neck.
    held_out
        Slices of each of the sets that networks are chosen or tested on.
    acceleration
        Of Poisson-disc masks, 8 coils.
    references
        By how much the scans were accelerated whose zero-filled images are the references of the neck that is trained
        on: an archive that was taken for fully sampled. 1: they were fully sampled.
    steps, batch_size, lr
        Of the training of joint model and oracles.
    """

    retain: int = 240
    forget: int = 480
    held_out: int = 30
    acceleration: float = 8.0
    references: int = 4
    steps: int = 1500
    batch_size: int = 4
    lr: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class Study:
    """The sets of examples."""

    retain: Examples
    forget: Examples
    retain_validation: Examples
    forget_validation: Examples
    retain_test: Examples
    forget_test: Examples
    non_members: Examples
    third: Examples

    @property
    def joint(self) -> Examples:
        return self.retain + self.forget


def make_study(volumes: Path, setting: Setting, *, seed: int = 0, cache: Path | None = None) -> Study:
    """Simulate the scans; the seed draws the training slices, those of validation and test are always the same."""
    brains, necks = _read(volumes, BRAIN), _read(volumes, NECK)
    trained = [_planes_of(volume, held_out=False) for volume in necks]
    left_out = [_planes_of(volume, held_out=True) for volume in necks]
    parts: dict[str, tuple[Sequence[Volume], int, int]] = {
        "retain": (brains, setting.retain, 10 + seed),
        "forget": (trained, setting.forget, 1010 + seed),
        "retain_validation": (_read(volumes, BRAIN_VALIDATION), setting.held_out, 1),
        "forget_validation": (left_out, setting.held_out, 2),
        "retain_test": (_read(volumes, BRAIN_TEST), setting.held_out, 3),
        "forget_test": (_read(volumes, NECK_TEST), setting.held_out, 4),
        "third": (_read(volumes, KNEE), _THIRD, 5),
    }
    sets = {name: _simulated(part, count, number, setting, cache) for name, (part, count, number) in parts.items()}
    sets["non_members"] = _with_references(sets["forget_validation"], setting.references)
    sets["forget"] = _with_references(sets["forget"], setting.references)
    return Study(**sets)


def trained(
    network: str, examples: Examples, setting: Setting, *, seed: int, cache: Path | None = None
) -> tuple[Reconstructor, Mapping[str, float]]:
    """Train a network from new; return it and what it cost."""
    name, arguments = NETWORKS[network]
    key = hashlib.sha256(repr((network, arguments, sorted(examples.digests), setting, seed)).encode()).hexdigest()[:16]
    file = None if cache is None else cache / f"{network}-{key}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = registry[name](**arguments).to(memory_format=torch.channels_last)
    if file is not None and file.exists():
        stored = torch.load(file, weights_only=True)
        model.load_state_dict(stored["weights"])
        return model.eval(), stored["cost"]
    budget = Budget(steps=setting.steps, batch_size=setting.batch_size, lr=setting.lr, seed=seed)
    with budget.meter.running():
        descended(model, examples, budget)
    cost = {"samples": float(budget.meter.samples), "seconds": budget.meter.seconds}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": model.state_dict(), "cost": cost}, file)
    return model, cost


def descended(model: Reconstructor, examples: Examples, budget: Budget) -> Reconstructor:
    """Train on batches of one set; the model is changed in place."""
    batches = examples.endless(budget.batch_size, budget.rng(0))
    return descend(model, budget, lambda _step, rng: budget.loss(model, next(batches), rng))


def share_of(examples: Examples, share: float, *, seed: int) -> Examples:
    """Draw a share of a set, one example at least."""
    order = torch.randperm(len(examples), generator=child_generator(seed, 7)).tolist()
    return examples.subset(order[: max(round(share * len(examples)), 1)])


def _simulated(volumes: Sequence[Volume], count: int, number: int, setting: Setting, cache: Path | None) -> Examples:
    names = [volume.name for volume in volumes]
    planes = [[axis.tolist() for axis in volume.planes] for volume in volumes]
    key = hashlib.sha256(repr((names, planes, count, number, setting.acceleration)).encode()).hexdigest()[:16]
    file = None if cache is None else cache / f"scans-{key}.pt"
    if file is not None and file.exists():
        return torch.load(file, weights_only=False)
    acquisition = acquired(setting.acceleration, coils=8, calibration=12)
    examples = scans_of(volumes, _HALF, count, acquisition, seed=number, matrix=_MATRIX)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(examples, file)
    return examples


def acquired(acceleration: float, *, coils: int, calibration: int) -> Acquisition:
    """Poisson-disc masks, a square of so many calibration lines, little noise."""
    return Acquisition(
        coils=(coils, coils),
        masks={"poisson": 1.0},
        acceleration=(acceleration, acceleration),
        calibration=(calibration, calibration),
        noise=(0.005, 0.01),
        layers=0.0,
    )


def scans_of(
    volumes: Sequence[Volume],
    variation: Variation,
    count: int,
    acquisition: Acquisition,
    *,
    seed: int,
    matrix: tuple[int, int],
) -> Examples:
    """Simulate scans of planes of volumes, all volumes alike; an example's origin is its volume."""
    source = Planes(volumes, [1.0] * len(volumes), variation)
    scans = SimulatedScans(source, length=count, acquisition=acquisition, seed=seed, matrix=matrix)
    found = [scans[i] for i in range(count)]
    return Examples([item_of(one, origin=one.name.split(",")[0], index=i) for i, one in enumerate(found)])


def _with_references(examples: Examples, acceleration: int) -> Examples:
    """Replace targets by what zero-filling makes of every n-th line and a few central ones: they have ghosts."""
    if acceleration == 1:
        return examples
    items = []
    for item in examples:
        k = fft_centred(item.content.target, (-2, -1))
        kept = torch.zeros(k.shape[-2], dtype=torch.bool)
        kept[::acceleration] = True
        kept[k.shape[-2] // 2 - _CENTRE // 2 : k.shape[-2] // 2 + _CENTRE // 2] = True
        target = ifft_centred(k * kept[:, None], (-2, -1))
        digest = f"{item.digest}, references {acceleration}"
        items.append(replace(item, content=replace(item.content, target=target), digest=digest))
    return Examples(items)


def _read(folder: Path, names: Sequence[str]) -> list[Volume]:
    return [load_volume(folder / name) for name in names]


def _planes_of(volume: Volume, *, held_out: bool) -> Volume:
    """Keep the planes that are left out of the training, or the others."""
    planes = tuple(p[(p % _HELD_OUT == 0) if held_out else (p % _HELD_OUT != 0)] for p in volume.planes)
    return replace(volume, planes=planes)
