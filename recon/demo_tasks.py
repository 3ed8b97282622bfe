"""One task after another on pictures that come along: CT, inpainting, deblurring ...; their figures and one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from recon.datasets import Image, Measurements, Source
from recon.datasets.atomic import atomic_path
from recon.datasets.pictures import load_picture
from recon.measured import FOUNDATION
from recon.measured_files import operator_of, reconstruct_measurements, simulate_measurements
from recon.physics.errors import OptionError
from recon.physics_spec import parse_spec
from recon.report.task_page import TaskPictures, task_page
from recon.result import Result
from recon.trial import Progress, silent, try_each
from recon.zoo import ready


@dataclass(frozen=True)
class Task:
    """A problem of the demo.

    Parameters
    ----------
    title
        For people.
    spec
        Operator and noise, for pictures of 8 bit.
    picture
        Name of a picture of scikit-image, or ``phantom``.
    methods
        Classical ones that suit it, a direct one first.
    """

    title: str
    spec: str
    picture: str
    methods: tuple[str, ...] = ("minimum-norm", "tv")


TASKS = {
    "ct": Task("CT: 60 views of a fan beam", "ct:angles=60,geometry=fan,photons=3e4", "phantom", ("fbp", "tv")),
    "limited-angle": Task("CT: 120 of 180 degrees", "ct:angles=60,arc=120,photons=1e5", "phantom", ("fbp", "tv")),
    "inpainting": Task("Half of the pixels missing", "inpainting:keep=0.5,sigma=5", "camera"),
    "deblur": Task("Camera shake", "blur:motion=9,angle=30,sigma=3", "camera"),
    "superresolution": Task("Four times fewer pixels", "superresolution:factor=2,sigma=3", "camera"),
    "denoising": Task("Gaussian noise", "denoising:sigma=25", "camera"),
    "photons": Task("Poisson and Gaussian noise", "denoising:sigma=5,gain=6", "coins"),
    "demosaicing": Task("One colour a pixel", "demosaicing:pattern=rggb,sigma=3", "astronaut"),
    "mri": Task("Single-coil MRI, a third of k-space", "mri:acceleration=3,sigma=3", "phantom"),
    "cs": Task("A quarter of the measurements", "cs:ratio=0.25,block=16x16,sigma=3", "camera"),
}
SIZE = 128
"""Side of the pictures, in pixels."""


@dataclass(frozen=True)
class TaskRow:
    """One line of the table.

    Parameters
    ----------
    task, method
        Names.
    psnr, ssim
        Against the picture.
    seconds
        Wall time.
    """

    task: str
    method: str
    psnr: float
    ssim: float
    seconds: float


@dataclass(frozen=True)
class TaskDemo:
    """What the demo made: rows (each task's highest PSNR first), what was left out and why, the page."""

    rows: list[TaskRow]
    left_out: dict[str, str]
    report: Path
    seconds: float


def run_task_demo(
    folder: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> TaskDemo:
    """Measure pictures, reconstruct them by every method that suits, write ``report.html`` into ``folder``.

    Parameters
    ----------
    folder
        Where the page goes; it is made where it does not exist.
    tasks
        Names of `TASKS`; None: all.
    size
        Side of the pictures; None: `SIZE`.
    seed
        Seed of all random choices.
    progress
        Called with (what happens now, steps done, steps in all).
    overwrite
        Replace a page of an earlier run.

    Raises
    ------
    OptionError
        A task that does not exist.
    OutputError
        The page exists and ``overwrite`` is false, or the folder cannot be written.
    """
    start, folder = time.perf_counter(), Path(folder)
    names = list(TASKS) if tasks is None else list(tasks)
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        raise OptionError("there is no such task", found=", ".join(unknown), expected=f"of {', '.join(TASKS)}")
    learned = (FOUNDATION,) if FOUNDATION in ready() else ()
    steps = {f"{name}, {method}": (name, method) for name in names for method in (*TASKS[name].methods, *learned)}
    tell = progress or silent

    @cache
    def data_of(task: str) -> Measurements:
        return measured_picture(task, size=size, seed=seed)

    def run(step: str) -> Result:
        task, method = steps[step]
        return reconstruct_measurements(data_of(task), method)

    rows: list[TaskRow] = []
    pages: list[TaskPictures] = []
    # Around all of the work: a folder that cannot be written shows before it.
    with atomic_path(folder / "report.html", overwrite=overwrite) as report:
        found, left_out = try_each(steps, run, by_name=False, tell=tell, steps=len(steps))
        for name in names:
            results = {steps[step][1]: result for step, result in found.items() if steps[step][0] == name}
            of_task = [_row(name, method, result) for method, result in results.items()]
            of_task.sort(key=lambda row: -row.psnr)
            rows += of_task
            pages.append(_pictures(name, data_of(name), {row.method: results[row.method] for row in of_task}, of_task))
        report.write_text(task_page(pages), encoding="utf-8")
    tell("done", len(steps), len(steps))
    return TaskDemo(rows, left_out, folder / "report.html", time.perf_counter() - start)


def measured_picture(task: str, *, size: int | None = None, seed: int = 0) -> Measurements:
    """Make the measurements of a task."""
    spec = TASKS[task].spec
    return simulate_measurements(_picture(TASKS[task].picture, size or SIZE), parse_spec(f"{spec},seed={seed}"))


def _picture(name: str, size: int) -> Image:
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    planes = np.asarray(shepp_logan_phantom())[None] if name == "phantom" else load_picture(name).numpy()
    side = min(planes.shape[1:])
    square = planes[:, :side, :side]
    small = resize(square, (len(planes), size, size), anti_aliasing=True)
    pixels = np.rint(255 * np.clip(small, 0, 1)).astype(np.uint8)
    return Image(
        pixels=pixels if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)[None], source=Source(f"picture {name}")
    )


def _row(task: str, method: str, result: Result) -> TaskRow:
    figures = result.summary()
    return TaskRow(task, method, figures["psnr"], figures["ssim"], float(result.provenance["seconds"]["model"]))


def _pictures(name: str, data: Measurements, results: Mapping[str, Result], rows: Sequence[TaskRow]) -> TaskPictures:
    assert data.reference is not None
    physics = operator_of(data)
    y = torch.from_numpy(data.slice(0))[None]
    truth = torch.from_numpy(np.asarray(data.reference[0], dtype=np.float32))
    seen = physics.A_adjoint(y)[0]
    seen = seen * (truth.norm() / seen.norm().clamp_min(1e-12))  # back-projections have a scale of their own
    shown = {"picture": truth * data.scale + data.offset, "back-projection": seen * data.scale + data.offset}
    shown |= {method: result.image[0] for method, result in results.items()}
    return TaskPictures(
        title=TASKS[name].title,
        physics=data.physics,
        pictures={label: _shown(image) for label, image in shown.items()},
        figures={row.method: (row.psnr, row.ssim, row.seconds) for row in rows},
    )


def _shown(image: torch.Tensor) -> ndarray:
    """Return ``(y, x)`` or ``(y, x, 3)``."""
    if image.shape[0] == 2:
        return torch.linalg.vector_norm(image, dim=0).numpy()
    return image[0].numpy() if image.shape[0] == 1 else image.movedim(0, -1).numpy()
