r"""Evolution strategies: variance, memory against back-propagation, quality against time, low-rank perturbations.

* ``variance``: of ES-Single's and PES's estimate of the gradient of a whole unroll of unfolded ISTA, over the squared
  norm of its true gradient, by the number of truncations; for ten learned values that all iterations share (knots), and
  for one step size an iteration.
* ``memory``: most memory that one gradient takes beyond the program's own, by the number of iterations.
* ``quality``: objective of images that are not trained on after so many seconds of processor time, of an unfolded ISTA
  of 200 iterations; and of hard thresholds, which have no derivative.
* ``population``: seconds of a population's perturbations, forward pass and estimate, low rank against full.
* ``one-bit``: sparse recovery by an unrolled network of one matrix of signs, trained by perturbations alone, beside
  straight-through gradients, and beside training of what is real in it only.

``nice python benchmarks/evolution.py [PART...]``: a few minutes on one core.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ratio, record, time_side_by_side
from torch import Tensor, nn

from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections, noise_of_snr
from recon.models import registry
from recon.models.thresholding import IterativeThresholding
from recon.onebit.gradients import signs, straight_through_sign
from recon.physics.matrix import MatrixOperator
from recon.sparse_problem import SparseProblem
from recon.training.evolution import PES, Eggroll, ESSingle, EvolutionStrategy, ThresholdingUnroll, TruncatedES
from recon.training.evolution.eggroll import Population

STRATEGIES: dict[str, type[EvolutionStrategy]] = {"ES-Single": ESSingle, "PES": PES, "truncated ES": TruncatedES}

RANK, SIGMA = 4, 0.2  # of the perturbations of signs' latent numbers, half of which are below 0.4


class Recovery:
    """Sparse recovery: draws problems of one matrix.

    Parameters
    ----------
    m, n
        Of the matrix.
    batch
        Signals of a problem.
    """

    def __init__(self, m: int, n: int, batch: int) -> None:
        self.matrix = gaussian_projections(m, n, seed=0)
        self.physics, self.batch = MatrixOperator(self.matrix), batch
        self.sigma = noise_of_snr(self.matrix, 0.1, 30.0)
        self.generator = torch.Generator().manual_seed(1)

    def draw(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        x = bernoulli_gaussian((batch or self.batch, self.matrix.shape[1]), 0.1, seed=self.generator)
        y = self.physics.A(x)
        return x, y + self.sigma * torch.randn(y.shape, generator=self.generator)

    def problem(self, model: IterativeThresholding) -> SparseProblem:
        return model.problem(self.draw()[1], self.physics)


def objective(problem: SparseProblem, x: Tensor) -> Tensor:
    return problem.relative_objective(x).mean()


def by_back_propagation(model: IterativeThresholding, problem: SparseProblem, truncations: int) -> Tensor:
    """Return what the unroll of as many truncations has as its loss."""
    length, losses = model.depth // truncations, []
    for k, x in enumerate(model.trajectory(problem), start=1):
        if k % length == 0:
            losses.append(objective(problem, x))
    return torch.stack(losses).mean()


def variance(iterations: int = 100, episodes: int = 40, pairs: int = 4) -> dict[str, Any]:
    """Variance of one pair's estimate over the squared norm of the gradient."""
    recovery = Recovery(30, 60, 8)
    rows = []
    for learned in ("knots", "steps"):
        model = registry["unfolded-ista"](iterations, knots=10 if learned == "knots" else None)
        problem = recovery.problem(model)
        parameters = dict(model.named_parameters())
        for truncations in (1, 5, 20, 50):
            (exact,) = torch.autograd.grad(by_back_propagation(model, problem, truncations), [model.step])
            unroll = ThresholdingUnroll(model, lambda p=problem: p, truncations=truncations, loss=objective)
            row: dict[str, Any] = {"learned": learned, "parameters": exact.numel(), "truncations": truncations}
            for name in ("ES-Single", "PES"):
                strategy = STRATEGIES[name](parameters, unroll, pairs=pairs, sigma=0.05)
                estimates = []
                for _ in range(episodes):
                    model.step.grad = None
                    for _ in range(truncations):
                        strategy.backward()
                    estimates.append(model.step.grad)
                stacked = torch.stack(estimates)
                norm = float(exact.square().sum())
                row[name] = round(pairs * float(stacked.var(0).sum()) / norm, 3)
                error = (stacked.mean(0) - exact).square().sum()
                # Of an unbiased estimate that is 1, but for the third derivatives.
                row[f"{name} bias"] = round(float(error / (stacked.var(0).sum() / episodes)), 2)
            rows.append(row)
            print(f"{learned:6} {truncations:3} truncations: {row}", flush=True)
    return {"iterations": iterations, "episodes": episodes, "rows": rows}


