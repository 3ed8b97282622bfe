"""`write_report`: one self-contained HTML page on one or several reconstructions of the same scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from recon.datasets.atomic import atomic_path
from recon.physics.errors import OptionError
from recon.report.page import page
from recon.report.panels import check_shapes, collect
from recon.result import Result, as_numpy


def write_report(
    results: Mapping[str, Result],
    path: str | Path,
    *,
    title: str = "Reconstruction report",
    reference: Float[Tensor, "slice y x"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report that opens in any browser without a network; nothing in it is loaded from elsewhere.

    Parameters
    ----------
    results
        Results by the name under which they stand in the report, all of the same slices; the differences
        are taken to the first one.
    path
        The HTML file.
    title
        Heading of the page.
    reference
        Magnitude image in the units of the results; then it is shown too, and differences are taken to it.
    overwrite
        Replace an existing file.

    Raises
    ------
    OptionError
        There are no results.
    ShapeError
        The results, or the reference, are of different shapes.
    OutputError
        The target exists and ``overwrite`` is false, or it cannot be written.
    """
    if not results:
        raise OptionError("a report needs at least one result")
    truth = None if reference is None else as_numpy(reference)
    check_shapes(results, truth)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(page(collect(results, truth), title), encoding="utf-8")
    return Path(path)


__all__ = ["write_report"]
