"""Total variation and total generalised variation: differences, proximal maps, models."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.models import TVDenoiser
from deepinv.physics import GaussianNoise
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from recon.differences import (
    gradient,
    gradient_adjoint,
    magnitude,
    project,
    symmetric_gradient,
    symmetric_gradient_adjoint,
    without_far_edge,
)
from recon.models import registry
from recon.models.tgv import TotalGeneralisedVariation
from recon.models.tv import TotalVariation
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import ShapeError
from recon.physics.inpainting import Inpainting
from recon.physics.layout import to_channels, to_complex
from recon.proximal import TGVProx, TVProx, total_variation
from recon.variational import inner_pixels, noise_weight

MODELS = [TotalVariation, TotalGeneralisedVariation]


def weight(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def converged(make, value: float, z: torch.Tensor, iterations: int = 1000) -> torch.Tensor:
    return make(weight(value), iterations)(z)


# --- differences ----------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=3)


@given(spatial=shapes, channel=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_differences_have_their_adjoints(spatial, channel, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, channel, *spatial, generator=g, dtype=torch.float64)
    w = torch.randn(len(spatial), *x.shape, generator=g, dtype=torch.float64)
    q = torch.randn_like(symmetric_gradient(w))
    torch.testing.assert_close((gradient(x) * w).sum(), (x * gradient_adjoint(w)).sum())
    torch.testing.assert_close((symmetric_gradient(w) * q).sum(), (w * symmetric_gradient_adjoint(q)).sum())


def test_symmetric_gradient_has_the_norm_of_the_symmetrised_jacobian(generator):
    w = torch.randn(3, 1, 1, 4, 5, 6, generator=generator, dtype=torch.float64)
    jacobian = torch.stack([gradient(w[i]) for i in range(3)])  # (component, direction, ...)
    symmetric = (jacobian + jacobian.transpose(0, 1)) / 2
    torch.testing.assert_close(
        symmetric_gradient(w).square().sum(0), symmetric.square().sum((0, 1)), rtol=1e-12, atol=1e-12
    )


def test_projection_is_joint_over_components_and_channels(generator):
    p = torch.randn(2, 1, 4, 5, 6, generator=generator, dtype=torch.float64)
    projected = project(p.clone(), weight(1.5))
    length = magnitude(p)
    torch.testing.assert_close(magnitude(projected), length.clamp(max=1.5))
    assert torch.equal(projected[:, 0, :, (length <= 1.5)[0, 0]], p[:, 0, :, (length <= 1.5)[0, 0]])


# --- proximal maps --------------------------------------------------------------------------------------------


def test_tv_of_a_step_moves_the_levels_by_weight_over_length():
    z = torch.zeros(1, 2, 10, 3, dtype=torch.float64)
    z[:, 0, 4:], z[:, 1, 4:] = 3, 4  # a complex step of length 5, after 4 of 10 rows
    x = converged(TVProx, 0.6, z)
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)[:, None, None]
    expected = torch.where(torch.arange(10)[:, None] < 4, 0.6 / 4, 5 - 0.6 / 6) * direction
    torch.testing.assert_close(x[0], expected.expand(2, 10, 3), rtol=0, atol=1e-6)


def test_tv_agrees_with_deepinv(generator):
    z = torch.randn(1, 1, 16, 20, generator=generator, dtype=torch.float64)
    theirs = TVDenoiser(n_it_max=4000, crit=1e-10)(z, 0.3)
    torch.testing.assert_close(converged(TVProx, 0.3, z), theirs, rtol=0, atol=1e-4)


def test_duality_gap_closes(generator):
    z = torch.randn(1, 2, 16, 20, generator=generator, dtype=torch.float64)
    prox = TVProx(weight(0.3))
    gaps = []
    for _ in range(60):
        x = prox(z)
        primal = 0.5 * (x - z).square().sum() + 0.3 * total_variation(x).sum()
        dual = 0.5 * z.square().sum() - 0.5 * (z - gradient_adjoint(prox.p)).square().sum()
        gaps.append(float((primal - dual) / primal))
    assert min(gaps) > -1e-12
    assert gaps[-1] < 1e-5 < gaps[0]


def test_tgv_leaves_a_slope_alone_and_tv_does_not():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    z = (0.2 * y - 0.1 * x)[None, None].double()
    assert (converged(TGVProx, 0.5, z) - z).abs().max() < 1e-4
    assert (converged(TVProx, 0.5, z) - z).abs().max() > 0.1


def test_tgv_is_nearer_to_a_noisy_roof_than_tv(generator):
    y = torch.arange(48.0).double()
    roof = (24 - (y - 24).abs())[:, None].expand(48, 32)[None, None] / 24
    noisy = roof + 0.1 * torch.randn(roof.shape, generator=generator, dtype=torch.float64)
    errors = {
        make: min(float((converged(make, w, noisy, 300) - roof).square().mean()) for w in (0.1, 0.2, 0.4))
        for make in (TVProx, TGVProx)
    }
    assert errors[TGVProx] < 0.6 * errors[TVProx]


def test_tgv_is_a_minimum(generator):
    """Perturbing the image and the field never lowers the objective."""
    z = torch.randn(1, 1, 8, 9, generator=generator, dtype=torch.float64)
    prox = TGVProx(weight(0.2), 1500)
    x = prox(z)

    def objective(x, w):
        first, second = magnitude(without_far_edge(gradient(x) - w)).sum(), magnitude(symmetric_gradient(w)).sum()
        return float(0.5 * (x - z).square().sum() + 0.2 * first + 0.4 * second)

    least = objective(x, prox.w)
    for scale in (1e-1, 1e-2, 1e-3):
        for _ in range(10):
            dx = scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            dw = scale * torch.randn(prox.w.shape, generator=generator, dtype=torch.float64)
            assert objective(x + dx, prox.w + dw) > least - 1e-7


# --- models ---------------------------------------------------------------------------------------------------


def measured(sigma: float = 0.01, dtype: torch.dtype = torch.complex64):
    """A phantom with smooth phase seen by four coils, 3x undersampled at random; and the truth."""
    g = torch.Generator().manual_seed(1)
    h, w = 48, 40
    truth = torch.from_numpy(resize(shepp_logan_phantom(), (h, w), anti_aliasing=True))
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    truth = truth * torch.exp(1j * (0.5 + y + 0.5 * x * x))
    centres = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1.0]])
    maps = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 3 + 1j * (a * x + b)) for a, b in centres])
    maps = (maps / torch.linalg.vector_norm(maps, dim=0)).to(dtype)[None]
    mask = torch.rand(h, w, generator=g) < 0.28
    mask[h // 2 - 8 : h // 2 + 8, w // 2 - 8 : w // 2 + 8] = True
    physics = MultiCoilMRI(maps, mask, noise_model=GaussianNoise(sigma))
    k = physics.expand(truth.to(dtype)[None])
    noise = torch.randn((*k.shape, 2), generator=g, dtype=torch.float64).to(k.real.dtype)
    return (k + sigma * torch.view_as_complex(noise)) * mask, physics, truth.to(dtype)


def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
    error = (to_complex(x)[0, 0] - truth).abs().square().mean().sqrt()
    return 20 * math.log10(float(truth.abs().max() / error))


@pytest.mark.parametrize("name", ["tv", "tgv"])
def test_default_strength_is_near_the_best(name):
    y, physics, truth = measured()
    model = registry[name]()
    default = psnr(model(y, physics), truth)
    chosen = model.details["regularisation"]
    assert default > psnr(physics.A_adjoint(y), truth) + 8
    others = [psnr(registry[name](regularisation=chosen * factor)(y, physics), truth) for factor in (0.3, 3)]
    assert default > max(others) - 0.7


@pytest.mark.parametrize("model", MODELS)
def test_unknown_noise_is_found_in_outer_kspace(model):
    y, physics, truth = measured(0.03)
    known = model()
    expected = psnr(known(y, physics), truth)
    unknown = model()
    assert psnr(unknown(y, MultiCoilMRI(physics.coil_maps, physics.mask)), truth) > expected - 0.5
    ratio = unknown.details["regularisation"] / known.details["regularisation"]
    assert 0.7 < ratio < 2


@pytest.mark.parametrize("model", MODELS)
def test_left_out_samples_choose_where_no_noise_is_seen(model, generator):
    """Off the grid there is no outer k-space to look at."""
    image = torch.zeros(1, 32, 32, dtype=torch.complex64)
    image[:, 6:26, 8:20] = 1
    angle = torch.arange(24) * (math.pi / 24)
    radius = torch.arange(-16, 16)
    points = torch.stack([torch.outer(torch.sin(angle), radius), torch.outer(torch.cos(angle), radius)], -1).reshape(
        -1, 2
    )
    maps = torch.ones(1, 1, 32, 32, dtype=torch.complex64)
    y = NonCartesianMRI(maps, points).expand(image)
    y = y + 0.05 * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    chosen = psnr(model()(y, NonCartesianMRI(maps, points)), image[0])
    weights = (1e-4, 1e-3, 1e-2, 1e-1, 1)
    others = [psnr(model(weight)(y, NonCartesianMRI(maps, points)), image[0]) for weight in weights]
    assert chosen > max(others) - 1.5
    assert chosen > min(others) + 5


def test_tv_model_agrees_with_a_primal_dual_method():
    """Condat and Vu's method, which has neither momentum nor an inner iteration, finds the same image."""
    y, physics, _ = measured(dtype=torch.complex128)
    b = physics.A_adjoint(y)
    relative = 0.01
    scale = float(torch.linalg.vector_norm(b, dim=1).flatten().kthvalue(round(0.999 * b[0, 0].numel())).values)
    lam = relative * scale
    x, p = b.clone(), torch.zeros_like(gradient(b))
    sigma = 0.05
    tau = 1 / (0.5 + 8 * sigma)
    for _ in range(500):
        x_next = x - tau * (physics.A_adjoint_A(x) - b + gradient_adjoint(p))
        p = project(p + sigma * gradient(2 * x_next - x), weight(lam))
        x = x_next
    ours = TotalVariation(relative, max_iter=80, tol=1e-7)(y, physics)
    assert torch.linalg.vector_norm(ours - x) < 2e-3 * torch.linalg.vector_norm(x)
    early = TotalVariation(relative)(y, physics)
    assert torch.linalg.vector_norm(early - x) < 2e-2 * torch.linalg.vector_norm(x)


