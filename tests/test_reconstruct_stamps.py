"""Galaxy stamps through `recon.reconstruct`: measurements, errors, flags, and what is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table
from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise
from galaxies import gaussian, observation, psf_like
from torch import Tensor

import recon
from recon.datasets import Source, Stamps
from recon.datasets.lazy import LazyBlocks
from recon.galaxies import choice
from recon.galaxies import plan as planning
from recon.galaxies.catalogue import MEASURED, ObjectFlag, names
from recon.galaxies.choice import CLASSICAL, LEARNED, choose
from recon.galaxies.deblurring import residual_chi2
from recon.galaxies.plan import StampPlan, execute, fingerprint
from recon.models.wiener import Wiener
from recon.physics import PSFConvolution
from recon.physics.errors import DataError, DTypeError, OptionError, PSFWarning, ShapeError


def stamps(b: int = 6, *, snr: float = 50.0, n: int = 32, **fields) -> Stamps:
    _, y, physics = observation(b, n, snr=snr)
    return Stamps(
        pixels=y[:, 0].numpy(),
        psf=physics.psf[:, 0].numpy(),
        sigma=physics.noise_model.sigma.numpy(),
        source=Source("array"),
        **fields,
    )


def deblurred(data, **options) -> recon.StampResult:
    return recon.reconstruct(data, **{"model": "wiener", "replicas": 0, **options})


# --- what is measured ---------------------------------------------------------------------------------------------


def test_flux_centroid_size_and_shear_of_noise_free_galaxies() -> None:
    psf = psf_like(1, 25)
    truth = 500 * gaussian(48, 2.5, q=0.7, angle=0.4, dx=1.2, dy=-0.7)
    y = PSFConvolution(psf).A(truth)
    result = deblurred(y[:, 0], psf=psf[0, 0], sigma=1e-4)
    row = result.catalogue[0]
    g = (1 - 0.7) / (1 + 0.7)
    assert row["flux"] == pytest.approx(float(truth.sum()), rel=1e-3)
    assert row["flux_gaussian"] == pytest.approx(500, rel=0.02)
    assert (row["x"], row["y"]) == pytest.approx((24 + 1.2, 24 - 0.7), abs=5e-3)
    assert row["size"] == pytest.approx(2.5, rel=0.02)
    assert (row["g1"], row["g2"]) == pytest.approx((g * np.cos(0.8), g * np.sin(0.8)), abs=5e-3)
    assert row["e1"] == pytest.approx(2 * row["g1"] / (1 + g**2), abs=5e-3)
    assert row["flags"] == 0


def test_chi2_of_the_truth_is_one() -> None:
    truth, y, physics = observation(8, 32, snr=30)
    chi2 = residual_chi2(truth, y, physics)
    assert ((chi2 - 1).abs() < 5 * (2 / 32**2) ** 0.5).all()
    weight = torch.ones_like(y)
    weight[:, :, :16] = 0  # what is masked does not count
    spoiled = torch.where(weight > 0, y, 1e6)
    inverse = weight / physics.noise_model.sigma[:, None, None, None] ** 2
    masked = PSFConvolution(physics.psf, noise_model=physics.noise_model, weight=inverse)
    assert ((residual_chi2(truth, spoiled, masked) - 1).abs() < 5 * (2 / 512) ** 0.5).all()


def test_errors_are_the_scatter_of_many_noises() -> None:
    """Of 200 realisations of one galaxy; the root mean square of 8 x 200 changes is good to some percent."""
    truth, psf = 1000 * gaussian(32, 2.0, q=0.7), psf_like(1)
    clean = PSFConvolution(psf).A(truth)
    noise = torch.randn(200, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    table = deblurred((clean + noise)[:, 0], psf=psf[0, 0], sigma=1.0, model=Wiener(balance=0.1), replicas=8).catalogue
    assert (table["flags"] == 0).all()
    for name in MEASURED:
        told = np.sqrt(np.mean(np.square(table[f"{name}_error"])))
        assert told == pytest.approx(np.std(table[name]), rel=0.2), name


def test_errors_depend_on_the_seed_alone() -> None:
    data = stamps()
    tables = [deblurred(data, replicas=2, seed=seed).catalogue for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tables[0]["g1_error"], tables[1]["g1_error"])
    assert (tables[0]["g1_error"] != tables[2]["g1_error"]).all()
    np.testing.assert_array_equal(tables[0]["g1"], tables[2]["g1"])
    assert np.isnan(deblurred(data).catalogue["g1_error"]).all()


def test_auto_takes_the_learned_model_for_psfs_that_it_was_trained_for() -> None:
    result = recon.reconstruct(stamps(2), replicas=0)
    assert result.provenance["model"]["name"] == LEARNED
    assert "learned, for PSFs of" in result.provenance["model"]["why"]


def test_auto_takes_the_classical_one_for_other_psfs() -> None:
    name, why = choose(gaussian(25, 1.0))
    assert name == CLASSICAL
    assert "PSFs of 1 pixels" in why
    assert "trained for" in why


def test_auto_without_shipped_weights_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "shipped", dict)
    name, why = choose(torch.ones(1, 1, 5, 5))
    assert name == CLASSICAL
    assert "shear" in why


def test_tensors_with_their_operator_come_back_as_a_tensor() -> None:
    _, y, physics = observation(2, 32)
    x = recon.reconstruct(y, physics=physics, model="auto")
    assert isinstance(x, Tensor)
    torch.testing.assert_close(x, recon.load_model(choose(physics.psf)[0])(y, physics))


# --- what goes in, what comes out ---------------------------------------------------------------------------------


def test_arrays_tensors_and_stamps_give_the_same() -> None:
    data = stamps()
    first = deblurred(data)
    for pixels in (torch.from_numpy(data.pixels), torch.from_numpy(data.pixels)[:, None], data.pixels.astype(float)):
        again = deblurred(pixels, psf=data.psf, sigma=data.sigma)
        torch.testing.assert_close(again.image, first.image)
    one = deblurred(data.pixels[0], psf=data.psf[0], sigma=float(data.sigma[0]))
    torch.testing.assert_close(one.image[0], first.image[0], rtol=1e-4, atol=1e-4 * float(first.image[0].max()))
    assert first.image.shape == (6, 1, 32, 32)
    assert len(first) == len(first.catalogue) == 6


def test_files_give_the_same_as_what_they_hold(tmp_path: Path) -> None:
    data = stamps(units="adu")
    first = deblurred(data)
    recon.datasets.save(data, tmp_path / "stamps.fits")
    again = deblurred(tmp_path / "stamps.fits")
    torch.testing.assert_close(again.image, first.image)
    assert again.provenance["input"]["path"].endswith("stamps.fits")
    assert again.catalogue["flux"].unit == "adu"
    np.save(tmp_path / "cube.npy", data.pixels)
    np.save(tmp_path / "psf.npy", data.psf)
    beside = deblurred(tmp_path / "cube.npy", psf=tmp_path / "psf.npy", sigma=data.sigma)
    torch.testing.assert_close(beside.image, first.image)
    torch.testing.assert_close(deblurred(tmp_path / "cube.npy", psf=data.psf, sigma=data.sigma).image, first.image)


def test_parts_do_not_shift_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ids = np.array(["a", "bb", "ccc", "a-very-long-name-of-a-galaxy", "e", "f"])
    data = stamps(ids=ids, positions=np.arange(12.0).reshape(6, 2))
    whole = deblurred(data)
    monkeypatch.setattr(planning, "_PIXELS", 2 * 32 * 32)
    plan = StampPlan(data, "wiener", replicas=0)
    assert list(plan.wanted) == [0, 1, 2]
    parts = execute(plan)
    torch.testing.assert_close(parts.image, whole.image)
    result = Table.read(parts.save_catalogue(tmp_path / "cat.fits"))
    assert [str(name) for name in result["id"]] == list(ids)
    np.testing.assert_allclose(result["x_image"], data.positions[:, 0] + result["x"] - 16)
    np.testing.assert_allclose(result["g1"], whole.catalogue["g1"], rtol=1e-5, atol=1e-6)
    ecsv = Table.read(parts.save_catalogue(tmp_path / "cat.ecsv"))
    assert ecsv.colnames == result.colnames == list(whole.catalogue.colnames)
    assert "calibrated" in ecsv["g1"].description


def test_no_more_than_a_part_is_read_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, asked = stamps(9), []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return data.pixels[start:stop]

    lazy = replace(data, pixels=LazyBlocks(data.pixels.shape, data.pixels.dtype, read))
    monkeypatch.setattr(planning, "_PIXELS", 2 * 32 * 32)
    result = deblurred(lazy, spool=tmp_path / "spool")
    result.save(tmp_path / "out.fits")
    assert max(asked) == 2
    assert not any("image" in vars(part) for part in result.parts)  # they are on the disk
    torch.testing.assert_close(result.image, deblurred(data).image)
    assert deblurred(lazy, spool=tmp_path / "spool").warnings == result.warnings == []


def test_a_spool_of_other_data_is_not_taken_up(tmp_path: Path) -> None:
    data = stamps()
    keys = [
        fingerprint(one) for one in (data, replace(data, pixels=2 * data.pixels), replace(data, sigma=2 * data.sigma))
    ]
    assert len(set(keys)) == 3
    deblurred(data, spool=tmp_path / "spool")
    twice = deblurred(replace(data, pixels=2 * data.pixels, sigma=2 * data.sigma), spool=tmp_path / "spool")
    torch.testing.assert_close(twice.image, 2 * deblurred(data).image, rtol=1e-4, atol=1e-3)


# --- bad objects: a flag in their row -----------------------------------------------------------------------------


def test_bad_objects_are_flagged_and_leave_the_others_alone() -> None:
    data = stamps(8)
    pixels, psf = data.pixels.copy(), data.psf.copy()
    pixels[1, 3, 4], pixels[2], pixels[3] = np.nan, np.nan, 0
    psf[4] *= 2
    psf[5] = np.nan
    pixels[6] = -pixels[6]
    with pytest.warns(PSFWarning):
        result = deblurred(replace(data, pixels=pixels, psf=psf), replicas=2)
    table, clean = result.catalogue, deblurred(data, replicas=2).catalogue
    flags = [ObjectFlag(int(value)) for value in table["flags"]]
    assert len(table) == 8
    assert flags[0] == flags[7] == 0
    assert flags[1] == ObjectFlag.BAD_PIXELS
    assert flags[2] & ObjectFlag.ALL_MASKED
    assert flags[3] & ObjectFlag.MOMENTS_EMPTY
    assert flags[4] == ObjectFlag.PSF_NORMALISED
    assert flags[5] == ObjectFlag.BAD_PSF
    assert flags[6] & ObjectFlag.NO_FLUX
    assert names(int(flags[4])) == ["psf_normalised"]
    for name in ("flux", "g1", "g1_error", "chi2"):
        np.testing.assert_allclose(table[name][[0, 4, 7]], clean[name][[0, 4, 7]], rtol=1e-4, atol=1e-5)
        assert np.isnan(table[name][[2, 5]]).all()
    assert np.isnan(result.image[[2, 5]]).all()
    assert np.isfinite(result.image[[0, 1, 3, 4, 6, 7]]).all()
    assert result.summary()["unmeasured"] == 3
    assert any("3 of 8 objects have no shape" in line for line in result.warnings)


@pytest.mark.parametrize("model", ["wiener", "richardson-lucy", "starlet", "galaxy-pnp"])
def test_what_else_is_in_the_batch_changes_nothing(model: str) -> None:
    data = stamps(4)
    weight = np.ones(data.pixels.shape) / data.sigma[:, None, None] ** 2
    first = deblurred(replace(data, weight=weight), model=model).image[:3]
    weight[3, 3, 3] *= 1e6
    pixels = data.pixels.copy()
    pixels[3] *= 1e3
    again = deblurred(replace(data, pixels=pixels, weight=weight), model=model).image[:3]
    torch.testing.assert_close(again, first, rtol=1e-5, atol=1e-5 * float(first.max()))


def test_values_out_of_all_range_are_flagged() -> None:
    data = stamps(5)
    pixels, sigma = data.pixels.astype(np.float64), data.sigma.copy()
    pixels[1, 5, 5], pixels[2, 5, 5], sigma[3] = 1e38, 1e300, -1
    result = deblurred(replace(data, pixels=pixels, sigma=sigma), replicas=2, responses=True)
    flags = [names(int(value)) for value in result.catalogue["flags"]]
    assert flags == [[], ["not_finite"], ["bad_pixels"], ["bad_weight"], []]
    assert np.isnan(result.catalogue["r11"]).tolist() == [False, True, False, False, False]


class Untouched(Reconstructor):
    """A user's own model."""

    def forward(self, y: Tensor, physics: PSFConvolution) -> Tensor:
        return y


