"""What the tests of the audit look at: two small organs, rings and stripes, with networks that were trained on both or
on one; and ridge regressions."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from networks import tiny
from unlearning_problems import Ridge, fitted, linear_examples

from recon.datasets.masks import make_mask
from recon.datasets.random import child_generator
from recon.physics.fft import fft_centred
from recon.training.examples import make_example
from recon.unlearning.audit import Effort
from recon.unlearning.audit.subjects import Subjects
from recon.unlearning.budget import Budget, descend
from recon.unlearning.examples import Examples, item_of

SIDE = 32
QUICK = Effort(shadows=2, train_steps=3, draws=3, relearn_steps=(1, 3), lr=3e-3)


def organ(kind: str, count: int, *, seed: int) -> Examples:
    """Slices of two volumes."""
    y, x = (torch.from_numpy(v).float() for v in np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j])
    radius = torch.hypot(y, x)
    maps = torch.stack([torch.exp(-((y - a) ** 2) - (x - b) ** 2) for a in (-1, 1) for b in (-1, 1)])
    maps = (maps / maps.norm(dim=0)).to(torch.complex64)
    items = []
    for i in range(count):
        rng = child_generator(seed, {"rings": 0, "stripes": 1}[kind], i)
        rate, phase = 6 + 6 * torch.rand(2, generator=rng)
        wave = torch.cos(rate * radius + phase) if kind == "rings" else torch.cos(2 * rate * x + phase)
        image = (1.2 + wave) * (radius < 0.8) * torch.polar(torch.ones_like(x), 0.3 * y)
        k = fft_centred(maps * image, (-2, -1))
        mask = make_mask("poisson", (SIDE, SIDE), 4, center=6, generator=rng)
        noise = torch.view_as_complex(0.02 * torch.randn(*k.shape, 2, generator=rng))
        example = make_example(k + noise, mask, target=k, coil_maps=maps, sigma=0.02, name=f"{kind} {i}")
        items.append(item_of(example, origin=f"{kind}{seed}-{i % 2}.nii", index=i))
    return Examples(items, files={f"{kind}{seed}-{i}.nii": f"{kind}{seed}{i}" for i in range(2)})


@cache
def sets() -> dict[str, Examples]:
    return {
        "forget": organ("stripes", 6, seed=1),
        "retain": organ("rings", 6, seed=1),
        "forget_test": organ("stripes", 4, seed=2),
        "retain_test": organ("rings", 4, seed=2),
    }


def after_steps(examples: Examples, steps: int, *, model: torch.nn.Module | None = None, seed: int = 0):
    """A tiny U-Net after some steps."""
    own = tiny("unet", features=4) if model is None else model
    budget = Budget(steps=steps, lr=3e-3, seed=seed)
    batches = examples.endless(4, budget.rng(0))
    return descend(own, budget, lambda _step, rng: budget.loss(own, next(batches), rng))


@cache
def networks() -> dict[str, torch.nn.Module]:
    """Joint network, oracle, and what is left of the joint one after fine-tuning on what is kept."""
    joint = after_steps(sets()["forget"] + sets()["retain"], 80)
    return {
        "joint": joint,
        "oracle": after_steps(sets()["retain"], 80),
        "model": after_steps(sets()["retain"], 10, model=copy.deepcopy(joint)),
    }


def mri(**options) -> Subjects:
    n, s = networks(), sets()
    return Subjects(
        models={"unlearned": n["model"], "joint": n["joint"], "oracle": n["oracle"]},
        sets={name.replace("_", " "): found for name, found in s.items()},
        effort=QUICK,
        **options,
    )


def linear(*, oracle: bool = True, effort: Effort = QUICK, **options) -> Subjects:
    """A ridge regression in which what is forgotten follows another linear map."""
    forget, retain = linear_examples(12, seed=1), linear_examples(24, seed=2)
    models = {"unlearned": fitted(retain), "joint": fitted(forget + retain)}
    return Subjects(
        models={**models, **({"oracle": fitted(retain)} if oracle else {})},
        sets={
            "forget": forget,
            "retain": retain,
            "forget test": Examples(list(linear_examples(20, seed=1))[12:], collate=forget.batch_of),
            "retain test": Examples(list(linear_examples(36, seed=2))[24:], collate=forget.batch_of),
        },
        objective=Ridge(),
        effort=effort,
        **options,
    )
