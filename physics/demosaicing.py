"""One colour a pixel: the filter arrays of cameras."""

from __future__ import annotations

import torch
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import OptionError
from recon.physics.inpainting import Inpainting

PATTERNS = {
    "bggr": ("bg", "gr"),
    "rggb": ("rg", "gb"),
    "grbg": ("gr", "bg"),
    "gbrg": ("gb", "rg"),
    "xtrans": ("gbggrg", "rgrbgb", "gbggrg", "grggbg", "bgbrgr", "grggbg"),
}
"""The repeated tile of each filter array, row by row; Bayer's four phases, and Fujifilm's X-Trans."""


@operators.register("demosaicing")
class Demosaicing(Inpainting):
    """Keeps one of three colours at each pixel; the others are 0 in ``y (b, 3, y, x)``, as deepinv has it.

    Parameters
    ----------
    img_size
        (y, x) of the images.
    pattern
        One of `PATTERNS`; ``bggr`` is deepinv's ``bayer``.
    noise_model
        None: no noise.

    Raises
    ------
    OptionError
        A pattern that is not known.
    """

    def __init__(
        self, img_size: tuple[int, int], pattern: str = "rggb", *, noise_model: NoiseModel | None = None
    ) -> None:
        super().__init__(colour_mask(img_size, pattern), noise_model=noise_model)
        self.pattern = pattern

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[Demosaicing, Float[Tensor, "b 3 y x"]]:
        """Make an instance and an image for the shared operator test."""
        x = torch.randn(batch, 3, 6, 7, dtype=dtype, generator=generator).to(device)
        return cls((6, 7), noise_model=GaussianNoise(0.1)).to(device, dtype), x


def colour_mask(shape: tuple[int, int], pattern: str) -> Float[Tensor, "3 y x"]:
    """Return which of red, green and blue is kept at each pixel."""
    if pattern not in PATTERNS:
        raise OptionError(
            "a colour filter array that is not known", found=repr(pattern), expected=f"one of {', '.join(PATTERNS)}"
        )
    rows = PATTERNS[pattern]
    tile = torch.tensor([[[colour == letter for letter in row] for row in rows] for colour in "rgb"]).float()
    repeats = [-(-n // len(rows)) for n in shape]
    return tile.repeat(1, *repeats)[:, : shape[0], : shape[1]].contiguous()