def test_a_model_of_the_users_own() -> None:
    data = stamps(2)
    result = deblurred(data, model=Untouched())
    np.testing.assert_array_equal(result.image[:, 0], data.pixels)
    assert result.provenance["model"] == {"name": "Untouched", "why": "given"}


class Exploding(Wiener):
    """Gives what is not finite for the brightest stamp."""

    def forward(self, y: Tensor, physics: PSFConvolution) -> Tensor:
        x = super().forward(y, physics)
        x[y.sum((1, 2, 3)).argmax()] = torch.inf
        return x


def test_a_model_that_fails_for_one_object_does_not_stop_the_others() -> None:
    data = stamps(4)
    pixels = data.pixels.copy()
    pixels[2] *= 10
    table = deblurred(replace(data, pixels=pixels), model=Exploding(), replicas=2).catalogue
    assert [bool(value & ObjectFlag.NOT_FINITE) for value in table["flags"]] == [False, False, True, False]
    assert np.isfinite(table["g1"]).tolist() == [True, True, False, True]


def test_a_psf_that_does_not_explain_the_data_is_told() -> None:
    data = stamps(4, snr=200)
    wide = gaussian(25, 6.0)[0].numpy()
    result = deblurred(data, psf=wide / wide.sum(), model=Wiener(balance=1e-2))
    assert (result.catalogue["flags"] & ObjectFlag.POOR_FIT).all()
    assert any("miss the data" in line for line in result.warnings)


