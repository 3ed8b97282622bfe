"""From results to what a report shows: pictures grouped in panels, with common windows and bounded size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from recon.display import choose_slices, common_window, highest, smoothed
from recon.physics.errors import ShapeError
from recon.report.pictures import MAX_SIDE, Scale, data_uri
from recon.result import Result, as_numpy
from recon.trust import RESIDUAL_LIMIT

MAX_SLICES = 9
_PIXEL_BUDGET = 16_000_000
_KINDS = 5  # pictures a slice and method: image, difference, residual, noise, g-factor
_LEARNED_KINDS = 3  # and with a learned model: interval, unseen detail, hallucinations
REFERENCE = "reference"


@dataclass(frozen=True)
class Tile:
    """One picture: of which method and slice, its ``data:`` address and its width over its height."""

    method: str
    slice: int
    uri: str
    size: tuple[int, int]
    aspect: float
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """Pictures of one kind, all in one scale. ``space`` is ``"image"`` or ``"k-space"``; they zoom apart."""

    key: str
    title: str
    meaning: str
    scale: Scale
    tiles: list[Tile]
    space: str = "image"


@dataclass(frozen=True)
class Content:
    """All that stands in the report."""

    methods: list[str]
    slices: list[int]
    labels: list[int]
    n_slices: int
    shape: tuple[int, int]
    images: Panel
    trust: list[Panel]
    sampling: list[Panel]
    metrics: dict[str, dict[str, list[float]]]
    provenance: dict[str, dict[str, Any]]
    warnings: list[tuple[str, str]] = field(default_factory=list)


def check_shapes(results: Mapping[str, Result], reference: Float[ndarray, "slice y x"] | None) -> None:
    """Raise `ShapeError` where what should stand side by side differs in shape."""
    shapes = {name: tuple(result.magnitude.shape) for name, result in results.items()}
    if reference is not None:
        shapes[REFERENCE] = reference.shape
    if len(set(shapes.values())) > 1:
        raise ShapeError(
            "images of different shapes cannot stand side by side",
            found=", ".join(f"{name} {shape}" for name, shape in shapes.items()),
            expected="the same slices and matrix for all",
        )


def collect(results: Mapping[str, Result], reference: Float[ndarray, "slice y x"] | None) -> Content:
    """Choose slices and windows and turn every array into pictures."""
    images = {name: as_numpy(result.magnitude) for name, result in results.items()}
    first = next(iter(results.values()))
    n, height, width = next(iter(images.values())).shape
    labels = first.provenance.get("slices")
    labels = [int(i) for i in labels] if isinstance(labels, list) and len(labels) == n else list(range(n))
    area = (height * width) if max(height, width) <= MAX_SIDE else MAX_SIDE**2
    pictures = sum(_KINDS + (_LEARNED_KINDS if "bootstrap" in result.maps else 0) for result in results.values())
    limit = int(np.clip(_PIXEL_BUDGET // (area * pictures), 1, MAX_SLICES))
    slices = choose_slices(n, limit, preferred=_notable(first))
    aspect = first.spacing[2] / first.spacing[1] if first.spacing is not None else 1.0
    shown = images if reference is None else {REFERENCE: reference, **images}
    build = _Builder(slices, aspect)
    return Content(
        methods=list(results),
        slices=slices,
        labels=labels,
        n_slices=n,
        shape=(height, width),
        images=build.panel(
            "image",
            "Images",
            "Magnitude images, all in the same window.",
            shown,
            Scale(0.0, common_window([image[slices] for image in shown.values()]), unit="signal"),
        ),
        trust=[panel for panel in _trust_panels(results, shown, build) if panel.tiles],
        sampling=[panel for panel in _sampling_panels(results, build) if panel.tiles],
        metrics={name: dict(result.metrics) for name, result in results.items()},
        provenance={name: dict(result.provenance) for name, result in results.items()},
        warnings=_warnings(results, images),
    )


@dataclass(frozen=True)
class _Builder:
    slices: Sequence[int]
    aspect: float

    def panel(
        self,
        key: str,
        title: str,
        meaning: str,
        arrays: Mapping[str, Float[ndarray, "slice y x"]],
        scale: Scale,
        *,
        space: str = "image",
        caption: Callable[[ndarray], str] = lambda _: "",
    ) -> Panel:
        """Turn the chosen slices of ``arrays`` into pictures; slices without a finite value are left out."""
        tiles = [
            Tile(
                name,
                index,
                data_uri(array[index], scale),
                size=(array.shape[2], array.shape[1]),
                aspect=array.shape[2] / array.shape[1] * (self.aspect if space == "image" else 1.0),
                caption=caption(array[index]),
            )
            for index in self.slices
            for name, array in arrays.items()
            if np.isfinite(array[index]).any()
        ]
        return Panel(key, title, meaning, scale, tiles, space)


def _trust_panels(
    results: Mapping[str, Result], shown: Mapping[str, Float[ndarray, "slice y x"]], build: _Builder
) -> list[Panel]:
    panels = []
    base, *others = shown
    if others:
        differences = {name: shown[name] - shown[base] for name in others}
        reach = common_window([np.abs(d[build.slices]) for d in differences.values()], percentile=99.5)
        panels.append(
            build.panel(
                "difference",
                f"Difference to {base}",
                f"Magnitude minus that of {base}: red is brighter, blue is darker. Structure here is what the "
                "methods disagree about.",
                differences,
                Scale(-reach, reach, "RdBu_r", unit="signal"),
            )
        )
    noise = {name: smoothed(as_numpy(r.uncertainty)) for name, r in results.items() if r.uncertainty is not None}
    panels.append(
        build.panel(
            "noise",
            "Noise map",
            "Standard deviation of each pixel through measurement noise (pseudo-replicas, averaged over 5 × 5 "
            "pixels). It does not include bias: a smooth image is not a true image.",
            noise,
            Scale(0.0, highest([v[build.slices] for v in noise.values()]), "viridis", unit="signal"),
        )
    )
    panels += _learned_panels(results, build)
    gain = {name: smoothed(array) for name, array in _maps(results, "g_factor").items()}
    panels.append(
        build.panel(
            "g-factor",
            "g-factor",
            "Noise amplification beyond the root of the acceleration that a shorter scan costs anyway. Plain "
            "SENSE has 1 or more; regularised methods can lie below, at the price of bias.",
            gain,
            Scale(0.0, highest([v[build.slices] for v in gain.values()], percentile=99.0), "viridis"),
            caption=_median_caption,
        )
    )
    residual = _maps(results, "residual")
    panels.append(
        build.panel(
            "residual",
            "Residual in k-space",
            "What the image leaves unexplained of each measured sample, in units of the expected noise. Flat "
            "and about 1 is right; a bright centre means misfit of contrast, a bright edge misfit of detail.",
            residual,
            Scale(0.1, 100.0, "magma", log=True, unit="× expected noise"),
            space="k-space",
        )
    )
    return panels


def _learned_panels(results: Mapping[str, Result], build: _Builder) -> list[Panel]:
    """Panels that only learned models have: how far they may be off, and what they add of their own."""
    interval = {name: as_numpy(r.interval) for name, r in results.items() if r.interval is not None}
    deviation = {name: array for name, array in _maps(results, "bootstrap").items() if name not in interval}
    unseen = {name: smoothed(array) for name, array in _maps(results, "null_space").items()}
    invented = _maps(results, "hallucination")
    return [
        build.panel(
            "interval",
            "Interval",
            f"Half its width: {_promise(results, list(interval))}. A promise about most pixels, not about each "
            "structure.",
            interval,
            Scale(0.0, highest([v[build.slices] for v in interval.values()]), "viridis", unit="± signal"),
        ),
        build.panel(
            "bootstrap",
            "Change on being reconstructed again",
            "How far the method's image moves when it is measured and reconstructed again in other positions "
            "(equivariant bootstrap, averaged over 5 × 5 pixels). Shows where the error is large, not how large.",
            deviation,
            Scale(0.0, highest([v[build.slices] for v in deviation.values()]), "viridis", unit="signal"),
        ),
        build.panel(
            "null_space",
            "Detail that the data do not vouch for",
            "What changes on being reconstructed again and lies where the samples hardly see (the operator's null "
            "space, averaged over 5 × 5 pixels). Fine structure there comes from training, not from this scan.",
            unseen,
            Scale(0.0, highest([v[build.slices] for v in unseen.values()]), "magma", unit="signal"),
        ),
        build.panel(
            "hallucination",
            "Hallucination map",
            "Difference to the file's reference in what the samples hardly see: added or left out by the method "
            "without the data's consent.",
            invented,
            Scale(0.0, highest([v[build.slices] for v in invented.values()]), "magma", unit="signal"),
        ),
    ]


def _promise(results: Mapping[str, Result], names: Sequence[str]) -> str:
    """Say what the intervals of these methods hold, as they were calibrated."""
    calibrations = [results[name].provenance.get("model", {}).get("calibration", {}) for name in names]
    levels = sorted({f"{100 * c['level']:.0f} %" for c in calibrations if "level" in c})
    return (
        f"in {' or '.join(levels) or 'most'} of the object's pixels the true magnitude is no farther from the image, "
        "if the scan is like those that the model was calibrated on"
    )


def _sampling_panels(results: Mapping[str, Result], build: _Builder) -> list[Panel]:
    masks = _distinct(_maps(results, "mask"), build.slices)
    eigenvalues = _distinct(_maps(results, "eigenvalue"), build.slices)
    return [
        build.panel(
            "mask",
            "Sampling pattern",
            "Measured positions in k-space, the centre in the middle.",
            masks,
            Scale(0.0, 1.0, unit="sampled"),
            space="k-space",
            caption=_sampling_caption,
        ),
        build.panel(
            "eigenvalue",
            "Coil map eigenvalue",
            "Near 1 the coil maps explain the calibration data; where it falls inside the body they don't.",
            eigenvalues,
            Scale(0.0, 1.0, "viridis"),
        ),
    ]


def _maps(results: Mapping[str, Result], key: str) -> dict[str, Float[ndarray, "slice y x"]]:
    return {name: as_numpy(result.maps[key]) for name, result in results.items() if key in result.maps}


def _distinct(
    arrays: Mapping[str, Float[ndarray, "slice y x"]], slices: Sequence[int]
) -> dict[str, Float[ndarray, "slice y x"]]:
    """Show once what is the same for several methods."""
    groups: list[tuple[list[str], ndarray]] = []
    for name, array in arrays.items():
        for names, other in groups:
            if other.shape == array.shape and np.array_equal(other[slices], array[slices], equal_nan=True):
                names.append(name)
                break
        else:
            groups.append(([name], array))
    alone = len(groups) == 1
    return {"all methods" if alone and len(names) > 1 else ", ".join(names): array for names, array in groups}


def _sampling_caption(mask: Float[ndarray, "y x"]) -> str:
    share = float(np.nanmean(mask > 0))
    return f"{100 * share:.1f} % sampled, acceleration {1 / share:.1f}" if share else "nothing sampled"


def _median_caption(values: Float[ndarray, "y x"]) -> str:
    inside = values[np.isfinite(values) & (values > 0)]
    return f"median {np.median(inside):.2f}" if inside.size else ""


def _notable(result: Result) -> list[int]:
    """Return the slice that misses its data most, and those that have a noise map, where not all have one."""
    residuals = np.asarray(result.metrics.get("data_residual", []), dtype=float)
    slices = [int(np.nanargmax(residuals))] if np.isfinite(residuals).any() else []
    if result.uncertainty is not None:
        finite = np.isfinite(as_numpy(result.uncertainty)).any(axis=(1, 2))
        slices += [] if finite.all() else [int(i) for i in np.flatnonzero(finite)]
    return slices


def _warnings(
    results: Mapping[str, Result], images: Mapping[str, Float[ndarray, "slice y x"]]
) -> list[tuple[str, str]]:
    found = []
    for name, result in results.items():
        bad = int((~np.isfinite(images[name])).sum())
        if bad:
            found.append((name, f"{bad} of {images[name].size} pixels are NaN or infinite and are shown black"))
        found.extend((name, str(text)) for text in result.warnings)
        worst = max((v for v in result.metrics.get("data_residual", []) if np.isfinite(v)), default=0.0)
        if worst > RESIDUAL_LIMIT and not result.warnings:
            found.append((name, f"the image misses the data by {worst:.2f} times the expected noise"))
    return found
