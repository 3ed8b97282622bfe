"""``recon info FILE...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.cli.common import add_json, expand, print_json, print_pairs
from recon.physics.errors import ReconError

_FIRST = 1000  # objects that are looked at

if TYPE_CHECKING:
    from recon.datasets import CompressedScan, Image, Measurements, Scan, Stamps
    from recon.datasets.readers import Opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, folders or patterns")
    parser.add_argument("--format", help="name of the format, to skip the recognition by content")
    parser.add_argument("--variable", help="name of the array in a file of named arrays")
    parser.add_argument("--psf", metavar="FILE", help="PSFs of the stamps, one each or one for all")


def run(args: argparse.Namespace) -> int:
    """Describe each file; a bad one does not keep the others from being described."""
    from recon import datasets

    described: list[dict[str, Any]] = []
    failed = 0
    paths = [path for path, _ in expand(args.files)]
    for path in paths:
        try:
            facts = describe(datasets.open(path, format=args.format, variable=args.variable, psf=args.psf), path)
        except ReconError as error:
            failed += 1
            facts = {"file": str(path), "error": str(error)}
            if not args.json:
                print(f"recon: {error}", file=sys.stderr)
                continue
        described.append(facts)
        if not args.json:
            print_pairs(facts["file"], [(key, value) for key, value in facts.items() if key != "file"])
    if args.json:
        print_json(described)
    if failed:
        return 2 if failed == len(paths) else 1
    return 0


def describe(opened: Opened, path: Path) -> dict[str, Any]:
    """Return what a file holds, JSON-serialisable; what it does not say is None."""
    from recon.datasets import CompressedScan, Image, Measurements, Stamps

    facts: dict[str, Any] = {"file": str(path), "format": opened.source.format}
    if isinstance(opened, Stamps):
        return facts | _stamps(opened)
    if isinstance(opened, CompressedScan):
        return facts | _compressed(opened)
    if isinstance(opened, Measurements):
        return facts | _measurements(opened)
    if isinstance(opened, Image):
        facts |= {"kind": "image", "shape": list(opened.pixels.shape), "unit": opened.unit}
        return facts | _geometry(opened) | {"notes": list(opened.notes)}
    facts |= {
        "kind": "k-space" if opened.trajectory is None else "non-Cartesian k-space",
        "shape": list(opened.kspace.shape),
        "axes": {3: "slice, coil, sample", 4: "slice, coil, y, x", 5: "slice, coil, z, y, x"}[len(opened.kspace.shape)],
        "slices": opened.n_slices,
        "coils": opened.n_coils,
    }
    facts |= _sampling(opened)
    facts |= {
        "noise scan": None if opened.noise is None else f"{opened.noise.shape[1]} samples a coil",
        "coil maps": None if opened.coil_maps is None else "in the file",
        "reference image": None if opened.reference is None else list(opened.reference.shape),
        "reconstructed matrix": None if opened.matrix is None else list(opened.matrix),
        "readout oversampling": opened.oversampling,
        "partial Fourier": None if opened.partial_fourier is None else list(opened.partial_fourier),
    }
    missing = [name for name, value in (facts | _geometry(opened)).items() if value is None]
    return facts | _geometry(opened) | {"not in the file": ", ".join(missing) or "nothing", "notes": list(opened.notes)}


def _stamps(stamps: Stamps) -> dict[str, Any]:
    """Return counts and sizes of all, and what is wrong with the first of them."""
    import warnings

    from recon.datasets.stamp_cleaning import StampFlag, names

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flags say the same
        first = stamps.batch(0, _FIRST)
    count = {name: int((first.flags & flag != 0).sum()) for flag in StampFlag for name in names(flag)}
    noise = "by weights" if stamps.weight is not None else "in the file" if stamps.sigma is not None else "estimated"
    facts: dict[str, Any] = {
        "kind": "galaxy stamps",
        "objects": stamps.n,
        "stamp (y, x)": list(stamps.shape),
        "PSF": f"{'one for all' if stamps.psf.shape[0] == 1 else 'one each'}, {list(stamps.psf.shape[1:])}",
        "pixel scale": None if stamps.pixel_scale is None else f'{stamps.pixel_scale:.5g}"',
        "WCS": None if stamps.jacobian is None else "one for all" if len(stamps.jacobian) == 1 else "one each",
        "unit": stamps.units,
        "noise level": f"{float(first.sigma.median()):.4g}, {noise}",
        "mask": None if stamps.mask is None else "in the file",
        "neighbours": None if stamps.neighbours is None else "masked",
        f"flags of the first {len(first)}": ", ".join(f"{n} {name}" for name, n in count.items() if n) or "none",
    }
    missing = [name for name, value in facts.items() if value is None]
    return facts | {"not in the file": ", ".join(missing) or "nothing", "notes": list(stamps.notes)}


def _compressed(scan: CompressedScan) -> dict[str, Any]:
    m, n = scan.matrix.shape
    return {
        "kind": "compressed measurements",
        "shape": list(scan.measurements.shape),
        "axes": "slice, channel, measurement, rows, columns of blocks",
        "slices": scan.n_slices,
        "image (y, x)": list(scan.size),
        "colour": scan.colour or "grey",
        "block (y, x)": list(scan.block),
        "matrix": f"{m} x {n}, rows {'' if scan.orthonormal else 'not '}orthonormal",
        "ratio": round(scan.ratio, 5),
        "noise level": scan.sigma,
        "white": scan.peak,
        "unit": scan.unit,
        "notes": list(scan.notes),
    } | _geometry(scan)


def _measurements(data: Measurements) -> dict[str, Any]:
    spacing = None if data.spacing is None else [round(value, 4) for value in data.spacing]
    return {
        "kind": "measurements with their operator",
        "operator": data.physics,
        "shape": list(data.measurements.shape),
        "axes": "slice, channel, and those of the operator",
        "slices": data.n_slices,
        "image (c, y, x)": list(data.img_size),
        "arrays": {name: list(values.shape) for name, values in data.arrays.items()},
        "noise level": data.sigma,
        "gain": data.gain,
        "reference image": None if data.reference is None else list(data.reference.shape),
        "unit": data.unit,
        "spacing (z, y, x) mm": spacing,
        "notes": list(data.notes),
    }


def _geometry(opened: Scan | Image | CompressedScan) -> dict[str, Any]:
    return {
        "spacing (z, y, x) mm": None if opened.spacing is None else [round(value, 4) for value in opened.spacing],
        "orientation": None if opened.affine is None else opened.affine.round(4).tolist(),
    }


def _sampling(scan: Scan) -> dict[str, Any]:
    """Mask, acceleration and noise of the middle slice."""
    import torch

    from recon.calibration import calibration_region, noise_level

    if scan.trajectory is not None:
        return {"mask": "off the grid", "samples": scan.spatial[0]}
    middle = scan.n_slices // 2
    mask, from_file = scan.sampling(middle)
    facts: dict[str, Any] = {
        "mask": "in the file" if from_file else "not in the file; from the zeros in k-space",
        "sampled": f"{mask.mean():.1%}",
        "acceleration": round(float(mask.size / max(1, mask.sum())), 3),
    }
    if mask.ndim == 2:
        k, m = torch.from_numpy(scan.slice(middle))[None], torch.from_numpy(mask.copy())[None, None]
        facts["calibration block (y, x)"] = list(calibration_region(m[0, 0]))
        try:
            facts["noise level"] = float(noise_level(k * m, m))
        except ReconError as error:
            facts["noise level"] = f"unknown: {error.problem}"
    return facts
