"""RAM gives what deepinv's does, with its weights; the light one takes any operator and scale."""

from __future__ import annotations

from pathlib import Path

import deepinv
import pytest
import torch
from deepinv.physics import GaussianNoise, LinearPhysics, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from networks import problem, tiny
from torch import Tensor

import recon
from recon.cli import main
from recon.models import registry
from recon.models.conditioning import PaddedOperator, margins
from recon.models.ram import RAM, CoarseOperator
from recon.models.ram_light import Problem, RAMLight, laplacian, squared_norm
from recon.physics import operators
from recon.physics.errors import DataError, OptionError, ShapeError


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def images(channels: int, shape: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.rand(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def peer() -> deepinv.models.RAM:
    """deepinv's, its weights as they are drawn but for gains that are not 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = deepinv.models.RAM(pretrained=False).eval()
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.data.uniform_(0.5, 1.5)
            assert "fact_realign" not in name or parameter.item() != 1
    return network


@pytest.fixture(scope="module")
def ours(peer: deepinv.models.RAM, tmp_path_factory: pytest.TempPathFactory) -> RAM:
    """Ours with the same weights, by way of the command line."""
    folder = tmp_path_factory.mktemp("ram")
    torch.save(peer.state_dict(), folder / "ram.pth.tar")
    out = folder / "ram.safetensors"
    assert main(["import-weights", str(folder / "ram.pth.tar"), "--model", "ram", "--out", str(out)]) == 0
    return recon.load_model(out)


def blur(noise: object) -> LinearPhysics:
    kernel = torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    return deepinv.physics.BlurFFT((1, 64, 80), kernel / kernel.sum(), noise_model=noise)


def coils() -> LinearPhysics:
    return problem(shape=(64, 64))[1]


OPERATORS = {
    "inpainting, colour, padded": lambda: (
        deepinv.physics.Inpainting((3, 70, 50), mask=0.5, noise_model=GaussianNoise(0.05)),
        images(3, (70, 50)),
    ),
    "blur, Poisson": lambda: (blur(PoissonNoise(0.05)), images(1, (64, 80), 2)),
    "blur, both noises": lambda: (blur(PoissonGaussianNoise(0.02, 0.1)), images(1, (64, 80))),
    "super-resolution": lambda: (
        deepinv.physics.Downsampling((1, 64, 64), "bicubic", 2, noise_model=GaussianNoise(0.01)),
        images(1, (64, 64)),
    ),
    "MRI": lambda: (
        deepinv.physics.MRI(img_size=(64, 64), mask=images(1, (64, 64)) < 0.4, noise_model=GaussianNoise(0.03)),
        images(2, (64, 64)),
    ),
    "coils": lambda: (coils(), images(2, (64, 64))),
    "faint": lambda: (deepinv.physics.Denoising(GaussianNoise(0.003)), 0.01 * images(3, (64, 64))),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_ram_gives_what_deepinvs_does(name: str, ours: RAM, peer: deepinv.models.RAM) -> None:
    physics, x = OPERATORS[name]()
    y = physics(x)
    with torch.no_grad():
        found = ours(y, physics)
        assert relative(found, peer(y.clone(), physics)) < 1e-5
        assert relative(found, x) > 1e-3  # not what both got


def test_ram_takes_levels_and_maps_as_deepinvs_does(ours: RAM, peer: deepinv.models.RAM) -> None:
    y, varying = images(1, (64, 64), 2), 0.01 + 0.1 * images(1, (64, 64), 2)
    with torch.no_grad():
        assert relative(ours(y, sigma=0.1), peer(y, sigma=0.1)) < 1e-5
        ones = deepinv.physics.Denoising(ZeroNoise())
        expected = peer(y, ones, sigma=varying, gain=0.5 * varying)
        assert relative(ours(y, ones, sigma=varying, gain=0.5 * varying), expected) < 1e-5
        assert relative(ours(y, ones, sigma=0.05), expected) > 1e-4


def test_ram_has_the_published_size(ours: RAM, peer: deepinv.models.RAM) -> None:
    """35.6 million; what no formula of deepinv's uses is left out."""
    total = sum(p.numel() for p in peer.parameters())
    unused = sum(p.numel() for name, p in peer.named_parameters() if "decoding" in name and "zero_conv" in name)
    assert total == 35_618_813
    assert sum(p.numel() for p in ours.parameters()) == total - unused == 35_551_229


def test_other_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"m_head.weight": torch.zeros(4, 2, 3, 3)}, tmp_path / "drunet.pth")
    out = ["--model", "ram", "--out", str(tmp_path / "x.safetensors")]
    assert main(["import-weights", str(tmp_path / "drunet.pth"), *out]) == 2
    assert "RAM of deepinv" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarse_operator_is_deepinvs(factor: int) -> None:
    size = (2, 32, 48)
    mask = images(2, size[1:]) < 0.5
    physics = deepinv.physics.Inpainting(size, mask=mask.double())
    coarse = CoarseOperator(PaddedOperator(physics), factor)
    x = torch.randn(1, 2, 32 // factor, 48 // factor, dtype=torch.float64)
    up = deepinv.physics.Upsampling(size, "sinc", factor).to(dtype=torch.float64) if factor > 1 else None
    fine = x if up is None else up.A(x)
    assert relative(coarse.up(x), fine) < 1e-6
    other = torch.randn_like(fine)
    torch.testing.assert_close((coarse.up(x) * other).sum(), (x * coarse.down(other)).sum())
    normal = physics.A_adjoint_A(fine)
    normal = factor**2 * (normal if up is None else up.A_adjoint(normal))
    assert relative(coarse.krylov(x, 2), torch.cat((x, normal), 1)) < 1e-6


def test_padding_keeps_the_operator(generator: torch.Generator) -> None:
    physics = deepinv.physics.Inpainting((1, 10, 13), mask=images(1, (10, 13)) < 0.5)
    operator = PaddedOperator(physics, margins((10, 13), 8, 8))
    assert operator.margin == (6, 3)
    x = torch.randn(1, 1, 16, 16, generator=generator)
    y = physics.A(operator.crop(x))
    assert torch.equal(operator.normal(x), operator.pad(physics.A_adjoint(y)))
    gamma, start = torch.full((1, 1, 1, 1), 0.7), operator.pad(operator.crop(x))
    u = operator.prox(y, start, gamma)
    gradient = gamma * (operator.normal(u) - operator.pad(physics.A_adjoint(y))) + u - start
    assert gradient.abs().max() < 1e-5


# --- the light one ---------------------------------------------------------------------------------------------


@pytest.fixture
def light() -> RAMLight:
    return tiny("ram-light").eval()


def test_light_has_one_to_three_million_weights() -> None:
    assert 1e6 < sum(p.numel() for p in RAMLight().parameters()) < 3e6


@pytest.mark.parametrize("name", sorted(operators))
def test_light_takes_every_operator_of_the_registry(name: str, light: RAMLight, generator: torch.Generator) -> None:
    """Of two axes: those of other images are refused by name."""
    physics, x = operators[name].example(generator, batch=2)
    y = physics.A(x)
    if x.ndim != 4 or x.shape[1] not in light.channels:
        with pytest.raises((ShapeError, DataError)):
            light(y, physics)
        return
    with torch.no_grad():
        found = light(y, physics)
    assert found.shape == x.shape
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", ["blur, both noises", "MRI", "coils", "inpainting, colour, padded"])
def test_light_is_equivariant_to_the_scale_of_data_and_operator(name: str, light: RAMLight) -> None:
    physics, x = OPERATORS[name]()
    y, (sigma, gain) = physics.A(x), (torch.tensor([0.04]), torch.tensor([0.01]))
    with torch.no_grad():
        once = light(y, physics, sigma=sigma, gain=gain)
        assert relative(light(1000 * y, physics, sigma=1000 * sigma, gain=1000 * gain), 1000 * once) < 1e-5
        scaled = LinearPhysics(A=lambda u, **_: 30 * physics.A(u), A_adjoint=lambda v, **_: 30 * physics.A_adjoint(v))
        again = light(30 * y, scaled, sigma=30 * sigma, gain=30 * gain)
        assert relative(again, once) < 0.02  # the norm is iterated for where there was a formula
        assert not light(0 * y, physics, sigma=sigma).any()


def test_light_treats_the_items_of_a_batch_alone(light: RAMLight) -> None:
    x, sigma = images(1, (24, 20), 2) * torch.tensor([1.0, 50.0])[:, None, None, None], torch.tensor([0.1, 2.0])
    with torch.no_grad():
        both = light(x, sigma=sigma)
        for i in range(2):
            torch.testing.assert_close(
                both[i : i + 1], light(x[i : i + 1], sigma=sigma[i : i + 1]), rtol=1e-4, atol=1e-4
            )
        varying = sigma[:, None, None, None].expand(2, 1, 24, 20)
        torch.testing.assert_close(light(x, sigma=varying), both, rtol=1e-4, atol=1e-4)


def test_light_knows_the_noise(light: RAMLight) -> None:
    y, physics = images(1, (16, 16)), deepinv.physics.Denoising(GaussianNoise(0.2))
    with torch.no_grad():
        assert torch.equal(light(y, physics), light(y, sigma=0.2))
        for other in ({"sigma": 0.3}, {"sigma": 0.2, "gain": 0.1}):
            assert not torch.allclose(light(y, physics), light(y, **other))


def test_first_estimate_is_the_smooth_image_of_the_data(generator: torch.Generator) -> None:
    """By its normal equations, solved densely; an untrained network gives about that."""
    matrix = torch.linalg.qr(torch.randn(48, 20, generator=generator))[0].T
    physics = LinearPhysics(
        A=lambda u, **_: u.flatten(1) @ matrix.T, A_adjoint=lambda v, **_: (v @ matrix).reshape(-1, 1, 8, 6)
    )
    level = torch.tensor([[[[0.2]]]])
    y = torch.randn(1, 20, generator=generator)
    problem_ = Problem(PaddedOperator(physics), torch.ones(()), physics.A_adjoint(y))
    rows, columns = (torch.eye(n).diff(dim=0) for n in (8, 6))
    gradient = torch.cat((torch.kron(rows, torch.eye(6)), torch.kron(torch.eye(8), columns)))
    normal = matrix.T @ matrix + float(level / 0.15) ** 2 * gradient.T @ gradient
    expected = torch.linalg.solve(normal, matrix.T @ y[0])
    torch.testing.assert_close(problem_.estimate(level).flatten(), expected, rtol=0.02, atol=0.01)
    torch.testing.assert_close(laplacian(expected.reshape(1, 1, 8, 6)).flatten(), gradient.T @ gradient @ expected)


def test_untrained_the_light_one_fills_in_what_is_not_measured() -> None:
    x = images(1, (6, 6)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    physics = deepinv.physics.Inpainting((1, 48, 48), mask=images(1, (48, 48))[0] < 0.5)
    with torch.no_grad():
        found = tiny("ram-light")(physics.A(x), physics, sigma=1e-3)
    assert relative(found, x) < 0.5 * relative(physics.A(x), x)


def test_norm_is_found_once_until_the_operator_changes(generator: torch.Generator) -> None:
    class Counted(LinearPhysics):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", torch.randn(7, 9, generator=generator))
            self.calls = 0

        def A(self, x: Tensor, **_: object) -> Tensor:  # noqa: N802
            self.calls += 1
            return x @ self.matrix.T

        def A_adjoint(self, y: Tensor, **_: object) -> Tensor:  # noqa: N802
            return y @ self.matrix

    physics, x = Counted(), images(1, (8, 9))
    expected = torch.linalg.matrix_norm(physics.matrix, 2) ** 2
    torch.testing.assert_close(squared_norm(physics, x), expected, rtol=0.03, atol=0)
    calls = physics.calls
    squared_norm(physics, x)
    assert physics.calls == calls
    physics.matrix.mul_(3)
    torch.testing.assert_close(squared_norm(physics, x), 9 * expected, rtol=0.03, atol=0)


def test_light_works_in_double_and_half(light: RAMLight) -> None:
    y, physics = problem(shape=(24, 24))
    with torch.no_grad():
        single = light(y, physics)
        with torch.autocast("cpu", torch.bfloat16):
            assert relative(light(y, physics), single) < 0.02
        exact = light.double()(y.to(torch.complex128), problem_in_double(physics))
    assert exact.dtype == torch.float64
    assert relative(single.double(), exact) < 1e-3


def problem_in_double(physics: LinearPhysics) -> LinearPhysics:
    return recon.physics.MultiCoilMRI(physics.coil_maps[:, 0].to(torch.complex128), physics.mask)


@pytest.mark.parametrize("name", ["ram", "ram-light"])
def test_a_map_of_one_row_is_that_of_every_row_and_image(name: str) -> None:
    model, y, level = tiny(name).eval(), images(1, (24, 20), 2), 0.05 + 0.2 * images(1, (1, 20))
    with torch.no_grad():
        expected = model(y, sigma=level.expand(2, 1, 24, 20))
        torch.testing.assert_close(model(y, sigma=level), expected)
        assert not torch.allclose(model(y, sigma=0.15), expected)


@pytest.mark.parametrize("name", ["ram", "ram-light"])
def test_bad_input(name: str) -> None:
    model, y = tiny(name), images(1, (16, 16), 2)
    physics = deepinv.physics.Denoising(GaussianNoise(0.1))
    with pytest.raises(OptionError, match="noise level"):
        model(y)
    with pytest.raises(OptionError, match="not negative"):
        model(y, physics, sigma=-0.1)
    with pytest.raises(ShapeError, match="does not fit"):
        model(y, physics, sigma=torch.ones(3))
    with pytest.raises(ShapeError, match="5 channels"):
        model(images(5, (16, 16)), physics)
    with pytest.raises(DataError, match="not finite"):
        model(y / 0, physics)
    with pytest.raises(OptionError):
        registry[name](widths=(16,))


def test_an_operator_of_zeros_is_refused(light: RAMLight) -> None:
    nothing = LinearPhysics(A=lambda x, **_: 0 * x, A_adjoint=lambda y, **_: 0 * y)
    with pytest.raises(DataError, match="measures nothing"):
        light(images(1, (16, 16)), nothing)
