"""Recursive networks beside plain ones, and ours beside their authors' formulas.

``python benchmarks/recursion.py [--images FOLDER] [--repeats N] [--batch N]``

Training: seconds of steps whose turns are drawn (the draws have the mean of all draws), with the published losses,
recursive over plain; bytes that a step keeps for its backward pass, with weights, gradients and Adam's averages. Both
in turns in one process, batches of blocks at 25 %.

Inference: images from compressed measurements by our networks, and by the formulas in the authors' public code written
down again, with the same weights: ISTA-Net+ there computes its symmetry residuals at test time too. A picture of
scikit-image's, or those of a folder, as Set11.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from common import ratio, record, time_side_by_side
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from recon.models import registry
from recon.models.coast import COAST
from recon.models.ista_net_plus import ISTANetPlus
from recon.models.unrolled import UnrolledReconstructor
from recon.physics import BlockCompressedSensing
from recon.physics.measurement_matrices import gaussian_matrix
from recon.training.data.images import decoded, image_files

BLOCK, PIXELS, MEASUREMENTS = 33, 1089, 272
PAIRS = {
    "ista-net-plus": ("recursive-ista-net-plus", [(1, 2, 3), (3, 1, 2), (2, 3, 1)]),
    "coast": ("recursive-coast", [(1, 2, 3, 4, 2), (4, 3, 2, 1, 3)]),  # 12 and 13 turns: 12.5 on average
}
Step = Callable[[UnrolledReconstructor, tuple[int, ...]], None]
COPIES = 4  # of every weight in training: itself, its gradient, Adam's two averages


def network(name: str, matrix: Tensor) -> UnrolledReconstructor:
    """Make a network as training starts, with a linear estimate where it takes one."""
    torch.manual_seed(0)
    model = registry[name]()
    assert isinstance(model, UnrolledReconstructor)
    if model.linear_start:
        model.fit_start(matrix, torch.eye(PIXELS) + 1)
    return model.to(memory_format=torch.channels_last)


def training(batch: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of training steps, recursive over plain."""
    generator = torch.Generator().manual_seed(0)
    matrix = gaussian_matrix(MEASUREMENTS, PIXELS, generator)
    physics = BlockCompressedSensing(matrix, (BLOCK, BLOCK))
    target = torch.rand(batch, 1, BLOCK, BLOCK, generator=generator)
    y = physics.A(target)
    figures = {}
    for plain_name, (name, draws) in PAIRS.items():
        plain, recursive = network(plain_name, matrix).train(), network(name, matrix).train()
        names = ("symmetry",) if plain.own_losses else ()

        def step(model: UnrolledReconstructor, counts: tuple[int, ...], names: tuple[str, ...] = names) -> None:
            model.recursion.counts = lambda wanted=None: counts  # noqa: ARG005 - these, not drawn ones
            x, told = model.with_losses(y, physics, names)
            loss = (x - target).square().mean() + sum(0.01 * value for value in told.values())
            loss.backward()
            model.zero_grad()

        once = (1,) * plain.recursion.blocks
        most = (recursive.recursion.most,) * recursive.recursion.blocks
        seconds = time_side_by_side(
            {
                "plain": partial(each, step, plain, [once] * len(draws)),
                "recursive": partial(each, step, recursive, draws),
            },
            repeats,
        )
        times = ratio(seconds["recursive"], seconds["plain"])
        passes = [kept_bytes(partial(step, recursive, counts)) for counts in draws]
        kept = {
            "plain": kept_bytes(partial(step, plain, once)) + owned_bytes(plain),
            "longest": kept_bytes(partial(step, recursive, most)) + owned_bytes(recursive),
            "mean": sum(passes) / len(passes) + owned_bytes(recursive),
        }
        figures[name] = {
            "time over plain": times[0],
            "least": times[1],
            "greatest": times[2],
            "memory over plain, mean pass": kept["mean"] / kept["plain"],
            "memory over plain, longest pass": kept["longest"] / kept["plain"],
            "megabytes of plain": kept["plain"] / 2**20,
            "seconds of a plain step": min(seconds["plain"]) / len(draws),
        }
    return figures


def each(step: Step, model: UnrolledReconstructor, draws: list[tuple[int, ...]]) -> None:
    """Do a step with each of the draws."""
    for counts in draws:
        step(model, counts)


def kept_bytes(step: Callable[[], object]) -> int:
    """Bytes of all tensors that are kept for the backward pass, each counted once."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(seen.values())


def owned_bytes(model: nn.Module) -> int:
    """Bytes of weights, gradients and Adam's averages, less the weights that the backward pass keeps."""
    return (COPIES - 1) * sum(p.numel() * p.element_size() for p in model.parameters())


