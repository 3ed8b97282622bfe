"""Photographs as training images."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from recon.datasets.anatomy import picture_volume
from recon.datasets.pictures import PICTURES, load_picture
from recon.physics.errors import OptionError
from recon.training.data.volumes import VolumeData


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


def test_channels_are_planes():
    volume = picture_volume("coffee")
    assert volume.axes == (0,)
    assert volume.planes[0].tolist() == [0, 1, 2]
    assert float(np.quantile(volume.pixels.numpy(), 0.998)) == pytest.approx(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii", "b.nii"):
        pixels = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(pixels, np.diag([1, 1, 5, 1])), tmp_path / name)
    return tmp_path


def test_share_of_the_training_images_and_none_of_validation(folder):
    data = VolumeData(folder, ("a.nii",), ("b.nii",), pictures=0.4, largest=48, length=120, validation_length=4)
    source = data.training_set().source
    rng = torch.Generator().manual_seed(1)
    names = [source(rng)[1] for _ in range(300)]
    assert 0.3 < sum(name in PICTURES for name in names) / 300 < 0.5
    assert all(example.name.startswith("b.nii") for example in data.validation_set())
    assert "skimage.data.camera" in data.card().trained_on
    assert not any("skimage" in name for name in VolumeData(folder, ("a.nii",), ("b.nii",)).card().trained_on)


def test_a_share_is_less_than_one(folder):
    with pytest.raises(OptionError, match=r"pictures is a share.*1\.0"):
        VolumeData(folder, ("a.nii",), ("b.nii",), pictures=1.0)
