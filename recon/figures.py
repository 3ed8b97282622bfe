"""PNG figures: methods side by side in one window with a detail and differences; maps of trust; the sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from PIL import Image
from torch import Tensor

from recon.datasets.atomic import atomic_path
from recon.display import common_window, detail_box, highest, smoothed
from recon.physics.errors import OptionError, ShapeError
from recon.result import Result, as_numpy

_DPI = 100
_CELL = 1.75  # width of a picture in inches
_INK, _MARK = "#1b1f24", "#f2b134"


@dataclass(frozen=True)
class _Row:
    """Pictures of one kind, by method, with their label and their colours."""

    label: str
    pictures: Mapping[str, Float[ndarray, "y x"]]
    norm: Normalize
    palette: str
    pixel: float = 1.0  # height of a pixel over its width


def save_comparison(
    results: Mapping[str, Result],
    path: str | Path,
    *,
    reference: Float[Tensor, "slice y x"] | None = None,
    slice_index: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the methods side by side: images in one window, a detail of each, and differences.

    Parameters
    ----------
    results
        Results by the name under which they stand in the figure.
    path
        The PNG file.
    reference
        Magnitude image in the units of the results: it is shown first, and differences are taken to it;
        without it they are taken to the first result.
    slice_index
        Slice to show; None: the middle one.
    overwrite
        Replace an existing file.

    Raises
    ------
    OptionError
        There are no results, or there is no such slice.
    ShapeError
        The images are of different shapes.
    OutputError
        The file exists and ``overwrite`` is false, or it cannot be written.
    """
    pixel = _pixel(results)
    images = _slice_of({name: result.magnitude for name, result in results.items()}, reference, slice_index)
    base, *others = images
    window = Normalize(0.0, common_window(list(images.values())))
    top, left, size = detail_box(images[base])
    details = {name: image[top : top + size, left : left + size] for name, image in images.items()}
    rows = [_Row("magnitude", images, window, "gray", pixel), _Row("detail", details, window, "gray", pixel)]
    if others:
        differences = {name: images[name] - images[base] for name in others}
        reach = common_window([np.abs(d) for d in differences.values()], percentile=99.5)
        rows.append(_Row(f"minus {base}", differences, Normalize(-reach, reach), "RdBu_r", pixel))
    figure, axes = _grid(list(images), rows)
    for shown in axes[0]:
        box = Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=_MARK, linewidth=0.8)
        shown.add_patch(box)
    return _save(figure, rows, path, overwrite=overwrite)


def save_trust(
    results: Mapping[str, Result], path: str | Path, *, slice_index: int | None = None, overwrite: bool = False
) -> Path:
    """Write what tells how far the images can be trusted: noise map, g-factor and residual in k-space.

    Rows that no result has are left out. Parameters and errors as for `save_comparison`; results without
    any of these maps raise `OptionError`.
    """
    pixel = _pixel(results)
    noise = _slice_of({n: r.uncertainty for n, r in results.items() if r.uncertainty is not None}, None, slice_index)
    gain = _slice_of({n: r.maps["g_factor"] for n, r in results.items() if "g_factor" in r.maps}, None, slice_index)
    left = _slice_of({n: r.maps["residual"] for n, r in results.items() if "residual" in r.maps}, None, slice_index)
    rows = []
    noise, gain = ({name: smoothed(array) for name, array in maps.items()} for maps in (noise, gain))
    if noise:
        rows.append(_Row("noise map", noise, Normalize(0, highest(list(noise.values()))), "viridis", pixel))
    if gain:
        reach = highest(list(gain.values()), percentile=99.0)
        rows.append(_Row("g-factor", gain, Normalize(0, reach), "viridis", pixel))
    if left:
        rows.append(_Row("residual / noise", left, LogNorm(0.1, 100.0), "magma"))
    if not rows:
        raise OptionError("no result has a noise map, a g-factor or a residual to show")
    figure, _ = _grid([name for name in results if any(name in row.pictures for row in rows)], rows)
    return _save(figure, rows, path, overwrite=overwrite)


def save_sampling(result: Result, path: str | Path, *, slice_index: int | None = None, overwrite: bool = False) -> Path:
    """Write the sampling pattern of one slice; a result without ``mask`` raises `OptionError`."""
    if "mask" not in result.maps:
        raise OptionError("this result has no sampling pattern to show")
    mask = _slice_of({"sampling": result.maps["mask"]}, None, slice_index)["sampling"]
    share = float(np.nanmean(mask > 0))
    name = f"{100 * share:.1f} % sampled"
    rows = [_Row("k-space", {name: mask}, Normalize(0, 1), "gray")]
    figure, _ = _grid([name], rows, bars=False, cell=3.0)
    return _save(figure, rows, path, overwrite=overwrite)


