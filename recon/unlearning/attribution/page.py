"""The page of an attribution: the queries, the training slices that matter most to them, and all files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from recon.display import common_window
from recon.hallucination import null_part
from recon.physics import MultiCoilMRI
from recon.report.document import document, picture, section
from recon.report.markup import Markup, element
from recon.report.pictures import Scale, data_uri
from recon.training.batches import TrainingBatch
from recon.unlearning.examples import Examples
from recon.unlearning.features import evaluating

if TYPE_CHECKING:
    from recon.unlearning.attribution.run import Attribution

_STYLE = (
    ".row{display:flex;flex-wrap:wrap;gap:.8rem}.row figure{width:11rem}"
    ".row img{width:100%;image-rendering:pixelated;border-radius:4px;display:block}"
    ".bars{display:grid;grid-template-columns:minmax(8rem,20rem) 1fr 5rem;gap:.25rem .8rem;font-size:.9rem}"
    ".bars i{display:block;height:.8rem;border-radius:2px}.bars span{text-align:right}"
)
_HARM, _HELP = "#b3402a", "#0b6b66"
_QUERIES = 4  # that are shown
_METHODS = {
    "source": "approximate unrolling of the training (SOURCE)",
    "influence": "influence functions with EK-FAC",
    "tracin": "products of gradients along the training (TracIn)",
}
_FIGURES = {
    "hallucination": "energy of the error where the data see nothing, over the target's",
    "error": "energy of the error of magnitudes, over the target's",
    "loss": "loss that the network was trained by",
}


def attribution_page(found: Attribution, top: int) -> str:
    """Return the whole HTML document with the ``top`` most harmful and most helpful slices."""
    count = len(found.query)
    lines = (
        element(
            "p",
            element("span", f"{count} quer{'y' if count == 1 else 'ies'}"),
            element("span", f"{len(found.train)} training slices"),
            element("span", f"by {_METHODS[found.method]}"),
            class_="facts",
        ),
        element(
            "p",
            f"What is predicted: by how much the queries' {found.figure} ({_FIGURES[found.figure]}; now "
            f"{np.mean(found.values):.4g}) would change had the network not been trained on a slice.",
            class_="meaning",
        ),
    )
    return document(
        "Which training slices cause it",
        _queries(found),
        _slices(found, found.harmful(top), "Most harmful slices", "Without one of these the figure would fall."),
        _slices(found, found.helpful(top), "Most helpful slices", "Without one of these the figure would rise."),
        _files(found.files),
        style=_STYLE,
        header=lines,
    )


def _queries(found: Attribution) -> Markup:
    worst = sorted(range(len(found.query)), key=lambda i: -found.values[i])[:_QUERIES]
    rows = []
    for i in worst:
        views = _views(found, found.query.batch([i]))
        tops = {kind: common_window([pixels for _, pixels, k in views if k == kind]) for _, _, kind in views}
        figures = [_picture(pixels, name, palette, tops[palette]) for name, pixels, palette in views]
        title = f"{found.query[i].name}: {found.figure} {found.values[i]:.4g}"
        rows += [element("h3", title), element("div", *figures, class_="row")]
    title = "Queries" if len(worst) == len(found.query) else f"Queries, the {len(worst)} worst of {len(found.query)}"
    return section(title, *rows)


@torch.no_grad()
def _views(found: Attribution, batch: TrainingBatch) -> list[tuple[str, Float[ndarray, "y x"], str]]:
    """Return the network's image and, where there is one, the truth, the error and the unseen part of it."""
    physics, x = batch.physics(), _reconstructed(found, batch)
    views = [("reconstruction", _magnitude(x), "gray")]
    if batch.target is None:
        return views
    views += [("truth", _magnitude(batch.target), "gray"), ("error", _magnitude(x - batch.target), "magma")]
    if isinstance(physics, MultiCoilMRI):
        views.append(("error that the data do not see", _magnitude(null_part(x - batch.target, physics)), "magma"))
    return views


def _slices(found: Attribution, chosen: Sequence[int], title: str, meaning: str) -> Markup:
    if not chosen:
        return section(title, meaning="There are none.")
    figures = [
        _picture(pixels, f"{found.train[i].name}: {found.mean[i]:+.2%}", "gray", common_window([pixels]))
        for i, pixels in ((i, _image_of(found, found.train, i)) for i in chosen)
    ]
    return section(title, element("div", *figures, class_="row"), meaning=meaning)


@torch.no_grad()
def _image_of(found: Attribution, examples: Examples, index: int) -> Float[ndarray, "y x"]:
    batch = examples.batch([index])
    return _magnitude(_reconstructed(found, batch) if batch.target is None else batch.target)


def _reconstructed(found: Attribution, batch: TrainingBatch) -> Float[Tensor, "1 channel *spatial"]:
    with evaluating(found.model):
        return found.model(batch.y, batch.physics())


def _files(files: dict[str, float]) -> Markup:
    largest = max((abs(value) for value in files.values()), default=0.0) or 1.0
    cells = []
    for name, value in files.items():
        colour, width = (_HARM if value < 0 else _HELP), 100 * abs(value) / largest
        cells += [
            element("small", name),
            element("i", style=f"width:{width:.1f}%;background:{colour}"),
            element("span", f"{value:+.2%}"),
        ]
    meaning = "Predicted change of the figure had the network not been trained on a whole file."
    return section("Files", element("div", *cells, class_="bars"), meaning=meaning)


def _magnitude(x: Float[Tensor, "1 channel *spatial"]) -> Float[ndarray, "y x"]:
    magnitude = torch.linalg.vector_norm(x[0], dim=0)
    return magnitude.reshape(-1, magnitude.shape[-1]).cpu().numpy()


def _picture(pixels: Float[ndarray, "y x"], caption: str, palette: str, white: float) -> Markup:
    return picture(data_uri(pixels, Scale(0.0, white, palette)), caption)
