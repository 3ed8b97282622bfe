"""``recon simulate ct``, ``inpainting``, ``blur``, ``superresolution``, ``denoising`` and ``demosaicing``."""

from __future__ import annotations

import argparse
from pathlib import Path

from recon.cli.common import add_json, numbers, print_json, print_pairs
from recon.cli.simulate_compressed import read_image

KINDS = {
    "ct": ("sinograms of computed tomography", "angles=60,geometry=fan,photons=1e5"),
    "inpainting": ("an image without some of its pixels", "keep=0.5"),
    "blur": ("a blurred image", "motion=9,angle=30,sigma=2"),
    "superresolution": ("an image on a coarser grid", "factor=4"),
    "denoising": ("a noisy image", "sigma=25"),
    "demosaicing": ("an image of one colour a pixel", "pattern=rggb"),
}


def add_arguments(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Say what they take."""
    for kind, (summary, example) in KINDS.items():
        parser = kinds.add_parser(kind, help=summary, description=f"Make {summary}.")
        add_json(parser)
        default = "the astronaut" if kind == "demosaicing" else "the Shepp-Logan phantom"
        parser.add_argument("image", nargs="?", type=Path, help=f"image or volume (default: {default})")
        parser.add_argument("--out", type=Path, required=True, help="output, .h5: with operator and truth")
        parser.add_argument(
            "--physics", default="", metavar="KEY=VALUE,...", help=f"of the operator and its noise, such as {example}"
        )
        parser.add_argument("--slices", type=numbers, help="slices wanted, such as 0,3,5-9 (default: all)")
        parser.add_argument("--seed", type=int, help="seed of all random choices (default: 0)")
        parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def run(args: argparse.Namespace) -> int:
    """Measure an image and write the measurements with their operator and the truth."""
    import numpy as np

    from recon import datasets
    from recon.datasets.atomic import check_target
    from recon.datasets.writers import find_writer
    from recon.measured_files import simulate_measurements
    from recon.physics_spec import parse_spec

    check_target(args.out, overwrite=args.overwrite)
    find_writer(args.out, datasets.Measurements)
    words = args.physics.removeprefix(args.kind).removeprefix(":")
    if args.seed is not None:
        words = ",".join(filter(None, [words, f"seed={args.seed}"]))
    spec = parse_spec(f"{args.kind}:{words}")
    if args.image is None and args.kind == "demosaicing":
        from skimage.data import astronaut

        image = datasets.Image(pixels=np.asarray(astronaut())[None], source=datasets.Source("astronaut"))
    else:
        image = read_image(args.image, args.slices)
    made = simulate_measurements(image, spec)
    datasets.save(made, args.out, overwrite=args.overwrite)
    facts = {
        "output": str(args.out),
        "operator": made.physics,
        "image (c, y, x)": list(made.img_size),
        "shape (slice, channel, ...)": list(made.measurements.shape),
        "noise level": made.sigma,
        "gain": made.gain,
        "notes": "; ".join(made.notes),
    }
    if args.json:
        print_json(facts)
    else:
        print_pairs("simulated", facts.items())
    return 0
