"""POCS: partial Fourier by a smooth phase, other sampling by sparse wavelets."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.physics import GaussianNoise
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from recon.calibration.partial_fourier import pocs
from recon.models import registry
from recon.models.pocs import POCS, partial_axis
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import MaskError, ShapeError
from recon.physics.layout import to_channels, to_complex

H, W = 96, 80


def scan(mask: torch.Tensor, sigma: float = 0.005, coils: int = 1):
    """A phantom with smooth phase; its data, operator and itself."""
    g = torch.Generator().manual_seed(3)
    truth = torch.from_numpy(resize(shepp_logan_phantom(), (H, W), anti_aliasing=True)).float()
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    truth = truth * torch.exp(1j * (0.5 + y + 0.4 * x * x))
    centres = [(0.0, 0.0)] if coils == 1 else [(-1.0, -1.0), (1.0, 0.5), (-0.5, 1.0)][:coils]
    maps = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 4 + 1j * a * x) for a, b in centres])
    maps = (maps / torch.linalg.vector_norm(maps, dim=0)).to(torch.complex64)[None]
    physics = MultiCoilMRI(maps, mask, noise_model=GaussianNoise(sigma))
    k = physics.expand(truth[None])
    noise = torch.view_as_complex(torch.randn((*k.shape, 2), generator=g))
    return (k + sigma * noise) * mask, physics, truth


def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
    error = (to_complex(x)[0, 0].abs() - truth.abs()).square().mean().sqrt()
    return 20 * math.log10(float(truth.abs().max() / error))


def one_sided(axis: int = -2, kept: float = 0.65, at_the_end: bool = False) -> torch.Tensor:
    n = (H, W)[axis]
    line = torch.arange(n) < round(kept * n)
    line = line.flip(0) if at_the_end else line
    return (line[:, None] if axis == -2 else line).expand(H, W).clone()


def scattered(rate: float = 0.3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    density = torch.exp(-3 * (y * y + x * x).sqrt())
    chance = torch.rand(H, W, generator=torch.Generator().manual_seed(0))
    return (chance < rate * density / density.mean()) | (y * y + x * x < 0.02)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_partial_fourier_is_found_on_either_side(axis, at_the_end):
    assert partial_axis(one_sided(axis, at_the_end=at_the_end)[None, None]) == axis


def test_other_sampling_is_not_taken_for_partial_fourier():
    every_fourth = torch.zeros(H, W, dtype=torch.bool)
    every_fourth[:, ::4] = True
    middle = torch.zeros(H, W, dtype=torch.bool)
    middle[20:-20] = True
    for mask in (scattered(), every_fourth, middle, torch.ones(H, W, dtype=torch.bool)):
        assert partial_axis(mask[None, None]) is None


def test_partial_fourier_sharpens():
    y, physics, truth = scan(one_sided())
    model = registry["pocs"]()
    x = model(y, physics)
    assert model.details == {"partial_axis": -2.0}
    assert psnr(x, truth) > psnr(physics.A_adjoint(y), truth) + 3
    torch.testing.assert_close(x, to_channels(physics.combine(pocs(y, physics.mask, -2, model.iterations))[:, None]))


def test_partial_fourier_with_a_gap_is_refused():
    mask = one_sided()
    mask[30] = False
    y, physics, _ = scan(mask)
    with pytest.raises(MaskError, match=r"missing in between.*l1-wavelet"):
        POCS()(y, physics)


@pytest.mark.parametrize("coils", [1, 3])
def test_sparse_wavelets_fill_the_rest(coils):
    y, physics, truth = scan(scattered(), coils=coils)
    assert psnr(registry["pocs"]()(y, physics), truth) > psnr(physics.A_adjoint(y), truth) + 8


def test_default_threshold_is_near_the_best():
    y, physics, truth = scan(scattered(0.4), sigma=0.03)
    model = POCS()
    default = psnr(model(y, physics), truth)
    chosen = model.details["threshold"]
    assert default > max(psnr(POCS(chosen * factor)(y, physics), truth) for factor in (0.1, 10)) + 0.5


def test_result_scales_with_the_data_and_the_maps():
    y, physics, _ = scan(scattered(), coils=3)
    x = POCS()(y, physics)
    larger = MultiCoilMRI(2 * physics.coil_maps, physics.mask, noise_model=GaussianNoise(0.05))
    torch.testing.assert_close(POCS()(10 * y, larger), 5 * x, rtol=1e-3, atol=1e-3)


def test_images_of_a_batch_are_independent():
    y, physics, _ = scan(scattered(), coils=3)
    both = MultiCoilMRI(physics.coil_maps, physics.mask, noise_model=GaussianNoise(torch.tensor([0.005, 0.01])))
    x = POCS()(torch.cat([y, 2 * y]), both)
    torch.testing.assert_close(x[:1], POCS()(y, physics))
    torch.testing.assert_close(x[1], 2 * x[0], rtol=1e-3, atol=1e-3)


def test_unknown_noise_and_silence():
    y, physics, truth = scan(scattered())
    unknown = MultiCoilMRI(physics.coil_maps, physics.mask)
    assert psnr(POCS()(y, unknown), truth) > psnr(physics.A_adjoint(y), truth) + 8
    assert torch.equal(POCS()(torch.zeros_like(y), physics), torch.zeros(1, 2, H, W))


def test_measurements_that_do_not_fit():
    y, physics, _ = scan(scattered(), coils=3)
    with pytest.raises(ShapeError, match="do not fit"):
        POCS()(y[:, :2], physics)


def test_trajectories_are_refused():
    points = torch.rand(50, 2) * 16 - 8
    physics = NonCartesianMRI(torch.ones(1, 1, 16, 16, dtype=torch.complex64), points)
    with pytest.raises(ShapeError, match="l1-wavelet"):
        POCS()(torch.ones(1, 1, 50, dtype=torch.complex64), physics)
