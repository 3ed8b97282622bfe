"""PNG figures of galaxies: methods side by side, and their shapes against the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.physics.errors import OptionError

_DPI = 100
_CELL = 1.5  # inches
_REACH = 0.7  # of the shears that are shown
_INK, _MARK = "#1b1f24", "#c4443c"


def save_stamps(
    galaxies: Sequence[Mapping[str, Float[ndarray, "y x"]]], path: str | Path, *, overwrite: bool = False
) -> Path:
    """Write one galaxy a row, one kind of picture a column; each row in its own window, that of its last picture.

    Raises
    ------
    OptionError
        There is nothing to show.
    OutputError
        The file exists and ``overwrite`` is false, or it cannot be written.
    """
    if not galaxies or not galaxies[0]:
        raise OptionError("a figure needs at least one galaxy")
    names = list(galaxies[0])
    figure = Figure(figsize=(_CELL * len(names), _CELL * len(galaxies) + 0.3), dpi=_DPI, facecolor="white")
    axes = figure.subplots(len(galaxies), len(names), squeeze=False)
    top = 1 - 0.3 / (_CELL * len(galaxies) + 0.3)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top, wspace=0.04, hspace=0.04)
    for number, pictures in enumerate(galaxies):
        peak = float(np.nanmax(pictures[names[-1]]))
        norm = AsinhNorm(linear_width=peak / 10, vmin=-peak / 5, vmax=peak)
        for shown, name in zip(axes[number], names, strict=True):
            shown.imshow(pictures[name], norm=norm, cmap="gray", origin="lower", interpolation="nearest")
            shown.set_axis_off()
            if number == 0:
                shown.set_title(name, fontsize=9, color=_INK, pad=4)
    return _save(figure, path, overwrite=overwrite)


def save_shapes(
    truth: Mapping[str, Shaped[ndarray, " n"]],
    measured: Mapping[str, Mapping[str, Shaped[ndarray, " n"]]],
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Plot both components of the measured reduced shear (``g1``, ``g2``) over the true ones, a method a panel.

    Errors as those of `save_stamps`.
    """
    if not measured:
        raise OptionError("a figure needs at least one method")
    width = 2.2
    figure = Figure(figsize=(width * len(measured) + 0.4, width + 0.5), dpi=_DPI, facecolor="white")
    axes = figure.subplots(1, len(measured), squeeze=False, sharex=True, sharey=True)[0]
    for shown, (name, values) in zip(axes, measured.items(), strict=True):
        shown.plot([-_REACH, _REACH], [-_REACH, _REACH], color=_INK, linewidth=0.6)
        for component, mark in (("g1", "o"), ("g2", "x")):
            shown.plot(truth[component], values[component], mark, color=_MARK, markersize=3, label=component)
        shown.set(xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH), xlabel="true", aspect="equal")
        shown.set_title(name, fontsize=9, color=_INK)
        shown.tick_params(labelsize=7)
    axes[0].set_ylabel("measured")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    return _save(figure, path, overwrite=overwrite)


def _save(figure: Figure, path: str | Path, *, overwrite: bool) -> Path:
    with atomic_path(path, overwrite=overwrite) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return Path(path)
