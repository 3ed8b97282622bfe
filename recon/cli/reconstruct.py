"""``recon reconstruct FILE...``."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.cli import reconstruct_stamps
from recon.cli.common import add_json, expand, numbers, print_json, print_table, progress_bar
from recon.physics.errors import FileFormatError, OptionError, OutputError, ReconError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

    from rich.progress import Progress, TaskID

    from recon.datasets.readers import Opened
    from recon.result import Result
    from recon.slices import Trust

_FOR_SCANS = {"report": False, "slices": None, "coils": None, "whiten": "auto", "maps": None, "trust": "3"}
_NOT_FOR_COMPRESSED = {"coils": None, "whiten": "auto", "maps": None, "jobs": 1}
_NOT_FOR_MEASUREMENTS = _NOT_FOR_COMPRESSED | {"trust": "3"}
_FOR_MEASUREMENTS = {"physics": None, "sigma": None, "gain": None, "tile": None}
_SHOWN = ("hold_out_error", "data_residual", "psnr", "ssim")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    add_json(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, folders or patterns")
    parser.add_argument("--model", default="auto", help="a name from `recon models` (default: chosen by the data)")
    parser.add_argument("--out", type=Path, help="output file (one input) or folder (default: this folder)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--device", help="where to compute (default: the accelerator if there is one)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the slices or stamps")
    parser.add_argument("--format", help="name of the input format, to skip the recognition by content")
    parser.add_argument("--variable", help="name of the array in a file of named arrays")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--resume", action="store_true", help="leave outputs that exist as they are")
    scans = parser.add_argument_group("k-space and compressed measurements")
    scans.add_argument(
        "--ending", default=".h5", help="kind of output in a folder: .h5 .nii.gz .dcm .fits .npz .png .cfl"
    )
    scans.add_argument("--report", action="store_true", help="also write a report, NAME.html, beside each output")
    scans.add_argument("--slices", type=numbers, help="slices wanted, such as 0,3,5-9 (default: all)")
    scans.add_argument("--coils", type=int, help="compress to this many virtual coils")
    scans.add_argument("--whiten", choices=("auto", "corners", "none"), default="auto", help="noise pre-whitening")
    scans.add_argument("--maps", type=int, choices=(1, 2), help="sets of coil maps (default: as the data need)")
    scans.add_argument(
        "--trust",
        default="3",
        metavar="N|all|none",
        help="slices that get a hold-out error and a noise map (default: 3)",
    )
    others = parser.add_argument_group("measurements by any operator")
    others.add_argument(
        "--physics",
        metavar="SPEC",
        help="operator of an array in a file, such as ct:angles=60,geometry=fan inpainting:mask=mask.png "
        "blur:kernel=psf.npy superresolution:factor=4 denoising demosaicing:pattern=rggb",
    )
    others.add_argument("--sigma", type=float, help="standard deviation of the noise (default: from file or data)")
    others.add_argument("--gain", type=float, help="gain of Poisson noise (default: from the file)")
    others.add_argument("--tile", type=int, help="side of the tiles of a large image (default: where it must be)")
    reconstruct_stamps.add_arguments(parser.add_argument_group("galaxy stamps"))


def run(args: argparse.Namespace) -> int:
    """Reconstruct every input; a bad one is listed in the end and does not stop the others."""
    from recon.workers import workers

    inputs = expand(args.files)
    targets = _targets([path for path, _ in inputs], args)
    if args.jobs < 1:
        raise OptionError("--jobs must be positive", found=args.jobs)
    rows: list[dict[str, Any]] = []
    failures: list[ReconError] = []
    left_out: list[ReconError] = []
    with workers(args.jobs) if args.jobs > 1 else nullcontext() as pool, progress_bar(quiet=args.json) as bar:
        files = bar.add_task("files", total=len(inputs))
        for (path, named), target in zip(inputs, targets, strict=True):
            task = bar.add_task(path.name, total=None)
            try:
                rows.append(_one_file(path, target, args, pool, partial(_advance, bar, task)))
            except ReconError as error:
                not_a_scan = isinstance(error, FileFormatError) and not named  # a folder may hold other files
                (left_out if not_a_scan else failures).append(error)
                rows.append({"file": str(path), "output": None, "note": str(error)})
            bar.remove_task(task)
            bar.advance(files)
    _tell(rows, as_json=args.json)
    for foreign in left_out:
        print(f"recon: left out: {foreign}", file=sys.stderr)
    for failure in failures:
        print(f"recon: {failure}", file=sys.stderr)
    if not any(row["output"] for row in rows):
        if not failures:
            print(f"recon: {args.files[0]}: no file of a known format in the folder", file=sys.stderr)
        return 2
    return 1 if failures else 0


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _targets(paths: list[Path], args: argparse.Namespace) -> list[Path]:
    """Return the output of each input; inputs of one name in different folders must not meet in one output."""
    from recon.datasets import Image
    from recon.datasets.writers import find_writer

    out: Path = args.out if args.out is not None else Path()
    if args.out is not None and not out.is_dir() and out.suffix:
        find_writer(out, Image)
        if len(paths) > 1:
            raise OptionError("one output file for several inputs", file=out, cure="Give --out a folder")
        return [out]
    find_writer(Path("x" + args.ending), Image)
    targets = [out / f"{path.name.split('.')[0]}-recon{args.ending}" for path in paths]
    doubled = {target for target in targets if targets.count(target) > 1}
    return [
        out / f"{path.parent.name}-{path.name.replace('.', '-')}-recon{args.ending}" if target in doubled else target
        for path, target in zip(paths, targets, strict=True)
    ]


def _one_file(
    path: Path,
    target: Path,
    args: argparse.Namespace,
    pool: ProcessPoolExecutor | None,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    from recon.compressed import reconstruct_compressed
    from recon.datasets import CompressedScan, Measurements, Stamps
    from recon.measured_files import measurements_of, reconstruct_measurements
    from recon.parallel import Job, fill_spool
    from recon.pipeline import execute, only_scan
    from recon.prepare import Preparation

    start = time.perf_counter()
    opened: Opened
    if args.physics is not None:
        opened = measurements_of(path, args.physics, variable=args.variable)
    else:
        opened = reconstruct_stamps.open_input(path, args)
    if isinstance(opened, Measurements):
        _check_unused(args, _NOT_FOR_MEASUREMENTS | reconstruct_stamps.OPTIONS, "measurements by any operator", path)
        measured = partial(
            reconstruct_measurements,
            opened,
            args.model,
            sigma=args.sigma,
            gain=args.gain,
            tile=args.tile,
            slices=args.slices,
            device=args.device,
            progress=progress,
        )
        return _written(measured, path, target, args, start)
    _check_unused(args, _FOR_MEASUREMENTS, "such a file", path)
    if isinstance(opened, Stamps):
        _check_unused(args, _FOR_SCANS, "galaxy stamps", path)
        return reconstruct_stamps.one_file(path, opened, target, args, pool, progress)
    trust = _trust(args.trust)
    if isinstance(opened, CompressedScan):
        _check_unused(args, _NOT_FOR_COMPRESSED | reconstruct_stamps.OPTIONS, "compressed measurements", path)
        compressed = partial(
            reconstruct_compressed,
            opened,
            args.model,
            slices=args.slices,
            hold_out=trust.hold_out,
            seed=args.seed,
            device=args.device,
            progress=progress,
        )
        return _written(compressed, path, target, args, start)
    _check_unused(args, reconstruct_stamps.OPTIONS, "k-space", path)
    scan = only_scan(opened, path)
    job = Job(
        path=path,
        spool=target.with_name(f".{target.name}.slices"),
        model=args.model,
        how=Preparation(coils=args.coils, whiten=args.whiten, map_sets=args.maps, device=args.device),
        slices=None if args.slices is None else tuple(args.slices),
        trust=trust,
        seed=args.seed,
        format=args.format,
        variable=args.variable,
    )

    def from_kspace() -> Result:
        plan = job.plan(scan)
        if pool is not None:
            fill_spool(pool, job, plan, progress)
        return execute(plan, progress=progress, spool=job.spool)

    return _written(from_kspace, path, target, args, start, spool=job.spool)


def _written(
    make: Callable[[], Result],
    path: Path,
    target: Path,
    args: argparse.Namespace,
    start: float,
    *,
    spool: Path | None = None,
) -> dict[str, Any]:
    """Make an image, unless it may stay as it is; write it and its report, and return what is told of it.

    Finished slices in ``spool`` are of use again only where the disk was at fault, or the process was stopped.
    """
    from recon.datasets.atomic import check_target

    if args.resume and target.exists():
        return {"file": str(path), "output": str(target), "note": "there already"}
    report = _report_of(target)
    for output in (target, report) if args.report else (target,):
        check_target(output, overwrite=args.overwrite)
    try:
        result = make()
        result.save(target, overwrite=args.overwrite)
        if args.report:
            result.report(report, overwrite=args.overwrite)
    except ReconError as error:
        if spool is not None and (not isinstance(error, OutputError) or target.exists()):
            shutil.rmtree(spool, ignore_errors=True)
        raise
    if spool is not None:
        shutil.rmtree(spool, ignore_errors=True)
    return _row(path, target, result, time.perf_counter() - start)


def _check_unused(args: argparse.Namespace, defaults: Mapping[str, object], what: str, path: Path) -> None:
    """Refuse options that would do nothing."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise OptionError(f"--{name} does not apply to {what}", file=path)