def _slice_of(
    stacks: Mapping[str, Float[Tensor, "slice y x"]],
    reference: Float[Tensor, "slice y x"] | None,
    index: int | None,
) -> dict[str, Float[ndarray, "y x"]]:
    """Return one slice of each stack, the reference first; the middle one that is computed, by default."""
    arrays = {} if reference is None else {"reference": as_numpy(reference)}
    arrays |= {name: as_numpy(stack) for name, stack in stacks.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ShapeError("images of different shapes cannot stand side by side", found=shapes)
    chosen = {}
    for name, array in arrays.items():
        if index is not None and not 0 <= index < len(array):
            raise OptionError("no such slice", found=index, expected=f"0 to {len(array) - 1}")
        known = np.flatnonzero(np.isfinite(array).any(axis=(1, 2)))
        middle = int(known[len(known) // 2]) if known.size else len(array) // 2
        chosen[name] = array[middle if index is None else index]
    return chosen


def _pixel(results: Mapping[str, Result]) -> float:
    if not results:
        raise OptionError("a figure needs at least one result")
    spacing = next(iter(results.values())).spacing
    return 1.0 if spacing is None else spacing[1] / spacing[2]


def _grid(
    names: list[str], rows: list[_Row], *, bars: bool = True, cell: float = _CELL
) -> tuple[Figure, list[list[Axes]]]:
    """Lay out one column a method and one row a kind of picture, with a colour bar at the end of each row."""
    heights = []
    for row in rows:
        height, width = next(iter(row.pictures.values())).shape
        heights.append(cell * height * row.pixel / width)
    left, right, top, gap = 0.3, 0.62 if bars else 0.1, 0.3, 0.06
    full = (left + len(names) * (cell + gap) + right, top + sum(heights) + gap * len(rows))
    figure = Figure(figsize=full, dpi=_DPI, facecolor="white")
    axes: list[list[Axes]] = []
    y = full[1] - top
    for row, height in zip(rows, heights, strict=True):
        y -= height
        line = []
        for column, name in enumerate(names):
            x = left + column * (cell + gap)
            shown = figure.add_axes((x / full[0], y / full[1], cell / full[0], height / full[1]))
            shown.set_axis_off()
            if name in row.pictures:
                shown.imshow(
                    row.pictures[name], norm=row.norm, cmap=_palette(row), interpolation="nearest", aspect="auto"
                )
            if row is rows[0]:
                shown.set_title(name, fontsize=9, color=_INK, pad=4)
            line.append(shown)
        figure.text(
            left / 2 / full[0],
            (y + height / 2) / full[1],
            row.label,
            rotation=90,
            fontsize=8,
            color=_INK,
            ha="center",
            va="center",
        )
        if bars:
            x = left + len(names) * (cell + gap)
            bar = figure.add_axes((x / full[0], (y + 0.04) / full[1], 0.09 / full[0], (height - 0.08) / full[1]))
            figure.colorbar(ScalarMappable(row.norm, _palette(row)), cax=bar)
            bar.tick_params(labelsize=7, length=2, width=0.5, colors=_INK)
            bar.spines["outline"].set_linewidth(0.4)
        axes.append(line)
        y -= gap
    return figure, axes


def _palette(row: _Row) -> Colormap:
    """Return the palette of a row, in which pixels without a value are black."""
    return colormaps[row.palette].with_extremes(bad="black")


def _swatch(rows: list[_Row]) -> Image.Image:
    """Return a picture whose colours are those of the palettes in use, grey for the text among them."""
    names = dict.fromkeys(["gray", *(row.palette for row in rows)])
    count = 255 // len(names)
    parts = [colormaps[name](np.linspace(0, 1, count), bytes=True)[:, :3] for name in names]
    colours = np.concatenate([np.asarray([[int(_MARK[i : i + 2], 16) for i in (1, 3, 5)]]), *parts])
    swatch = Image.new("P", (1, 1))
    swatch.putpalette(colours.astype(np.uint8).tobytes())
    return swatch


def _save(figure: Figure, rows: list[_Row], path: str | Path, *, overwrite: bool) -> Path:
    with atomic_path(path, overwrite=overwrite) as temporary:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        # 256 colours are enough for these pictures, and make a third of the size.
        picture = picture.quantize(palette=_swatch(rows), dither=Image.Dither.NONE)
        picture.save(temporary, format="PNG", optimize=True)
    return Path(path)


__all__ = ["save_comparison", "save_sampling", "save_trust"]
