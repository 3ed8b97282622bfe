"""`recon.reconstruct` from Python: preparation, units, 3D scans, off-grid scans, tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import recon
from recon.cards import Card
from recon.checkpoint import load_checkpoint, save_checkpoint
from recon.datasets import Scan, Source
from recon.datasets.simulate import simulate_mri
from recon.models.unet import UNetReconstructor
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.fft import fft_centred
from recon.pipeline import Plan
from recon.prepare import Preparation, prepare
from recon.slices import BASIC, Trust


def phantom(shape: tuple[int, int] = (48, 40)) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij")
    return (x**2 / 0.6 + y**2 / 0.8 < 1) * (1 + 0.5 * ((x - 0.2) ** 2 + y**2 < 0.1)).astype(np.float32)


def simulated(**options) -> Scan:
    options = {"coils": 4, "mask": "poisson", "acceleration": 2.0, "center": 16, "snr": 50.0, "seed": 1, **options}
    return simulate_mri(phantom(), **options).scan


def reconstruct(scan: Scan, **options) -> recon.Result:
    return recon.reconstruct(scan, **{"model": "cg-sense", "trust": BASIC, **options})


def close(result: recon.Result, scan: Scan, factor: float = 1.0) -> float:
    """Error over the energy of the reference, where the phantom is."""
    reference = torch.from_numpy(np.asarray(scan.reference[0])) * factor
    return float((result.magnitude[0] - reference).norm() / reference.norm())


def test_units_come_out_as_they_went_in() -> None:
    scan = simulated()
    big = replace(scan, kspace=1e4 * scan.slice(0)[None], noise=1e4 * scan.noise)
    small, large = reconstruct(scan), reconstruct(big)
    torch.testing.assert_close(large.image, 1e4 * small.image, rtol=1e-3, atol=1e-3 * float(large.image.abs().max()))
    assert close(small, scan) < 0.12


@pytest.mark.parametrize("whiten", ["auto", "corners", "none"])
def test_whitening_keeps_the_image(whiten: str) -> None:
    scan = simulated(correlation=0.4)
    result = reconstruct(scan, whiten=whiten)
    assert close(result, scan) < 0.2
    assert any("whitened" in step for step in result.provenance["steps"]) == (whiten != "none")


def test_noise_level_is_that_of_the_simulation() -> None:
    simulation = simulate_mri(phantom(), coils=4, mask="full", acceleration=1.0, snr=20.0)
    problem = prepare(simulation.scan, 0, Preparation())
    assert problem.sigma * problem.scale == pytest.approx(simulation.sigma, rel=0.05)


def test_oversampling_is_removed() -> None:
    scan = simulated(mask="equispaced", oversampling=2.0, center=16)
    assert scan.spatial == (96, 40)
    result = reconstruct(scan)
    assert result.image.shape[-2:] == (48, 40)
    assert close(result, scan) < 0.15
    assert "oversampling" in " ".join(result.provenance["steps"])


def test_coil_compression_says_what_it_keeps() -> None:
    scan = simulated(coils=8)
    result = reconstruct(scan, coils=4)
    assert close(result, scan) < 1.5 * close(reconstruct(scan), scan)
    assert any("8 coils compressed to 4" in step for step in result.provenance["steps"])


def test_maps_of_the_file_are_used() -> None:
    simulation = simulate_mri(phantom(), coils=4, mask="poisson", acceleration=2.0, center=16, snr=50.0)
    scan = replace(simulation.scan, coil_maps=np.stack([simulation.coil_maps[0]]))
    result = reconstruct(scan)
    assert "coil maps taken from the file" in result.provenance["steps"]
    with pytest.raises(ShapeError, match="coil maps"):
        reconstruct(replace(scan, coil_maps=np.ones((1, 3, 48, 40), np.complex64)))


def test_trust_says_how_far() -> None:
    result = reconstruct(simulated(), trust=Trust(slices=1, replicas=4))
    assert 0.3 < result.metrics["data_residual"][0] < 1.3
    assert 0 < result.metrics["hold_out_error"][0] < 0.5
    assert result.uncertainty.shape == result.magnitude.shape
    assert {"g_factor", "mask", "residual"} <= set(result.maps)
    assert result.warnings == []


def test_wrong_maps_raise_a_warning() -> None:
    scan = simulated(mask="full", acceleration=1.0, center=None)
    rng = np.random.default_rng(0)
    wrong = np.exp(2j * np.pi * rng.random((1, 4, 48, 40))).astype(np.complex64) / 2
    result = reconstruct(replace(scan, coil_maps=wrong))
    assert result.metrics["data_residual"][0] > 1.3
    assert "expected noise" in result.warnings[0]


def test_the_same_seed_gives_the_same_result() -> None:
    first, second = (reconstruct(simulated(), model="l1-wavelet", trust=Trust(replicas=2), seed=3) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.uncertainty, second.uncertainty)
    assert first.metrics == second.metrics


def test_auto_takes_full_data_as_they_are_and_regularises_what_is_missing() -> None:
    full = reconstruct(simulated(mask="full", acceleration=1.0, center=None), model="auto")
    part = reconstruct(simulated(), model="auto")
    assert full.provenance["model"]["name"] == "zero-filled"
    assert part.provenance["model"]["name"] == "l1-wavelet"
    assert part.provenance["model"]["why"]


def test_auto_fills_partial_fourier() -> None:
    scan = simulated(mask="partial_fourier", acceleration=1.6, center=None)
    filled, zeros = reconstruct(scan, model="auto"), reconstruct(scan, model="zero-filled")
    assert filled.provenance["model"]["name"] == "pocs"
    assert close(filled, scan) < 0.7 * close(zeros, scan)


@pytest.mark.parametrize("readout", [-1, -2, -3])
def test_3d_scans_are_decoupled_along_the_readout(readout: int) -> None:
    """A volume measured at once gives what its decoupled slices give, in z, y, x order."""
    rng = np.random.default_rng(0)
    shape = (12, 20, 16)
    grids = np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij")
    volume = torch.from_numpy((sum(g**2 for g in grids) < 0.8) * (1 + 0.5 * (grids[1] > 0.2) * (grids[2] < 0)))
    maps = torch.stack(
        [
            torch.from_numpy(np.exp(-sum((g - c) ** 2 for g, c in zip(grids, rng.uniform(-1, 1, 3), strict=True))))
            for _ in range(4)
        ]
    )
    k = fft_centred((maps * volume).to(torch.complex64), (-3, -2, -1))
    scan = Scan(kspace=k[None].numpy(), source=Source("array"), readout_axis=readout, mask=np.ones(shape, bool))
    result = reconstruct(scan, model="rss")
    expected = torch.linalg.vector_norm(maps * volume, dim=0)
    assert result.image.shape[0] == shape[0]
    torch.testing.assert_close(result.magnitude.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_off_grid_scans_are_reconstructed() -> None:
    simulation = simulate_mri(phantom((64, 64)), coils=4, trajectory="radial", acceleration=1.0, snr=100.0)
    result = reconstruct(simulation.scan)
    reference = torch.from_numpy(np.abs(simulation.truth[0]))
    assert float((result.magnitude[0] - reference).norm() / reference.norm()) < 0.2


def test_tensors_with_their_operator_give_a_tensor() -> None:
    simulation = simulate_mri(phantom(), coils=4, mask="poisson", acceleration=2.0, center=16, snr=50.0)
    y = torch.from_numpy(simulation.scan.slice(0))[None]
    mask = torch.from_numpy(np.array(simulation.scan.sampling(0)[0]))
    physics = MultiCoilMRI(torch.from_numpy(simulation.coil_maps[0])[None], mask)
    x = recon.reconstruct(y, physics=physics, model="cg-sense")
    assert x.shape == (1, 2, 48, 40)
    reference = torch.from_numpy(np.abs(simulation.truth[0]))
    assert float((x.norm(dim=1)[0] - reference).norm() / reference.norm()) < 0.1
    with pytest.raises(OptionError, match="operator"):
        recon.reconstruct(y)
    with pytest.raises(DataError, match="finite"):
        recon.reconstruct(y * float("nan"), physics=physics)


def test_any_deepinv_reconstructor_is_a_model() -> None:
    from deepinv.models import Reconstructor

    class Adjoint(Reconstructor):
        def forward(self, y: torch.Tensor, physics: MultiCoilMRI) -> torch.Tensor:
            return physics.A_adjoint(y)

    mine, ours = reconstruct(simulated(), model=Adjoint()), reconstruct(simulated(), model="zero-filled")
    torch.testing.assert_close(mine.image, ours.image)
    assert mine.provenance["model"]["name"] == "Adjoint"


def test_real_scans_give_the_figures_they_should(shared_data) -> None:
    """Two sets of maps where the head is larger than the field of view, one where it is not."""
    sets = {}
    for name in ("brain-smallfov-8ch.cfl", "brain-full-8ch.cfl"):
        scan = recon.datasets.open(shared_data / "mri" / "kspace" / name)
        sets[name] = prepare(scan, 0, Preparation()).physics.n_sets
    assert sets == {"brain-smallfov-8ch.cfl": 2, "brain-full-8ch.cfl": 1}


@pytest.mark.parametrize("whiten", ["auto", "none"])
@pytest.mark.parametrize("coils", [None, 6])
def test_whitening_and_compression_leave_the_intensities_of_full_data(whiten: str, coils: int | None) -> None:
    scan = simulated(coils=8, mask="full", acceleration=1.0, center=None, snr=1e4, correlation=0.5)
    result = reconstruct(scan, model="zero-filled", whiten=whiten, coils=coils)
    assert close(result, scan) < (0.01 if coils is None else 0.1)


def test_maps_of_another_norm_give_the_image_in_their_units() -> None:
    simulation = simulate_mri(phantom(), coils=4, mask="full", acceleration=1.0, snr=1e4)
    scan = replace(simulation.scan, coil_maps=2 * np.stack([simulation.coil_maps[0]]))
    assert close(reconstruct(scan, model="zero-filled"), scan, factor=0.5) < 0.01


def test_neighbours_share_the_strength_that_the_first_found() -> None:
    volume = np.stack([phantom(), phantom() * 0.9])
    scan = simulate_mri(volume, coils=4, mask="poisson", acceleration=2.0, center=16, snr=30.0).scan
    plan = Plan(scan, "l1-wavelet", Preparation(), None, BASIC, 0)
    alone = plan.run(1)  # has to ask the first slice itself
    first, second = (item.report for item in (plan.run(0), plan.run(1)))
    found, taken = (report["details"]["regularisation"] for report in (first, second))
    assert taken == pytest.approx(found * second["sigma"] / first["sigma"])
    assert alone.report["details"] == second["details"]
    assert torch.equal(alone.image, plan.run(1).image)


def test_finished_slices_belong_to_their_weights(tmp_path) -> None:
    """Whoever trains on and resumes a reconstruction gets no slices of the old weights."""
    path, scan = tmp_path / "net.safetensors", simulated()
    keys = []
    for seed in range(2):
        torch.manual_seed(seed)
        save_checkpoint(path, UNetReconstructor(2, 1), Card(), overwrite=True)
        keys.append(Plan(scan, str(path), Preparation(), None, BASIC, 0).key())
    assert keys[0] != keys[1]
    assert keys[1] == Plan(scan, str(path), Preparation(), None, BASIC, 0).key()
    path.with_suffix(".json").unlink()
    assert keys[1] == Plan(scan, str(path), Preparation(), None, BASIC, 0).key()


def test_weights_are_read_once_for_all_slices(tmp_path, monkeypatch) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, UNetReconstructor(2, 1), Card())
    read = []
    monkeypatch.setattr("recon.zoo.load_checkpoint", lambda file: (read.append(file), load_checkpoint(file))[1])
    scan = simulate_mri(np.stack([phantom()] * 3), coils=3).scan
    reconstruct(scan, model=str(path), trust=BASIC)
    assert len(read) == 1
