r"""Supervised against unsupervised unfolding of ISTA and IHT, after Nagahisa, Hayakawa and Iiguni (arXiv 2509.01331).

Only step sizes are learned, one a layer. Networks S-ISTA and S-IHT are trained by the mean square error, U-ISTA and
U-IHT by the objective of the method, which needs no ground truth (``-all``: by its mean over all layers). They grow by
four layers at a time, each time trained at the depth they have, so that every depth's figures are those of a network
trained for it. ISTA, FISTA and IHT have steps of 1 / ||A||^2. All share one lambda. Bernoulli-Gaussian signals of 300
numbers, 150 measurements by a Gaussian matrix; each seed has its own matrix, signals and noise, and networks are tested
on signals that are not trained on.

Then what was trained on one distribution is tested on others: noise, share of entries that are not zero, matrix.

``nice python benchmarks/unfolding.py``: about ten minutes on one core; writes ``docs/unfolding.png``.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from recon.datasets.random import child_generator
from recon.datasets.sparse import bernoulli_gaussian, noise_of_snr
from recon.models import registry
from recon.models.thresholding import IterativeThresholding
from recon.physics.matrix import MatrixOperator
from recon.training.data.sparse import SparseData
from recon.training.module import ReconstructionModule
from recon.training.schedule import Schedule

FIGURE = Path(__file__).parent.parent / "docs" / "unfolding.png"
RATE, SNR, MEASUREMENTS, SHAPE = 0.1, 30.0, 150, (15, 20)
TESTED = 500
LAMBDA = {"l1": 0.05, "l0": 0.02}
LEARNING_RATE = 0.1
LIMIT = 1500  # iterations after which FISTA and IHT have arrived
LOSSES = {"S": "mse", "U": "objective", "U-all": "objective-all-layers"}
Check = Callable[[dict[str, Any]], bool]
CONDITIONS: dict[str, dict[str, float]] = {
    "as trained": {},
    "SNR 20 dB": {"snr": 20},
    "SNR 10 dB": {"snr": 10},
    "rate 0.05": {"rate": 0.05},
    "rate 0.15": {"rate": 0.15},
    "rate 0.2": {"rate": 0.2},
    "another matrix": {"matrix": 1},
    "matrix with decaying rows": {"matrix": 2},
}
MOST = 10**6
TIMES = 3  # as many iterations of ISTA as the long U-ISTA has layers


@dataclass(frozen=True)
class Test:
    """Signals, their measurements, and the operator."""

    x: Tensor
    y: Tensor
    physics: MatrixOperator


def draw_test(seed: int, *, rate: float = RATE, snr: float = SNR, matrix: int = 0) -> Test:
    """Draw signals that no network is trained on; ``matrix`` 0: that of the training, 2: with rows of 1 to 0.2."""
    physics = data(seed if matrix != 1 else seed + 1000).operator
    if matrix == 2:
        decay = torch.linspace(1, 0.2, MEASUREMENTS)[:, None]
        physics = MatrixOperator(decay * physics.matrix, physics.img_size)
    generator = child_generator(seed, 77)
    x = bernoulli_gaussian((TESTED, 1, *SHAPE), rate, seed=generator)
    clean = physics.A(x)
    noise = noise_of_snr(physics.matrix, rate, snr) * torch.randn(clean.shape, generator=generator)
    return Test(x, clean + noise, physics)


def data(seed: int, steps: int = 1) -> SparseData:
    return SparseData(
        shape=SHAPE, measurements=MEASUREMENTS, rate=RATE, snr=SNR, train=64 * steps, matrix_seed=seed, seed=seed
    )


@torch.no_grad()
def figures(model: IterativeThresholding, test: Test) -> dict[str, float]:
    """NMSE and objective of a model's last image; the objective over that of zero, as networks are trained by."""
    problem = model.problem(test.y, test.physics)
    for x in model.trajectory(problem):  # noqa: B007 - the last one
        pass
    return errors(x, test, problem)


def errors(x: Tensor, test: Test, problem: Any) -> dict[str, float]:
    nmse = float((x - test.x).square().sum() / test.x.square().sum())
    return {"nmse": nmse, "objective": float(problem.relative_objective(x).mean())}


