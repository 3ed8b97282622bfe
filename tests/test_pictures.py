"""Photographs as training images."""

from __future__ import annotations

import pytest
import torch

from recon.datasets.pictures import PICTURES, load_picture


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_in_the_wheel_and_in_range(name):
    picture = load_picture(name)
    assert picture.shape[0] in (1, 3)
    assert 100 < min(picture.shape[1:]) <= 400
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0.03


def test_large_pictures_are_means_of_pixels():
    import skimage.data

    whole = torch.from_numpy(skimage.data.camera()).float() / 255
    torch.testing.assert_close(load_picture("camera")[0, 3, 5], whole[6:8, 10:12].mean())
