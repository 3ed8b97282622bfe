"""Unrolled ADMM for galaxies: its mathematics, its flux, what it is given, and the weights of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import galaxy_deconv_reference as reference
import pytest
import torch
from deepinv.physics import GaussianNoise
from galaxies import gaussian, observation, psf_like, relative
from scipy.optimize import minimize_scalar
from torch import Tensor

import recon
from recon.cli import main
from recon.foreign import converters
from recon.models import registry
from recon.models.admm import gaussian_update, poisson_update, three_variables, two_variables
from recon.models.convolution import Grid, centred_transfer
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


def circular(psf: Tensor, n: int) -> Grid:
    return Grid(centred_transfer(psf, (n, n)), (n, n), (n, n))


def constant(*values: float, n: int) -> list[Tensor]:
    return [torch.full((1, n), value, dtype=DOUBLE) for value in values]


# --- the mathematics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [2, 3])
def test_delta_psf_and_identity_converge_to_the_data(split: int, generator: torch.Generator) -> None:
    y = torch.randn(1, 1, 9, 12, generator=generator, dtype=DOUBLE)
    delta = torch.zeros(1, 1, 4, 5, dtype=DOUBLE)
    delta[..., 2, 2] = 1
    grid = Grid.of(PSFConvolution(delta), y)
    if split == 2:
        x = two_variables(y, grid, *constant(0.7, n=60), lambda a, _: a)
    else:
        x = three_variables(
            torch.zeros_like(y),
            grid,
            *constant(0.3, 2.0, n=200),
            lambda a, _: a,
            lambda v, r: gaussian_update(v, y, 1.0, r),
        )
    torch.testing.assert_close(x, y, rtol=0, atol=1e-8)


def test_deblurring_is_a_dense_solve(generator: torch.Generator) -> None:
    n, rho = 8, 0.37
    psf = torch.rand(1, 1, 5, 4, generator=generator, dtype=DOUBLE)
    physics = PSFConvolution(psf / psf.sum())
    y, rhs = torch.randn(2, 1, 1, n, n, generator=generator, dtype=DOUBLE)
    grid = Grid.of(physics, y)
    Y, X = grid.grid
    # The matrix of circular convolution on the padded grid, a column a delta.
    eye = torch.eye(Y * X, dtype=DOUBLE).reshape(-1, 1, Y, X)
    whole = Grid(grid.H, grid.grid, grid.grid)
    H = whole.A(eye).reshape(Y * X, Y * X).T

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, X - n, 0, Y - n)).flatten()

    dense = torch.linalg.solve(H.T @ H + rho * torch.eye(Y * X, dtype=DOUBLE), H.T @ padded(y) + padded(rhs))
    expected = dense.reshape(1, 1, Y, X)[..., :n, :n]
    torch.testing.assert_close(grid.deblur(grid.spectrum(y), rhs, rho), expected, rtol=0, atol=1e-12)
    # and this matrix, cropped, is the operator
    A = H.reshape(Y, X, Y, X)[:n, :n, :n, :n].reshape(n * n, n * n)
    torch.testing.assert_close(physics.A(y).flatten(), A @ y.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "y", "rho", "vt", "expected"), [(1, 2, 1, 2, 2.0), (1, 2, 1, 1, math.sqrt(2)), (3, 0, 0.5, 1, 0.0)]
)
def test_poisson_update_in_closed_form(alpha: float, y: float, rho: float, vt: float, expected: float) -> None:
    arguments = (torch.tensor(float(v), dtype=DOUBLE) for v in (vt, y))
    assert float(poisson_update(*arguments, alpha, rho)) == pytest.approx(expected, abs=1e-12)


def test_updates_are_numerical_minima(generator: torch.Generator) -> None:
    for _ in range(10):
        vt, y, alpha, rho = (torch.rand(4, generator=generator, dtype=DOUBLE) * 3 + 0.05).unbind()

        def poisson(v: float, y: Tensor = y, vt: Tensor = vt, alpha: Tensor = alpha, rho: Tensor = rho) -> float:
            return float(alpha * v - y * math.log(v) + rho / 2 * (v - vt) ** 2)

        best = minimize_scalar(poisson, bounds=(1e-9, 20), method="bounded", options={"xatol": 1e-10}).x
        assert float(poisson_update(vt, y, alpha, rho)) == pytest.approx(best, abs=1e-5)
        found = gaussian_update(vt, y, alpha, rho)
        assert float(alpha * (found - y) + rho * (found - vt)) == pytest.approx(0, abs=1e-12)
    assert float(gaussian_update(vt, y, 0.0, rho)) == pytest.approx(float(vt))  # masked


@pytest.mark.parametrize("penalties", [(1.0, 1.0), (0.3, 2.0)])
def test_ridge_denoiser_gives_the_tikhonov_solution(penalties: tuple[float, float], generator: torch.Generator) -> None:
    n, mu = 12, 0.1
    y = torch.randn(1, 1, n, n, generator=generator, dtype=DOUBLE)
    grid = circular(psf_like(1, 9, dtype=DOUBLE), n)
    expected = grid.stamps(grid.H.conj() * grid.spectrum(y) / (grid.HtH + mu))
    rho1, rho2 = constant(*penalties, n=250)
    found = three_variables(
        y,
        grid,
        rho1,
        rho2,
        lambda a, _: a * penalties[0] / (penalties[0] + mu),
        lambda v, r: gaussian_update(v, y, 1.0, r),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    for rho in penalties:
        found = two_variables(y, grid, *constant(rho, n=1500), lambda a, _, rho=rho: a * rho / (rho + mu))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    # penalties that change from one iteration to the next lead to the same image
    changing = torch.linspace(1.0, 0.2, 600, dtype=DOUBLE)[None]
    found = two_variables(y, grid, changing, lambda a, k: a * changing[0, k] / (changing[0, k] + mu))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_masked_pixels_of_either_split_solve_the_masked_problem(generator: torch.Generator) -> None:
    """With a ridge, the image is that of the dense normal equations with the masked rows left out."""
    n, mu, rho = 8, 0.2, 0.6
    grid = circular(psf_like(1, 7, dtype=DOUBLE), n)
    y = torch.randn(1, 1, n, n, generator=generator, dtype=DOUBLE)
    seen = torch.rand(1, 1, n, n, generator=generator) < 0.8
    H = grid.A(torch.eye(n * n, dtype=DOUBLE).reshape(-1, 1, n, n)).reshape(n * n, n * n).T
    M = torch.diag(seen.flatten().double())
    expected = torch.linalg.solve(H.T @ M @ H + mu * torch.eye(n * n, dtype=DOUBLE), H.T @ M @ y.flatten())
    spoilt = torch.where(seen, y, 1e3)
    two = two_variables(spoilt * seen, grid, *constant(rho, n=600), lambda a, _: a * rho / (rho + mu), seen)
    three = three_variables(
        torch.zeros_like(y),
        grid,
        *constant(rho, 1.3, n=600),
        lambda a, _: a * rho / (rho + mu),
        lambda v, r: gaussian_update(v, spoilt, seen.double(), r),
    )
    for x in (two, three):
        torch.testing.assert_close(x.flatten(), expected, rtol=0, atol=1e-6)


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


# --- weights of the reference ---------------------------------------------------------------------------------

SMALL, PUBLISHED = (4, 6, 8, 10), (32, 64, 128, 256)


def imported(folder: Path, state: dict[str, Tensor], name: str, *options: str) -> torch.nn.Module:
    torch.save(state, folder / "foreign.pth")
    out = folder / "ours.safetensors"
    assert main(["import-weights", str(folder / "foreign.pth"), "--model", name, "--out", str(out), *options]) == 0
    return recon.load_model(out)


def assert_parity(
    model: torch.nn.Module, state: dict[str, Tensor], formula: Callable[..., Tensor], **how: bool
) -> None:
    _, y, physics = observation(2, 48, snr=40.0)
    psf = torch.nn.functional.pad(physics.psf, (12, 11, 12, 11))  # 48 pixels, the centre still on n // 2
    with torch.no_grad():
        expected = formula(state, y, psf / 16, **how)
        assert torch.isfinite(expected).all()
        assert relative(model(y, PSFConvolution(psf)), expected) < 1e-5


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ((), {}),
        (("legacy_swap=false",), {"swapped": False}),
        (("likelihood=poisson",), {"poisson": True}),
    ],
    ids=["letter", "mended penalties", "Poisson"],
)
def test_three_variables_as_published(options: tuple[str, ...], how: dict[str, bool], tmp_path: Path) -> None:
    state = reference.random_state(reference.admm_shapes(SMALL, 4))
    model = imported(tmp_path, state, "galaxy-admm", *(word for option in options for word in ("--set", option)))
    assert model.iterations == 2
    assert_parity(model, state, reference.letter, **how)


def test_two_variables_as_published(tmp_path: Path) -> None:
    state = reference.random_state(reference.admm_shapes(PUBLISHED, 2))
    model = imported(tmp_path, state, "galaxy-admm")
    assert sum(p.numel() for p in model.parameters()) == 4_331_940 - 6 * 65
    assert_parity(model, state, reference.head)


def test_penalties_that_are_numbers(tmp_path: Path) -> None:
    shapes = reference.admm_shapes(SMALL, None)
    three = reference.random_state(shapes) | {f"rho{i}_iters": torch.tensor([0.4, 1.2]) * i for i in (1, 2)}
    assert_parity(imported(tmp_path, three, "galaxy-admm"), three, reference.letter)
    two = reference.random_state(shapes) | {"rho_iters": torch.tensor([0.4, 1.2])}
    assert_parity(imported(tmp_path, two, "galaxy-admm", "--overwrite"), two, reference.head)


@pytest.mark.parametrize("name", ["tikhonet", "shapenet"])
@pytest.mark.parametrize("filter_", ["laplacian", "identity"])
def test_tikhonet_as_published(name: str, filter_: str, tmp_path: Path) -> None:
    state = reference.random_state(reference.tikhonet_shapes(4, 3, (1, 2, 1, 2)))
    model = imported(tmp_path, state, name, "--set", f"filter={filter_}")
    assert isinstance(model, registry[name])
    assert_parity(model, state, reference.tikhonet, laplacian=filter_ == "laplacian")


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("galaxy-admm", reference.random_state(reference.admm_shapes(SMALL, 4))),
        ("tikhonet", reference.random_state(reference.tikhonet_shapes(4, 3, (1, 2, 1, 2)))),
    ],
)
def test_every_foreign_weight_has_a_place(name: str, state: dict[str, Tensor]) -> None:
    before = converters[name](state).weights
    for key, value in state.items():
        after = converters[name]({**state, key: value + 1}).weights
        difference = sum(float((after[k] - before[k]).abs().sum()) for k in before)
        assert difference == pytest.approx(value.numel(), rel=1e-3), key


def test_published_width_of_tikhonet() -> None:
    with torch.device("meta"):
        model = registry["tikhonet"]()
    shapes = reference.tikhonet_shapes()
    assert sum(p.numel() for p in model.parameters()) == 1 + sum(
        math.prod(shape) for name, shape in shapes.items() if "running" not in name
    )


def test_foreign_files_that_are_not_such_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = reference.random_state(reference.admm_shapes(SMALL, 4))
    without = {name: value for name, value in state.items() if not name.startswith("init")}
    more = state | {"Z.net.m_more.weight": torch.ones(1)}
    negative = without | {"rho_iters": torch.tensor([0.1, -1.0])}
    for content, says in (
        (without, "before 2024"),
        (more, "m_more"),
        (negative, "not positive"),
        ({"a": torch.ones(1)}, "do not hold|does not hold"),
    ):
        torch.save(content, tmp_path / "bad.pth")
        out = tmp_path / "out.safetensors"
        assert main(["import-weights", str(tmp_path / "bad.pth"), "--model", "galaxy-admm", "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert any(part in line for part in says.split("|")), line
        assert not out.exists()
