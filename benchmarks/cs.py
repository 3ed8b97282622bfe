r"""Block compressed sensing of pictures, as the tables of ISTA-Net, COAST and their recursive versions have it.

``python benchmarks/cs.py FOLDER... [--ratios 10 25 ...] [--models NAME|FILE ...] [--weights DIR]``

Each folder is a test set (Set11, BSD68); its name stands in the table. Pictures are measured in blocks of 33 x 33 by a
Gaussian matrix with orthonormal rows, the luminance of colour ones, filled up with zeros to whole blocks. PSNR with a
peak of 255 after clipping, and SSIM with windows of 7 x 7, are means over the pictures, with 95 % bootstrap
intervals that draw pictures again. Seconds are those of a picture in the model, one after the other; the record has
those of the processor too, which a busy machine does not change.

``--models`` are names of `recon.models`, or files of weights. The matrix is the one of ``recon simulate cs`` (seed 0),
for which weights of one matrix were trained here; those of another matrix are left out at that ratio.

``--weights`` is a folder in which the published files lie, in any depth, under the names that their authors gave them:
``.../CS_ISTA_Net_plus_layer_9_group_1_ratio_25_lr_0.0001/net_params_200.pkl`` with ``phi_0_25_1089.mat`` and
``Initialization_Matrix_25.mat`` or ``Training_Data.mat``; ``.../COAST_layer_20_group_1_ratio_all_*/*.pkl`` with
``phi_sampling_50_109x1089.npy``; ``.../R-COAST_layer_5_IPL_4_*/*.pkl`` with ``phi_sampling_1_109x1089.npy``. They are
imported, measured with their own matrices, and held against the published figures; the exit status is 1 where one is
further away than 0.02 dB.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import record
from deepinv.models import Reconstructor
from torch import Tensor

from recon.compressed import check_takes_compressed
from recon.datasets import Image
from recon.datasets import open as open_file
from recon.datasets.simulate_compressed import luminance, make_matrix, read_matrix
from recon.foreign.reading import import_weights
from recon.metrics import bootstrap_interval, picture_figures
from recon.physics import BlockCompressedSensing
from recon.physics.errors import OptionError
from recon.physics.measurement_matrices import measurements_at
from recon.training.data.images import image_files
from recon.zoo import load_model

BLOCK = (33, 33)
RATIOS = (10, 25, 50)  # percent
TOLERANCE = 0.02  # dB

# PSNR by set, model and percentage. Set11: ISTA-Net and ISTA-Net+ of the CVPR paper, COAST's table 1, the name of
# R-COAST's file; BSD68: COAST's table 1, and table 1 of the recursive paper.
PUBLISHED: dict[tuple[str, str], dict[int, float]] = {
    ("set11", "ista-net"): {1: 17.30, 4: 21.23, 10: 25.80, 25: 31.53, 30: 32.91, 40: 35.36, 50: 37.43},
    ("set11", "ista-net-plus"): {1: 17.34, 4: 21.31, 10: 26.64, 25: 32.57, 30: 33.82, 40: 36.06, 50: 38.07},
    ("set11", "coast"): {10: 28.69, 20: 32.54, 30: 35.04, 40: 37.13, 50: 38.94},
    ("set11", "recursive-coast"): {10: 28.50},
    ("bsd68", "coast"): {10: 26.28, 20: 29.00, 30: 31.06, 40: 32.93, 50: 34.74},
    ("bsd68", "recursive-coast"): {10: 26.14, 20: 28.79, 30: 30.83, 40: 32.68, 50: 34.46},
}
_ISTA = re.compile(r"^CS_ISTA_Net(_plus)?_layer_\d+_group_\d+_ratio_(\d+)_")
_COAST = re.compile(r"^(R-)?COAST_layer_\d+_(?:group_\d+_ratio_all|IPL_(\d+))_")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the table before it is measured; ``load`` gives the model, ``name`` is that of ours."""

    label: str
    name: str
    percent: int
    load: Callable[[], Reconstructor]
    matrix: Callable[[], Tensor]
    published: bool = False


def own(models: Sequence[str], ratios: Sequence[int]) -> Iterator[Entry]:
    """Return models by name or file, at every ratio."""
    for model in models:
        for percent in ratios:
            yield Entry(
                label=Path(model).stem,
                name=model,
                percent=percent,
                load=lambda model=model: load_model(model),
                matrix=lambda percent=percent: make_matrix("gaussian", percent / 100, BLOCK),
            )


def published(folder: Path, ratios: Sequence[int]) -> Iterator[Entry]:
    """Return the authors' networks that lie in a folder; of several states of one network the best or the last."""
    last = {name: path for path in sorted(folder.rglob("*.pkl"), key=_state) if (name := _network(path))}
    for parent, path in sorted(last.items()):
        if (match := _ISTA.match(parent)) and int(match[2]) in ratios:
            percent, name = int(match[2]), "ista-net-plus" if match[1] else "ista-net"
            phi = _only(folder, f"phi_0_{percent}_1089.mat")
            start = _maybe(folder, f"Initialization_Matrix_{percent}.mat") or _only(folder, "Training_Data.mat")
            yield Entry(
                label=parent,
                name=name,
                percent=percent,
                load=lambda path=path, name=name, beside=(phi, start): import_weights(path, name, beside=beside)[0],
                matrix=lambda phi=phi: read_matrix(phi, BLOCK, variable="phi"),
                published=True,
            )
        elif match := _COAST.match(parent):
            recursive, most = match[1] is not None, int(match[2] or 1)
            if most > 1 and not recursive:
                continue  # recursion without modulation, which the paper has for comparison only
            name = "recursive-coast" if recursive else "coast"
            overrides = {"recursions": most} if recursive else {}
            for percent in ratios:
                rounding, bank = ("half-even", 1) if match[2] else ("up", 50)
                m = measurements_at(percent / 100, BLOCK[0] * BLOCK[1], rounding)
                phi = _only(folder, f"phi_sampling_{bank}_{m}x1089.npy")
                yield Entry(
                    label=parent,
                    name=name,
                    percent=percent,
                    load=lambda path=path, name=name, o=overrides: import_weights(path, name, o)[0],
                    matrix=lambda phi=phi: torch.from_numpy(np.array(np.load(phi, mmap_mode="r")[0], np.float32)),
                    published="nrtrain=2667" not in parent,  # of scarce data only BSD68 was published
                )