def peak(work: Callable[[], object]) -> float:
    """Megabytes that work takes at most, in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
        before = _status("VmRSS")
        work()
        os.write(write, str((_status("VmHWM") - before) / 1024).encode())
        os._exit(0)
    os.close(write)
    found = os.read(read, 64)
    os.close(read)
    os.waitpid(child, 0)
    return float(found)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def memory() -> dict[str, Any]:
    """Of one gradient of the objective, 64 signals of 300 numbers."""
    recovery = Recovery(150, 300, 64)
    rows = []
    for iterations in (100, 200, 500, 1000):
        model = registry["unfolded-ista"](iterations, knots=10)
        problem = recovery.problem(model)
        unroll = ThresholdingUnroll(model, lambda p=problem: p, truncations=10, loss=objective)
        strategy = ESSingle(dict(model.named_parameters()), unroll, pairs=4, sigma=0.05)

        def episode(strategy: EvolutionStrategy = strategy) -> None:
            for _ in range(10):
                strategy.backward()

        def back(model: IterativeThresholding = model, problem: SparseProblem = problem) -> None:
            by_back_propagation(model, problem, 10).backward()

        row = {"iterations": iterations, "back-propagation": round(peak(back), 1), "ES-Single": round(peak(episode), 1)}
        rows.append(row)
        print("megabytes:", row, flush=True)
    return {"signals": 64, "n": 300, "particles": 8, "rows": rows}


def quality(seconds: float = 20.0) -> dict[str, Any]:
    """Train with each for so much processor time."""
    found = {}
    for network in ("unfolded-ista", "unfolded-iht"):
        for name in ("back-propagation", "ES-Single", "PES", "truncated ES"):
            recovery = Recovery(30, 60, 16)
            hard = network == "unfolded-iht"
            model = registry[network](200, knots=5, learn_thresholds=hard, relative=0.05)
            tested = model.problem(Recovery(30, 60, 16).draw(200)[1], recovery.physics)
            found[f"{network} {name}"] = trained(name, model, recovery, tested, seconds)
            print(f"{network:14} {name:17}", found[f"{network} {name}"], flush=True)
    limit = registry["fista"](2000, relative=0.05)
    problem = limit.problem(Recovery(30, 60, 16).draw(200)[1], Recovery(30, 60, 16).physics)
    for x in limit.trajectory(problem):  # noqa: B007 - the last one
        pass
    return {"seconds": seconds, "minimum of ISTA": float(objective(problem, x)), "curves": found}


def trained(
    name: str, model: IterativeThresholding, recovery: Recovery, tested: SparseProblem, seconds: float
) -> list[list[float]]:
    """Return (seconds, objective) pairs; the time of testing does not count."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    if name == "back-propagation":

        def gradient() -> None:
            by_back_propagation(model, recovery.problem(model), 10).backward()

    else:
        unroll = ThresholdingUnroll(model, lambda: recovery.problem(model), truncations=10, loss=objective)
        strategy = STRATEGIES[name](dict(model.named_parameters()), unroll, pairs=4, sigma=0.1)

        def gradient() -> None:
            strategy.backward()

    curve, spent, due = [], 0.0, 0.0
    while True:
        if spent >= due:
            with torch.no_grad():
                for x in model.trajectory(tested):  # noqa: B007 - the last one
                    pass
                curve.append([round(spent, 1), round(float(objective(tested, x)), 6)])
            due += seconds / 5
        if spent >= seconds:
            return curve
        start = time.process_time()
        optimiser.zero_grad()
        gradient()
        optimiser.step()
        spent += time.process_time() - start


def population(side: int = 512, pairs: int = 64, rows: int = 8) -> dict[str, Any]:
    """Draw, apply and weigh the perturbations of one matrix."""
    weight = nn.Parameter(torch.randn(side, side) / side**0.5)
    x = torch.randn(2 * pairs, rows, side)

    def work(rank: int | None) -> Callable[[], object]:
        strategy = Eggroll({"W": weight}, pairs=pairs, rank=rank)
        return lambda: strategy.backward(lambda members: members["W"].linear(x).square().mean((1, 2)))

    names = {"rank 1": 1, "rank 4": 4, "rank 16": 16, "full": None}
    seconds = time_side_by_side({name: work(rank) for name, rank in names.items()}, repeats=5)
    faster = {name: [round(v, 2) for v in ratio(seconds["full"], seconds[name])] for name in names if name != "full"}
    print("population of", 2 * pairs, "times faster than full rank:", faster, flush=True)
    median = {name: round(float(np.median(times)), 5) for name, times in seconds.items()}
    return {"side": side, "population": 2 * pairs, "rows": rows, "seconds": median, "times_faster": faster}


