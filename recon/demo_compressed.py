"""A picture from a quarter as many measurements as pixels: every method that is ready, its figures and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recon.compressed import reconstruct_compressed
from recon.datasets import Image, Source
from recon.datasets.atomic import atomic_path
from recon.datasets.pictures import load_picture
from recon.datasets.simulate_compressed import make_matrix, simulate_compressed
from recon.figures import save_comparison
from recon.metrics import picture_figures
from recon.models import source_of_weights, takes
from recon.physics import BlockCompressedSensing
from recon.physics.errors import OptionError
from recon.report import write_report
from recon.result import Result
from recon.trial import Progress, silent, try_each
from recon.zoo import ready

RATIO = 0.25
_PICTURE, _BLOCK = "camera", (33, 33)
_OF_BRAINS = "diffusion-denoiser"  # a prior that pictures do not have
_FIGURES = ("comparison.png",)


@dataclass(frozen=True)
class CompressedRow:
    """One line of the demo's table.

    Parameters
    ----------
    method
        Name of the model.
    psnr, ssim
        Likeness to the picture, with a peak of 255.
    misfit
        Distance from the measurements over their norm.
    seconds
        Wall time of the method itself.
    memory_bytes
        Peak growth of the process's memory while it ran.
    """

    method: str
    psnr: float
    ssim: float
    misfit: float
    seconds: float
    memory_bytes: float


@dataclass(frozen=True)
class CompressedDemo:
    """What the demo made: rows (highest PSNR first), methods that don't suit the sample and why, files."""

    rows: list[CompressedRow]
    left_out: dict[str, str]
    report: Path
    figures: list[Path]
    seconds: float


def run_compressed_demo(
    folder: str | Path,
    methods: Sequence[str] | None = None,
    *,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> CompressedDemo:
    """Measure a picture of scikit-image by a Gaussian matrix, reconstruct it, write ``report.html`` and a figure.

    Parameters
    ----------
    folder
        Where the files go; it is made where it does not exist.
    methods
        Names of models; None: all that are ready to be used and take compressed measurements. A method that does not
        suit the sample is left out, with the reason, unless it was asked for by name.
    size
        Side of the part of the picture that is taken; None: all of it, 256.
    seed
        Seed of all random choices.
    progress
        Called with (what happens now, steps done, steps in all).
    overwrite
        Replace files of an earlier run.

    Raises
    ------
    OptionError
        A method that does not exist, or none.
    OutputError
        A file exists and ``overwrite`` is false, or the folder cannot be written.
    """
    start = time.perf_counter()
    folder = Path(folder)
    fit = [n for n in ready() if takes(n, BlockCompressedSensing) and source_of_weights(n) != _OF_BRAINS]
    names = fit if methods is None else list(methods)
    if not names:
        raise OptionError("the demo needs at least one method")
    tell, steps = progress or silent, len(names) + 1
    # Around all of the work: a folder that cannot be written shows before it, and the files come all or none.
    with atomic_path(folder / "report.html", overwrite=overwrite, companions=_FIGURES) as report:
        picture = _picture(size)
        scan = simulate_compressed(picture, make_matrix("gaussian", RATIO, _BLOCK, seed=seed), _BLOCK).scan
        truth = torch.from_numpy(np.asarray(picture.pixels, dtype=np.float32))
        results, left_out = try_each(
            names,
            lambda name: reconstruct_compressed(scan, name, hold_out=False, seed=seed),
            by_name=methods is not None,
            tell=tell,
            steps=steps,
        )
        for result in results.values():
            result.metrics |= {key: [value] for key, value in picture_figures(result.image[:, 0], truth).items()}
        tell("figures and report", len(names), steps)
        rows = sorted((_row(name, result) for name, result in results.items()), key=lambda row: -row.psnr)
        ordered = {row.method: results[row.method] for row in rows}
        save_comparison(ordered, report.with_name("comparison.png"), reference=truth)
        write_report(ordered, report, title="A picture from a quarter of its measurements", reference=truth)
    tell("done", steps, steps)
    figures = [folder / name for name in _FIGURES]
    return CompressedDemo(rows, left_out, folder / "report.html", figures, time.perf_counter() - start)


def _picture(size: int | None) -> Image:
    pixels = (255 * load_picture(_PICTURE)).round().byte().numpy()
    if size is not None:
        top, left = ((side - size) // 2 for side in pixels.shape[1:])
        pixels = pixels[:, top : top + size, left : left + size]
    return Image(pixels=pixels, source=Source(f"skimage.data.{_PICTURE}"))


def _row(name: str, result: Result) -> CompressedRow:
    figures = result.summary()
    return CompressedRow(
        method=name,
        psnr=figures["psnr"],
        ssim=figures["ssim"],
        misfit=figures["misfit"],
        seconds=float(result.provenance["seconds"]["model"]),
        memory_bytes=float(result.provenance["memory_growth_bytes"]),
    )


__all__ = ["RATIO", "CompressedDemo", "CompressedRow", "run_compressed_demo"]
