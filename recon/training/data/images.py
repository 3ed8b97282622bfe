"""Images to be measured: photographs, slices of anatomy with and without phase, slices of attenuation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from recon.datasets.anatomy import Planes, Variation, load_volume
from recon.datasets.phase import random_phase, tissue_phase
from recon.datasets.pictures import load_picture
from recon.datasets.readers import open as open_file
from recon.datasets.scan import Image
from recon.physics.errors import DataError
from recon.physics.layout import to_channels
from recon.training.data.phantoms import random_head
from recon.training.tasks import log_uniform, uniform

Size = tuple[int, int]
Draw = Callable[[torch.Generator, Size], tuple[Tensor, str]]
"""Draws an image ``(c, y, x)`` of a size, its largest values near 1, and says what it is."""

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
_KEPT = 512  # decoded files that are kept in memory, as bytes: in each worker 1.5 GB of megapixels in colour
_GREY = (0.299, 0.587, 0.114)
_PHASE = (0.02, 0.4)  # root mean square of the phase that follows the anatomy, radians
_ATTEMPTS = 20  # images drawn until one has contrast
_CONTRAST = 0.02  # standard deviation that an image has at least


def image_files(folders: Sequence[Path]) -> list[Path]:
    """Return the image files of folders and what is under them, in order.

    Raises
    ------
    DataError
        A folder without any.
    """
    found: list[Path] = []
    for folder in folders:
        here = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not here:
            raise DataError("a folder without images", file=folder, expected=" ".join(ENDINGS))
        found += here
    return found


class Photographs:
    """Windows of pictures, at full or half resolution, turned and mirrored.

    Parameters
    ----------
    pictures
        Files, or names in `recon.datasets.pictures.PICTURES`.
    colour
        Three channels, which are the same where a picture is grey; False: one.
    """

    def __init__(self, pictures: Sequence[Path | str], *, colour: bool) -> None:
        self.pictures, self.colour = list(pictures), colour
        if not pictures:
            raise DataError("no pictures to draw images from")

    def __call__(self, rng: torch.Generator, size: Size) -> tuple[Float[Tensor, "c y x"], str]:
        """Draw a window."""
        picture = self.pictures[int(torch.randint(len(self.pictures), (), generator=rng))]
        x = decoded(picture)
        if not self.colour and len(x) == 3:
            x = torch.einsum("c,cyx->yx", torch.tensor(_GREY), x)[None]
        if self.colour and len(x) == 1:
            x = x.expand(3, -1, -1)
        if min(n // m for n, m in zip(x.shape[1:], size, strict=True)) >= 2 and uniform(rng) < 0.5:
            x = avg_pool2d(x[None], 2)[0]
        return turned(window(x, size, rng), rng), str(picture)


def decoded(picture: Path | str) -> Float[Tensor, "c y x"]:
    """Read a picture, 1 or 3 channels from 0 to 1.

    Raises
    ------
    DataError
        A file that is no picture.
    """
    if isinstance(picture, str):
        return _built_in(picture)
    pixels = _pixels(picture)
    return pixels / (255 if pixels.dtype == torch.uint8 else max(float(pixels.max()), 1e-6))


_built_in = lru_cache(load_picture)


@lru_cache(maxsize=_KEPT)
def _pixels(file: Path) -> UInt8[Tensor, "c y x"] | Float[Tensor, "c y x"]:
    """Read a file: bytes, or what has more than 8 bits as it is."""
    from PIL import Image as Pictures
    from PIL import UnidentifiedImageError

    try:
        with Pictures.open(file) as picture:
            deep = picture.mode.startswith("I") or picture.mode == "F"
            grey = deep or picture.mode in ("1", "L", "LA")
            pixels = np.array(picture, dtype=np.float32) if deep else np.array(picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"a picture that cannot be read: {error}", file=file) from error
    return torch.from_numpy(np.ascontiguousarray(pixels[None] if grey else pixels.transpose(2, 0, 1)))


class Anatomy:
    """Planes of volumes: their magnitude, or with a phase as a scanner's image has, as two channels."""

    def __init__(self, planes: Callable[[torch.Generator], tuple[Tensor, str]], *, phase: bool) -> None:
        self.planes, self.phase = planes, phase

    def __call__(self, rng: torch.Generator, size: Size) -> tuple[Float[Tensor, "c y x"], str]:
        """Draw a plane."""
        plane, name = self.planes(rng)
        image = window(plane.clamp_min(0)[None], size, rng)[0]
        if not self.phase:
            return image[None], name
        phase = random_phase(rng)(size, uniform(rng, -1, 1)) + tissue_phase(image, log_uniform(rng, *_PHASE), rng)
        return to_channels(torch.polar(image, phase)[None, None])[0], name


