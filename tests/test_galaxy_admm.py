"""Unrolled ADMM for galaxies: its flux, its noise levels, what it is given and what it does not take."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.physics import GaussianNoise
from galaxies import gaussian, observation, psf_like, relative

from recon.models.convolution import Grid
from recon.models.galaxy_admm import GalaxyADMM
from recon.models.penalties import PenaltyNet
from recon.models.resunet import ResUNet
from recon.models.stamps import border_noise, check_stamps, noise_levels, scale
from recon.physics import MultiCoilMRI, PSFConvolution
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.sky_noise import SkyNoise

TINY = {"iterations": 2, "widths": (2, 3, 4), "blocks": 1}
DOUBLE = torch.float64


def tiny(seed: int = 0, **arguments: object) -> GalaxyADMM:
    """A small network with random weights; a new one's denoiser would be the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GalaxyADMM(**{**TINY, **arguments})
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "denoisers" in name:
                    p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def test_parameter_counts() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        assert count(ResUNet()) == 17_007_744
        assert count(ResUNet((32, 64, 128, 256))) == 4_252_224
        assert [count(PenaltyNet(2 * n)) for n in (2, 4, 8)] == [79_456, 79_716, 80_236]
        assert count(GalaxyADMM(split=3)) == 17_087_980
        assert count(GalaxyADMM(widths=(32, 64, 128, 256))) == 4_331_940


def test_denoiser_knows_no_scale_and_starts_as_the_identity(generator: torch.Generator) -> None:
    a = torch.randn(2, 1, 21, 30, generator=generator)
    assert torch.equal(ResUNet((4, 6, 8))(a), a)
    net = tiny().denoisers[0]
    assert net(a).shape == a.shape
    with torch.no_grad():
        torch.testing.assert_close(net(7 * a), 7 * net(a))
        assert relative(net(a), a) > 1e-2


