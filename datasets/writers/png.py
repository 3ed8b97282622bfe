"""PNG pictures to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy import ndarray

from recon.datasets.metadata import describe_image
from recon.datasets.scan import Image
from recon.datasets.window import display_top
from recon.datasets.writers import Data, Writer, writers

if TYPE_CHECKING:
    pass

TEXT_KEY = "recon"


@writers.register("png")
class PngWriter(Writer):
    """Grey pictures of the magnitude, black at 0 and white at the 99.9th percentile of the whole image.

    Values of 8 bit, and of 16 bit in grey, are written as they are. Several slices make a folder of numbered pictures.
    The header and notes are a text of the picture (of the first). Maps are left out: there is no room.
    """

    endings: ClassVar[tuple[str, ...]] = (".png",)
    kinds: ClassVar[tuple[type, ...]] = (Image,)

    def is_folder(self, data: Data) -> bool:
        """Several slices make a folder."""
        return isinstance(data, Image) and data.n_slices > 1

    def write(self, data: Data, path: Path) -> None:
        """Write slice by slice."""
        from PIL import Image as pillow  # noqa: N813 - the name would hide ours
        from PIL.PngImagePlugin import PngInfo

        assert isinstance(data, Image)
        keeps = _is_kept(np.asarray(data.pixels[0]))
        top = 1.0 if keeps else display_top(data.pixels)
        digits = max(4, len(str(data.n_slices)))
        for index in range(data.n_slices):
            values = np.asarray(data.pixels[index])
            picture = pillow.fromarray(values if keeps else _grey(values, top))
            text = PngInfo()
            if index == 0:
                text.add_text("recon", describe_image(data))
            target = path / f"{index + 1:0{digits}d}.png" if self.is_folder(data) else path
            picture.save(target, format="PNG", pnginfo=text)


def _is_kept(values: ndarray) -> bool:
    return values.dtype == np.uint8 or (values.dtype == np.uint16 and values.ndim == 2)


def _grey(values: ndarray, top: float) -> ndarray:
    scaled = np.nan_to_num(np.abs(values).astype(np.float32) / top, nan=0.0, posinf=1.0)
    return np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