def read_picture(path: Path) -> Tensor:
    """Read a picture or its luminance, ``(1, 1, y, x)`` from 0 to 255."""
    image = open_file(path)
    assert isinstance(image, Image)
    pixels = np.asarray(image.pixels[0])
    pixels = luminance(pixels) if pixels.ndim == 3 else pixels
    return torch.from_numpy(pixels.astype(np.float32))[None, None]


@torch.no_grad()
def measure(entry: Entry, pictures: Sequence[Tensor], device: torch.device) -> dict[str, list[float]]:
    """Reconstruct every picture; figures and seconds of each.

    Raises
    ------
    OptionError
        The model is for another matrix, or for other measurements.
    """
    model, matrix = entry.load().to(device), entry.matrix().to(device)
    check_takes_compressed(model)
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "seconds": [], "processor_seconds": []}
    for number, picture in enumerate([pictures[0], *pictures]):  # the first is to warm up
        x = picture.to(device) / 255
        physics = BlockCompressedSensing(matrix, (int(x.shape[2]), int(x.shape[3])), BLOCK)
        y = physics.A(x)
        start, busy = time.perf_counter(), time.process_time()
        image = 255 * model(y, physics).cpu()  # the copy waits for the device
        spent = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - busy}
        if number:
            figures = picture_figures(image[0, 0], picture[0, 0])
            for key, value in (figures | spent).items():
                found[key].append(value)
    return found


def row(entry: Entry, dataset: str, found: dict[str, list[float]]) -> dict[str, object]:
    """Return means with their intervals, and what was published."""
    line: dict[str, object] = {"set": dataset, "model": entry.label, "percent": entry.percent}
    for key, values in found.items():
        line[key] = float(np.mean(values))
        if len(values) > 1 and "seconds" not in key:
            line[f"{key}_low"], line[f"{key}_high"] = bootstrap_interval(values)
    if entry.published and (paper := PUBLISHED.get((dataset.lower(), entry.name), {}).get(entry.percent)):
        line["published"] = paper
    return line | {"psnr_each": found["psnr"], "ssim_each": found["ssim"]}


def _network(path: Path) -> str | None:
    """Return the name of the folder that says which network it is, if one does."""
    return next((part for part in reversed(path.parts[:-1]) if _ISTA.match(part) or _COAST.match(part)), None)


def _state(path: Path) -> tuple[bool, int]:
    """Order the states of a network: the one of the best PSNR last, else the last epoch."""
    return path.parent.name == "Best_PSNR", int((re.findall(r"\d+", path.name) or ["0"])[0])


def _maybe(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.rglob(name))), None)


def _only(folder: Path, name: str) -> Path:
    found = _maybe(folder, name)
    if found is None:
        raise SystemExit(f"{folder}: {name}, which belongs to the weights, is not there")
    return found


def main() -> int:
    """Print the table, line by line as it is measured, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="test sets")
    parser.add_argument("--ratios", nargs="+", type=int, default=RATIOS, help="in percent (default: 10 25 50)")
    parser.add_argument("--models", nargs="*", default=[], help="names, or files of weights")
    parser.add_argument("--weights", type=Path, help="folder of the authors' published files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-record", action="store_true", help="print only")
    args = parser.parse_args()
    entries = [*own(args.models, args.ratios), *(published(args.weights, args.ratios) if args.weights else ())]
    if not entries:
        parser.error("nothing to measure: give --models or --weights with weights of these ratios")
    rows, off = [], []
    print("| set | model | % | PSNR, dB | 95 % | SSIM | 95 % | s a picture | published |")
    print("|---" * 9 + "|")
    for folder in args.folders:
        pictures = [read_picture(path) for path in image_files([folder])]
        for entry in entries:
            try:
                line = row(entry, folder.name, measure(entry, pictures, torch.device(args.device)))
            except OptionError as error:
                print(f"left out: {entry.label} at {entry.percent} %: {error}")
                continue
            rows.append(line)
            intervals = [
                f"{line[f'{key}_low']:.{n}f} to {line[f'{key}_high']:.{n}f}" if f"{key}_low" in line else "-"
                for key, n in (("psnr", 2), ("ssim", 4))
            ]
            print(
                f"| {folder.name} | {entry.label} | {entry.percent} | {line['psnr']:.2f} | {intervals[0]} | "
                f"{line['ssim']:.4f} | {intervals[1]} | {line['seconds']:.2f} | {line.get('published', '-')} |",
                flush=True,
            )
            if "published" in line and abs(round(line["psnr"], 2) - line["published"]) > TOLERANCE + 1e-9:
                off.append(f"{folder.name} {entry.label} at {entry.percent} %: {line['psnr']:.2f}, {line['published']}")
    if not args.no_record:
        record("cs", {"ratios": list(args.ratios), "device": args.device, "rows": rows})
    for text in off:
        print(f"not the published figure: {text}")
    return 1 if off else 0


if __name__ == "__main__":
    raise SystemExit(main())
