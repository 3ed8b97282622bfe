"""Objects of an image without a catalogue, found by SEP (SExtractor's core as a library)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from recon.physics.errors import DataError, MissingDependencyError

_THRESHOLD = 1.5  # of the noise
_MIN_AREA = 5  # pixels


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found.

    Parameters
    ----------
    x, y
        ``(n,)`` barycentres in pixels from 0.
    segmentation
        ``(y, x)``: 0 for sky, ``i + 1`` for the pixels of object i.
    rms
        Standard deviation of the background noise.
    """

    x: Float[ndarray, " n"]
    y: Float[ndarray, " n"]
    segmentation: Int[ndarray, "y x"]
    rms: float


def detect(image: Shaped[ndarray, "y x"], bad: Bool[ndarray, "y x"] | None = None) -> Detections:
    """Detect objects above 1.5 times the background noise; the background is taken off for this alone.

    Raises
    ------
    MissingDependencyError
        `sep` is not installed.
    DataError
        Nothing was found.
    """
    try:
        import sep
    except ImportError as error:
        raise MissingDependencyError(
            "detection needs the package sep",
            cure="pip install 'recon-imaging[galaxy]', or give a catalogue",
        ) from error
    pixels = np.ascontiguousarray(image, np.float64)
    masked = ~np.isfinite(pixels) if bad is None else bad | ~np.isfinite(pixels)
    pixels = np.where(masked, 0, pixels)
    try:
        background = sep.Background(pixels, mask=masked)
        objects, segmentation = sep.extract(
            pixels - background.back(),
            _THRESHOLD,
            err=background.globalrms,
            mask=masked,
            minarea=_MIN_AREA,
            segmentation_map=True,
        )
    except Exception as error:  # SEP's own kind, by which it tells full buffers
        raise DataError("the detection failed", found=str(error), cure="Give a catalogue of positions") from error
    if not len(objects):
        raise DataError("no object was detected", cure="Give a catalogue of positions")
    return Detections(objects["x"], objects["y"], segmentation, float(background.globalrms))
