"""One-bit LISTA: error against depth and against bits a link, beside ternary, 8-bit and real weights.

``python benchmarks/onebit.py [--seeds N] [--steps N N] [--figure FILE]``; ``--speed`` times inference instead.

Bernoulli-Gaussian signals of 128 numbers, a tenth not zero, are recovered from 64 noisy measurements (30 dB), by a
Gaussian matrix that is dense or has 4 blocks on its diagonal. Each network is trained with real weights, has them
quantised, and is trained further; the one that keeps real weights is trained further for as long. Errors
are NMSE in dB of the signals that were trained on and of others. ``per_link`` is bits a link by the formula, which the
size of the saved file is checked against.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import ratio, record, time_side_by_side
from torch import Tensor, nn

from recon.cards import Card
from recon.checkpoint import save_checkpoint
from recon.datasets.random import child_generator
from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections, noise_of_snr
from recon.models.lista import LISTA
from recon.onebit import Quantisation, count_links, integer_inference, payload_bits, quantise, remove
from recon.physics.matrix import MatrixOperator

N, M, RATE, SNR = 128, 64, 0.1, 30.0
TRAIN, TEST, BATCH = 4096, 2048, 64
DEPTHS = (1, 2, 4, 8, 16)
STRUCTURES = {"dense": 1, "block-diagonal": 4}
LEVELS = ("full", "8-bit", "ternary", "one-bit")
NAMES = {"full": "real (32 bits)", "8-bit": "8 bits", "ternary": "ternary", "one-bit": "one bit"}
COLOURS = {"full": "#333333", "8-bit": "#4c72b0", "ternary": "#dd8452", "one-bit": "#c44e52"}
PATTERNS = ("layers.*.weight",)
LR, LATENT_LR = 2e-3, 1e-3  # of the first stage; of latent weights in the second
SIZES = ((64, 128), (512, 1024), (2048, 4096))  # of the matrices that are timed
FIGURE = Path(__file__).parent.parent / "docs" / "onebit.png"


@dataclass(frozen=True)
class Problem:
    """One operator with its training and test signals."""

    physics: MatrixOperator
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def problem(blocks: int, seed: int) -> Problem:
    parts = [
        gaussian_projections(M // blocks, N // blocks, seed=child_generator(seed, blocks, i)) for i in range(blocks)
    ]
    matrix = torch.block_diag(*parts)
    physics, sigma = MatrixOperator(matrix), noise_of_snr(matrix, RATE, SNR)

    def draw(count: int, part: int) -> tuple[Tensor, Tensor]:
        generator = child_generator(seed, blocks, 100 + part)
        x = bernoulli_gaussian((count, N), RATE, seed=generator)
        return physics.A(x) + sigma * torch.randn(count, M, generator=generator), x

    return Problem(physics, draw(TRAIN, 0), draw(TEST, 1))


def nmse(model: LISTA, physics: MatrixOperator, pairs: tuple[Tensor, Tensor]) -> float:
    y, x = pairs
    with torch.no_grad():
        error = model.eval()(y, physics) - x
    return 10 * math.log10(float(error.square().sum() / x.square().sum()))


def fit(model: nn.Module, loss: Callable[[torch.Generator], Tensor], steps: int, rate: float, seed: int) -> None:
    """Train by Adam with a cosine schedule; matrices and kernels at the rate that their stage has."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]  # thresholds, and the logarithm of the scale
    optimizer = torch.optim.Adam([{"params": matrices, "lr": rate}, {"params": rest, "lr": LR}], fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = child_generator(seed, 7)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def squared_error(model: LISTA, given: Problem) -> Callable[[torch.Generator], Tensor]:
    y, x = given.train

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(TRAIN, (BATCH,), generator=generator)
        return (model(y[chosen], given.physics) - x[chosen]).square().mean()

    return loss


def networks(given: Problem, blocks: int, depth: int, steps: Sequence[int], seed: int) -> dict[str, LISTA]:
    """Networks of all levels from one that has real weights with the structural zeros."""
    first = LISTA(M, N, depth).train()
    first(given.train[0][:2], given.physics)  # starts as ISTA
    quantise(first, Quantisation(patterns=PATTERNS, levels="full", blocks=blocks))
    fit(first, squared_error(first, given), steps[0], LR, seed)
    found = {}
    for levels in LEVELS:
        model = copy.deepcopy(first)
        if levels != "full":
            remove(model)
            quantise(model, Quantisation(patterns=PATTERNS, levels=levels, blocks=blocks))
        fit(model, squared_error(model, given), steps[1], LR if levels == "full" else LATENT_LR, seed + 1)
        found[levels] = model
    return found


def file_bits(model: LISTA) -> int:
    """Bits of the weights of a saved network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_checkpoint(path, model, Card())
        return payload_bits(path)


def study(seeds: int, steps: Sequence[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    print(f"{'':>15}{'layers':>7}{'levels':>9}{'bits/link':>11}{'test dB':>14}{'train dB':>10}{'gap':>7}", flush=True)
    for structure, blocks in STRUCTURES.items():
        for depth in DEPTHS:
            trained = []
            for seed in range(seeds):
                given = problem(blocks, seed)
                trained.append((given, networks(given, blocks, depth, steps, seed)))
            for levels in LEVELS:
                test = [nmse(found[levels], given.physics, given.test) for given, found in trained]
                train = [nmse(found[levels], given.physics, given.train) for given, found in trained]
                model = trained[0][1][levels]
                links = count_links(model)
                if file_bits(model) != links.stored_bits:
                    raise SystemExit(f"{levels}: the file has {file_bits(model)} bits, not {links.stored_bits}")
                row = {
                    "structure": structure,
                    "layers": depth,
                    "levels": levels,
                    "per_link": links.per_link,
                    "file_bits": file_bits(model),
                    "links": links.links,
                    "test": float(np.mean(test)),
                    "test_spread": float(np.std(test)),
                    "train": float(np.mean(train)),
                }
                rows.append(row)
                print(
                    f"{structure:>15}{depth:>7}{levels:>9}{row['per_link']:>11.3f}"
                    f"{row['test']:>9.2f} ±{row['test_spread']:.2f}{row['train']:>9.2f}"
                    f"{np.mean(test) - np.mean(train):>7.2f}",
                    flush=True,
                )
    return rows


def speed() -> list[dict[str, object]]:
    """Time a layer, and a LISTA of 8 such layers: products of integers against those of real numbers."""
    rows: list[dict[str, object]] = []
    print(f"{'what':>6}{'m':>6}{'n':>6}{'batch':>7}{'faster':>9}{'least':>7}{'most':>7}{'error':>9}")
    for what, m, n, batch in [
        (what, m, n, batch) for what in ("layer", "lista") for m, n in SIZES for batch in (1, 64, 256)
    ]:
        torch.manual_seed(0)
        physics = MatrixOperator(gaussian_projections(m, n, seed=0))
        y = physics.A(bernoulli_gaussian((batch, n), RATE, seed=1))
        model = LISTA(m, n, 8)
        model.start(physics, y)
        quantise(model, Quantisation(patterns=PATTERNS))
        fast = integer_inference(model)
        remove(model)
        with torch.no_grad():
            if what == "layer":
                real, integers = (lambda: model.layers[0](y)), (lambda: fast.layers[0](y))  # noqa: B023 - at once
            else:
                real, integers = (lambda: model(y, physics)), (lambda: fast(y, physics))  # noqa: B023
            error = float((integers() - real()).norm() / real().norm())
            seconds = time_side_by_side({"real": real, "integers": integers}, repeats=15, warmup=2)
        median, least, most = ratio(seconds["real"], seconds["integers"])
        row = {"what": what, "m": m, "n": n, "batch": batch, "faster": median, "least": least, "most": most}
        rows.append(row | {"error": error})
        print(f"{what:>6}{m:>6}{n:>6}{batch:>7}{median:>9.2f}{least:>7.2f}{most:>7.2f}{error:>9.1e}", flush=True)
    return rows


def draw(rows: list[dict[str, object]], file: Path) -> None:
    """Error against depth, the same against bits a link, and the gap between training and test."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    depth_axis, bits_axis, gap_axis = figure.subplots(1, 3)
    for structure, style in (("dense", "-"), ("block-diagonal", "--")):
        for levels in LEVELS:
            chosen = [row for row in rows if (row["structure"], row["levels"]) == (structure, levels)]
            label = NAMES[levels] if structure == "dense" else None
            look = {"color": COLOURS[levels], "linestyle": style, "marker": "o", "markersize": 4, "label": label}
            layers = [row["layers"] for row in chosen]
            depth_axis.plot(layers, [row["test"] for row in chosen], **look)
            bits_axis.plot([row["per_link"] for row in chosen], [row["test"] for row in chosen], **look)
            gap_axis.plot(layers, [row["test"] - row["train"] for row in chosen], **look)
    for axis in (depth_axis, gap_axis):
        axis.set_xscale("log", base=2)
        axis.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axis.set_xlabel("layers")
    bits_axis.set_xscale("log", base=2)
    bits_axis.set_xlabel("bits a link (structural zeros count as links)")
    depth_axis.set_ylabel("NMSE of unseen signals [dB]")
    bits_axis.set_ylabel("NMSE of unseen signals [dB]")
    gap_axis.set_ylabel("unseen - trained on [dB]")
    depth_axis.legend(frameon=False, title="dense (—), block-diagonal (- -)", fontsize=8, title_fontsize=8)
    for axis in (depth_axis, bits_axis, gap_axis):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=(1000, 600), help="of the two stages")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--speed", action="store_true", help="time products of integers against those of real numbers")
    options = parser.parse_args()
    if options.speed:
        record("onebit", {"speed": speed()})
        return
    rows = study(options.seeds, options.steps)
    record("onebit", {"seeds": options.seeds, "steps": options.steps, "rows": rows})
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
