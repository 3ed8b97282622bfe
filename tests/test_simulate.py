from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from recon.datasets import Image, Source, save
from recon.datasets import open as open_file
from recon.datasets.coils import noise_covariance, random_loops, resample_maps
from recon.datasets.layers import with_layers
from recon.datasets.masks import MASKS, make_mask
from recon.datasets.phase import random_phase, tissue_phase
from recon.datasets.scan import SliceArray
from recon.datasets.simulate import simulate_mri
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import CalibrationError, DataError, MaskError, OptionError, ShapeError


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return resize(shepp_logan_phantom(), (72, 60), anti_aliasing=True).astype(np.float32) * 100


@pytest.fixture(scope="module")
def volume(head) -> np.ndarray:
    return np.stack([head * scale for scale in (0.5, 1.0, 0.8)])


# --- coils, phase, covariance -----------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(coils=st.integers(1, 33), y=st.integers(8, 70), x=st.integers(8, 70), seed=st.integers(0, 2**31))
def test_maps_are_smooth_and_normalised(coils, y, x, seed):
    maps = random_loops(coils, seed).maps((y, x))
    assert maps.shape == (coils, y, x)
    torch.testing.assert_close(maps.abs().square().sum(dim=0), torch.ones(y, x))
    steps = torch.cat([(maps[:, 1:] - maps[:, :-1]).flatten(), (maps[:, :, 1:] - maps[:, :, :-1]).flatten()])
    assert steps.abs().max() < 16 / min(y, x)


def test_coils_see_different_places():
    maps = random_loops(8, 0).maps((64, 64)).abs()
    peaks = {int(m.argmax()) for m in maps}
    assert len(peaks) >= 6
    assert (maps.amax(dim=(1, 2)) > 2 * maps.amin(dim=(1, 2))).all()
    singular = torch.linalg.svdvals(random_loops(8, 0).maps((64, 64)).flatten(1))
    assert singular[-1] > 0.01 * singular[0], "no coil repeats the others"


def test_field_of_a_loop_on_its_axis():
    """On the axis of a ring of radius R, B = 2 pi R^2 / (R^2 + d^2 + wire^2)^(3/2), times mu_0 I / 4 pi."""
    from recon.datasets.coils import _WIRE, _loop_field

    center, normal, radius = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor(0.7)
    distance = torch.linspace(-2, 2, 9)
    field = _loop_field(center, normal, radius, center + distance[:, None] * normal)
    expected = 2 * torch.pi * 0.49 / (0.49 + distance**2 + _WIRE**2) ** 1.5
    torch.testing.assert_close(field[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert field[:, 1:].abs().max() < 1e-5


def test_volume_stacks_planes():
    loops = random_loops(4, 1)
    volume = loops.volume((5, 16, 12))
    assert volume.shape == (4, 5, 16, 12)
    torch.testing.assert_close(volume[:, 2], loops.maps((16, 12)))
    assert (volume[:, 0] - volume[:, 4]).abs().max() > 0.05


def test_resampled_maps_are_those_of_the_other_matrix():
    loops = random_loops(6, 3)
    coarse, fine = loops.maps((48, 48)), loops.maps((96, 80))
    error = (resample_maps(coarse, (96, 80)) - fine).abs()
    assert error[:, 3:-3, 3:-3].max() < 5e-3
    hole = coarse.clone()
    hole[:, :10] = 0
    assert (resample_maps(hole, (96, 80))[:, :16] == 0).all()


@settings(max_examples=20, deadline=None)
@given(coils=st.integers(1, 32), correlation=st.just(0) | st.floats(0.01, 0.95), seed=st.integers(0, 1000))
def test_covariance_is_one(coils, correlation, seed):
    sensitivity = random_loops(coils, seed).sensitivity((16, 16))
    covariance = noise_covariance(sensitivity, correlation, seed)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    torch.testing.assert_close(covariance, covariance.mH)
    assert float(covariance.diagonal().real.mean()) == pytest.approx(1)
    off = covariance - torch.diag(covariance.diagonal())
    assert (float(off.abs().max()) < 1e-12) == (correlation == 0 or coils == 1)


def test_phase_is_smooth_and_changes_with_height():
    phase = random_phase(4)
    plane = phase((90, 70), 0.2)
    assert float(plane.max() - plane.min()) > 0.5
    assert plane.diff(dim=0).abs().max() < 0.3
    assert plane.diff(dim=1).abs().max() < 0.3
    assert 0 < (phase((90, 70), 0.25) - plane).abs().max() < 0.5
    assert torch.equal(random_phase(4)((90, 70), 0.2), plane)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5])
