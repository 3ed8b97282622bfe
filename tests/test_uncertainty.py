from __future__ import annotations

import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from deepinv.models import Reconstructor
from deepinv.physics.noise import GaussianNoise
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

import recon
from recon.cards import Card, Covers
from recon.datasets.coils import random_loops
from recon.datasets.masks import make_mask
from recon.datasets.simulate import simulate_mri
from recon.hallucination import null_part
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient
from recon.slices import Trust
from recon.trust import noise_map
from recon.uncertainty import METHOD, deviation, equivariant_bootstrap, smoothed


def phantom(shape, coils=6, seed=0, sets=1):
    """An image of one channel pair a set, and coil maps of unit norm that vanish outside of it."""
    image = resize(shepp_logan_phantom(), shape, anti_aliasing=True).astype(np.float32)
    image = torch.from_numpy(image)[None, None] + 0j
    maps = random_loops(coils * sets, seed).maps(shape).to(torch.complex64).reshape(1, sets, coils, *shape)
    maps = maps / torch.linalg.vector_norm(maps, dim=2, keepdim=True)
    return to_channels((image / math.sqrt(sets)).expand(1, sets, *shape).contiguous()), maps


def adjoint(y, physics):
    return physics.A_adjoint(y)


def sense(iterations):
    def model(y, physics):
        b = to_complex(physics.A_adjoint(y))
        return to_channels(conjugate_gradient(physics.normal, b, max_iter=iterations))

    return model


@pytest.mark.parametrize("shape", [(24, 24), (25, 25), (24, 30), (27, 22)])
@pytest.mark.parametrize("sets", [1, 2])
def test_positions_are_undone_exactly(shape, sets):
    """Full data and hardly any noise: every replica is the image again, whatever way it was moved."""
    x, maps = phantom(shape, sets=sets)
    physics = MultiCoilMRI(maps)
    found = equivariant_bootstrap(sense(80), physics.A(x), physics, 1e-7, x=x, replicas=8)
    assert found.shape == (8, *x.shape)
    rows = [physics.normal(to_complex(replica)) for replica in found]  # two sets of maps have a null space
    torch.testing.assert_close(
        torch.cat(rows), physics.normal(to_complex(x)).expand(8, *x[:, ::2].shape[1:]), rtol=0, atol=2e-3
    )


def test_of_full_data_the_deviation_is_the_noise():
    """Unit-norm maps and full sampling: an image's noise has the level of the samples'."""
    x, maps = phantom((64, 64))
    physics = MultiCoilMRI(maps)
    found = equivariant_bootstrap(adjoint, physics.A(x), physics, 0.01, x=x, replicas=8)
    bright = smoothed((x[:, 0] > 0.15).float()) == 1
    assert deviation(found, x)[bright].square().mean().sqrt() == pytest.approx(0.01, rel=0.03)


def test_sees_what_a_model_adds_and_the_noise_map_does_not():
    """A lesion that a model always puts at one place is told from the data by moving these."""
    x, maps = phantom((48, 40))
    physics = MultiCoilMRI(maps)
    lesion = torch.zeros_like(x)
    lesion[:, 0, 10:14, 24:28] = 0.5

    def model(y, p):
        return p.A_adjoint(y) + lesion

    y = physics.A(x)
    u = deviation(equivariant_bootstrap(model, y, physics, 0.001, replicas=8), model(y, physics))
    assert u[0, 11:13, 25:27].min() > 0.1
    assert noise_map(model, y, physics, 0.001, n=4).max() < 0.01


def test_foretells_where_errors_are():
    """Half of k-space by two coils: the deviation follows the error, which noise alone does not explain."""
    x, maps = phantom((64, 56), coils=2)
    mask = make_mask("poisson", (64, 56), 4, center=10)
    physics = MultiCoilMRI(maps, mask)
    sigma = 0.01
    noise = torch.view_as_complex(torch.randn(*maps[:, 0].shape, 2, generator=torch.Generator().manual_seed(3)))
    y = physics.A(x) + sigma * noise * mask
    model = sense(10)
    image = model(y, physics)
    error = smoothed((torch.linalg.vector_norm(image, dim=1) - torch.linalg.vector_norm(x, dim=1)).square()).sqrt()
    u = deviation(equivariant_bootstrap(model, y, physics, sigma, x=image), image)
    by_noise = noise_map(model, y, physics, sigma, n=6)
    assert np.corrcoef(u.flatten(), error.flatten())[0, 1] > 0.5
    assert (error / u).median() < 0.7 * (error / smoothed(by_noise.square()).sqrt()).median()


