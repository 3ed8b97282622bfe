"""Pictures, written by Pillow."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from recon.datasets import Image
from recon.datasets import open as open_any
from recon.physics.errors import FileFormatError, ShapeError

RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 255, (13, 10)).astype(np.uint8)
GREY16 = RNG.integers(0, 65535, (13, 10)).astype(np.uint16)
COLOUR8 = RNG.integers(0, 255, (13, 10, 3)).astype(np.uint8)
COLOUR16 = RNG.integers(0, 65535, (13, 10, 3)).astype(np.uint16)


def write_png(path: Path, values: np.ndarray) -> Path:
    """An independent writer, because pillow has no colours of 16 bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    depth, colour = 8 * values.dtype.itemsize, 2 if values.ndim == 3 else 0
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(values.dtype.newbyteorder(">")))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("values", [GREY8, GREY16, COLOUR8, COLOUR16], ids=["grey8", "grey16", "rgb8", "rgb16"])
def test_values_stay(tmp_path: Path, values: np.ndarray) -> None:
    image = open_any(write_png(tmp_path / "a.png", values))
    assert isinstance(image, Image)
    assert image.pixels.shape == (1, *values.shape)
    assert image.pixels[0].dtype == values.dtype
    np.testing.assert_array_equal(image.pixels[0], values)
    assert image.spacing is None


@pytest.mark.parametrize("values", [GREY8, GREY16, COLOUR8, GREY8.astype(np.float32) / 7, GREY16.astype(np.int32)])
def test_tiff(tmp_path: Path, values: np.ndarray) -> None:
    Pillow.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(open_any(tmp_path / "a.tif").pixels[0], values)


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    pages = [Pillow.fromarray(GREY8 // n) for n in (1, 2, 3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    image = open_any(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.stack(list(image.pixels)), np.stack([GREY8, GREY8 // 2, GREY8 // 3]))


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), np.arange(24)).astype(np.uint8)
    Pillow.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(open_any(tmp_path / "a.jpg").pixels[0], smooth, atol=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    picture = Pillow.fromarray(COLOUR8).convert("RGBA" if mode == "RGBA" else "L").convert(mode)
    picture.save(tmp_path / "a.png")
    image = open_any(tmp_path / "a.png")
    expected = np.asarray(picture.convert("L" if mode in ("LA", "1") else "RGB"))
    np.testing.assert_array_equal(image.pixels[0], expected)
    assert bool(image.notes) == (mode in ("RGBA", "LA"))


def test_a_folder_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Pillow.fromarray(GREY8 // number).save(tmp_path / f"{number}.png")
    (tmp_path / "readme.txt").write_text("other")
    (tmp_path / ".hidden").write_text("other")
    image = open_any(tmp_path)
    np.testing.assert_array_equal(np.stack(list(image.pixels)), np.stack([GREY8, GREY8 // 2, GREY8 // 10]))
    assert image.notes == ("1 other files in the folder skipped",)


def test_a_folder_of_different_sizes(tmp_path: Path) -> None:
    Pillow.fromarray(GREY8).save(tmp_path / "1.png")
    Pillow.fromarray(GREY8[:5]).save(tmp_path / "2.png")
    with pytest.raises(ShapeError, match=r"2\.png: pictures of different kinds.*\(5, 10\).*\(13, 10\)"):
        open_any(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no known format"):
        open_any(tmp_path)


@pytest.mark.parametrize("length", [20, 40, 100])
@pytest.mark.parametrize("values", [GREY8, COLOUR16], ids=["grey8", "rgb16"])
def test_truncation_is_told(tmp_path: Path, length: int, values: np.ndarray) -> None:
    path = write_png(tmp_path / "a.png", values)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileFormatError, match=r"a\.png.*(damaged|cannot be read)"):
        open_any(path).pixels[0]


def test_a_picture_that_claims_too_much(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", GREY8)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"too large|larger than"):
        open_any(path)


def test_real_pictures(shared_data: Path) -> None:
    image = open_any(shared_data / "mri" / "ista-brain-test")
    assert image.pixels.shape == (50, 256, 256)
