"""Which training slices most help or harm what a network makes of a query."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.datasets.atomic import atomic_path
from recon.datasets.random import child_generator
from recon.datasets.scan import evenly_spread
from recon.json_text import json_text
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.unlearning.attribution.blocks import Blocks
from recon.unlearning.attribution.curvature import EKFAC
from recon.unlearning.attribution.estimators import (
    Optimiser,
    Problem,
    Scores,
    Segment,
    influence,
    source,
    tracin,
)
from recon.unlearning.attribution.figures import figure_of
from recon.unlearning.examples import Examples
from recon.unlearning.features import evaluating
from recon.unlearning.objectives import Objective, SelfSupervised, Supervised
from recon.unlearning.sources import Reading, examples_of
from recon.zoo import load_model

if TYPE_CHECKING:
    from recon.unlearning.budget import Progress

Estimator = Literal["source", "influence", "tracin"]
_METHODS: dict[str, Estimator] = {name: name for name in get_args(Estimator)}
_SEGMENTS = 3  # of the training, as in the paper
_CURVED = 100  # training examples that the curvature is found from
_STANDARD = Reading()


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of training examples.

    Parameters
    ----------
    method, figure
        By which they were found, and of what.
    scores
        Predicted change of a query's figure if a training example had been left out. The figures are errors: an
        example with a positive score helps, one with a negative score harms.
    values
        The figure of each query.
    model, query, train
        What was asked about.
    seconds
        What it took.
    """

    method: Estimator
    figure: str
    scores: Scores
    values: tuple[float, ...]
    model: Reconstructor
    query: Examples
    train: Examples
    seconds: float

    @cached_property
    def mean(self) -> Float[Tensor, " example"]:
        """Mean over the queries, over the mean of their figures: predicted change as a share of the figure."""
        return self.scores.mean(0) / max(float(np.mean(self.values)), 1e-30)

    def harmful(self, count: int) -> list[int]:
        """Return the training examples that harm, the worst first: fewer than asked for if fewer do."""
        return [i for i in self.mean.argsort()[:count].tolist() if self.mean[i] < 0]

    def helpful(self, count: int) -> list[int]:
        """Return the training examples that help, the best first."""
        return [i for i in self.mean.argsort(descending=True)[:count].tolist() if self.mean[i] > 0]

    @cached_property
    def files(self) -> dict[str, float]:
        """Predicted change of the figure, as a share of it, if all of a file's examples had been left out."""
        found: dict[str, float] = {}
        for item, value in zip(self.train, self.mean.tolist(), strict=True):
            found[item.origin] = found.get(item.origin, 0.0) + value
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "method": self.method,
            "figure": self.figure,
            "seconds": self.seconds,
            "queries": [
                {"name": item.name, "value": value} for item, value in zip(self.query, self.values, strict=True)
            ],
            "examples": [
                {"name": item.name, "file": item.origin, "digest": item.digest, "change": share, "scores": column}
                for item, share, column in zip(self.train, self.mean.tolist(), self.scores.T.tolist(), strict=True)
            ],
            "files": self.files,
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write `as_dict` as JSON."""
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(json_text(self.as_dict()) + "\n", encoding="utf-8")

    def report(self, path: str | Path, *, top: int = 6, overwrite: bool = False) -> None:
        """Write a self-contained HTML page with pictures of the queries and of the examples that matter most."""
        from recon.unlearning.attribution.page import attribution_page

        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(attribution_page(self, top), encoding="utf-8")


def attribute(
    model: Reconstructor | str | Path,
    query: Any,
    train: Any,
    *,
    method: str = "auto",
    figure: str = "auto",
    objective: Objective | None = None,
    checkpoints: Sequence[Reconstructor | str | Path] = (),
    steps: int | None = None,
    lr: float | Sequence[float] | None = None,
    optimiser: Optimiser = "adam",
    batch_size: int = 1,
    how: Reading = _STANDARD,
    seed: int = 0,
    progress: Progress | None = None,
) -> Attribution:
    """Predict for each training example what would become of a query if it had been left out.

    Parameters
    ----------
    model
        Network, name or file of weights.
    query, train
        As `recon.unlearning.sources.examples_of` takes them.
    method
        ``source``, ``influence`` (EK-FAC) or ``tracin``; see `recon.unlearning.attribution.estimators`. By default
        ``source`` where steps and learning rate of the training are known, else ``influence``.
    figure
        ``hallucination``, ``error`` or ``loss``; the first by default, of MRI with truth, else the last.
    objective
        What the network was trained by; by default the losses of the shipped network, of data without truth SSDU.
    checkpoints
        The network as it was at earlier times of its training, first to last, evenly spread.
    steps, lr
        Of the training: steps in all, and their mean learning rate; or that of the steps around each checkpoint and
        of the last steps.
    optimiser, batch_size
        Of the training.
    how
        How files become examples: best as they were in the training.
    seed
        Of random choices.
    progress
        Told the looks at an example that are done, and those there are.

    Raises
    ------
    OptionError
        Methods or figures that do not exist, a method that needs to know the training's steps and learning rate.
    DataError
        A figure or loss that needs truth where there is none.
    """
    start = time.perf_counter()
    final = load_model(model) if isinstance(model, str | Path) else model
    earlier = [load_model(one) if isinstance(one, str | Path) else one for one in checkpoints]
    queries, trained = examples_of(query, how=how), examples_of(train, how=how)
    if not len(queries) or not len(trained):
        raise OptionError("an empty set of examples", found=f"{len(queries)} queries, {len(trained)} to train on")
    known = steps is not None and lr is not None
    methods = _METHODS | {"auto": "source" if known else "influence"}
    if method not in methods:
        raise OptionError("no such method", found=method, expected=", ".join(methods))
    chosen = methods[method]
    if chosen != "influence" and not known:
        raise OptionError(f"{chosen} asks for the steps and the learning rate of the training", cure="Take influence")
    judged, asked = ((_judged_by(one) if objective is None else objective) for one in (trained, queries))
    named = _figure_of(queries) if figure == "auto" else figure
    networks = [*earlier, final]
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in networks]
    if any(one != shapes[-1] for one in shapes):
        raise OptionError("a checkpoint of other structure than the network's", cure="Give those of its own training")
    course = _segments(networks, steps, lr) if steps is not None and lr is not None else []
    curved = trained.subset(evenly_spread(range(len(trained)), _CURVED))
    tell = _counter(progress, _looks(chosen, optimiser, len(networks), len(queries), len(trained), len(curved)))
    problem = Problem(trained, judged, queries, figure_of(named, asked), seed, tell)

    def fit(models: Sequence[Reconstructor], scale: Blocks | None) -> EKFAC:
        return EKFAC(models, curved, judged, scale=scale, seed=seed, tell=tell)

    with ExitStack() as modes:
        for network in networks:
            modes.enter_context(evaluating(network))
        with torch.enable_grad():
            if chosen == "tracin":
                scores = tracin(problem, course)
            elif chosen == "influence":
                scores = influence(problem, final, fit([final], None))
            else:
                scores = source(problem, course, fit, optimiser=optimiser, batch_size=batch_size)
        values = values_of(problem, final)
    if not torch.isfinite(scores).all():
        raise DataError("scores that are not finite", cure="Check the weights, the data and the learning rate")
    return Attribution(chosen, named, scores.cpu(), values, final, queries, trained, time.perf_counter() - start)


@torch.no_grad()
def values_of(problem: Problem, model: Reconstructor) -> tuple[float, ...]:
    """Return the figure of each query."""
    return tuple(
        float(problem.figure(model, problem.query.batch([i]), child_generator(problem.seed, 2, i)))
        for i in range(len(problem.query))
    )


def _judged_by(examples: Examples) -> Objective:
    """Losses against the truth where there is one."""
    return SelfSupervised() if examples.batch([0]).target is None else Supervised()


def _figure_of(query: Examples) -> str:
    batch = query.batch([0])
    return "hallucination" if batch.target is not None and isinstance(batch.physics(), MultiCoilMRI) else "loss"


def _segments(networks: Sequence[Reconstructor], steps: int, lr: float | Sequence[float]) -> list[Segment]:
    """Share the networks, and with them the steps, out among at most three segments."""
    rates = [float(lr)] * len(networks) if isinstance(lr, int | float) else [float(rate) for rate in lr]
    if len(rates) != len(networks) or steps < len(networks):
        raise OptionError(
            "a learning rate for the steps of each checkpoint and of the network, and a step each",
            found=f"{len(rates)} learning rates, {steps} steps",
            expected=f"{len(networks)}",
        )
    parts = np.array_split(np.arange(len(networks)), min(_SEGMENTS, len(networks)))
    ends = np.rint(np.cumsum([len(part) for part in parts]) * steps / len(networks)).astype(int)
    lengths = np.diff(ends, prepend=0)
    return [
        Segment(tuple(networks[i] for i in part), int(length), float(np.mean([rates[i] for i in part])))
        for part, length in zip(parts, lengths, strict=True)
    ]


def _looks(method: Estimator, optimiser: Optimiser, networks: int, queries: int, train: int, curved: int) -> int:
    """Count the looks at an example."""
    if method == "tracin":
        return networks * (queries + train)
    if method == "influence":
        return queries + train + 2 * curved
    return queries + networks * (train * (2 if optimiser == "adam" else 1) + 2 * curved)


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tell