# --- the model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"split": 3}, {"split": 3, "likelihood": "poisson"}], ids=str)
def test_units_and_batches_do_not_matter(arguments: dict[str, object]) -> None:
    _, y, physics = observation(3)
    model = tiny(**arguments)
    with torch.no_grad():
        x = model(y, physics)
        scaled = PSFConvolution(physics.psf, noise_model=GaussianNoise(8 * physics.noise_model.sigma))
        if "likelihood" not in arguments:  # photons are a unit
            torch.testing.assert_close(model(8 * y, scaled), 8 * x, rtol=1e-4, atol=1e-3)
        for i in range(3):
            one = PSFConvolution(
                physics.psf[i : i + 1], noise_model=GaussianNoise(physics.noise_model.sigma[i : i + 1])
            )
            torch.testing.assert_close(model(y[i : i + 1], one), x[i : i + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [40, 41])
def test_whole_pixel_shifts_shift_the_result(n: int) -> None:
    """The closed forms for any shift; the network, whose scales are halved, for those of its coarsest pixel."""
    truth = 100 * gaussian(n, 1.8, q=0.7, dtype=DOUBLE)
    physics = PSFConvolution(psf_like(1, 15, dtype=DOUBLE), noise_model=GaussianNoise(0.0))
    inside = slice(12, -12)
    with torch.no_grad():
        for new, shift in ((GalaxyADMM(**TINY), (1, 3)), (tiny(), (4, -4))):
            model = new.double().eval()
            x, moved = (model(physics.A(t), physics) for t in (truth, truth.roll(shift, (-2, -1))))
            difference = (moved - x.roll(shift, (-2, -1)))[..., inside, inside]
            assert float(difference.abs().max()) < 3e-4 * float(x.max())


@pytest.mark.parametrize("arguments", [{}, {"split": 3}, {"share_denoiser": False, "subnet": False}], ids=str)
@pytest.mark.parametrize("n", [48, 49])
def test_flux_is_kept_without_noise(arguments: dict[str, object], n: int) -> None:
    truth, y, physics = observation(2, n, snr=math.inf, dtype=DOUBLE)
    with torch.no_grad():
        x = tiny(**arguments).double()(y, physics)
    flux = x.sum((1, 2, 3)) / truth.sum((1, 2, 3))
    assert torch.allclose(flux, torch.ones_like(flux), atol=1e-3)
    assert relative(x, truth) > 1e-2  # the network did something


def test_flux_is_unbiased_with_noise() -> None:
    """The mean over many noises, at SNR 20, of an untrained network whose profile is right to some per cent."""
    truth, y, physics = observation(200, 32, snr=20.0)
    with torch.no_grad():
        x = GalaxyADMM(**TINY).eval()(y, physics)
    ratio = x.sum((1, 2, 3)) / truth.sum((1, 2, 3))
    error = float(ratio.std()) / math.sqrt(200)
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert float(ratio.std()) < 0.4


def test_negative_pixels_are_not_clipped() -> None:
    _, y, physics = observation(1, snr=20.0)
    raised = y.clone()
    lowest = int(y.argmin())
    raised.view(-1)[lowest] = 0.0
    model = tiny()
    with torch.no_grad():
        assert not torch.equal(model(y, physics), model(raised, physics))


@pytest.mark.parametrize("arguments", [{}, {"split": 3}, {"split": 3, "likelihood": "poisson"}], ids=str)
def test_masked_pixels_do_not_matter(arguments: dict[str, object]) -> None:
    weight = torch.ones(2, 1, 32, 32)
    weight[0, 0, 14:16, 18] = 0
    weight[1] = 0
    _, y, physics = observation(2, weight=weight)
    spoilt = y.clone()
    spoilt[0, 0, 14:16, 18] = torch.nan
    spoilt[1, 0, 3] = 1e9
    model = tiny(**arguments)
    with torch.no_grad():
        x, same = model(y, physics), model(spoilt, physics)
    assert torch.equal(x, same)
    assert not x[1].any()  # nothing is known of it
    with torch.no_grad():
        whole = model(y[:1], PSFConvolution(physics.psf[:1], noise_model=GaussianNoise(physics.noise_model.sigma[:1])))
    assert relative(x[:1], whole) < 0.1


def test_weights_count_in_the_split_in_three() -> None:
    _, y, physics = observation(1)
    weight = torch.ones_like(y)
    weight[..., 16:] = 0.05
    uneven = PSFConvolution(physics.psf, noise_model=physics.noise_model, weight=weight)
    with torch.no_grad():
        for split, same in ((2, True), (3, False)):
            model = tiny(split=split)
            assert torch.equal(model(y, physics), model(y, uneven)) == same


def test_sky_of_poisson_data() -> None:
    """With much sky, photon noise is as Gaussian; with little, it is not."""
    _, y, physics = observation(1, snr=40.0)
    with torch.no_grad():
        images = [
            tiny(split=3, likelihood="poisson")(y, PSFConvolution(physics.psf, noise_model=SkyNoise(1.0, sky)))
            for sky in (1e3, 1e7)
        ]
    assert all(bool(torch.isfinite(x).all()) for x in images)
    assert relative(images[0], images[1]) > 1e-3


def test_empty_and_faint_stamps_stay_finite() -> None:
    psf = psf_like(1)
    stamps = torch.cat((torch.zeros(1, 1, 24, 24), torch.randn(1, 1, 24, 24), -torch.ones(1, 1, 24, 24)))
    for noise in (None, GaussianNoise(1.0), GaussianNoise(0.0)):
        for split in (2, 3):
            with torch.no_grad():
                x = tiny(split=split)(stamps, PSFConvolution(psf, noise_model=noise))
            assert torch.isfinite(x).all()
            assert not x[0].any()


def test_noise_level_comes_from_model_weight_or_border() -> None:
    _, y, physics = observation(3, 48, snr=30.0)
    sigma = physics.noise_model.sigma
    assert torch.equal(noise_levels(y, physics), sigma)
    assert torch.allclose(border_noise(y), sigma, rtol=0.25)
    weight = (1 / sigma**2)[:, None, None, None].expand_as(y).clone()
    weight[0, 0, :10] = 0
    assert torch.allclose(noise_levels(y, PSFConvolution(physics.psf, weight=weight)), sigma)
    sky = SkyNoise(gain=0.5, sky=8.0, sigma=1.5)
    assert torch.allclose(noise_levels(y, PSFConvolution(physics.psf, noise_model=sky)), torch.tensor(2.5))


def test_scale_has_a_floor_and_not_the_size_of_the_stamp() -> None:
    _, y, physics = observation(2)
    wide = torch.nn.functional.pad(y, (8, 8, 8, 8))
    sigma = physics.noise_model.sigma
    torch.testing.assert_close(scale(y, Grid.of(physics, y), sigma), scale(wide, Grid.of(physics, wide), sigma))
    assert (scale(-y.abs(), Grid.of(physics, y), sigma) > 0).all()


@pytest.mark.parametrize(
    "arguments", [{}, {"split": 3}, {"split": 3, "likelihood": "poisson"}, {"subnet": False}], ids=str
)
def test_every_weight_has_a_gradient(arguments: dict[str, object]) -> None:
    truth, y, physics = observation(4)
    model = tiny(**arguments).train()
    (model(y, physics) - truth).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias before a normalisation changes nothing
    assert not [name for name in without if not (name.startswith("penalties.stages") and name.endswith("bias"))]


def test_one_psf_serves_all_stamps() -> None:
    _, y, physics = observation(3)
    one = PSFConvolution(physics.psf[:1], noise_model=physics.noise_model)
    many = PSFConvolution(physics.psf[:1].expand(3, -1, -1, -1), noise_model=physics.noise_model)
    with torch.no_grad():
        torch.testing.assert_close(tiny()(y, one), tiny()(y, many))


def test_a_psf_larger_than_the_stamp() -> None:
    _, y, physics = observation(1, 16, snr=100.0)
    large = PSFConvolution(torch.nn.functional.pad(physics.psf, (60, 60, 60, 60)), noise_model=physics.noise_model)
    with torch.no_grad():
        torch.testing.assert_close(tiny()(y, large), tiny()(y, physics), rtol=1e-3, atol=1e-2)


# --- what it does not take ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"iterations": 0}, "an iteration"),
        ({"split": 4}, "2 or 3"),
        ({"likelihood": "cauchy"}, "gaussian or poisson"),
        ({"likelihood": "poisson"}, "Set split to 3"),
        ({"legacy_swap": True}, "published"),
        ({"widths": (8,)}, "two scales"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        GalaxyADMM(**{**TINY, **arguments})


def test_bad_input() -> None:
    _, y, physics = observation(3)
    model = tiny()
    maps, mask = torch.ones(1, 1, 1, 8, 8, dtype=torch.complex64), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(OptionError, match="k-space"):
        check_stamps(y, MultiCoilMRI(maps, mask))
    with pytest.raises(ShapeError, match="do not fit the PSF"):
        model(y[:2], physics)
    y[1, 0, 2, 3] = torch.nan
    with pytest.raises(DataError, match="1 in 1 of 3"):
        model(y, physics)
    weight = torch.ones(3, 1, 5, 5)
    with pytest.raises(ShapeError, match="weights"):
        model(y, PSFConvolution(physics.psf, weight=weight))
