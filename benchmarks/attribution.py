"""Which training slices cause a hallucination: three estimates against networks that were really trained without them.

``python benchmarks/attribution.py [--quick] [--data DIR] [--query VOLUME ...] [--unlearn METHOD ...] [sizes]``

A small U-Net is trained on brain and neck slices simulated from real volumes. TracIn, influence functions with EK-FAC
and SOURCE predict what each slice does to brain slices of another subject. Two figures judge them:

- the linear datamodelling score: networks are trained on random halves of the slices, and Spearman's correlation of
  their figures with what the scores predict is taken;
- the slices that each finds most harmful are taken out, by training without them and by methods of unlearning, and so
  are random draws of as many: by how much does the queries' hallucination fall?

Trainings that are done are kept in the work folder, so that an interrupted study goes on where it was. The queries'
volume should be none that anything was chosen by.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classical import DATA
from common import record
from deepinv.models import Reconstructor
from new_scanner import Work
from torch import Tensor
from unlearning_study import BRAIN, BRAIN_VALIDATION, NECK, acquired, descended, scans_of

from recon.datasets.anatomy import Variation, load_volume
from recon.datasets.random import child_generator
from recon.models import registry
from recon.physics.errors import DataError, ReconError
from recon.unlearning.attribution.blocks import Blocks
from recon.unlearning.attribution.curvature import EKFAC
from recon.unlearning.attribution.datamodel import DatamodellingScore, datamodelling_score, draw_subsets
from recon.unlearning.attribution.estimators import Problem, Segment, influence, source, tracin
from recon.unlearning.attribution.figures import figure_of
from recon.unlearning.budget import Budget, schedule_of
from recon.unlearning.examples import Examples
from recon.unlearning.objectives import Supervised
from recon.unlearning.registry import methods

FIGURES = ("hallucination", "error", "loss")
ESTIMATORS = ("source", "influence", "tracin")
HARM = "hallucination"  # by which slices are taken out
SEGMENTS, SEEN = 3, 2  # of a training, and networks that are kept of each, as in the paper


@dataclass(frozen=True)
class Setting:
    """Sizes."""

    examples: int = 40
    queries: int = 8
    subsets: int = 30
    repeats: int = 2
    models: int = 2
    steps: int = 300
    batch_size: int = 4
    lr: float = 2e-3
    matrix: int = 64
    acceleration: float = 6.0
    features: int = 8
    pools: int = 2
    top: int = 5
    draws: int = 10
    unlearn_steps: int = 60


QUICK = Setting(examples=12, queries=2, subsets=6, repeats=1, models=1, steps=30, matrix=48, top=2, draws=2,
                unlearn_steps=6)  # fmt: skip


class Study:
    """The slices, and networks trained on any of them."""

    def __init__(self, volumes: Path, query: Sequence[str], setting: Setting) -> None:
        self.volumes, self.names, self.setting = volumes, tuple(query), setting
        self.objective = Supervised()
        self._joint: dict[int, Reconstructor] = {}

    @cached_property
    def train(self) -> Examples:
        """As many slices of brain as of neck."""
        half = self.setting.examples // 2
        return self._scans(BRAIN, self.setting.examples - half, 1) + self._scans(NECK, half, 2)

    @cached_property
    def query(self) -> Examples:
        return self._scans(self.names, self.setting.queries, 3)

    def _scans(self, names: Sequence[str], count: int, seed: int) -> Examples:
        s = self.setting
        volumes = [load_volume(self.volumes / name) for name in names]
        share = s.matrix / 200  # pixels so large that an organ fits
        variation = Variation(resolution=(0.95 * share, 1.05 * share))
        acquisition = acquired(s.acceleration, coils=6, calibration=10)
        return scans_of(volumes, variation, count, acquisition, seed=seed, matrix=(s.matrix, s.matrix))

    def budget(self, seed: int, **changes: Any) -> Budget:
        s = self.setting
        sizes = {"steps": s.steps, "batch_size": s.batch_size, "lr": s.lr, **changes}
        return Budget(**sizes, objective=self.objective, seed=seed)

    def trained(self, examples: Examples, seed: int, seen: Sequence[int] = ()) -> list[Reconstructor]:
        """Return the network after the steps that are asked for, and after the last."""
        s = self.setting
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = registry["unet"](features=s.features, pools=s.pools)
        kept: list[Reconstructor] = []

        def keep(step: int, _steps: int) -> None:
            if step in seen:
                kept.append(copy.deepcopy(model).eval())

        descended(model, examples, self.budget(seed, progress=keep))
        return [*kept, model]

    def joint(self, seed: int) -> Reconstructor:
        """Return a copy of the network that was trained on all slices."""
        if seed not in self._joint:
            self._joint[seed] = self.trained(self.train, seed)[-1]
        return copy.deepcopy(self._joint[seed])

    @torch.no_grad()
    def figures(self, model: Reconstructor) -> dict[str, list[float]]:
        """Every figure of every query."""
        batches, rng = list(self.query.batches(1)), torch.Generator()
        known = {name: figure_of(name, self.objective) for name in FIGURES}
        return {name: [float(figure(model, batch, rng)) for batch in batches] for name, figure in known.items()}


@dataclass(frozen=True, eq=False)
class Asked(Problem):
    """All figures of all queries at once: they share gradients and curvatures of the training."""

    def asked(self, model: Reconstructor) -> list[Blocks]:
        each = (Problem(self.train, self.objective, self.query, figure_of(name, self.figure)) for name in FIGURES)
        return [vector for problem in each for vector in problem.asked(model)]


def subset_run(study: Study, chosen: Tensor, seed: int) -> dict[str, Any]:
    """Train on a part of the slices."""
    examples = study.train.subset(torch.nonzero(chosen).flatten().tolist())
    return study.figures(study.trained(examples, seed)[-1])


def score_run(study: Study, seed: int) -> dict[str, Any]:
    """Train on all slices, and score them by each estimator for each figure."""
    s = study.setting
    ends = [round(s.steps * (i + 1) / (SEGMENTS * SEEN)) for i in range(SEGMENTS * SEEN)]
    networks = study.trained(study.train, seed, ends[:-1])
    lrs = [s.lr * schedule_of(s.steps)(step) for step in range(s.steps)]
    segments = []
    for i in range(SEGMENTS):
        first, last = (0 if i == 0 else ends[i * SEEN - 1]), ends[(i + 1) * SEEN - 1]
        lr = float(np.mean(lrs[first:last]))
        segments.append(Segment(tuple(networks[i * SEEN : (i + 1) * SEEN]), last - first, lr))

    def fit(models: Sequence[Reconstructor], scale: Any) -> EKFAC:
        return EKFAC(models, study.train, study.objective, scale=scale, seed=seed)

    problem = Asked(study.train, study.objective, study.query, study.objective, seed)
    estimates: Mapping[str, Callable[[], Tensor]] = {
        "source": lambda: source(problem, segments, fit, batch_size=s.batch_size),
        "influence": lambda: influence(problem, networks[-1], fit([networks[-1]], None)),
        "tracin": lambda: tracin(problem, segments),
    }
    found: dict[str, Any] = {"figures": study.figures(networks[-1])}
    for estimator, estimate in estimates.items():
        start = time.perf_counter()
        parts = estimate().split(len(study.query))
        scores = {name: part.tolist() for name, part in zip(FIGURES, parts, strict=True)}
        found[estimator] = {"scores": scores, "seconds": time.perf_counter() - start}
    return found


def forget_run(study: Study, forgotten: Sequence[int], method: str, seed: int) -> dict[str, Any]:
    """Take slices out of the network of a seed."""
    s = study.setting
    rest = [i for i in range(len(study.train)) if i not in forgotten]
    forget, retain = study.train.subset(list(forgotten)), study.train.subset(rest)
    if method == "retrain":
        return study.figures(study.trained(retain, seed)[-1])
    model = study.joint(seed)
    budget = study.budget(seed, steps=s.unlearn_steps, lr=s.lr / 4)
    return study.figures(methods[method].function(model, forget, retain, budget))


def datamodelling(study: Study, work: Work, what: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Print and return the linear datamodelling scores."""
    s = study.setting
    subsets = draw_subsets(len(study.train), s.subsets, torch.Generator().manual_seed(17))
    measured = []
    for j, chosen in enumerate(subsets):
        repeats = [
            work.get(
                {**what, "subset": chosen.int().tolist(), "seed": 100 + r}, partial(subset_run, study, chosen, 100 + r)
            )
            for r in range(s.repeats)
        ]
        measured.append({name: np.mean([run[name] for run in repeats], 0).tolist() for name in FIGURES})
        print(f"\rsubset {j + 1} of {len(subsets)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = []
    print(f"{'figure':16}{'estimator':12}{'LDS':>7}   95 %              seconds")
    for name in FIGURES:
        figures = torch.tensor([one[name] for one in measured], dtype=torch.float64)
        for estimator in ESTIMATORS:
            parts = [run[estimator] for run in runs]
            scores = torch.tensor([part["scores"][name] for part in parts], dtype=torch.float64).mean(0)
            found: DatamodellingScore = datamodelling_score(scores, subsets, figures)
            seconds = float(np.mean([part["seconds"] for part in parts]))
            print(f"{name:16}{estimator:12}{found.mean:7.3f}   {found.low:.3f} to {found.high:.3f}   {seconds:9.1f}")
            rows.append({"figure": name, "estimator": estimator, "lds": asdict(found), "seconds": seconds})
    return rows


def forgetting(
    study: Study, work: Work, what: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], wanted: Sequence[str]
) -> list[Any]:
    """Print and return by how much hallucination falls without the slices that harm most, and without random ones."""
    s, rows = study.setting, []
    before = np.mean([run["figures"][HARM] for run in runs])
    print(f"\nhallucination of the queries before: {before:.5f}; change without {s.top} slices")
    print(f"{'by':16}{'chosen by':12}{'change':>9}   of random draws it beats")

    def change(forgotten: Sequence[Sequence[int]], method: str) -> float:
        after = [
            work.get(
                {**what, "forgotten": sorted(chosen), "method": method, "seed": seed},
                partial(forget_run, study, chosen, method, seed),
            )[HARM]
            for seed, chosen in enumerate(forgotten)
        ]
        return float(np.mean(after) / before - 1)

    draws = [
        torch.randperm(len(study.train), generator=child_generator(23, d))[: s.top].tolist() for d in range(s.draws)
    ]
    for method in wanted:
        random = [change([drawn] * s.models, method) for drawn in draws]
        print(f"{method:16}{'random':12}{np.mean(random):+9.2%}   {min(random):+.2%} to {max(random):+.2%}")
        rows.append({"method": method, "chosen by": "random", "changes": random})
        for estimator in ESTIMATORS:
            scores = np.mean([run[estimator]["scores"][HARM] for run in runs], axis=(0, 1))
            found = change([np.argsort(scores)[: s.top].tolist()] * s.models, method)
            beaten = float(np.mean([found < one for one in random]))
            print(f"{method:16}{estimator:12}{found:+9.2%}   {beaten:.0%}", flush=True)
            rows.append({"method": method, "chosen by": estimator, "change": found, "beats": beaten})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", DATA)))
    parser.add_argument("--query", nargs="+", default=list(BRAIN_VALIDATION), help="volumes that are asked about")
    parser.add_argument("--unlearn", nargs="+", default=["retrain", "ga_finetune"], help="ways of taking slices out")
    parser.add_argument("--work", type=Path, default=Path("runs/attribution"), help="where finished runs are kept")
    parser.add_argument("--quick", action="store_true", help="shows that it runs; not recorded")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"default: {value}")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in asdict(Setting()) if getattr(options, name) is not None}
    setting = Setting(**(asdict(QUICK if options.quick else Setting()) | given))
    try:
        if set(options.query) & {*BRAIN, *NECK}:
            raise DataError("a query that is trained on", found=", ".join(options.query))
        study, work = Study(options.data / "mri/volumes", options.query, setting), Work(options.work)
        what = {"setting": asdict(setting), "query": options.query}
        runs = [work.get({**what, "scores": seed}, partial(score_run, study, seed)) for seed in range(setting.models)]
        lds = datamodelling(study, work, what, runs)
        taken_out = forgetting(study, work, what, runs, options.unlearn)
    except ReconError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.quick:
        record("attribution", {**what, "datamodelling": lds, "forgetting": taken_out})
    return 0


if __name__ == "__main__":
    sys.exit(main())
