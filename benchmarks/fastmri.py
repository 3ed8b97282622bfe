"""FastMRI's table of models, and the files that its leaderboard takes.

``python benchmarks/fastmri.py --data PATH [--split val] [--model NAME_OR_CHECKPOINT ...] [--submission DIR]``

PATH holds ``multicoil_train``, ``multicoil_val``, ``multicoil_test`` (or folders or files of these names without
``multicoil_``, or the files themselves). Full scans are undersampled by one mask a volume, which depends on the file's
name only; scans with a ``mask`` keep it, and have figures where they have a reference. NMSE, PSNR and SSIM are those
of fastMRI's evaluate.py [Zbontar 2018]: of each volume, against ``reconstruction_rss`` cropped to the square of its
width, with the volume's maximum as range; the table gives their mean and twice their standard deviation.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import record
from deepinv.models import Reconstructor
from numpy import ndarray

import recon
from recon import metrics
from recon.datasets import Scan
from recon.datasets.atomic import atomic_path, check_target
from recon.datasets.hdf5_output import hdf5_output
from recon.datasets.masks import make_mask
from recon.physics.errors import DataError, ReconError
from recon.slices import BASIC
from recon.training.data.fastmri import open_fastmri
from recon.training.data.index import find_files

MODELS = ("zero-filled", "cg-sense", "l1-wavelet", "unet", "varnet", "recurrentvarnet")
FIGURES = ("nmse", "psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """Figures of one volume."""

    file: str
    acquisition: str
    acceleration: str
    model: str
    figures: dict[str, float]


def files_of(folder: Path, split: str) -> list[Path]:
    """Find the files of a split, wherever in the folder it lies."""
    for place in (f"multicoil_{split}", split):
        if (folder / place).is_dir():
            return find_files(folder, place, (".h5",))
    return find_files(folder.parent, folder.name, (".h5",))


def undersampled(scan: Scan, name: str, acceleration: float) -> Scan:
    """Sample lines of a full scan, the same ones of a file each time; what was not acquired stays out."""
    seed = int.from_bytes(hashlib.sha256(str(scan.source.path and scan.source.path.name).encode()).digest()[:4], "big")
    acquired = scan.sampling(scan.n_slices // 2)[0].any(axis=0)
    mask = make_mask(name, (scan.spatial[0], scan.spatial[1]), acceleration, generator=seed).numpy()
    return replace(scan, mask=mask & acquired)


def square(volume: ndarray, side: int) -> ndarray:
    """Crop around the centre, as fastMRI's evaluation does."""
    for axis in (-2, -1):
        n = volume.shape[axis]
        start = (n - side) // 2
        volume = volume.take(range(max(start, 0), max(start, 0) + min(side, n)), axis)
    return volume


def compare(image: ndarray, reference: ndarray) -> dict[str, float]:
    """Return the figures of a volume."""
    side = reference.shape[-1]
    x, ref = square(image, side), square(reference, side)
    return {name: getattr(metrics, name)(x, ref) for name in FIGURES}


def submit(volume: ndarray, path: Path, *, overwrite: bool) -> None:
    """Write what the leaderboard takes: ``reconstruction`` (slice, y, x), float32, nothing else."""
    with atomic_path(path, overwrite=overwrite) as temporary, hdf5_output(temporary) as (file, check):
        file["reconstruction"] = volume.astype(np.float32)
        check()


def load_all(names: Sequence[str]) -> dict[str, Reconstructor]:
    """Load the models there are; say why others are left out."""
    models = {}
    for name in names:
        try:
            models[Path(name).stem if recon.zoo.is_file(name) else name] = recon.load_model(name)
        except ReconError as error:
            print(f"skipped: {error}")
    if not models:
        raise DataError("none of the models can be used", found=", ".join(names))
    return models


def run(options: argparse.Namespace) -> list[Row]:
    """Reconstruct every volume by every model."""
    models = load_all(options.model)
    files = files_of(options.data, options.split)[: options.volumes]
    rows: list[Row] = []
    failed: list[str] = []
    for path in files:
        try:
            scan = open_fastmri(path)
            given = scan.mask is not None and not scan.mask.all()
            scans = {"": scan}
            if not given:
                scans = {f"{a:g}x": undersampled(scan, options.mask, a) for a in options.acceleration}
            reference = None
            if scan.reference is not None:
                reference = np.stack([np.asarray(scan.reference[i]) for i in range(scan.n_slices)])
        except ReconError as error:
            failed.append(str(error))
            continue
        for acceleration, sampled in scans.items():
            for name, model in models.items():
                target = None if options.submission is None else options.submission / name / acceleration / path.name
                if target is not None:
                    check_target(target, overwrite=options.overwrite)
                try:
                    result = recon.reconstruct(replace(sampled, reference=None), model=model, map_sets=1, trust=BASIC)
                except ReconError as error:
                    failed.append(f"{name}: {error}")
                    continue
                volume = result.magnitude.cpu().numpy()
                if target is not None:
                    submit(volume, target, overwrite=options.overwrite)
                if reference is not None:
                    kind = str(scan.header.get("acquisition", "")) or "unnamed"
                    rows.append(Row(path.name, kind, acceleration or "given", name, compare(volume, reference)))
        print(f"{path.name}: {', '.join(scans) or 'its own mask'}", file=sys.stderr, flush=True)
    if failed:
        print(f"{len(failed)} reconstructions or files left out: {'; '.join(failed)}")
    return rows


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the table, by acceleration and acquisition, and keep it."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for kind in (row.acquisition, "all"):
            groups[row.acceleration, kind, row.model].append(row)
    print(f"{'':6}{'acquisition':16}{'model':20}{'volumes':>8}{'NMSE':>20}{'PSNR':>18}{'SSIM':>18}")
    table = []
    order = sorted({key[:2] for key in groups}, key=lambda key: (key[0], key[1] == "all", key[1]))
    for acceleration, kind in order:
        for (a, k, model), members in groups.items():
            if (a, k) != (acceleration, kind):
                continue
            values = np.array([[row.figures[name] for name in FIGURES] for row in members])
            mean, spread = values.mean(axis=0), 2 * values.std(axis=0)
            figures = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(mean, spread, (5, 2, 4), strict=True)]
            print(f"{a:6}{k:16}{model:20}{len(members):8}{figures[0]:>20}{figures[1]:>18}{figures[2]:>18}")
            line = dict(zip(FIGURES, np.stack([mean, spread], 1).round(6).tolist(), strict=True))
            table.append({"acceleration": a, "acquisition": k, "model": model, "volumes": len(members), **line})
    record("fastmri", {"data": options.data.name, "split": options.split, "mask": options.mask, "rows": table})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of fastMRI's files")
    parser.add_argument("--split", default="val", help="val, test, ... (default: val)")
    parser.add_argument("--model", nargs="+", default=list(MODELS), help="names or checkpoints")
    parser.add_argument("--mask", default="equispaced_fraction", help="of lines (default: equispaced_fraction)")
    parser.add_argument("--acceleration", type=float, nargs="+", default=[4.0, 8.0], help="default: 4 8")
    parser.add_argument("--volumes", type=int, help="only the first so many")
    parser.add_argument("--submission", type=Path, metavar="DIR", help="write DIR/MODEL/[ACCELERATION/]FILE.h5")
    parser.add_argument("--overwrite", action="store_true", help="replace submissions that exist")
    options = parser.parse_args(arguments)
    try:
        rows = run(options)
        if rows:
            report(rows, options)
        else:
            print("no volume has a reference, so there are no figures")
    except ReconError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