class Grow(Callback):
    """Trains at a depth for some steps, tests, and goes deeper."""

    def __init__(self, test: Test, stride: int, steps: int) -> None:
        self.test, self.stride, self.steps = test, stride, steps
        self.curve: dict[int, dict[str, float]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 0:
            pl_module.network.depth = self.stride
        done = trainer.global_step % self.steps / self.steps
        for group in trainer.optimizers[0].param_groups:  # anew at each depth, down to a fiftieth
            group["lr"] = LEARNING_RATE * 0.02**done

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.steps == 0:
            network = pl_module.network
            self.curve[network.depth] = figures(network, self.test)
            network.depth = min(network.depth + self.stride, network.iterations)


def train(network: str, loss: str, seed: int, test: Test, *, layers: int, stride: int, steps: int) -> Grow:
    """Train a network layer by layer; return its curve, with the network."""
    arguments = {"iterations": layers, "regularisation": LAMBDA["l0" if network.endswith("iht") else "l1"]}
    module = ReconstructionModule(
        network,
        arguments | {"sparsity": "pixels"},
        loss={loss: 1.0},
        lr=LEARNING_RATE,
        schedule=Schedule(warmup=0, period=MOST),
    )
    grow = Grow(test, stride, steps)
    trainer = Trainer(
        max_epochs=1,
        callbacks=[grow],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, data(seed, steps * (layers // stride)))
    grow.network = module.network.eval()
    return grow


def classical(name: str, iterations: int) -> IterativeThresholding:
    strength = LAMBDA["l0" if name == "iht" else "l1"]
    return registry[name](iterations, regularisation=strength, sparsity="pixels")


@torch.no_grad()
def curve(name: str, test: Test, layers: int) -> list[dict[str, float]]:
    """Figures of a classical method after each iteration."""
    model = classical(name, layers)
    problem = model.problem(test.y, test.physics)
    return [errors(x, test, problem) for x in model.trajectory(problem)]


def one_seed(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Everything of one seed."""
    test = draw_test(seed)
    depths = list(range(options.stride, options.layers + 1, options.stride))
    found: dict[str, Any] = {"curves": {}, "mismatch": defaultdict(dict)}
    trained = {}
    for method in ("ista", "iht"):
        for label, loss in LOSSES.items():
            name = f"{label.split('-')[0]}-{method.upper()}{label[1:]}"
            started = time.perf_counter()
            grow = train(
                f"unfolded-{method}",
                loss,
                seed,
                test,
                layers=options.layers,
                stride=options.stride,
                steps=options.steps,
            )
            trained[name] = grow.network
            found["curves"][name] = [grow.curve[depth] for depth in depths]
            last = found["curves"][name][-1]
            seconds = time.perf_counter() - started
            print(f"seed {seed} {name:12} {last['nmse']:.4f} {last['objective']:.5f} {seconds:5.0f} s", flush=True)
    for name in ("ista", "fista", "iht"):
        whole = curve(name, test, TIMES * options.long if name == "ista" else options.layers)
        found["curves"][name.upper()] = [whole[depth - 1] for depth in depths]
        trained[name.upper()] = classical(name, options.layers)
        if name == "ista":
            target = found["curves"]["U-ISTA"][-1]["objective"]
            reached = [k + 1 for k, value in enumerate(whole) if value["objective"] <= target]
            found["ista_iterations_of_u_ista"] = reached[0] if reached else None
            found["ista_long"] = whole[-1]
    found["limits"] = {name.upper(): figures(classical(name, LIMIT), test) for name in ("fista", "iht")}
    deep = train("unfolded-ista", "objective", seed, test, layers=options.long, stride=20, steps=options.steps)
    found["u_ista_long"] = deep.curve[options.long]
    learned = ("S-ISTA", "U-ISTA", "S-IHT", "U-IHT")
    found["steps"] = {name: [round(step, 3) for step in trained[name].schedule()[0].tolist()] for name in learned}
    for condition, changed in CONDITIONS.items():
        other = draw_test(seed, **changed)
        for name, model in trained.items():
            found["mismatch"][condition][name] = figures(model, other)
    return found


def mean(values: list[float]) -> list[float]:
    """Mean and standard deviation over seeds."""
    array = np.asarray(values)
    return [float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0]


def summary(runs: list[dict[str, Any]], depths: list[int]) -> dict[str, Any]:
    """Means over seeds."""
    names = list(runs[0]["curves"])
    curves = {
        name: {
            kind: [mean([run["curves"][name][i][kind] for run in runs]) for i in range(len(depths))]
            for kind in ("nmse", "objective")
        }
        for name in names
    }
    mismatch: dict[str, Any] = {condition: {} for condition in CONDITIONS}
    for condition, row in mismatch.items():
        for name in names:
            values = [run["mismatch"][condition][name] for run in runs]
            row[name] = {kind: mean([value[kind] for value in values]) for kind in ("nmse", "objective")}
    least = [run["limits"]["FISTA"]["objective"] for run in runs]

    def gap(reached: Callable[[dict[str, Any]], dict[str, float]]) -> list[float]:
        return mean([reached(run)["objective"] / f - 1 for run, f in zip(runs, least, strict=True)])

    gaps = {name: gap(lambda run, n=name: run["curves"][n][-1]) for name in ("U-ISTA", "S-ISTA", "ISTA", "FISTA")}
    gaps |= {
        "U-ISTA long": gap(lambda run: run["u_ista_long"]),
        f"ISTA {TIMES}x long": gap(lambda run: run["ista_long"]),
    }
    return {
        "curves": curves,
        "mismatch": mismatch,
        "gap_to_minimum": gaps,
        "limits": {
            name: {kind: mean([run["limits"][name][kind] for run in runs]) for kind in ("nmse", "objective")}
            for name in runs[0]["limits"]
        },
        "ista_iterations_of_u_ista": [run["ista_iterations_of_u_ista"] for run in runs],
        "steps": runs[0]["steps"],
    }


def verdicts(runs: list[dict[str, Any]]) -> dict[str, str]:
    """In how many seeds each of the paper's findings holds."""

    def last(run: dict[str, Any], name: str, kind: str) -> float:
        return run["curves"][name][-1][kind]

    def changed(run: dict[str, Any], name: str) -> float:
        """Mean logarithm of the NMSE where the test differs from the training, over that where it does not."""
        here = run["mismatch"]["as trained"][name]["nmse"]
        others = [run["mismatch"][condition][name]["nmse"] for condition in CONDITIONS if condition != "as trained"]
        return sum(math.log(nmse / here) for nmse in others) / len(others)

    def lower(name: str, other: str, kind: str = "objective") -> Check:
        return lambda run: last(run, name, kind) < last(run, other, kind)

    def beyond(name: str, kind: str) -> Check:
        return lambda run: last(run, name, kind) < run["limits"]["IHT"][kind]

    def grows(name: str, other: str) -> Check:
        return lambda run: changed(run, name) > changed(run, other)

    tests: dict[str, Check] = {
        "l1: S-ISTA has a lower MSE than U-ISTA": lower("S-ISTA", "U-ISTA", "nmse"),
        "l1: S-ISTA has a higher objective than U-ISTA": lower("U-ISTA", "S-ISTA"),
        "l1: U-ISTA has a lower objective than ISTA": lower("U-ISTA", "ISTA"),
        "l1: U-ISTA has a lower objective than FISTA": lower("U-ISTA", "FISTA"),
        f"l1: long U-ISTA has a lower objective than ISTA of {TIMES} times as many": lambda run: (
            run["u_ista_long"]["objective"] < run["ista_long"]["objective"]
        ),
        "l0: S-IHT has a lower objective than IHT": lower("S-IHT", "IHT"),
        "l0: U-IHT has a lower objective than IHT": lower("U-IHT", "IHT"),
        "l0: S-IHT has a lower objective than IHT's limit": beyond("S-IHT", "objective"),
        "l0: U-IHT has a lower objective than IHT's limit": beyond("U-IHT", "objective"),
        "l0: S-IHT has a lower MSE than IHT's limit": beyond("S-IHT", "nmse"),
        "l0: U-IHT has a lower MSE than IHT's limit": beyond("U-IHT", "nmse"),
        "mismatch: MSE of S-IHT grows more than that of U-IHT": grows("S-IHT", "U-IHT"),
        "mismatch: MSE of S-ISTA grows more than that of U-ISTA": grows("S-ISTA", "U-ISTA"),
    }
    return {name: f"{sum(bool(test(run)) for run in runs)} of {len(runs)}" for name, test in tests.items()}


COLOURS = {"S": "tab:red", "U": "tab:blue", "U-all": "tab:cyan", "ISTA": "0.3", "FISTA": "0.6", "IHT": "0.3"}


def style(name: str) -> dict[str, Any]:
    key = "U-all" if name.endswith("-all") else name.split("-", maxsplit=1)[0]
    return {"color": COLOURS[key], "linestyle": "--" if "-" not in name else "-"}


def draw(found: dict[str, Any], depths: list[int], path: Path) -> None:
    """Error and objective against layers, and errors where the test differs from the training."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=[1, 1, 1.4])
    for row, method in enumerate(("ISTA", "IHT")):
        names = [name for name in found["curves"] if name.replace("-all", "").endswith(method)]
        for column, (kind, what) in enumerate((("nmse", "NMSE"), ("objective", "objective / objective at 0"))):
            axis = axes[row, column]
            for name in names:
                values = np.array(found["curves"][name][kind])
                axis.semilogy(depths, values[:, 0], label=name, **style(name))
                low, high = values[:, 0] - values[:, 1], values[:, 0] + values[:, 1]
                axis.fill_between(depths, low, high, color=style(name)["color"], alpha=0.15, linewidth=0)
            limit = found["limits"]["FISTA" if method == "ISTA" else "IHT"][kind][0]
            axis.axhline(limit, color="k", linewidth=0.8, linestyle=":", label=f"{method} to the end")
            axis.set(xlabel="layers", title=f"{method}: {what}")
        axes[row, 0].legend(fontsize=7)
        axis = axes[row, 2]
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            values = np.array([found["mismatch"][condition][name]["nmse"] for condition in CONDITIONS])
            place = np.arange(len(CONDITIONS)) + (i - len(names) / 2 + 0.5) * width
            dashed = {"hatch": "//"} if name == "FISTA" else {}
            axis.bar(place, values[:, 0], width, yerr=values[:, 1], color=style(name)["color"], label=name, **dashed)
        axis.set_yscale("log")
        axis.set_xticks(range(len(CONDITIONS)), list(CONDITIONS), rotation=35, ha="right", fontsize=8)
        axis.set_title(f"{method}: NMSE where the test differs from the training")
    figure.savefig(path, dpi=90)


def table(found: dict[str, Any], depths: list[int]) -> None:
    print(f"\nafter {depths[-1]} layers, mean ± standard deviation over seeds")
    for name, values in found["curves"].items():
        nmse, objective = values["nmse"][-1], values["objective"][-1]
        print(f"{name:12} NMSE {nmse[0]:.4f} ± {nmse[1]:.4f}   objective {objective[0]:.5f} ± {objective[1]:.5f}")
    for name, values in found["limits"].items():
        print(f"{name + ' limit':12} NMSE {values['nmse'][0]:.4f}            objective {values['objective'][0]:.5f}")
    print("objective above its minimum, relative:", {k: f"{v[0]:.2e}" for k, v in found["gap_to_minimum"].items()})
    print("iterations of ISTA to the objective of U-ISTA:", found["ista_iterations_of_u_ista"])
    print("\nNMSE where the test differs from the training")
    names = list(found["curves"])
    print(f"{'':26}" + "".join(f"{name:>12}" for name in names))
    for condition, row in found["mismatch"].items():
        print(f"{condition:26}" + "".join(f"{row[name]['nmse'][0]:12.4f}" for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--stride", type=int, default=4, help="layers that are added at a time")
    parser.add_argument("--steps", type=int, default=150, help="of training at each depth")
    parser.add_argument("--long", type=int, default=60, help="layers of the long U-ISTA")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    runs = [one_seed(seed, options) for seed in range(options.seeds)]
    depths = list(range(options.stride, options.layers + 1, options.stride))
    found = summary(runs, depths)
    table(found, depths)
    decided = verdicts(runs)
    print()
    for name, count in decided.items():
        print(f"{count}: {name}")
    if options.dry:
        return
    draw(found, depths, FIGURE)
    setting = {"n": math.prod(SHAPE), "m": MEASUREMENTS, "rate": RATE, "snr": SNR, "lambda": LAMBDA, "tested": TESTED}
    seconds = round(time.perf_counter() - started)
    run = {**setting, **vars(options), "depths": depths, "seconds": seconds, "findings": decided}
    record("unfolding", run | found)


if __name__ == "__main__":
    main()
