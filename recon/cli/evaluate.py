"""``recon evaluate RESULT --reference FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from recon.cli.common import add_json, print_json, print_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("result", type=Path, help="an image, as `recon reconstruct` or another tool wrote it")
    parser.add_argument("--reference", type=Path, required=True, help="an image, or a scan that holds its reference")
    parser.add_argument("--variable", help="name of the image in a file of named arrays")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap intervals")


def run(args: argparse.Namespace) -> int:
    """Print PSNR, SSIM, NMSE and HFEN with bootstrap intervals."""
    import numpy as np
    import torch
    from torch import Tensor

    from recon import datasets
    from recon.metrics import evaluate
    from recon.physics.errors import DataError, ShapeError

    def magnitude(path: Path) -> Tensor:
        opened = datasets.open(path, variable=args.variable)
        if isinstance(opened, datasets.CompressedScan | datasets.Measurements):
            raise DataError("the file holds measurements, not an image", file=path)
        pixels = opened.reference if isinstance(opened, datasets.Scan) else opened.pixels
        if pixels is None:
            raise DataError("the file holds no image and no reference", file=path)
        volume = np.abs(np.stack([np.asarray(pixels[index]) for index in range(pixels.shape[0])]))
        if not np.isfinite(volume).all():
            raise DataError("the image has values that are not finite", file=path)
        return torch.from_numpy(volume.astype(np.float32))

    image, reference = magnitude(args.result), magnitude(args.reference)
    if image.shape != reference.shape:
        raise ShapeError(
            "result and reference differ in shape",
            file=args.result,
            found=tuple(image.shape),
            expected=f"{tuple(reference.shape)} as {args.reference}",
        )
    figures = evaluate(image, reference, seed=args.seed)
    if args.json:
        print_json({"result": str(args.result), "reference": str(args.reference), **figures})
    else:
        print_pairs(f"{args.result} against {args.reference}", figures.items())
    return 0