def test_sampling_stays_and_coil_maps_move_along():
    x, maps = phantom((32, 32))
    physics = MultiCoilMRI(maps, make_mask("poisson", (32, 32), 3, center=8), noise_model=GaussianNoise(0.1))
    y = physics.A(x)
    before = physics.coil_maps.clone()
    seen = []

    def model(data, operator):
        seen.append((data, operator))
        return adjoint(data, operator)

    equivariant_bootstrap(model, y, physics, 0.1, x=x, replicas=8)
    assert len(seen) == 8
    for data, operator in seen:
        assert torch.equal(operator.mask, physics.mask)
        assert (data[~operator.mask.expand_as(data)] == 0).all()
        assert float(operator.noise_model.sigma) == pytest.approx(0.1)
    assert len({float(operator.coil_maps[0, 0, 0, 3, 5].abs()) for _, operator in seen}) > 4
    assert torch.equal(physics.coil_maps, before)


@pytest.mark.parametrize(("name", "turns"), [("poisson", True), ("random", False)])
def test_turns_only_where_no_axis_is_preferred(name, turns):
    """Lines alias along one axis: an image on its side would alias along the other one."""
    shape = (32, 32)
    maps = torch.ones(1, 1, *shape, dtype=torch.complex64) * torch.linspace(1, 2, 32)  # changes along x
    physics = MultiCoilMRI(maps, make_mask(name, shape, 2, center=8))
    along_x = []

    def model(data, operator):
        along_x.append(bool((operator.coil_maps[0, 0, 0].diff(dim=0).abs() < 1e-6).all()))
        return adjoint(data, operator)

    y = physics.A(torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0)))
    equivariant_bootstrap(model, y, physics, 0.1, replicas=12)
    assert (not all(along_x[1:])) == turns


def test_repeats_and_scales():
    x, maps = phantom((30, 26))
    physics = MultiCoilMRI(maps, make_mask("poisson", (30, 26), 2, center=8))
    y = physics.A(x)
    one = equivariant_bootstrap(sense(4), y, physics, 0.02, replicas=3, seed=5)
    assert torch.equal(one, equivariant_bootstrap(sense(4), y, physics, 0.02, replicas=3, seed=5))
    assert not torch.equal(one, equivariant_bootstrap(sense(4), y, physics, 0.02, replicas=3, seed=6))
    more = equivariant_bootstrap(sense(4), 50 * y, physics, 1.0, replicas=3, seed=5)
    torch.testing.assert_close(more, 50 * one, rtol=1e-3, atol=1e-3)


def test_each_item_of_a_batch_is_its_own(generator):
    x, maps = phantom((24, 20))
    physics = MultiCoilMRI(maps)
    both = torch.cat([x, torch.zeros_like(x)])
    found = equivariant_bootstrap(adjoint, physics.A(both), physics, 1e-6, x=both, replicas=2, seed=generator)
    u = deviation(found, both)
    assert u.shape == (2, 24, 20)
    assert u.max() < 1e-3


def test_smoothing_keeps_a_constant_at_the_edges():
    torch.testing.assert_close(smoothed(torch.ones(2, 7, 9)), torch.ones(2, 7, 9))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_noise_level_must_be_known(sigma):
    x, maps = phantom((16, 16))
    physics = MultiCoilMRI(maps)
    with pytest.raises(DataError):
        equivariant_bootstrap(adjoint, physics.A(x), physics, sigma)


def test_one_replica_is_not_enough():
    x, maps = phantom((16, 16))
    physics = MultiCoilMRI(maps)
    with pytest.raises(OptionError):
        equivariant_bootstrap(adjoint, physics.A(x), physics, 0.1, replicas=1)


def test_a_magnitude_image_cannot_be_measured_again():
    x, maps = phantom((16, 16))
    physics = MultiCoilMRI(maps)
    with pytest.raises(ShapeError, match="complex"):
        equivariant_bootstrap(lambda *_: x[:, :1], physics.A(x), physics, 0.1)


# --- in the pipeline --------------------------------------------------------------------------------------------

CALIBRATION = {
    "level": 0.9,
    "scale": 2.0,
    "floor": 0.01,
    "difficulty": [0.0, 0.0, 0.0],
    "method": METHOD,
    "replicas": 3,
    "slices": 100,
    "data": [],
}


class Learned(Reconstructor):
    """Stands for a network with its card."""

    learned = True

    def __init__(self, calibration=None):
        super().__init__()
        covers = Covers(organs=(), coils=(1, 64), acceleration=(1, 20), matrix=(8, 512))
        self.card = Card(covers=covers, calibration=calibration or {})
        self.calls = 0

    def forward(self, y, physics):
        self.calls += 1
        return sense(5)(y, physics)


