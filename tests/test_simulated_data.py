"""Scans simulated while training, and the data module of volumes."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

from recon.calibration import noise_level
from recon.datasets.anatomy import Planes, Variation, Volume
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.training.data.volumes import VolumeData


def volume(name="v"):
    y, x = np.mgrid[-1:1:64j, -1:1:60j]
    rings = (np.cos(9 * np.hypot(y, x)) + 1.5) * (np.hypot(y, x) < 0.8)
    pixels = torch.from_numpy(rings / rings.max()).float().expand(3, 64, 60)
    return Volume(pixels, (0,), (torch.arange(3),), name)


def scans(**options):
    source = Planes([volume()], [1.0], Variation())
    return SimulatedScans(source, **{"length": 6, "acquisition": Acquisition(), "seed": 5, **options})


def equal(a, b):
    return torch.equal(a.y, b.y) and torch.equal(a.mask, b.mask) and torch.equal(a.target, b.target)


def test_epoch_and_index_determine_an_example():
    first, second = scans(repeats=3), scans(repeats=3)
    _ = first[4], first[0]
    assert equal(first[2], second[2])
    second.set_epoch(1)
    assert not equal(first[2], second[2])
    second.set_epoch(0)
    assert equal(first[2], second[2])


def test_repeats_share_slice_and_maps_but_not_sampling():
    data = scans(length=6, repeats=2)
    a, b, c = data[0], data[3], data[1]
    assert torch.equal(a.coil_maps, b.coil_maps)
    torch.testing.assert_close(a.target * a.scale, b.target * b.scale)
    assert not torch.equal(a.y, b.y)
    assert a.target.shape != c.target.shape or not torch.allclose(a.target, c.target)


def test_noise_and_scale_are_what_the_example_says():
    quiet = Acquisition(noise=(0.02, 0.02), correlation=(0.0, 0.0), masks={"poisson": 1.0})
    for index in range(3):
        example = scans(acquisition=quiet)[index]
        physics = MultiCoilMRI(example.coil_maps[None], example.mask[None, None])
        magnitude = physics.combine(example.y[None]).abs()
        assert float(torch.quantile(magnitude, 0.999)) == pytest.approx(1.0, rel=1e-4)
        corner = torch.linalg.vector_norm(example.y, dim=0) > 0
        assert torch.equal(corner, example.mask)
        # where the maps fit, full data minus the target is noise
        error = example.y - physics.A(torch.view_as_real(example.target[None]).movedim(-1, 1))[0]
        outer = example.mask.clone()
        h, w = outer.shape
        outer[h // 4 : -(h // 4), w // 4 : -(w // 4)] = False
        measured = float(error[:, outer].abs().square().mean().sqrt()) / 2**0.5
        assert measured == pytest.approx(example.sigma, rel=0.25)


def test_noise_levels_are_the_true_or_the_estimated_ones():
    options = {"noise": (0.01, 0.01), "masks": {"poisson": 1.0}}
    true = scans(acquisition=Acquisition(estimate_noise=False, **options))[0]
    estimated = scans(acquisition=Acquisition(**options))[0]
    assert torch.equal(true.y, estimated.y)
    physics = MultiCoilMRI(true.coil_maps[None], true.mask[None, None])
    assert true.sigma != estimated.sigma == pytest.approx(float(noise_level(true.y[None], physics.mask)), rel=1e-4)


def test_layers_and_phases_can_be_left_out():
    plain = Acquisition(layers=0.0, tissue_phase=(1e-6, 1e-6), noise=(1e-6, 1e-6))
    layered = Acquisition(layers=1.0, tissue_phase=(1e-6, 1e-6), noise=(1e-6, 1e-6))
    assert not torch.allclose(scans(acquisition=plain)[0].target.abs(), scans(acquisition=layered)[0].target.abs())
    with pytest.raises(OptionError, match="share of the images"):
        Acquisition(layers=1.5)


def test_every_mask_and_range():
    names = ("poisson", "gaussian", "random", "equispaced", "gaussian_lines", "radial")
    for name in names:
        data = scans(acquisition=Acquisition(coils=(3, 5), masks={name: 1.0}, acceleration=(4, 5)))
        example = data[0]
        assert 3 <= len(example.y) <= 5
        rate = 1 / float(example.mask.float().mean())
        assert 2 < rate < 9
        assert torch.isfinite(example.target).all()


def test_fixed_matrix():
    assert scans(matrix=(70, 48))[0].y.shape[1:] == (70, 48)


@pytest.mark.parametrize(
    "options", [{"coils": (0, 4)}, {"noise": (0.1, 0.01)}, {"masks": {}}, {"masks": {"spiralling": 1.0}}], ids=str
)
def test_acquisitions_that_cannot_be(options):
    with pytest.raises(OptionError):
        Acquisition(**options)


def test_no_volumes_or_empty_ones():
    with pytest.raises(DataError, match="no volumes"):
        Planes([], [], Variation())
    dark = Volume(torch.zeros(1, 64, 64), (0,), (torch.arange(1),), "dark")
    with pytest.raises(DataError, match="hardly any signal"):
        SimulatedScans(Planes([dark], [1.0], Variation(curve=0)), length=1, acquisition=Acquisition())[0]


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b"):
        pixels = volume().pixels.numpy().transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(pixels), np.eye(4)), tmp_path / f"{name}.nii")
    (tmp_path / "broken.nii").write_bytes(b"\x5c\x01\x00\x00" + bytes(100))
    return tmp_path


def test_module_yields_batches_and_a_card(folder):
    data = VolumeData(
        folder,
        ("a.nii",),
        ("b.nii",),
        length=4,
        validation_length=2,
        workers=0,
        batch_size=2,
        matrix=(64, 64),
        organs=("rings",),
        licence="none",
    )
    batches = list(data.train_dataloader())
    assert [tuple(batch.y.shape[2:]) for batch in batches] == [(64, 64)] * 2
    assert batches[0].target.shape == (2, 2, 64, 64)
    validation = [batch.names[0] for batch in data.val_dataloader()]
    assert all(name.startswith("b.nii") for name in validation)
    card = data.card()
    assert (card.trained_on, card.validated_on, card.split) == (("a.nii",), ("b.nii",), "by subject")
    assert card.covers.coils == (4, 16)


def test_a_volume_that_cannot_be_read_is_named_and_left_out(folder):
    data = VolumeData(folder, ("broken.nii", "a.nii"), ("b.nii",), weights=(1.0, 2.0))
    with pytest.warns(UserWarning, match=r"1 of 2 volumes left out: .*broken\.nii"):
        volumes, weights = data.volumes
    assert ([v.name for v in volumes], weights) == (["a.nii"], [2.0])
    with pytest.raises(DataError, match="no volume could be read"):
        _ = VolumeData(folder, ("broken.nii",), ("b.nii",)).volumes
    with pytest.raises(DataError, match="no volume could be read"):
        _ = VolumeData(folder / "nowhere", ("a.nii",), ()).volumes


def test_options_that_contradict_each_other(folder):
    with pytest.raises(OptionError, match="both"):
        VolumeData(folder, ("a.nii",), ("a.nii",))
    with pytest.raises(OptionError, match="one weight"):
        VolumeData(folder, ("a.nii",), (), weights=(1.0, 1.0))
    with pytest.raises(OptionError, match="one matrix"):
        VolumeData(folder, ("a.nii",), (), batch_size=2)
