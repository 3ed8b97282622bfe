"""Reconstruction by any operator: through tensors, files and the command line; what noise it is told; bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
import skimage.data
import torch
from deepinv.models import Reconstructor
from deepinv.physics.noise import GaussianNoise, PoissonGaussianNoise, PoissonNoise
from PIL import Image as Picture

import recon
import recon.measured
from recon import datasets
from recon.cli import main
from recon.datasets import Image, Measurements, Source
from recon.measured import effective_sigma, estimated_sigma, reconstruct_measured
from recon.measured_files import measurements_of, operator_of, reconstruct_measurements, simulate_measurements
from recon.physics import Blur, Denoising, FunctionPhysics, MultiCoilMRI, ParallelCT
from recon.physics.errors import DataError, FileFormatError, OperatorError, OptionError, ReconError, ShapeError
from recon.physics.kernels import gaussian_kernel
from recon.physics.noise import WATER, PhotonNoise
from recon.physics_spec import parse_physics, parse_spec


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    pixels = torch.from_numpy(skimage.data.camera()).float()[None, None]
    return torch.nn.functional.avg_pool2d(pixels, 8)


def psnr(x: torch.Tensor, y: torch.Tensor) -> float:
    return 10 * float(torch.log10(255**2 / (x - y).square().mean()))


class Told(Reconstructor):
    """Remembers the noise model, and returns the adjoint."""

    def forward(self, y, physics):
        self.noise = physics.noise_model
        return physics.A_adjoint(y)


@pytest.mark.parametrize(
    ("text", "gain"),
    [
        ("denoising:sigma=25", 4),
        ("inpainting:keep=0.5,sigma=3", 8),
        ("blur:width=1.2,sigma=2", 4),
        ("superresolution:factor=2,sigma=2", 2),
        ("ct:angles=40,sigma=20", 6),
        ("cs:ratio=0.25,sigma=0.5", 6),
    ],
)
def test_auto_beats_the_direct_image_and_keeps_units(picture, text, gain):
    physics = parse_physics(text, picture.shape[1:])
    y = physics(picture)
    direct = (
        physics.fbp(y) if isinstance(physics, ParallelCT) else reconstruct_measured(y, physics, "zero-filled").image
    )
    image = recon.reconstruct(y, physics=physics)
    assert image.shape == picture.shape
    assert psnr(image, picture) > psnr(direct, picture) + gain
    assert float(image.mean()) == pytest.approx(float(picture.mean()), rel=0.02)
    if not text.startswith(("denoising", "ct")):
        return
    scaled = recon.reconstruct(1e-3 * y, physics=physics, sigma=1e-3 * float(physics.noise_model.sigma))
    torch.testing.assert_close(1e3 * scaled, image, rtol=0.02, atol=1.0)


def test_noise_that_is_given_known_or_found(picture, generator):
    model = Told()
    y = picture + 20 * torch.randn(picture.shape, generator=generator)
    plain = Denoising(parse_spec("denoising").options.noise())
    found = reconstruct_measured(y, plain, model)
    assert float(model.noise.sigma) == pytest.approx(20, rel=0.2)
    assert "estimated from the data" in found.notes[0]
    assert found.sigma == pytest.approx(float(model.noise.sigma))
    assert not hasattr(plain.noise_model, "sigma")  # the operator that was given stays as it is
    known = reconstruct_measured(y, Denoising(GaussianNoise(7.0)), model)
    assert float(model.noise.sigma) == 7
    assert known.notes == ()
    reconstruct_measured(y, Denoising(GaussianNoise(7.0)), model, sigma=9.0)
    assert float(model.noise.sigma) == 9
    reconstruct_measured(y.clamp_min(0), plain, model, gain=2.0)
    assert isinstance(model.noise, PoissonNoise)
    reconstruct_measured(y, plain, model, gain=2.0, sigma=1.0)
    assert isinstance(model.noise, PoissonGaussianNoise)


def test_poisson_noise_is_found_in_images(generator):
    place = torch.linspace(0.05, 1, 128)
    clean = 200 * (place * place[:, None])[None, None]
    y = 3 * torch.poisson(clean / 3, generator=generator)
    found = reconstruct_measured(y, parse_physics("denoising", (128, 128)), Told())
    assert found.gain == pytest.approx(3, rel=0.2)
    assert "Poisson of gain" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "inpainting:keep=0.6",
        "demosaicing:pattern=rggb",
        "demosaicing:pattern=xtrans",
        "ct:angles=64",
        "mri:acceleration=2",
    ],
)
def test_noise_is_found_through_operators(text, generator):
    place = torch.linspace(0, 3, 128)
    channels = {"demosaicing": 3, "mri": 2}.get(text.split(":")[0], 1)
    x = 100 * (place.sin() * place[:, None].sin()).expand(1, channels, 128, 128)
    physics = parse_physics(f"{text},sigma=2", x.shape[1:])
    assert estimated_sigma(physics(x), physics) == pytest.approx(2, rel=0.3)


def test_levels_of_other_noise():
    y = torch.full((1, 1, 8, 8), 4.0)
    physics = Denoising(PoissonGaussianNoise(gain=3.0, sigma=2.0))
    assert effective_sigma(y, physics) == pytest.approx(4.0)
    physics.noise_model = PhotonNoise(float(np.exp(4)))
    assert effective_sigma(y, physics) == pytest.approx(1.0)
    physics.noise_model = GaussianNoise(0.5)
    assert effective_sigma(y, physics) == 0.5


@pytest.mark.parametrize(
    ("sigma", "gain", "message"),
    [(0.0, None, "sigma is positive"), (-1.0, None, "sigma is positive"), (None, -2.0, "gain is positive")],
)
def test_levels_that_cannot_be(picture, sigma, gain, message):
    with pytest.raises(OptionError, match=message):
        recon.reconstruct(picture, physics=Denoising(), sigma=sigma, gain=gain)


def test_bad_measurements_and_operators(picture):
    physics = Blur(gaussian_kernel(1.0), (1, 64, 64))
    y = physics.A(picture)
    with pytest.raises(ShapeError, match="found"):
        recon.reconstruct(picture[..., 1:], physics=physics)
    with pytest.raises(DataError, match="not finite"):
        recon.reconstruct(y.index_fill(2, torch.tensor([3]), torch.nan), physics=physics)
    with pytest.raises(DataError, match="negative counts"):
        recon.reconstruct(picture - 50, physics=Denoising(PoissonNoise(1.0)))
    with pytest.raises(DataError, match="negative counts"):
        recon.reconstruct(picture - 50, physics=Denoising(), gain=1.0)
    with pytest.raises(OptionError, match="not negative"):
        recon.reconstruct(picture, physics=Denoising(GaussianNoise(-1.0)))
    with pytest.raises(OperatorError, match="adjoint"):
        recon.reconstruct(picture, physics=FunctionPhysics(lambda x: x, lambda y: 2 * y, (1, 64, 64)))
    with pytest.raises(OperatorError, match="not linear"):
        recon.reconstruct(picture, physics=FunctionPhysics(torch.exp, None, (1, 64, 64)))
    with pytest.raises(OptionError, match="is for CT"):
        recon.reconstruct(picture, physics=Denoising(), model="fbp")
    with pytest.raises(OptionError, match="without measurements as a tensor"):
        recon.reconstruct(picture.numpy(), physics=physics)
    with pytest.raises(OptionError, match="stamps have no tile"):
        recon.reconstruct(picture.numpy(), psf=np.ones((3, 3)), tile=3)


def test_a_users_functions_are_reconstructed(picture):
    physics = FunctionPhysics(lambda x: 2 * x[..., ::2], None, (1, 64, 64))
    y = physics.A(picture)
    image = recon.reconstruct(y, physics=physics, sigma=0.5)
    torch.testing.assert_close(physics.A(image), y, rtol=0.05, atol=8.0)


def test_tiles_on_request(picture):
    y = picture + 10
    whole = reconstruct_measured(y, Denoising(GaussianNoise(5.0)), Told())
    tiled = reconstruct_measured(y, Denoising(GaussianNoise(5.0)), Told(), tile=24)
    torch.testing.assert_close(tiled.image, whole.image)
    assert "in tiles of 24 pixels" in tiled.notes
    with pytest.raises(OptionError, match="cannot be cut"):
        reconstruct_measured(torch.zeros(1, 1, 12, 4), ParallelCT((1, 8, 8), 4), Told(), tile=4)


def test_files_keep_what_was_measured(tmp_path, picture):
    image = Image(pixels=picture[0].byte().numpy(), source=Source("array"), spacing=(1.0, 2.0, 2.0))
    np.save(tmp_path / "psf.npy", gaussian_kernel(0.8)[0, 0].numpy())
    made = simulate_measurements(image, parse_spec(f"blur:kernel={tmp_path}/psf.npy,sigma=2,seed=5"))
    datasets.save(made, tmp_path / "y.h5")
    (tmp_path / "psf.npy").unlink()  # the file has the kernel in it
    back = datasets.open(tmp_path / "y.h5")
    assert isinstance(back, Measurements)
    assert (back.img_size, back.sigma, back.levels, back.spacing) == ((1, 64, 64), 2.0, "uint8", (1.0, 2.0, 2.0))
    np.testing.assert_array_equal(back.slice(0), made.slice(0))
    np.testing.assert_array_equal(back.reference[0], made.reference[0])
    torch.testing.assert_close(operator_of(back).A(picture), operator_of(made).A(picture))
    result = recon.reconstruct(tmp_path / "y.h5", sigma=3.0)
    assert result.image.shape == (1, 1, 64, 64)
    assert result.provenance["options"]["sigma"] == [3.0]
    assert result.summary()["psnr"] > 24
    with pytest.raises(OptionError, match="no coils"):
        recon.reconstruct(back, coils=3)
    with pytest.raises(OptionError, match="no such slice"):
        reconstruct_measurements(back, slices=[4])


def test_hounsfield_units_come_back(tmp_path):
    hu = np.full((1, 32, 32), -1000.0, np.float32)
    hu[0, 8:24, 8:24] = 60.0
    image = Image(pixels=hu, source=Source("array"), unit="HU", spacing=(3.0, 0.8, 0.8))
    made = simulate_measurements(image, parse_spec("ct:angles=40,photons=1e6"))
    assert "pixel=0.8" in made.physics
    assert float(np.max(made.reference[0])) == pytest.approx(1.06 * WATER)
    assert float(np.max(made.slice(0))) == pytest.approx(16 * 0.8 * 1.06 * WATER, rel=0.5)
    result = reconstruct_measurements(made)
    assert result.unit == "HU"
    assert float(result.image[0, 0, 12:20, 12:20].mean()) == pytest.approx(60, abs=25)
    assert float(result.image[0, 0, :4].mean()) == pytest.approx(-1000, abs=25)


def test_a_volume_loads_its_model_and_finds_its_noise_once_a_slice(picture, monkeypatch, generator):
    noisy = picture[0] + 20 * torch.randn(3, 64, 64, generator=generator)
    made = simulate_measurements(Image(pixels=noisy.numpy(), source=Source("array")), parse_spec("denoising"))
    calls = []

    def counted(name):
        plain = getattr(recon.measured, name)
        monkeypatch.setattr(recon.measured, name, lambda *given: (calls.append(name), plain(*given))[1])

    counted("load_model")
    counted("estimated_noise")
    result = reconstruct_measurements(made, "tv")
    assert (calls.count("load_model"), calls.count("estimated_noise")) == (1, 3)
    assert result.provenance["options"]["sigma"] == pytest.approx([20] * 3, rel=0.2)


@pytest.mark.parametrize("ending", [".npy", ".tif", ".mat", ".h5"])
@pytest.mark.parametrize("turned", [False, True])
def test_sinograms_of_other_programs(tmp_path, ending, turned, picture):
    import h5py

    small = torch.nn.functional.avg_pool2d(picture, 2)
    sinogram = ParallelCT((1, 32, 32), 20, detectors=40).A(small)[0, 0].numpy()
    array, path = sinogram.T if turned else sinogram, tmp_path / f"sino{ending}"
    if ending == ".npy":
        np.save(path, array)
    elif ending == ".tif":
        Picture.fromarray(array).save(path)
    elif ending == ".mat":
        scipy.io.savemat(path, {"sinogram": array})
    else:
        with h5py.File(path, "w") as file:
            file["entry/data"] = array
    data = measurements_of(path, "ct:angles=20,size=32x32")
    np.testing.assert_allclose(data.slice(0)[0], sinogram, rtol=1e-6)
    assert data.img_size == (1, 32, 32)
    assert measurements_of(path, "ct:angles=20").img_size == (1, 40, 40)
    with pytest.raises(DataError, match="ct:angles="):
        measurements_of(path, "ct:angles=21")
    if ending != ".tif":
        return
    result = recon.reconstruct(path, physics="ct:angles=20,size=32x32")
    assert float((result.image - small).norm() / small.norm()) < 0.2


def test_files_of_several_arrays_and_damaged_ones(tmp_path):
    import h5py

    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.ones((4, 6)), np.zeros((4, 6))
    with pytest.raises(OptionError, match="--variable"):
        measurements_of(tmp_path / "two.h5", "ct:angles=6")
    assert measurements_of(tmp_path / "two.h5", "ct:angles=6", variable="a").slice(0).shape == (1, 4, 6)
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["recon_measurements"] = json.dumps({"physics": "denoising"})
        file["measurements"] = np.zeros((1, 1, 4, 4))
    with pytest.raises(FileFormatError, match="damaged"):
        datasets.open(tmp_path / "bad.h5")
    np.save(tmp_path / "nan.npy", np.array([[np.nan, 1.0], [0.0, 1.0]]))
    with pytest.raises(DataError, match="not finite"):
        measurements_of(tmp_path / "nan.npy", "denoising")
    data = Measurements(measurements=np.zeros((1, 1, 4, 4)), physics="denoise", img_size=(1, 4, 4), source=Source("x"))
    with pytest.raises(ReconError, match="no operator"):
        operator_of(data)
    for wrong in (
        {"sigma": 0.0},
        {"gain": -1.0},
        {"scale": 0.0},
        {"img_size": (4, 4, 0)},
        {"reference": np.zeros((1, 4))},
    ):
        with pytest.raises(ReconError):
            Measurements(
                **{"measurements": data.measurements, "physics": "d", "img_size": (1, 4, 4), "source": data.source}
                | wrong
            )


def test_the_command_line_from_picture_to_picture(tmp_path, picture, capsys):
    Picture.fromarray(picture[0, 0].byte().numpy()).save(tmp_path / "x.png")
    y, out = tmp_path / "y.h5", tmp_path / "out.png"
    assert (
        main(["simulate", "inpainting", str(tmp_path / "x.png"), "--out", str(y), "--physics", "keep=0.6,sigma=3"]) == 0
    )
    capsys.readouterr()
    assert main(["info", str(y), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert (told["operator"], told["noise level"]) == ("inpainting:sigma=3,keep=0.6", 3)
    assert main(["reconstruct", str(y), "--out", str(out), "--report"]) == 0
    seen = np.asarray(Picture.open(out)).astype(np.float32)
    assert psnr(torch.from_numpy(seen), picture[0, 0]) > 22
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    noisy = tmp_path / "noisy.png"
    values = picture[0, 0] + 20 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    Picture.fromarray(values.clamp(0, 255).byte().numpy()).save(noisy)
    capsys.readouterr()
    command = ["reconstruct", str(noisy), "--physics", "denoising", "--out", str(tmp_path / "clean.png"), "--json"]
    assert main(command) == 0
    assert "estimated from the data" in json.loads(capsys.readouterr().out)[0]["note"]
    clean = torch.from_numpy(np.asarray(Picture.open(tmp_path / "clean.png")).astype(np.float32))
    assert psnr(clean, picture[0, 0]) > psnr(values, picture[0, 0]) + 3


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    np.save(tmp_path / "y.npy", np.ones((8, 8), np.float32))
    y, out = str(tmp_path / "y.npy"), str(tmp_path / "o.png")
    for words, message in (
        (["reconstruct", y, "--physics", "denosing", "--out", out], "Did you mean denoising"),
        (["reconstruct", y, "--physics", "denoising:sgma=3", "--out", out], "Did you mean sigma"),
        (["reconstruct", y, "--physics", "denoising", "--sigma", "0", "--out", out], "sigma is positive"),
        (["reconstruct", y, "--physics", "denoising", "--coils", "3", "--out", out], "--coils does not apply"),
        (["reconstruct", y, "--physics", "mri", "--out", out], "opened as such"),
        (["simulate", "ct", y, "--out", str(tmp_path / "y.png")], "measurements can be written"),
        (["simulate", "demosaicing", y, "--out", str(tmp_path / "m.h5")], "colour image"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err


def test_coil_maps_may_differ_within_a_batch(generator):
    maps = torch.randn(2, 4, 24, 20, dtype=torch.complex64, generator=generator)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    physics = MultiCoilMRI(maps, torch.rand(2, 1, 24, 20, generator=generator) < 0.6)
    x = torch.randn(2, 2, 24, 20, generator=generator)
    y = physics.A(x)
    both = recon.reconstruct(y, physics=physics, model="cg-sense")
    for i in range(2):
        alone = MultiCoilMRI(maps[i : i + 1], physics.mask[i : i + 1])
        one = recon.reconstruct(y[i : i + 1], physics=alone, model="cg-sense")
        torch.testing.assert_close(both[i], one[0], atol=1e-3, rtol=1e-3)