def test_phase_of_tissue_follows_the_anatomy(head, strength):
    image = torch.from_numpy(head).float()
    phase = tissue_phase(image, strength, 3)
    assert torch.equal(phase, tissue_phase(image, strength, 3))
    mean = float((image * phase).sum() / image.sum())
    size = float((image * phase.square()).sum() / image.sum()) ** 0.5
    assert abs(mean) < 1e-4
    assert size == pytest.approx(strength, rel=1e-3)
    if strength:  # rises and falls at the edges of the image, and differs from draw to draw
        edges = image.diff(dim=0).abs() > 0.1 * image.max()
        jumps = phase.diff(dim=0).abs()
        assert float(jumps[edges].mean()) > 3 * float(jumps[~edges].mean())
        assert not torch.allclose(phase, tissue_phase(image, strength, 4), atol=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_layers_lie_around_the_body_and_are_off_in_phase(seed):
    y, x = np.mgrid[-1:1:80j, -1:1:72j]
    body = torch.from_numpy((np.hypot(y, x) < 0.7).astype(np.float32))
    image = with_layers(body, seed)
    assert torch.equal(image, with_layers(body, seed))
    assert float(image.abs().max()) == pytest.approx(1.0, rel=1e-5)
    changed = (image / image[40, 36] - body).abs() > 0.05
    away = torch.from_numpy(np.abs(np.hypot(y, x) - 0.7) > 0.6)  # the middle, and the corners
    assert not changed[away].any()
    assert changed.any()
    assert float(image[changed].angle().abs().max()) > 0


def test_layers_of_nothing_are_nothing():
    assert with_layers(torch.zeros(16, 12), 1).abs().max() == 0


def test_phase_of_an_even_image_is_even():
    assert tissue_phase(torch.full((12, 10), 3.0), 0.5, 0).abs().max() < 1e-6
    assert tissue_phase(torch.zeros(12, 10), 0.5, 0).abs().max() == 0
    with pytest.raises(OptionError, match="not negative"):
        tissue_phase(torch.ones(4, 4), -1.0)


# --- simulation -------------------------------------------------------------------------------------------------


def test_noise_free_data_are_the_operator_on_the_truth(head):
    sim = simulate_mri(head, snr=np.inf, mask="gaussian", acceleration=3, seed=5)
    physics = MultiCoilMRI(torch.from_numpy(sim.coil_maps[0])[None], torch.from_numpy(sim.scan.mask))
    truth = torch.from_numpy(sim.truth[0])
    y = physics.expand(truth[None]) * physics.mask
    torch.testing.assert_close(torch.from_numpy(sim.scan.slice(0))[None], y, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.abs(sim.truth[0]), head, rtol=1e-5)
    np.testing.assert_allclose(sim.scan.reference[0], head, rtol=1e-5)
    assert np.std(np.angle(sim.truth[0][head > 1])) > 0.1
    assert sim.scan.noise is None
    assert np.abs(np.angle(simulate_mri(head, phase=False).truth[0])).max() == 0


@pytest.mark.parametrize("snr", [5, 40])
def test_measured_snr_is_the_one_asked_for(volume, snr):
    options = {"mask": "full", "acceleration": 1, "correlation": 0, "seed": 2}
    noisy, clean = (simulate_mri(volume, snr=s, **options) for s in (snr, np.inf))
    noise = np.stack([noisy.scan.slice(i) - clean.scan.slice(i) for i in range(3)])
    body = volume > 0.1 * np.percentile(volume[1], 99)
    signal = volume[body].mean()
    for part in (noise.real, noise.imag):
        assert signal / np.sqrt((part**2).mean()) == pytest.approx(snr, rel=0.02)
    # and so has the combined image: the maps' squares sum to one
    maps = torch.from_numpy(noisy.coil_maps[1])[None]
    image = MultiCoilMRI(maps).combine(torch.from_numpy(noise[1])[None])
    assert signal / float(image.real.std()) == pytest.approx(snr, rel=0.03)


def test_noise_has_the_covariance_that_it_says(head):
    options = {"coils": 6, "mask": "full", "acceleration": 1, "correlation": 0.6, "seed": 8}
    noisy, clean = (simulate_mri(head, snr=s, **options) for s in (20, np.inf))
    noise = (noisy.scan.slice(0) - clean.scan.slice(0)).reshape(6, -1)
    scale = noisy.sigma**2
    for samples in (noise, noisy.scan.noise):
        measured = samples @ samples.conj().T / (2 * samples.shape[1])
        np.testing.assert_allclose(measured / scale, noisy.covariance / scale, atol=0.06)
    assert np.sqrt(np.diag(noisy.covariance).real.mean()) == pytest.approx(noisy.sigma)
    off = noisy.covariance - np.diag(np.diag(noisy.covariance))
    assert np.abs(off).max() > 0.2 * scale
    pseudo = noise @ noise.T / (2 * noise.shape[1])
    assert np.abs(pseudo).max() < 0.06 * scale, "real and imaginary parts are independent and alike"


def test_the_same_in_any_order_and_other_seeds_differ(volume):
    first, second = simulate_mri(volume, seed=1), simulate_mri(volume, seed=1)
    forwards = [first.scan.slice(i) for i in range(3)]
    backwards = [second.scan.slice(i) for i in (2, 1, 0)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
    other = simulate_mri(volume, seed=2)
    assert not np.array_equal(other.scan.mask, first.scan.mask)
    assert not np.allclose(other.coil_maps[0], first.coil_maps[0])
    noise = [simulate_mri(np.stack([volume[0]] * 2), seed=1).scan.slice(i) for i in (0, 1)]
    assert not np.allclose(noise[0], noise[1])


def test_slices_are_made_one_at_a_time(volume):
    class Counting:
        shape = (200, 72, 60)
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return volume[index % 3]

    assert isinstance(Counting(), SliceArray)
    sim = simulate_mri(Image(pixels=Counting(), source=Source("test"), spacing=(5.0, 1.0, 1.0)))
    assert sim.scan.kspace.shape == (200, 8, 72, 60)
    before = Counting.read
    sim.scan.slice(150)
    assert Counting.read == before + 1
    assert sim.scan.spacing == (5.0, 1.0, 1.0)
    with pytest.raises(IndexError):
        sim.scan.kspace[200]


@pytest.mark.parametrize("name", MASKS)
def test_every_mask(head, name):
    rate = {"full": 1, "partial_fourier": 1.4}.get(name, 4)
    sim = simulate_mri(head, mask=name, acceleration=rate, seed=3)
    y = sim.scan.slice(0)
    mask, from_file = sim.scan.sampling(0)
    assert from_file
    assert (y[:, ~mask] == 0).all()
    assert (y[:, mask] != 0).all()
    assert (sim.scan.readout_axis == -2) == (name in {"full"} or sim.scan.mask.shape[0] == 1)


def test_own_mask_and_maps(head):
    mask = make_mask("equispaced", (72, 60), 2) & make_mask("partial_fourier", (72, 60), 4 / 3)
    maps = random_loops(3, 0).maps((36, 30))
    sim = simulate_mri(head, coils=maps, mask=mask, snr=np.inf)
    assert sim.scan.n_coils == 3
    assert sim.coil_maps[0].shape == (3, 72, 60)
    np.testing.assert_array_equal(sim.scan.sampling(0)[0], mask.expand(72, 60).numpy())
    exact = random_loops(3, 0).maps((72, 60)).numpy()
    assert np.abs(sim.coil_maps[0] - exact)[:, 4:-4, 4:-4].max() < 0.02
    same = simulate_mri(head, coils=maps.numpy(), mask=mask.numpy(), snr=np.inf)
    np.testing.assert_array_equal(sim.scan.slice(0), same.scan.slice(0))


def test_readout_oversampling_is_cropped_away(head):
    sim = simulate_mri(head, mask="random", acceleration=1, oversampling=2, snr=np.inf, seed=4)
    plain = simulate_mri(head, mask="full", acceleration=1, snr=np.inf, seed=4)
    assert sim.scan.kspace.shape == (1, 8, 144, 60)
    assert (sim.scan.matrix, sim.scan.readout_axis, sim.scan.oversampling) == ((72, 60), -2, 2.0)
    physics = MultiCoilMRI(torch.ones(1, 8, 144, 60, dtype=torch.complex64))
    k = torch.from_numpy(sim.scan.slice(0))[None]
    images = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, (-2, -1)), norm="ortho"), (-2, -1))
    expected = torch.from_numpy(plain.coil_maps[0] * plain.truth[0])
    torch.testing.assert_close(images[0, :, 36:108], expected, rtol=1e-3, atol=1e-3)
    assert physics.spatial == (144, 60)
    assert images[0, :, :36].abs().max() < 1e-3