@pytest.mark.parametrize("model", MODELS)
def test_result_scales_with_the_data(model):
    y, physics, _ = measured(dtype=torch.complex128)
    x = model()(y, physics)
    larger = MultiCoilMRI(physics.coil_maps, physics.mask, noise_model=GaussianNoise(1000 * 0.01))
    torch.testing.assert_close(model()(1000 * y, larger), 1000 * x, rtol=1e-5, atol=1e-4)
    maps3 = MultiCoilMRI(3 * physics.coil_maps, physics.mask, noise_model=physics.noise_model)
    torch.testing.assert_close(3 * model()(y, maps3), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_batch_gives_what_its_images_give(model):
    y, physics, _ = measured()
    louder = 3 * y.flip(1)
    maps = torch.cat([physics.coil_maps, physics.coil_maps.flip(2)])
    both = MultiCoilMRI(maps, physics.mask, noise_model=GaussianNoise(torch.tensor([0.01, 0.03])))
    result = model()(torch.cat([y, louder]), both)
    torch.testing.assert_close(result[:1], model()(y, physics))
    torch.testing.assert_close(result[1], 3 * result[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_two_sets_may_be_mixed(model):
    """Where two sets of maps share the signal, only the span of the two matters."""
    y, physics, _ = measured(dtype=torch.complex128)
    S = physics.coil_maps[:, 0]
    two = torch.stack([S, 0.6 * S.roll(1, 1)], 1) / math.sqrt(2)
    c, s = math.cos(0.7), math.sin(0.7)
    mixed = torch.stack([c * two[:, 0] + s * two[:, 1], c * two[:, 1] - s * two[:, 0]], 1)
    solver = model(0.01, max_iter=40, tol=1e-6)
    x = to_complex(solver(y, MultiCoilMRI(two, physics.mask)))
    z = to_complex(solver(y, MultiCoilMRI(mixed, physics.mask)))
    unmixed = torch.stack([c * z[:, 0] - s * z[:, 1], s * z[:, 0] + c * z[:, 1]], 1)
    assert torch.linalg.vector_norm(unmixed - x) < 1e-2 * torch.linalg.vector_norm(x)


def test_what_no_coil_sees_stays_zero_and_is_no_edge():
    _, physics, _ = measured()
    maps = physics.coil_maps.clone()
    maps[..., :20] = 0
    physics = MultiCoilMRI(maps, physics.mask, noise_model=physics.noise_model)
    image = torch.zeros(1, 48, 40, dtype=torch.complex64)
    image[..., 20:] = 1
    x = TotalVariation()(physics.A(to_channels(image[:, None])), physics)
    assert x[..., :20].abs().max() == 0
    torch.testing.assert_close(to_complex(x)[0, 0, :, 20:], image[0, :, 20:], rtol=0, atol=2e-3)
    assert torch.equal(inner_pixels(maps)[0, 0], torch.arange(40).expand(48, 40) >= 20)


def test_noise_weight_grows_with_the_noise():
    y, physics, _ = measured()
    quiet, loud = noise_weight(y, physics, 0.001), noise_weight(y, physics, 0.008)
    assert loud / quiet == pytest.approx(8 ** (4 / 3), rel=1e-4)
    assert noise_weight(torch.zeros_like(y), physics, 0.01) == 0


def test_one_coil_and_odd_volume(generator):
    shape = (4, 9, 7)
    maps = torch.ones(1, 1, *shape, dtype=torch.complex64)
    mask = torch.rand(shape, generator=generator) < 0.7
    physics = MultiCoilMRI(maps, mask, three_d=True, noise_model=GaussianNoise(0.05))
    y = torch.randn(1, 1, *shape, generator=generator, dtype=torch.complex64) * mask
    for model in MODELS:
        x = model()(y, physics)
        assert x.shape == (1, 2, *shape)
        assert torch.isfinite(x).all()


@pytest.mark.parametrize("model", MODELS)
def test_measurements_that_do_not_fit(model):
    y, physics, _ = measured()
    with pytest.raises(ShapeError, match="do not fit"):
        model()(y[:, :2], physics)


@pytest.mark.parametrize("model", MODELS)
def test_silence_gives_silence(model):
    y, physics, _ = measured()
    assert torch.equal(model()(torch.zeros_like(y), physics), torch.zeros(1, 2, 48, 40))


@pytest.mark.parametrize("name", ["tv", "l1-wavelet"])
def test_each_image_of_a_batch_has_its_own_mask(name, generator):
    """Of operators without coils too."""
    masks = (torch.rand(2, 1, 16, 16, generator=generator) < 0.5).float()
    y = masks * torch.rand(2, 1, 16, 16, generator=generator)
    both, second = (Inpainting(mask, (1, 16, 16), noise_model=GaussianNoise(0.1)) for mask in (masks, masks[1:]))
    model = registry[name]()
    x = model(y, both)
    assert x.shape == y.shape
    assert torch.allclose(x[1:], model(y[1:], second), atol=1e-6)
