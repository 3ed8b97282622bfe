"""Arrays to PNG pictures inside the page: palettes, windows, size limits."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from PIL import Image as Picture

MAX_SIDE = 512
"""Pictures larger than this are averaged down, so that a page stays small."""


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Parameters
    ----------
    low, high
        Values shown with the first and the last colour.
    palette
        Name of a matplotlib colour map; ``"gray"`` for images.
    log
        Logarithmic between ``low`` and ``high``.
    unit
        What stands beside the colour bar.
    """

    low: float
    high: float
    palette: str = "gray"
    log: bool = False
    unit: str = ""

    def levels(self, values: Float[ndarray, "y x"]) -> UInt8[ndarray, "y x"]:
        """Return the palette index of each value; what is not finite gets the first colour."""
        low, high = self.low, self.high
        if self.log:
            values = np.log(np.maximum(values, low))
            low, high = np.log(low), np.log(high)
        share = (values.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
        share = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)
        return np.asarray(np.rint(255 * np.clip(share, 0, 1)), dtype=np.uint8)

    def colours(self, count: int = 256) -> UInt8[ndarray, "colour 3"]:
        """Return ``count`` colours of the palette, evenly spaced."""
        return np.asarray(mpl.colormaps[self.palette](np.linspace(0, 1, count), bytes=True)[:, :3])

    def ticks(self) -> list[tuple[float, float]]:
        """Return (position from 0 to 1, value) of a few marks of the colour bar."""
        if not self.log:
            return [(share, self.low + share * (self.high - self.low)) for share in (0.0, 0.5, 1.0)]
        decades = np.arange(np.ceil(np.log10(self.low)), np.floor(np.log10(self.high)) + 0.5)
        span = np.log10(self.high) - np.log10(self.low)
        return [(float((d - np.log10(self.low)) / span), float(10**d)) for d in decades]


def data_uri(values: Shaped[ndarray, "y x"], scale: Scale) -> str:
    """Return ``values`` as a PNG picture in a ``data:`` address, so that a page needs no second file."""
    picture = Picture.fromarray(scale.levels(_bounded(values)))
    if scale.palette != "gray":
        picture.putpalette(scale.colours().tobytes())
    buffer = BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _bounded(values: Shaped[ndarray, "y x"]) -> Float[ndarray, "y2 x2"]:
    values = np.asarray(values, dtype=np.float32)
    factor = -(-max(values.shape) // MAX_SIDE)
    if factor == 1:
        return values
    height, width = (n - n % factor for n in values.shape)
    if min(height, width) == 0:
        return values[::factor, ::factor]
    blocks = values[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)))