@pytest.mark.parametrize("name", ["radial", "spiral"])
def test_trajectories(head, name):
    sim = simulate_mri(head, trajectory=name, acceleration=2, coils=4, snr=np.inf)
    trajectory = torch.from_numpy(sim.scan.trajectory)
    physics = NonCartesianMRI(torch.from_numpy(sim.coil_maps[0])[None], trajectory)
    y = physics.expand(torch.from_numpy(sim.truth[0])[None])
    torch.testing.assert_close(torch.from_numpy(sim.scan.slice(0))[None], y, rtol=1e-3, atol=1e-2)
    full = simulate_mri(head, trajectory=name, acceleration=1, coils=4)
    assert len(full.scan.trajectory) / len(trajectory) == pytest.approx(2, rel=0.05)
    assert np.std(full.scan.slice(0).real - full.scan.slice(0).imag) > 0
    own = simulate_mri(head, trajectory=sim.scan.trajectory, coils=4, snr=np.inf)
    np.testing.assert_array_equal(own.scan.slice(0), sim.scan.slice(0))


def test_complex_image_keeps_its_phase(head):
    x = head * np.exp(0.5j)
    np.testing.assert_allclose(simulate_mri(x, phase=False).truth[0], x, rtol=1e-5)


def test_written_as_fastmri_and_read_back(tmp_path: Path, volume):
    sim = simulate_mri(volume, mask="equispaced_fraction", seed=6)
    path = save(sim.scan, tmp_path / "scan.h5")
    scan = open_file(path)
    for index in range(3):
        np.testing.assert_allclose(scan.slice(index), sim.scan.slice(index))
        np.testing.assert_allclose(np.asarray(scan.reference[index]), volume[index], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scan.sampling(0)[0], sim.scan.sampling(0)[0])


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (OptionError, {"snr": 0}),
        (OptionError, {"snr": np.nan}),
        (OptionError, {"coils": 0}),
        (OptionError, {"correlation": 1.0}),
        (OptionError, {"mask": "sobol"}),
        (OptionError, {"trajectory": "rosette"}),
        (OptionError, {"trajectory": "radial", "oversampling": 2}),
        (OptionError, {"trajectory": "radial", "acceleration": 0.5}),
        (OptionError, {"mask": "poisson", "oversampling": 2}),
        (OptionError, {"oversampling": 0.5}),
        (MaskError, {"acceleration": 0.5}),
        (MaskError, {"mask": np.ones((72, 61), bool)}),
        (MaskError, {"mask": np.zeros((72, 60), bool)}),
        (ShapeError, {"coils": np.ones((2, 3, 72, 60), np.complex64)}),
    ],
)
def test_impossible_requests(head, error, options):
    with pytest.raises(error) as caught:
        simulate_mri(head, **options)
    assert "\n" not in str(caught.value)


def test_images_that_cannot_be_used(head):
    with pytest.raises(ShapeError):
        simulate_mri(Image(pixels=np.ones((2, 8, 8, 3)), source=Source("test")))
    with pytest.raises(DataError):
        simulate_mri(np.zeros((16, 16)))
    with pytest.raises(DataError):
        simulate_mri(np.where(head > 50, np.nan, head))
    with pytest.raises(CalibrationError):
        simulate_mri(head, coils=np.stack([np.ones((72, 60)), np.zeros((72, 60))]).astype(np.complex64))