def _trust(text: str) -> Trust:
    from recon.slices import BASIC, Trust

    if text == "none":
        return BASIC
    if text == "all":
        return Trust(slices=2**31)
    if text.isdecimal():
        return Trust(slices=int(text)) if int(text) else BASIC
    raise OptionError("--trust takes a number, all or none", found=text)


def _report_of(target: Path) -> Path:
    from recon.datasets import Image
    from recon.datasets.writers import find_writer

    ending = next(e for e in find_writer(target, Image).endings if target.name.lower().endswith(e))
    return target.with_name(target.name[: -len(ending)] + ".html")


def _row(path: Path, target: Path, result: Result, seconds: float) -> dict[str, Any]:
    summary = result.summary()
    return {
        "file": str(path),
        "output": str(target),
        "model": result.provenance["model"]["name"],
        "slices": result.image.shape[0],
        **{name: summary[name] for name in _SHOWN if name in summary},
        "seconds": seconds,
        "note": "; ".join([*result.provenance["notes"], *result.warnings]),
    }


def _tell(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    made = [row for row in rows if row["output"]]
    if as_json:
        print_json(rows)
    elif made:
        names = dict.fromkeys(name for row in made for name in row)
        print_table("", [{name: row.get(name) for name in names if any(row.get(name) for row in made)} for row in made])
