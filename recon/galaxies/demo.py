"""A few dozen simulated galaxies deblurred by every method that is ready: figures of merit and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from recon.datasets import Source, Stamps
from recon.datasets.atomic import atomic_path
from recon.datasets.galaxies import LSST, GalaxySample, simulate_galaxies
from recon.galaxies.catalogue import measure
from recon.galaxies.figures import save_shapes, save_stamps
from recon.galaxies.plan import StampPlan, execute, for_stamps
from recon.galaxies.result import StampResult
from recon.physics.errors import OptionError
from recon.trial import Progress, silent, try_each

NUMBER = 36
"""Of galaxies."""
AS_OBSERVED = "not deblurred"
_FIGURES = ("shapes.png",)
_SHOWN = 4


@dataclass(frozen=True)
class GalaxyRow:
    """One line of the table; NaN where a figure does not exist.

    Parameters
    ----------
    method
        Name of the model.
    shear_error
        Median distance of the measured reduced shear from that of the truth, of all galaxies.
    flux_error
        Median of ``|flux / true flux - 1|``.
    size_error
        Median of ``|size / true size - 1|``.
    chi2
        Median of the mean squared residual over the variance of the noise.
    unmeasured
        Galaxies without shape.
    seconds
        Wall time, measuring included.
    """

    method: str
    shear_error: float
    flux_error: float
    size_error: float
    chi2: float
    unmeasured: int
    seconds: float


@dataclass(frozen=True)
class GalaxyDemo:
    """What the demo made: rows (lowest shear error first), methods that failed and why, files."""

    rows: list[GalaxyRow]
    left_out: dict[str, str]
    figures: list[Path]
    seconds: float


def run_galaxy_demo(
    folder: str | Path,
    methods: Sequence[str] | None = None,
    *,
    number: int = NUMBER,
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> GalaxyDemo:
    """Simulate galaxies as LSST would see them, deblur them and write ``stamps.png`` and ``shapes.png``.

    Parameters
    ----------
    folder
        Where the files go; it is made where it does not exist.
    methods
        Names of models for stamps; None: all that are ready to be used.
    number
        Of galaxies.
    seed
        Of all random choices.
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
    names = list(for_stamps()) if methods is None else list(methods)
    if not names:
        raise OptionError("the demo needs at least one method", cure=f"Choose among {', '.join(for_stamps())}")
    tell, steps = progress or silent, len(names) + 2
    # Around all of the work: a folder that cannot be written shows before it, and the files come all or none.
    with atomic_path(folder / "stamps.png", overwrite=overwrite, companions=_FIGURES) as picture:
        tell("simulating", 0, steps)
        sample = simulate_galaxies(number, LSST, split="test", seed=seed)
        stamps = _stamps(sample)
        results, left_out = try_each(
            names,
            lambda name: execute(StampPlan(stamps, name, replicas=0, seed=seed)),
            by_name=methods is not None,
            tell=tell,
            steps=steps,
            first=1,
        )
        tell("figures", steps - 1, steps)
        shapes = {AS_OBSERVED: _measured(sample.observed)} | {
            name: {key: np.asarray(result.catalogue[key]) for key in ("flux", "size", "g1", "g2")}
            for name, result in results.items()
        }
        truth = _measured(sample.truth)
        rows = [_row(name, measured, truth, sample, results.get(name)) for name, measured in shapes.items()]
        rows.sort(key=lambda row: (math.isnan(row.shear_error), row.shear_error))
        order = [row.method for row in rows if row.method in results]
        save_stamps(_pictures(sample, {name: results[name] for name in order}), picture)
        save_shapes(truth, {name: shapes[name] for name in [AS_OBSERVED, *order]}, picture.with_name("shapes.png"))
    tell("done", steps, steps)
    figures = [folder / name for name in ("stamps.png", *_FIGURES)]
    return GalaxyDemo(rows, left_out, figures, time.perf_counter() - start)


def _stamps(sample: GalaxySample) -> Stamps:
    return Stamps(
        pixels=sample.observed,
        psf=sample.psf,
        source=Source("simulated"),
        sigma=sample.catalogue["sigma"],
        pixel_scale=sample.survey.pixel_scale,
        ids=sample.catalogue["id"],
        units="adu",
    )


def _measured(images: Float[ndarray, "n y x"]) -> dict[str, ndarray]:
    values, _ = measure(torch.from_numpy(images)[:, None])
    return {name: value.numpy() for name, value in values.items()}


def _row(
    name: str,
    measured: dict[str, ndarray],
    truth: dict[str, ndarray],
    sample: GalaxySample,
    result: StampResult | None,
) -> GalaxyRow:
    distance = np.hypot(measured["g1"] - truth["g1"], measured["g2"] - truth["g2"])
    return GalaxyRow(
        method=name,
        shear_error=_median(distance),
        flux_error=_median(np.abs(measured["flux"] / sample.catalogue["flux"] - 1)),
        size_error=_median(np.abs(measured["size"] / truth["size"] - 1)),
        chi2=math.nan if result is None else result.summary()["chi2"],
        unmeasured=int((~np.isfinite(measured["g1"])).sum()),
        seconds=math.nan if result is None else float(result.provenance["seconds"]["total"]),
    )


def _median(values: ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def _pictures(sample: GalaxySample, results: dict[str, StampResult]) -> list[dict[str, Float[ndarray, "y x"]]]:
    """Return the pictures of some galaxies from the faintest to the brightest, by what they show."""
    order = np.argsort(sample.catalogue["snr"])
    chosen = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)]
    deblurred = {name: result.image[:, 0].numpy() for name, result in results.items()}
    return [
        {"observed": sample.observed[i]}
        | {name: images[i] for name, images in deblurred.items()}
        | {"truth": sample.truth[i]}
        for i in chosen
    ]


__all__ = ["AS_OBSERVED", "NUMBER", "GalaxyDemo", "GalaxyRow", "run_galaxy_demo"]