class Heads:
    """Heads that never were, where there are no volumes."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, rng: torch.Generator) -> tuple[Float[Tensor, "y x"], str]:
        """Draw one, as large as the images or larger."""
        side = round(self.side * uniform(rng, 1.0, 1.3))
        head = random_head((side, side), rng)
        return head / head.max().clamp_min(1e-6), "simulated head"


def planes_or_heads(
    volumes: Sequence[Path], weights: Sequence[float] | None, variation: Variation, side: int
) -> Planes | Heads:
    """Return planes of volumes, drawn evenly without weights, for images of a side; heads where there is no volume."""
    if not volumes:
        return Heads(side)
    return Planes([load_volume(path) for path in volumes], weights or [1.0] * len(volumes), variation, 2 * side)


class Attenuation:
    """Slices of CT, water at 1/2, air at 0: whole or half of a slice, resampled.

    Parameters
    ----------
    slices
        In Hounsfield units.
    names
        Of each.
    """

    def __init__(self, slices: Sequence[Float[Tensor, "y x"]], names: Sequence[str]) -> None:
        self.slices, self.names = [(1 + s / 1000).clamp_min(0) / 2 for s in slices], list(names)

    def __call__(self, rng: torch.Generator, size: Size) -> tuple[Float[Tensor, "1 y x"], str]:
        """Draw a slice, sharp enough for its new pixels."""
        index = int(torch.randint(len(self.slices), (), generator=rng))
        x, zoom = self.slices[index], uniform(rng, 1.0, 2.0)
        larger = tuple(round(zoom * n) for n in size)
        x = interpolate(x[None, None], size=larger, mode="bilinear", antialias=True)[0]
        return turned(window(x, size, rng), rng), self.names[index]


def read_attenuation(files: Sequence[Path]) -> Attenuation:
    """Read slices of CT in Hounsfield units.

    Raises
    ------
    DataError
        A file that is no image, or whose values are no Hounsfield units: air is about -1000.
    """
    slices, names = [], []
    for file in files:
        opened = open_file(file)
        if not isinstance(opened, Image):
            raise DataError("not an image", file=file)
        for index in range(opened.pixels.shape[0]):
            pixels = torch.from_numpy(np.asarray(opened.pixels[index], dtype=np.float32))
            if pixels.ndim != 2 or not -2000 < float(pixels.min()) < -500:
                raise DataError("a slice that is not in Hounsfield units", file=file, found=float(pixels.min()))
            slices.append(pixels)
            names.append(file.name)
    return Attenuation(slices, names)


class Mixture:
    """Draws from several, each with a weight, until an image has contrast."""

    def __init__(self, draws: Sequence[tuple[float, Draw]]) -> None:
        self.draws = [draw for _, draw in draws]
        self.weights = torch.tensor([weight for weight, _ in draws], dtype=torch.float64)

    def __call__(self, rng: torch.Generator, size: Size) -> tuple[Float[Tensor, "c y x"], str]:
        """Draw an image."""
        for _ in range(_ATTEMPTS):
            draw = self.draws[int(torch.multinomial(self.weights, 1, generator=rng))]
            image, name = draw(rng, size)
            if float(image.std()) > _CONTRAST:
                return image, name
        raise DataError("images without contrast", found=name)


def window(x: Float[Tensor, "c y x"], size: Size, rng: torch.Generator) -> Float[Tensor, "c yy xx"]:
    """Cut a random window; what is too small gets air around it."""
    for dim, n in ((1, size[0]), (2, size[1])):
        have = x.shape[dim]
        if have >= n:
            x = x.narrow(dim, int(torch.randint(have - n + 1, (), generator=rng)), n)
        else:
            before = (n - have) // 2
            sides = (before, n - have - before)
            x = pad(x, (0, 0, *sides) if dim == 1 else sides)
    return x


def turned(x: Float[Tensor, "c y x"], rng: torch.Generator) -> Float[Tensor, "c yy xx"]:
    """Mirror either axis at random, and exchange them where they are as long."""
    x = x.flip([dim for dim in (1, 2) if uniform(rng) < 0.5])
    return x.mT if x.shape[1] == x.shape[2] and uniform(rng) < 0.5 else x
