"""``recon simulate cs``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from recon.cli.common import add_json, numbers, print_json, print_pairs
from recon.physics.errors import DataError, OptionError

if TYPE_CHECKING:
    from recon.datasets import Image

_RATIO = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what ``simulate cs`` takes."""
    add_json(parser)
    parser.add_argument("image", nargs="?", type=Path, help="image or volume (default: the Shepp-Logan phantom)")
    parser.add_argument("--out", type=Path, required=True, help="output: .npz; the truth goes beside it")
    parser.add_argument("--ratio", type=float, help="measurements a pixel (default: 0.25, or that of a matrix's file)")
    parser.add_argument(
        "--matrix", default="gaussian", metavar="KIND|FILE", help="gaussian hadamard dct, or a file (.npy .mat .npz)"
    )
    parser.add_argument("--variable", help="name of the matrix in a file of several")
    parser.add_argument("--ordering", help="which rows of a transform: sequency cake_cutting zig_zag xy random")
    parser.add_argument("--block", metavar="SIZE", help="side of a block, or HxW (default: 33; for hadamard 32)")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SIGMA", help="in each measurement, in units of the image"
    )
    parser.add_argument(
        "--colour", default="luminance", help="of a colour image measure its luminance (default), or its channels"
    )
    parser.add_argument("--slices", type=numbers, help="slices wanted, such as 0,3,5-9 (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Simulate, and write the measurements and the truth beside them."""
    from recon import datasets
    from recon.datasets.atomic import check_target
    from recon.datasets.simulate_compressed import MATRICES, make_matrix, read_matrix, simulate_compressed
    from recon.datasets.writers import find_writer

    find_writer(args.out, datasets.CompressedScan)
    truth_path = args.out.with_name(args.out.name.split(".")[0] + "-truth.h5")
    for output in (args.out, truth_path):
        check_target(output, overwrite=args.overwrite)
    image = read_image(args.image, args.slices)
    block = _block(args.block, 32 if args.matrix == "hadamard" else 33)
    path = Path(args.matrix)
    if args.matrix not in MATRICES and (path.exists() or path.suffix):
        if args.ordering is not None:
            raise OptionError("a matrix from a file has no ordering", found=args.ordering)
        matrix = read_matrix(path, block, ratio=args.ratio, variable=args.variable)
    else:
        ratio = _RATIO if args.ratio is None else args.ratio
        matrix = make_matrix(args.matrix, ratio, block, ordering=args.ordering, seed=args.seed)
    made = simulate_compressed(image, matrix, block, sigma=args.noise, colour=args.colour, seed=args.seed)
    scan = made.scan
    datasets.save(scan, args.out, overwrite=args.overwrite)
    datasets.save(made.truth, truth_path, overwrite=args.overwrite)
    facts = {
        "output": str(args.out),
        "truth": str(truth_path),
        "shape (slice, channel, m, rows, columns)": list(scan.measurements.shape),
        "ratio": round(scan.ratio, 5),
        "noise level": scan.sigma,
        "notes": "; ".join(scan.notes),
    }
    if args.json:
        print_json(facts)
    else:
        print_pairs("simulated", facts.items())
    return 0


def _block(text: str | None, default: int) -> tuple[int, int]:
    if text is None:
        return default, default
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise OptionError("the block is not understood", found=text, expected="a side (33) or height and width (16x32)")
    return sides[0], sides[-1]


def read_image(path: Path | None, slices: list[int] | None) -> Image:
    """Return the image to measure; only the slices that are wanted."""
    from dataclasses import replace

    from recon import datasets
    from recon.datasets.simulate_compressed import phantom

    image = phantom() if path is None else datasets.open(path)
    if not isinstance(image, datasets.Image):
        raise DataError("this file holds measurements or stamps, not an image", file=path)
    if slices is None:
        return image
    return replace(image, pixels=image.stacked(slices), affine=None, maps={})  # those are of all slices
