"""One page of several tasks: of each its pictures side by side and a table of its figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy import ndarray
from PIL import Image as Picture

from recon.report.document import document, picture, section, table
from recon.report.markup import Markup, element

_STYLE = ".row{display:flex;flex-wrap:wrap;gap:.7rem}.row figure{margin:0}.row img{image-rendering:pixelated}"
_SIDE = 192  # of a picture on the page


@dataclass(frozen=True)
class TaskPictures:
    """What the page shows of a task.

    Parameters
    ----------
    title, physics
        For people, and as a text for `recon.physics_spec.parse_physics`.
    pictures
        ``(y, x)`` or ``(y, x, 3)`` by name, the truth first: it gives the window of grey levels.
    figures
        PSNR in dB, SSIM and seconds by method.
    """

    title: str
    physics: str
    pictures: Mapping[str, ndarray]
    figures: Mapping[str, tuple[float, float, float]]


def task_page(tasks: Sequence[TaskPictures], title: str = "One task after another") -> str:
    """Return the whole HTML document; nothing in it is loaded from elsewhere."""
    return document(title, *(_section(task) for task in tasks), style=_STYLE)


def _section(task: TaskPictures) -> Markup:
    truth = next(iter(task.pictures.values()))
    low, high = float(truth.min()), float(truth.max())
    shown = [
        picture(_data_uri(values, low, high), f"{task.title}: {name}", name, width=_SIDE)
        for name, values in task.pictures.items()
    ]
    lines = [
        element("tr", element("th", method), *(element("td", text) for text in (f"{p:.2f}", f"{s:.3f}", f"{t:.2f}")))
        for method, (p, s, t) in task.figures.items()
    ]
    names = ("method", "PSNR, dB", "SSIM", "seconds")
    return section(
        task.title,
        element("p", element("code", task.physics)),
        element("div", *shown, class_="row"),
        table(names, lines),
    )


def _data_uri(values: ndarray, low: float, high: float) -> str:
    levels = np.rint(255 * np.clip((values - low) / max(high - low, 1e-30), 0, 1)).astype(np.uint8)
    buffer = BytesIO()
    Picture.fromarray(levels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
