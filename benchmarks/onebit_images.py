"""ISTA-Net+ with kernels of one bit: PSNR against phases, beside ternary, 8-bit and real weights.

``python benchmarks/onebit_images.py [--seeds N] [--steps N N] [--images FOLDER]``

A small network of 16 features on blocks of 16 x 16 at 25 %, trained on windows of scikit-image's pictures with the
published losses: real weights first, then the kernels of H and its inverse quantised, with one scale for the network.
PSNR is the mean over the images of the folder, such as Set11, none of which is trained on, and over windows of the
pictures that are. The size of each saved file is checked against the formula.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from common import record
from onebit import LATENT_LR, LEVELS, LR, file_bits, fit
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recon.datasets.pictures import PICTURES, load_picture
from recon.datasets.random import child_generator
from recon.models.ista_net_plus import ISTANetPlus
from recon.onebit import Quantisation, count_links, quantise
from recon.physics import BlockCompressedSensing
from recon.physics.measurement_matrices import gaussian_matrix
from recon.training.data.images import decoded, image_files

BLOCK, MEASUREMENTS, FEATURES, PHASES = 16, 64, 16, (1, 3, 6)
BATCH, SYMMETRY = 16, 0.01
TRANSFORMS = ("blocks.*.H.*.weight", "blocks.*.inverse.*.weight")
DATA = Path(os.environ.get("RECON_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "natural" / "set11"
SAMPLE = 512  # windows whose second moment the linear estimate is of


def grey(image: Tensor) -> Tensor:
    return image.mean(0) if len(image) == 3 else image[0]


def windows(pictures: Sequence[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Blocks from anywhere in the pictures."""
    found = []
    for index in torch.randint(len(pictures), (count,), generator=generator).tolist():
        picture = pictures[index]
        i, j = (int(torch.randint(n - BLOCK + 1, (), generator=generator)) for n in picture.shape)
        found.append(picture[i : i + BLOCK, j : j + BLOCK])
    return torch.stack(found)[:, None]


def published_loss(
    model: ISTANetPlus, physics: BlockCompressedSensing, pictures: Sequence[Tensor]
) -> Callable[[torch.Generator], Tensor]:
    def loss(generator: torch.Generator) -> Tensor:
        x = windows(pictures, BATCH, generator)
        images, told = model.with_losses(physics.A(x), physics, model.own_losses)
        return (images - x).square().mean() + SYMMETRY * told["symmetry"]

    return loss


def quality(model: ISTANetPlus, matrix: Tensor, images: Sequence[Tensor]) -> float:
    """Mean PSNR of images with a peak of 1."""
    values = []
    for image in images:
        physics = BlockCompressedSensing(matrix, tuple(image.shape), (BLOCK, BLOCK))
        with torch.no_grad():
            x = model.eval()(physics.A(image[None, None]), physics)[0, 0].clamp(0, 1)
        values.append(-10 * math.log10(float((x - image).square().mean())))
    return float(np.mean(values))


def networks(
    matrix: Tensor, pictures: Sequence[Tensor], phases: int, steps: Sequence[int], seed: int
) -> dict[str, ISTANetPlus]:
    torch.manual_seed(seed)
    physics = BlockCompressedSensing(matrix, (BLOCK, BLOCK), (BLOCK, BLOCK))
    first = ISTANetPlus(phases, FEATURES)
    blocks = windows(pictures, SAMPLE, child_generator(seed, 3)).flatten(1)
    first.fit_start(matrix, blocks.T @ blocks)
    fit(first, published_loss(first, physics, pictures), steps[0], LR, seed)
    found = {}
    for levels in LEVELS:
        model = copy.deepcopy(first)
        if levels != "full":
            quantise(model, Quantisation(patterns=TRANSFORMS, levels=levels))
        rate = LR if levels == "full" else LATENT_LR
        fit(model, published_loss(model, physics, pictures), steps[1], rate, seed + 1)
        found[levels] = model
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 400), help="of the two stages")
    parser.add_argument("--images", type=Path, default=DATA)
    options = parser.parse_args()
    pictures = [grey(avg_pool2d(load_picture(name)[None], 2)[0]) for name in PICTURES]
    unseen = [grey(decoded(path)) for path in image_files([options.images])]
    rows: list[dict[str, object]] = []
    print(f"{'phases':>7}{'levels':>9}{'bits/link':>11}{'PSNR unseen':>13}{'trained on':>12}", flush=True)
    for phases in PHASES:
        trained = []
        for seed in range(options.seeds):
            matrix = gaussian_matrix(MEASUREMENTS, BLOCK**2, torch.Generator().manual_seed(seed))
            trained.append((matrix, networks(matrix, pictures, phases, options.steps, seed)))
        for levels in LEVELS:
            test = [quality(found[levels], matrix, unseen) for matrix, found in trained]
            seen = [quality(found[levels], matrix, pictures) for matrix, found in trained]
            model = trained[0][1][levels]
            links = count_links(model)
            constants = 32 * MEASUREMENTS * BLOCK**2  # of the linear estimate, which no weight is part of
            if file_bits(model) != links.stored_bits + constants:
                raise SystemExit(f"{levels}: the file has {file_bits(model)} bits, not {links.stored_bits + constants}")
            row = {"phases": phases, "levels": levels, "per_link": links.per_link, "links": links.links}
            row |= {"test": float(np.mean(test)), "test_spread": float(np.std(test)), "train": float(np.mean(seen))}
            rows.append(row)
            print(f"{phases:>7}{levels:>9}{links.per_link:>11.3f}{row['test']:>13.2f}{row['train']:>12.2f}", flush=True)
    record("onebit", {"network": "ista-net-plus", "seeds": options.seeds, "steps": options.steps, "rows": rows})


if __name__ == "__main__":
    main()