@pytest.fixture(scope="module")
def scan():
    image = resize(shepp_logan_phantom(), (40, 36), anti_aliasing=True).astype(np.float32)
    volume = np.stack([image, 0.8 * image])
    return simulate_mri(volume, coils=4, snr=30, mask="poisson", acceleration=3, center=12).scan


def test_a_learned_image_comes_with_an_interval_and_what_the_data_do_not_say(scan, tmp_path):
    model = Learned(CALIBRATION)
    result = recon.reconstruct(scan, model=model, trust=Trust(slices=1, replicas=2))
    checked = [index for index in range(2) if torch.isfinite(result.interval[index]).any()]
    assert len(checked) == 1, "the others are not computed"
    assert result.provenance["model"]["calibration"]["scale"] == 2.0
    (k,) = checked
    unit = (result.interval[k] - 2 * result.maps["bootstrap"][k]) / (2 * 0.01)  # the floor, in the file's units
    inside = result.maps["bootstrap"][k] > 0
    assert unit[inside].min() > 0
    assert (result.maps["bootstrap"][k][inside] / result.magnitude[k].max()).median() < 0.2
    for name in ("null_space", "hallucination"):
        assert result.maps[name].shape == (2, 40, 36)
        assert 0 < result.maps[name][k].max() < result.magnitude[k].max()
    assert model.calls == 2 + 1 + 3 + 3  # images, hold-out, noise map, bootstrap as calibrated

    result.save(tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        for name in ("interval", "bootstrap", "null_space", "hallucination", "uncertainty"):
            np.testing.assert_allclose(file["maps"][name][k], getattr(result, name, result.maps.get(name))[k])
    result.report(tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    for panel in ("interval", "null_space", "hallucination"):
        assert f'id="{panel}"' in text
    assert "in 90 % of the object" in text
    assert 'id="bootstrap"' not in text


def test_maps_are_in_the_units_of_the_file(scan):
    loud = replace(
        scan,
        kspace=1000 * np.stack([scan.kspace[i] for i in range(2)]),
        noise=1000 * scan.noise,
        reference=1000 * np.stack([scan.reference[i] for i in range(2)]),
    )
    one, thousand = (
        recon.reconstruct(s, model=Learned(CALIBRATION), trust=Trust(slices=2, replicas=2), slices=[0])
        for s in (scan, loud)
    )
    torch.testing.assert_close(thousand.interval, 1000 * one.interval, rtol=1e-2, atol=1e-2)
    for name in ("bootstrap", "null_space", "hallucination"):
        error = (thousand.maps[name] - 1000 * one.maps[name]).abs().max()
        assert error < 0.02 * thousand.maps[name].max()


def test_without_calibration_there_is_a_map_but_no_promise(scan, tmp_path):
    result = recon.reconstruct(scan, model=Learned(), slices=[0], trust=Trust(replicas=2))
    assert result.interval is None
    assert "calibration" not in result.provenance["model"]
    assert "bootstrap" in result.maps
    result.report(tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert 'id="bootstrap"' in text
    assert 'id="interval"' not in text


def test_without_a_reference_there_is_no_hallucination_map(scan):
    result = recon.reconstruct(replace(scan, reference=None), model=Learned(), slices=[0], trust=Trust(replicas=2))
    assert "hallucination" not in result.maps
    assert "null_space" in result.maps


def test_a_true_image_has_no_hallucinations(scan):
    """The reference is taken as the truth: the closer the image, the emptier the map."""

    class Better(Learned):
        def forward(self, y, physics):
            return sense(12)(y, physics)

    class Worse(Learned):
        def forward(self, y, physics):
            x = sense(12)(y, physics)
            return x + 2 * null_part(x.roll(5, -1), physics)

    energy = [
        recon.reconstruct(scan, model=m, slices=[0], trust=Trust(replicas=2)).maps["hallucination"].norm()
        for m in (Better(), Worse())
    ]
    assert energy[1] > 1.5 * energy[0]


def test_classical_methods_are_as_before(scan):
    result = recon.reconstruct(scan, model="cg-sense", slices=[0], trust=Trust(replicas=2))
    assert result.interval is None
    assert set(result.maps) == {"mask", "residual", "g_factor"}


def test_no_replicas_no_bootstrap(scan):
    model = Learned(CALIBRATION)
    result = recon.reconstruct(scan, model=model, slices=[0], trust=Trust(replicas=0))
    assert result.interval is None
    assert "bootstrap" not in result.maps
