"""``recon simulate mri``, ``galaxy``, ``cs``, and of any other operator."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recon.cli import simulate_compressed, simulate_galaxy, simulate_physics
from recon.cli.common import add_json, numbers, print_json, print_pairs
from recon.cli.simulate_compressed import read_image
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from recon.datasets import Image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    mri = kinds.add_parser("mri", help="multi-coil k-space", description="Make raw multi-coil k-space.")
    add_json(mri)
    mri.add_argument("image", nargs="?", type=Path, help="image or volume (default: the Shepp-Logan phantom)")
    mri.add_argument("--out", type=Path, required=True, help="output: .h5 (fastMRI), .mrd (ISMRMRD), .cfl or .npz")
    mri.add_argument("--coils", type=int, default=8, help="number of simulated coils (default: 8)")
    mri.add_argument("--maps-from", type=Path, metavar="SCAN", help="take the coil maps of a real scan instead")
    mri.add_argument("--snr", type=float, default=30.0, help="mean signal of the body over the noise (default: 30)")
    mri.add_argument("--mask", default="poisson", help="full random equispaced gaussian poisson radial spiral ...")
    mri.add_argument("--acceleration", type=float, default=4.0, help="default: 4")
    mri.add_argument("--center", help="fully sampled centre: lines (24), a fraction (0.08) or a block (24x24)")
    mri.add_argument("--offset", type=int, help="first line of an equispaced mask")
    mri.add_argument("--partial-fourier", type=float, metavar="FRACTION", help="sample only this part, such as 0.625")
    mri.add_argument("--trajectory", choices=("radial", "spiral"), help="sample along it, off the grid")
    mri.add_argument("--no-phase", action="store_true", help="leave the background phase out")
    mri.add_argument("--correlation", type=float, default=0.3, help="of the noise between coils (default: 0.3)")
    mri.add_argument("--oversampling", type=float, default=1.0, help="of the readout, for masks of lines (default: 1)")
    mri.add_argument("--slices", type=numbers, help="slices wanted, such as 0,3,5-9 (default: all)")
    mri.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    mri.add_argument(
        "--format",
        help="name of the output format, for endings shared by several; fastmri: exactly that data set's layout, with "
        "no truth beside it (take --mask full --oversampling 2 for training files)",
    )
    mri.add_argument("--acquisition", default="", help="what the file calls itself, such as AXT2 (fastMRI's attribute)")
    mri.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    summary = "galaxy stamps with their truth and point-spread functions"
    simulate_galaxy.add_arguments(kinds.add_parser("galaxy", help=summary, description=f"Make {summary}."))
    summary = "measurements of an image by block compressed sensing"
    simulate_compressed.add_arguments(kinds.add_parser("cs", help=summary, description=f"Make {summary}."))
    simulate_physics.add_arguments(kinds)


def run(args: argparse.Namespace) -> int:
    """Simulate, and write the raw data and the truth beside it."""
    runs = {"mri": _run_mri, "galaxy": simulate_galaxy.run, "cs": simulate_compressed.run}
    return runs.get(args.kind, simulate_physics.run)(args)


def _run_mri(args: argparse.Namespace) -> int:
    import numpy as np

    from recon import datasets
    from recon.datasets.atomic import check_target
    from recon.datasets.masks import make_mask
    from recon.datasets.random import child_generator
    from recon.datasets.simulate import simulate_mri

    truth_path = None  # a folder in fastMRI's layout holds nothing else
    if args.format != "fastmri":
        truth_path = args.out.with_name(args.out.name.split(".")[0] + "-truth.h5")
    for output in (args.out, truth_path):
        if output is not None:
            check_target(output, overwrite=args.overwrite)
    image = _image(args.image, args.slices)
    mask: str | Tensor = args.mask
    shape = (image.pixels.shape[1], image.pixels.shape[2])
    if args.partial_fourier is not None:
        if not 0.5 < args.partial_fourier <= 1:
            raise OptionError("partial Fourier samples more than half", found=args.partial_fourier)
        encoded = (round(shape[0] * args.oversampling), shape[1])
        lines = make_mask("partial_fourier", encoded, 1 / args.partial_fourier)
        inner = make_mask(
            args.mask,
            encoded,
            args.acceleration,
            center=_center(args.center),
            offset=args.offset,
            generator=child_generator(args.seed, 0),
        )
        mask = inner & lines
    simulation = simulate_mri(
        image,
        coils=args.coils if args.maps_from is None else _maps_of(args.maps_from),
        snr=args.snr,
        mask=mask if isinstance(mask, str) else mask.numpy(),
        acceleration=args.acceleration,
        center=_center(args.center),
        offset=args.offset,
        trajectory=args.trajectory,
        phase=not args.no_phase,
        correlation=args.correlation,
        oversampling=args.oversampling,
        seed=args.seed,
    )
    scan = simulation.scan
    if args.acquisition:
        scan = replace(scan, header={**scan.header, "acquisition": args.acquisition})
    datasets.save(scan, args.out, overwrite=args.overwrite, format=args.format)
    if truth_path is not None:
        truth = datasets.Image(
            pixels=simulation.truth,
            source=scan.source,
            spacing=scan.spacing,
            affine=scan.affine,
            header=scan.header,
        )
        datasets.save(truth, truth_path, overwrite=args.overwrite)
    facts = {
        "output": str(args.out),
        "truth": None if truth_path is None else str(truth_path),
        "shape (slice, coil, ...)": list(scan.kspace.shape),
        "noise level": None if math.isinf(args.snr) else simulation.sigma,
        "sampled": None if scan.mask is None else f"{np.mean(scan.sampling(0)[0]):.1%}",
    }
    if args.json:
        print_json(facts)
    else:
        print_pairs("simulated", facts.items())
    return 0


def _center(text: str | None) -> int | float | tuple[int, int] | None:
    if text is None:
        return None
    try:
        if "x" in text:
            height, width = text.split("x")
            return int(height), int(width)
        return float(text) if "." in text else int(text)
    except ValueError:
        raise OptionError(
            "the centre is not understood", found=text, expected="lines (24), a fraction (0.08) or a block (24x24)"
        ) from None


def _image(path: Path | None, slices: list[int] | None) -> Image:
    """Return the image to measure; only the slices that are wanted."""
    import numpy as np

    from recon import datasets
    from recon.physics.errors import DataError

    if path is None:
        from skimage.data import shepp_logan_phantom

        phantom = np.pad(shepp_logan_phantom().astype(np.float32)[::2, ::2], 20)
        return datasets.Image(pixels=phantom[None], source=datasets.Source("Shepp-Logan phantom"))
    image = read_image(path, slices)
    if len(image.pixels.shape) != 3:
        raise DataError("a colour image cannot be measured", file=path, found=image.pixels.shape)
    return image


def _maps_of(path: Path) -> Tensor:
    """Return the coil maps ``(coil, y, x)`` of the middle slice of a real scan."""
    from recon import datasets
    from recon.physics.errors import DataError
    from recon.prepare import Preparation, prepare

    scan = datasets.open(path)
    if not isinstance(scan, datasets.Scan):
        raise DataError("this file holds an image, which has no coil maps", file=path)
    problem = prepare(scan, scan.n_slices // 2, Preparation(map_sets=1, device="cpu"))
    maps: Tensor = problem.physics.coil_maps
    return maps[0, 0]