class OneBitRecovery(nn.Module):
    """Unrolled soft thresholding by a scale times signs B, ``x <- soft(x + s B (y - A x), theta_t)``."""

    def __init__(self, matrix: Tensor, layers: int) -> None:
        super().__init__()
        self.matrix = matrix
        start = matrix.T / torch.linalg.matrix_norm(matrix, ord=2) ** 2
        scale = start.abs().mean()
        self.latent = nn.Parameter(start / (2 * scale))
        self.real = nn.Parameter(torch.cat((torch.full((layers,), -3.0), scale.log()[None])))

    def forward(self, y: Tensor) -> Tensor:
        return self.run(y, straight_through_sign(self.latent), self.real)

    def members(self, y: Tensor, population: Population) -> Tensor:
        """Images of each member of a population of signs."""
        return self.run(y, signs(population["latent"].dense()), self.real)

    def run(self, y: Tensor, B: Tensor, real: Tensor) -> Tensor:
        x = torch.zeros((), dtype=y.dtype)
        residual, scale = y, real[-1].exp()
        for log_threshold in real[:-1]:
            moved = x + scale * (residual @ B.mT)
            x = moved.sign() * torch.relu(moved.abs() - log_threshold.exp())
            residual = y - x @ self.matrix.T
        return x


def one_bit(steps: int = 600, layers: int = 8, pairs: int = 128) -> dict[str, Any]:
    """Train by each, from the signs of ISTA's matrix, for as many steps."""
    found: dict[str, Any] = {}
    for name in ("evolution", "straight-through", "real numbers only"):
        recovery = Recovery(30, 60, 32)
        model = OneBitRecovery(recovery.matrix, layers)
        tested = Recovery(30, 60, 64).draw(500)
        before = signs(model.latent.detach()).clone()
        parameters = {"real": model.real} if name == "real numbers only" else dict(model.named_parameters())
        optimiser = torch.optim.Adam(parameters.values(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        gradient = _by_evolution(model, pairs) if name == "evolution" else _by_back_propagation(model)
        curve = [[0.0, round(nmse(model, *tested), 4)]]
        start = time.process_time()
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            gradient(*recovery.draw())
            optimiser.step()
            scheduler.step()
            if step % (steps // 4) == 0:
                curve.append([round(time.process_time() - start, 1), round(nmse(model, *tested), 4)])
        changed = float((signs(model.latent.detach()) != before).float().mean())
        found[name] = {"seconds_and_nmse": curve, "signs_changed": round(changed, 3)}
        print(f"one-bit by {name}: {found[name]}", flush=True)
    setting = {"m": 30, "n": 60, "layers": layers, "steps": steps}
    return setting | {"population": 2 * pairs, "rank": RANK, "sigma": SIGMA, **found}


def _by_evolution(model: OneBitRecovery, pairs: int) -> Callable[[Tensor, Tensor], object]:
    strategy = Eggroll({"latent": model.latent}, pairs=pairs, rank=RANK, sigma=SIGMA)

    def gradient(x: Tensor, y: Tensor) -> None:
        strategy.backward(lambda members: (model.members(y, members) - x).square().mean((1, 2)))
        images = model.run(y, signs(model.latent.detach()), model.real)  # thresholds and scale have derivatives
        (images - x).square().mean().backward()

    return gradient


def _by_back_propagation(model: OneBitRecovery) -> Callable[[Tensor, Tensor], object]:
    return lambda x, y: (model(y) - x).square().mean().backward()


@torch.no_grad()
def nmse(model: OneBitRecovery, x: Tensor, y: Tensor) -> float:
    return float((model(y) - x).square().sum() / x.square().sum())


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "population": population,
    "one-bit": one_bit,
    "memory": memory,
    "variance": variance,
    "quality": quality,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--dry", action="store_true", help="record nothing")
    options = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for part in options.parts or PARTS:
        start = sum(os.times()[:4])  # with those of processes that were started
        found[part] = PARTS[part]()
        print(f"{part}: {sum(os.times()[:4]) - start:.0f} s of processor time", flush=True)
    if not options.dry:
        record("evolution", found)


if __name__ == "__main__":
    main()
