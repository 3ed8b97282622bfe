"""Operators from a line of text: every operator, every key, and what is misspelt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from recon.physics import FanCT, ParallelCT, Resampling, SuperResolution
from recon.physics.errors import OptionError, ReconError
from recon.physics.noise import PhotonNoise, PostLogNoise
from recon.physics_options import OPERATORS
from recon.physics_spec import describe_operators, parse_physics, parse_spec

EXAMPLES = {
    "denoising:sigma=0.1": (1, 20, 24),
    "denoising:sigma=0.1,gain=0.01": (1, 20, 24),
    "inpainting:keep=0.3,seed=4": (1, 20, 24),
    "inpainting:blocks=2,block=4x6": (1, 20, 24),
    "inpainting:coded=7": (1, 20, 24),
    "demosaicing:pattern=xtrans": (3, 20, 24),
    "blur:width=1": (1, 12, 16),
    "blur:motion=5,angle=30,border=reflect": (1, 20, 24),
    "blur:shake=7,border=circular": (1, 20, 24),
    "superresolution:factor=2,filter=gaussian": (1, 10, 12),
    "superresolution:factor=1.6": (1, 13, 15),
    "super-resolution:factor=2,width=1": (1, 10, 12),
    "ct:angles=6": (1, 32, 6),
    "ct:angles=6,geometry=fan,arc=200,start=10,normalize=yes": (1, 33, 6),
    "mri:sampling=gaussian,acceleration=2": (2, 20, 24),
    "cs:ratio=0.5,block=5x4,matrix=dct": (1, 10, 4, 6),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_operator_measures_and_says_itself_again(text):
    spec = parse_spec(text)
    size = ({"demosaicing": 3, "mri": 2}.get(spec.name, 1), 20, 24)
    x = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    physics = parse_physics(text, size)
    y = physics.A(x)
    assert y.shape[1:] == EXAMPLES[text]
    torch.testing.assert_close(parse_physics(str(spec), (20, 24)).A(x), y)
    assert spec.name in {name for name, _ in describe_operators()}


def test_numbers_keep_all_their_digits():
    spec = parse_spec("ct:angles=3,pixel=0.48828125,start=0.1")
    assert str(spec) == "ct:angles=3,start=0.1,pixel=0.48828125"
    assert parse_spec(str(spec)).options == spec.options


def test_all_operators_have_an_example():
    assert {parse_spec(text).name for text in EXAMPLES} == set(OPERATORS)


def test_the_seed_decides_masks_and_noise():
    x = torch.ones(1, 1, 32, 32)
    first, again, other = (
        parse_physics(f"inpainting:keep=0.5,sigma=0.1,seed={seed}", (32, 32))(x) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first != 0, other != 0)


def test_values_reach_the_operator():
    fan = parse_physics("ct:angles=8,geometry=fan,source=300,detector=200,detectors=40,pixel=0.5", (32, 32))
    assert isinstance(fan, FanCT)
    assert (fan.source_distance, fan.detector_distance, fan.detectors, fan.pixel_size) == (300, 200, 40, 0.5)
    limited = parse_physics("ct:angles=3,arc=90,start=45", (16, 16))
    assert isinstance(limited, ParallelCT)
    assert limited.angles.tolist() == [45, 75, 105]
    assert isinstance(parse_physics("ct:photons=1e4", (8, 8)).noise_model, PhotonNoise)
    assert isinstance(parse_physics("ct:photons=1e4,model=post-log", (8, 8)).noise_model, PostLogNoise)
    assert isinstance(parse_physics("superresolution:factor=2.5", (20, 20)), Resampling)
    assert parse_physics("superresolution:factor=2,filter=none", (8, 8)).filter is None
    assert isinstance(parse_physics("superresolution", (8, 8)), SuperResolution)


def test_masks_and_kernels_come_from_files(tmp_path):
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:7] = 255
    Picture.fromarray(mask).save(tmp_path / "mask.png")
    physics = parse_physics(f"inpainting:mask={tmp_path}/mask.png", (8, 9))
    assert torch.equal(physics.A(torch.ones(1, 1, 8, 9))[0, 0] != 0, torch.from_numpy(mask != 0))
    np.save(tmp_path / "psf.npy", np.array([[0.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    blur = parse_physics(f"blur:kernel={tmp_path}/psf.npy", (8, 9))
    torch.testing.assert_close(blur.A(torch.ones(1, 1, 8, 9)), torch.ones(1, 1, 6, 7))
    torch.testing.assert_close(blur.A(torch.eye(8, 9)[None, None])[0, 0, 0, 0], torch.tensor(0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctt:angles=3", "Did you mean ct"),
        ("ct:angels=3", "Did you mean angles"),
        ("ct:geometry=fann", "Did you mean fan"),
        ("ct:angles=many", "a whole number"),
        ("ct:angles", "angles=VALUE"),
        ("ct:angles=3,angles=4", "given twice"),
        ("ct:angles=0", "at least one angle"),
        ("ct:source=3", "geometry=fan"),
        ("ct:photons=100,normalize=yes", "normalize or photons"),
        ("ct:normalize=perhaps", "yes or no"),
        ("inpainting:keep=0.5,coded=13", "keep and coded"),
        ("inpainting:block=3x4x5", "two numbers"),
        ("inpainting:keep=2", "share of pixels"),
        ("inpainting:mask=/nowhere.png", "no such file"),
        ("blur:width=2,motion=4", "width and motion"),
        ("superresolution:factor=1.5,filter=sinc", "its own filter"),
        ("demosaicing:pattern=cmyk", "filter array"),
        ("mri:sampling=spirals", "spirals"),
        ("denoising:sigma=0", "sigma is positive"),
        ("denoising:sigma=-1", "sigma is positive"),
        ("denoising:gain=-1", "gain is positive"),
    ],
)
def test_what_is_misspelt_is_told(text, message):
    with pytest.raises(ReconError, match=message):
        parse_physics(text, (16, 16))


def test_channels_that_do_not_fit():
    with pytest.raises(OptionError, match="three colours"):
        parse_physics("demosaicing", (1, 8, 8))
    with pytest.raises(OptionError, match="two channels"):
        parse_physics("mri", (1, 8, 8))
    with pytest.raises(OptionError, match=r"\(c, y, x\)"):
        parse_physics("denoising", (8,))
