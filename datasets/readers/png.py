"""Pictures: PNG, and what else pillow reads of the usual kinds (JPEG, TIFF); 8 and 16 bit, grey and colour."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from recon.datasets.folders import count_others, matching_files
from recon.datasets.lazy import LazySlices
from recon.datasets.limits import check_claim
from recon.datasets.metadata import image_fields
from recon.datasets.readers import ReadOptions, readers
from recon.datasets.scan import Image, Source
from recon.physics.errors import FileFormatError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TEXT_KEY = "recon"
"""Under this key our own PNG files carry their description."""
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
_GREY = {"1": "|u1", "L": "|u1", "LA": "|u1", "La": "|u1", "I": "<i4", "F": "<f4"}


@readers.register("png")
class PngReader:
    """A picture, the pages of one file, or a folder of pictures of one size in the order of their names.

    Values stay as stored (no gamma, no scaling). Transparency is left out, palettes become colours. The file
    says nothing of physical size.
    """

    def sniff(self, path: Path, head: bytes) -> bool:
        """Tell by the magic bytes; a folder by the first picture in it."""
        if path.is_dir():
            return next(matching_files(path, _is_picture), None) is not None
        return _is_picture(head)

    def read(self, path: Path, options: ReadOptions) -> Image:  # noqa: ARG002
        """Read the headers; pixels are decoded when asked for."""
        files = list(matching_files(path, _is_picture)) if path.is_dir() else [path]
        if not files:
            raise FileFormatError("no picture in the folder", file=path, expected="PNG, JPEG or TIFF")
        notes: list[str] = []
        fields: dict[str, Any] = {}
        pages: list[tuple[Path, int]] = []
        shape: tuple[int, ...] = ()
        dtype = np.dtype(np.uint8)
        for file in files:
            with warnings.catch_warnings(action="ignore"), _opened(file) as picture:
                this_shape, this_dtype = _layout(picture)
                if file == files[0]:
                    shape, dtype = this_shape, this_dtype
                    if picture.mode.endswith(("A", "a")) or "transparency" in picture.info:
                        notes.append("the transparency is left out")
                    text = getattr(picture, "text", {}).get(TEXT_KEY)
                    fields = image_fields(text, file) if text else {}
                if (this_shape, this_dtype) != (shape, dtype):
                    raise ShapeError(
                        "pictures of different kinds in one folder",
                        file=file,
                        found=f"{this_dtype} {this_shape}",
                        expected=f"{dtype} {shape}",
                    )
                n_pages = getattr(picture, "n_frames", 1)
                stored = file.stat().st_size
                check_claim((n_pages, *shape), dtype.itemsize, stored=stored, path=file, what="the picture")
                pages.extend((file, page) for page in range(n_pages))
        if path.is_dir() and (others := count_others(path, files)):
            notes.append(f"{others} other files in the folder skipped")
        pixels = LazySlices((len(pages), *shape), dtype, lambda index: _decode(*pages[index], shape, dtype), path)
        fields["notes"] = (*fields.get("notes", ()), *notes)
        return Image(pixels=pixels, source=Source("png", path), **fields)


def _is_picture(head: bytes) -> bool:
    return head.startswith(_MAGIC)


def _opened(path: Path) -> Picture:
    from PIL import Image as pillow  # noqa: N813 - the name would hide ours

    try:
        return pillow.open(path, formats=("PNG", "JPEG", "TIFF"))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise FileFormatError(
            "the picture is damaged, truncated or far too large", file=path, found=str(error)
        ) from error


def _layout(picture: Picture) -> tuple[tuple[int, ...], np.dtype]:
    width, height = picture.size
    if picture.mode.startswith("I;16"):
        return (height, width), np.dtype(np.uint16)
    if picture.mode in _GREY:
        return (height, width), np.dtype(_GREY[picture.mode])
    return (height, width, 3), np.dtype(np.uint16 if _has_16_bit_colours(picture) else np.uint8)


def _has_16_bit_colours(picture: Picture) -> bool:
    modes = [str(tile[3]) for tile in getattr(picture, "tile", ())]
    return picture.format == "PNG" and any(mode in ("RGB;16B", "RGBA;16B") for mode in modes)


def _decode(path: Path, page: int, shape: tuple[int, ...], dtype: np.dtype) -> ndarray:
    with warnings.catch_warnings(action="ignore"), _opened(path) as picture:
        picture.seek(page)
        if _layout(picture) != (shape, dtype):
            raise ShapeError(
                f"page {page} is of another kind", file=path, found=_layout(picture)[0], expected=f"{shape} {dtype}"
            )
        if _has_16_bit_colours(picture):
            return _decode_16_bit_colours(path)
        if len(shape) == 3:
            return np.asarray(picture.convert("RGB"))
        grey = picture.convert("L") if picture.mode in ("1", "LA", "La") else picture
        return np.asarray(grey).astype(dtype)


def _decode_16_bit_colours(path: Path) -> ndarray:
    """Decode what pillow would cut down to 8 bit."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    packed = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    channels = decode_png(packed, mode=ImageReadMode.UNCHANGED).numpy()[:3]
    return np.ascontiguousarray(np.moveaxis(channels, 0, -1))