# --- what cannot be done ------------------------------------------------------------------------------------------


def test_refused(tmp_path: Path) -> None:
    data = stamps()
    y, psf = data.pixels, data.psf
    with pytest.raises(ShapeError, match="PSFs"):
        deblurred(y, psf=psf[:4])
    with pytest.raises(ShapeError, match="psf of a shape"):
        deblurred(y, psf=psf[0, 0])
    with pytest.raises(ShapeError, match="weight"):
        deblurred(y, psf=psf, weight=np.ones((6, 8, 8)))
    with pytest.raises(ShapeError, match="sigma"):
        deblurred(y, psf=psf, sigma=np.ones(5))
    with pytest.raises(DTypeError, match="stamps"):
        deblurred(y.astype(complex), psf=psf)
    with pytest.raises(OptionError, match="psf"):
        deblurred(torch.from_numpy(y))
    with pytest.raises(OptionError, match="k-space"):
        deblurred(data, model="cg-sense")
    with pytest.raises(OptionError, match="k-space"):
        deblurred(data, model=recon.load_model("cg-sense"))
    with pytest.raises(OptionError, match="coils"):
        deblurred(data, coils=4)
    with pytest.raises(OptionError, match="at least two replicas"):
        deblurred(data, replicas=1)
    with pytest.raises(OptionError, match="format"):
        deblurred(data).save(tmp_path / "out.png")
    np.save(tmp_path / "cube.npy", y)
    with pytest.raises(DataError, match="PSF"):
        deblurred(tmp_path / "cube.npy", sigma=1.0)


def test_warnings_of_a_run_are_told_once() -> None:
    data = stamps()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deblurred(replace(data, psf=3 * data.psf), replicas=2)
    assert [one.category for one in caught] == [PSFWarning]


def test_unmasked_weights_are_used() -> None:
    data = stamps(3)
    weight = np.full(data.pixels.shape, 1 / data.sigma[:, None, None] ** 2)
    spoiled = data.pixels.copy()
    spoiled[:, 2:5, 2:5], weight[:, 2:5, 2:5] = 1e4, 0
    result = deblurred(spoiled, psf=data.psf, weight=weight)
    assert (result.catalogue["flags"] == ObjectFlag.MASKED).all()
    np.testing.assert_allclose(result.catalogue["flux"], deblurred(data).catalogue["flux"], rtol=0.1)


def test_noise_of_the_stamps_is_that_of_the_operator() -> None:
    _, y, physics = observation(2)
    assert isinstance(physics.noise_model, GaussianNoise)
    table = deblurred(y, psf=physics.psf).catalogue  # not told: measured at the border
    np.testing.assert_allclose(table["sigma"], physics.noise_model.sigma, rtol=0.25)
