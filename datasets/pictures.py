"""Photographs that come with scikit-image and are free to use: images to train on, and to look at, anywhere."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

PICTURES = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "cell",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)
"""Names in `skimage.data`; each is in the public domain, CC0, or without known copyright."""

_LARGE = 400  # shortest side in pixels above which a picture is halved, which takes off the camera's own blur and noise


def load_picture(name: str) -> Float[Tensor, "channel y x"]:
    """Read a picture, 1 or 3 channels from 0 to 1; large ones at half the size."""
    import skimage.data

    pixels = torch.from_numpy(getattr(skimage.data, name)()).float() / 255
    planes = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    while min(planes.shape[1:]) > _LARGE:
        planes = avg_pool2d(planes[None], 2)[0]
    return planes.contiguous()
