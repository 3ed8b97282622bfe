"""Galaxy stamps in ``recon reconstruct FILE...``: deblurred stamps and their catalogue."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.physics.errors import OptionError, OutputError, ReconError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from recon.datasets import Stamps
    from recon.datasets.readers import Opened, ReadOptions
    from recon.galaxies.result import StampResult

OPTIONS: dict[str, object] = dict.fromkeys(
    ("psf", "weight", "mask", "positions", "segmentation", "size", "catalogue", "replicas")
) | {"responses": False}
"""What is for stamps only, with its defaults."""


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Say what is for stamps only."""
    group.add_argument("--psf", type=Path, metavar="FILE", help="PSFs, one each or one for all")
    group.add_argument("--weight", type=Path, metavar="FILE", help="inverse variance of the pixels")
    group.add_argument("--mask", type=Path, metavar="FILE", help="not 0 where a pixel is bad")
    group.add_argument("--positions", type=Path, metavar="FILE", help="table of the objects to cut out of a full image")
    group.add_argument("--segmentation", type=Path, metavar="FILE", help="image that labels the pixels of each object")
    group.add_argument("--size", type=int, help="side of the stamps to cut out; without --positions, of all detected")
    group.add_argument(
        "--catalogue", type=Path, metavar="FILE", help=".fits or .ecsv (default: OUT-catalogue.fits beside the output)"
    )
    group.add_argument(
        "--replicas", type=int, metavar="N", help="runs in more noise, for the errors; 0: no errors (default: 4)"
    )
    group.add_argument(
        "--responses", action="store_true", help="columns for a calibrated mean shear: 5 more runs, on sheared stamps"
    )


def open_input(path: Path, args: argparse.Namespace) -> Opened:
    """Open an input with what the options say belongs to it."""
    from dataclasses import asdict

    from recon.datasets import open as open_file

    return open_file(path, format=args.format, **asdict(_read_options(args)))


def _read_options(args: argparse.Namespace) -> ReadOptions:
    from recon.datasets.readers import ReadOptions

    return ReadOptions(
        variable=args.variable,
        psf=args.psf,
        weight=args.weight,
        mask=args.mask,
        catalogue=args.positions,
        segmentation=args.segmentation,
        size=args.size,
    )


def one_file(
    path: Path,
    stamps: Stamps,
    target: Path,
    args: argparse.Namespace,
    pool: ProcessPoolExecutor | None,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Deblur and measure the stamps of one file; write them and the catalogue, and return what is told of it."""
    from recon.galaxies.plan import REPLICAS, StampJob, execute
    from recon.parallel import fill_spool

    start = time.perf_counter()
    target, catalogue = _targets(target, args)
    wanted = _missing((target, catalogue), args)
    if not wanted:
        return {"file": str(path), "output": str(target), "catalogue": str(catalogue), "note": "there already"}
    job = StampJob(
        path=path,
        spool=target.with_name(f".{target.name}.parts"),
        model=args.model,
        replicas=REPLICAS if args.replicas is None else args.replicas,
        responses=args.responses,
        seed=args.seed,
        device=args.device,
        format=args.format,
        options=_read_options(args),
    )
    try:
        plan = job.plan(stamps)
        if pool is not None:
            fill_spool(pool, job, plan, progress)
        result = execute(plan, progress=progress, spool=job.spool)
        if catalogue in wanted:
            result.save_catalogue(catalogue, overwrite=args.overwrite)
        if target in wanted:
            result.save(target, overwrite=args.overwrite)
    except ReconError as error:
        # Finished parts are of use again only where the disk was at fault.
        if not isinstance(error, OutputError) or target.exists():
            shutil.rmtree(job.spool, ignore_errors=True)
        raise
    shutil.rmtree(job.spool, ignore_errors=True)
    return _row(path, target, catalogue, result, time.perf_counter() - start)


def _targets(target: Path, args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the files for stamps and catalogue."""
    from recon.datasets.catalogue import ECSV_ENDINGS, FITS_ENDINGS

    if not target.name.lower().endswith(FITS_ENDINGS):
        if args.out is not None and target == args.out:
            raise OptionError("stamps are not written in this format", file=target, expected=".fits")
        target = target.with_name(target.name.removesuffix(args.ending) + ".fits")
    if args.catalogue is None:
        return target, target.with_name(f"{target.stem}-catalogue.fits")
    if len(args.files) > 1:
        raise OptionError("one catalogue for several inputs", file=args.catalogue, cure="Leave --catalogue out")
    if not args.catalogue.name.lower().endswith(FITS_ENDINGS + ECSV_ENDINGS):
        raise OptionError(
            "no catalogue can be written with this ending", file=args.catalogue, expected=".fits or .ecsv"
        )
    if args.catalogue == target:
        raise OptionError("stamps and catalogue in one file", file=target, cure="Give --catalogue another name")
    return target, args.catalogue


def _missing(targets: tuple[Path, Path], args: argparse.Namespace) -> list[Path]:
    """Return the outputs that are to be written; one that is there and may not be replaced stops all."""
    from recon.datasets.atomic import check_target

    missing = [target for target in targets if not (args.resume and target.exists())]
    for target in missing:
        check_target(target, overwrite=args.overwrite)
    return missing


def _row(path: Path, target: Path, catalogue: Path, result: StampResult, seconds: float) -> dict[str, Any]:
    summary = result.summary()
    return {
        "file": str(path),
        "output": str(target),
        "catalogue": str(catalogue),
        "model": result.provenance["model"]["name"],
        "objects": len(result),
        "unmeasured": int(summary["unmeasured"]),
        "chi2": summary["chi2"],
        "seconds": seconds,
        "note": "; ".join([*result.provenance["notes"], *result.warnings]),
    }