def authors_ista_net_plus(model: ISTANetPlus, y: Tensor, phi: Tensor) -> Tensor:
    """Test script of ISTA-Net-PyTorch, in our words: all blocks in one batch, symmetry residuals in every phase."""
    assert model.initial is not None
    gram, back = phi.mT @ phi, y @ phi
    x = y @ model.initial.mT
    for block in model.blocks:
        r = (x - block.step * (x @ gram) + block.step * back).view(-1, 1, BLOCK, BLOCK)
        d = conv2d(r, block.D.weight, padding=1)
        f = conv2d(relu(conv2d(d, block.H[0].weight, padding=1)), block.H[2].weight, padding=1)
        s = torch.sign(f) * relu(f.abs() - block.threshold)
        b = conv2d(relu(conv2d(s, block.inverse[0].weight, padding=1)), block.inverse[2].weight, padding=1)
        x = (r + conv2d(b, block.G.weight, padding=1)).view(-1, PIXELS)
        _ = conv2d(relu(conv2d(f, block.inverse[0].weight, padding=1)), block.inverse[2].weight, padding=1) - d
    return x


def authors_coast(model: COAST, y: Tensor, phi: Tensor, rows: int, columns: int) -> Tensor:
    """Test script of COAST, in our words."""
    gram, back = phi.mT @ phi, y @ phi
    x, gain = back.clone(), model.control(y.new_full((1, 1), len(phi) / PIXELS)).view(-1, 32, 1, 1)
    for block in model.blocks:
        r = (x - block.step * (x @ gram) + block.step * back).view(rows, columns, BLOCK, BLOCK).permute(0, 2, 1, 3)
        r = r.contiguous().view(1, 1, rows * BLOCK, columns * BLOCK)
        z = conv2d(r, block.head.weight, block.head.bias, padding=1)
        for part in block.residual:
            branch = relu(conv2d(z, part.first.weight, part.first.bias, padding=1))
            z = z + conv2d(branch, part.second.weight, part.second.bias, padding=1) * gain
        x = r + conv2d(z, block.tail.weight, block.tail.bias, padding=1)
        x = x.view(rows, BLOCK, columns, BLOCK).permute(0, 2, 1, 3).contiguous().view(-1, PIXELS)
    return x


def inference(images: list[Tensor], repeats: int) -> dict[str, dict[str, float]]:
    """Return times of the authors' formulas over ours, and how far the images differ."""
    matrix = gaussian_matrix(MEASUREMENTS, PIXELS, torch.Generator().manual_seed(0))
    plus, coast = network("ista-net-plus", matrix).eval(), COAST(crop=False).eval()
    coast.to(memory_format=torch.channels_last)
    figures = {}
    with torch.no_grad():
        for block in coast.blocks:  # random weights of full size would blow up
            block.tail.weight.mul_(0.1)
        for name, ours in (("ista-net-plus", plus), ("coast", coast)):
            ratios, differences = [], []
            theirs = deepcopy(ours).to(memory_format=torch.contiguous_format)  # as in the authors' code
            for image in images:
                physics = BlockCompressedSensing(matrix, (int(image.shape[0]), int(image.shape[1])))
                y = physics.A(image[None, None])
                rows, columns = physics.grid
                vectors = y[0, 0].flatten(1).mT.contiguous()

                def naive(
                    vectors: Tensor = vectors, theirs: nn.Module = theirs, rows: int = rows, columns: int = columns
                ) -> Tensor:
                    if isinstance(theirs, ISTANetPlus):
                        return authors_ista_net_plus(theirs, vectors, matrix)
                    assert isinstance(theirs, COAST)
                    return authors_coast(theirs, vectors, matrix, rows, columns)

                blocks = naive().unflatten(0, (rows, columns)).unflatten(-1, (BLOCK, BLOCK))[None, None]
                expected = physics.from_blocks(blocks)[..., : image.shape[0], : image.shape[1]]
                differences.append(float((ours(y, physics) - expected).abs().max()))
                tasks = {"theirs": naive, "ours": lambda y=y, p=physics, ours=ours: ours(y, p)}
                seconds = time_side_by_side(tasks, repeats)
                ratios.append(ratio(seconds["theirs"], seconds["ours"])[0])
            figures[name] = {
                "authors over ours": sum(ratios) / len(ratios),
                "least of an image": min(ratios),
                "largest difference": max(differences),
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    files = ["camera"] if args.images is None else image_files([args.images])
    images = [decoded(file)[0] for file in files]
    if args.images is None:
        images = [image[:256, :256].contiguous() for image in images]
    trained = training(args.batch, args.repeats)
    used = inference(images, args.repeats)
    for name, figures in (*trained.items(), *used.items()):
        print(name)
        for what, value in figures.items():
            print(f"  {what}: {value:.3g}")
    record("recursion", {"batch": args.batch, "training": trained, "inference": used})


if __name__ == "__main__":
    main()
