"""Images of anatomy drawn from volumes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from recon.datasets.anatomy import Planes, Variation, Volume, load_volume
from recon.physics.errors import DataError

PLAIN = Variation(rotation=0, zoom=(1, 1), stretch=0, gamma=(1, 1), curve=0, sharpen=1, resolution=(1, 1), exact=1)


def volume(shape=(50, 60, 56), spacing=(1.0, 1.0, 1.0)):
    g = torch.Generator().manual_seed(0)
    pixels = torch.rand(shape, generator=g)
    return Volume(pixels, (0,), (torch.arange(shape[0]),), "v")


def write(path, array, spacing=(1.0, 1.0, 1.0)):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


def test_planes_along_all_axes_of_isotropic_volumes_only(tmp_path):
    array = np.zeros((60, 64, 50), dtype=np.float32)
    array[10:50, 10:50, 5:45] = 100.0
    cube = load_volume(write(tmp_path / "cube.nii", array))
    assert cube.axes == (0, 1, 2)
    assert sorted(len(planes) for planes in cube.planes) == [40, 40, 40]  # the others are empty
    assert float(cube.pixels.max()) == pytest.approx(1.0)
    thick = load_volume(write(tmp_path / "thick.nii", array[..., :12], (1.0, 1.0, 5.0)))
    assert thick.axes == (0,)
    assert thick.pixels.shape[0] == 12


def test_bart_image(tmp_path):
    array = np.random.default_rng(0).standard_normal((60, 50)).astype(np.complex64)
    (tmp_path / "slice.hdr").write_text("# Dimensions\n1 60 50\n")
    array.T.tofile(tmp_path / "slice.cfl")  # column-major
    found = load_volume(tmp_path / "slice.cfl")
    scale = np.quantile(np.abs(array), 0.998)
    values = np.sort(found.pixels.numpy().ravel())
    np.testing.assert_allclose(values, np.sort(np.abs(array).ravel()) / scale, rtol=1e-4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((60, 60, 60)), "empty"),
        (np.full((60, 60, 60), np.nan), "not finite"),
        (np.ones((8, 60, 60)), "too few"),
    ],
    ids=["empty", "nan", "small"],
)
def test_volumes_that_cannot_be_used(tmp_path, array, message):
    path = write(tmp_path / "bad.nii", array.astype(np.float32), (1.0, 1.0, 5.0))
    with pytest.raises(DataError, match=message):
        load_volume(path)


def test_a_plane_as_it_is_but_for_flips(generator):
    source = volume()
    top = source.pixels.amax((1, 2))
    for _ in range(5):
        image, name = Planes([source], [1.0], PLAIN, 256)(generator)
        assert name == "v"
        candidates = [p / m for p, m in zip(source.pixels, top, strict=True)]
        variants = [q.flip(dims) for p in candidates for q in (p, p.T) for dims in ((), (0,), (1,), (0, 1))]
        assert any(v.shape == image.shape and torch.allclose(v, image, atol=1e-5) for v in variants)


def test_lower_resolution_keeps_the_middle_of_kspace(generator):
    smooth = torch.outer(torch.hann_window(64), torch.hann_window(64))  # has only the lowest frequencies
    source = Volume(smooth.expand(1, 64, 64), (0,), (torch.arange(1),), "v")
    low = Variation(**{**PLAIN.__dict__, "resolution": (0.75, 0.75)})
    image, _ = Planes([source], [1.0], low, 256)(generator)
    assert image.shape == (48, 48)
    assert float(image.max()) == pytest.approx(1.0)
    assert abs(float(image.sum() / 48**2 - smooth.mean())) < 0.02


def test_every_variation_gives_finite_images_with_air_dark():
    g = torch.Generator().manual_seed(1)
    body = torch.zeros(1, 64, 72)
    body[:, 16:48, 20:52] = 0.2 + 0.8 * torch.rand(1, 32, 32, generator=g)
    source = Volume(body, (0,), (torch.arange(1),), "v")
    shapes = set()
    for _ in range(30):
        image, _ = Planes([source], [1.0], Variation(exact=0.2), 60)(g)
        assert torch.isfinite(image).all()
        assert float(image.abs().max()) == pytest.approx(1.0, abs=1e-5)
        assert float(image[:4, :4].abs().max()) < 0.35
        shapes.add(tuple(image.shape))
        assert max(image.shape) <= 60
    assert len(shapes) > 5


def test_the_same_seed_draws_the_same_image():
    source = volume()
    images = [Planes([source], [1.0], Variation(), 256)(torch.Generator().manual_seed(3))[0] for _ in range(2)]
    assert torch.equal(*images)
