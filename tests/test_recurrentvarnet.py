"""RecurrentVarNet: its recursion in k-space, published size, options, and scans that are no ordinary ones."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import GaussianNoise
from networks import BAD_SCANS, problem, tiny, without_gradient

import recon
from recon.calibration import noise_level
from recon.models.convgru import GatedUnit, RecurrentRegulariser, ReplicatedConv
from recon.models.l1_wavelet import L1Wavelet
from recon.models.recurrentvarnet import RecurrentVarNet
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError, ShapeError
from recon.physics.fft import fft_centred, ifft_centred
from recon.physics.layout import to_channels, to_complex

OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"share_weights": True},
        {"initialiser": "image"},
        {"initialiser": "kspace"},
        {"initialiser": "none"},
        {"noise_input": True},
        {"adaptive": True, "data_consistency": True},
        {"adaptive": True, "proximal": 2, "sparse_start": 2},
        {"block": 2},
        {"warm_start": 3},
        {"sparse_start": 3, "noise_input": True},
        {"sparse_start": 3, "proximal": 2},
        {"data_consistency": True},
        {"proximal": 3, "warm_start": 2},
        {"proximal": 2, "save_memory": True, "output": "rss"},
        {"refine_maps": 2},
        {"save_memory": True},
        {"scale": "kspace"},
    ],
    ids=str,
)


def test_published_size():
    """As DIRECT's RecurrentVarNet with T = 8, 128 channels, 4 layers, and a SENSE initialiser of three scales."""
    assert sum(p.numel() for p in RecurrentVarNet().parameters()) == 6_918_424


def test_gated_unit_is_the_textbook_one(generator):
    unit = GatedUnit(3)
    x, h = torch.randn(2, 2, 3, 4, 5, generator=generator)
    of_input, of_state = unit.of_input.weight[..., 0, 0], unit.of_state.weight[..., 0, 0]

    def apply(matrix, image):
        return torch.einsum("dc,bcyx->bdyx", matrix, image)

    given = apply(of_input, x) + unit.of_input.bias[:, None, None]
    reset, update = torch.sigmoid(given[:, :6] + apply(of_state, h)).split(3, 1)
    candidate = torch.tanh(given[:, 6:] + apply(unit.of_reset_state.weight[..., 0, 0], reset * h))
    expected = (1 - update) * h + update * candidate
    torch.testing.assert_close(unit(x, h), expected)
    with torch.no_grad():
        torch.testing.assert_close(unit(x, h), expected)


def test_gated_unit_in_many_pieces(generator):
    unit = GatedUnit(4)
    x, h = torch.randn(2, 2, 4, 50, 61, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(unit(x, h), unit(x, h.clone().requires_grad_()))
        in_pieces = unit(x, h)
    torch.testing.assert_close(in_pieces, unit(x, h))


def test_gates_start_orthogonal_and_reset_closed():
    unit = GatedUnit(6)
    gate = torch.cat((unit.of_input.weight[:6], unit.of_state.weight[:6]), 1)[..., 0, 0]
    torch.testing.assert_close(gate @ gate.mT, torch.eye(6), atol=1e-5, rtol=0)
    assert unit.of_input.bias.tolist() == [-1.0] * 6 + [0.0] * 12


def test_convolution_repeats_the_edge(generator):
    layer = ReplicatedConv(1, 1, 3, dilation=2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0, 0, 1] = 1.0  # two rows up
        layer.bias.zero_()
    x = torch.randn(1, 1, 6, 5, generator=generator)
    torch.testing.assert_close(layer(x)[0, 0], x[0, 0, [0, 0, 0, 1, 2, 3]])


def test_recursion_in_kspace(generator):
    """The equations of the paper, in k-space, step by step."""
    model = tiny("recurrentvarnet", initialiser="kspace", scale="none")
    y, physics = problem(shape=(18, 15))
    maps = physics.coil_maps[:, 0]

    def combine(k):
        return (maps.conj() * ifft_centred(k, (-2, -1))).sum(1)

    def channels(x):
        return torch.view_as_real(x).movedim(-1, 1)

    k = y
    state = model.initialiser(channels(fft_centred(combine(y), (-2, -1))))
    for alpha, regulariser in zip(model.step_sizes, model.regularisers, strict=True):
        w, state = regulariser(channels(combine(k)), state)
        w = torch.view_as_complex(w.movedim(1, -1).contiguous())
        k = k - alpha * physics.mask * (k - y) + fft_centred(maps * w[:, None], (-2, -1))
    torch.testing.assert_close(model(y, physics), channels(combine(k)), rtol=1e-4, atol=1e-5)
    model.output = "rss"
    expected = torch.linalg.vector_norm(ifft_centred(k, (-2, -1)), dim=1, keepdim=True)
    torch.testing.assert_close(model(y, physics), expected, rtol=1e-4, atol=1e-5)


def test_warm_start_is_cg_sense_where_nothing_was_sampled():
    model = tiny("recurrentvarnet", steps=1, warm_start=4)
    y, physics = problem()
    with torch.no_grad():
        model.step_sizes.zero_()
        for p in model.regularisers[0].last.parameters():
            p.zero_()
    guess = physics.expand(physics_image(physics, y))
    k = torch.where(physics.mask, y, guess)
    torch.testing.assert_close(model(y, physics), to_channels(physics.combine(k)[:, None]), rtol=1e-3, atol=1e-4)


def physics_image(physics, y):
    """Four iterations of CG-SENSE."""
    return torch.view_as_complex(physics.A_dagger(y, max_iter=4, tol=0.0).movedim(1, -1).contiguous())


@pytest.mark.parametrize("sigma", [0.05, None])
def test_sparse_start_is_l1_wavelet_where_nothing_was_sampled(sigma):
    model = tiny("recurrentvarnet", steps=1, sparse_start=6)
    y, physics = problem()
    level = noise_level(y, physics.mask) if sigma is None else torch.tensor([sigma, 2 * sigma])[: len(y)]
    physics.noise_model = None if sigma is None else GaussianNoise(level)
    with torch.no_grad():
        model.step_sizes.zero_()
        for p in model.regularisers[0].last.parameters():
            p.zero_()
        x = model(y, physics)
    sparse = L1Wavelet(0.7 * float(level[0]), iterations=6)(y, physics)
    k = torch.where(physics.mask, y, physics.expand(to_complex(sparse)[:, 0]))
    torch.testing.assert_close(x, to_channels(physics.combine(k)[:, None]), rtol=1e-3, atol=1e-4)


def test_each_item_of_a_batch_has_its_own_sparse_start():
    model = tiny("recurrentvarnet", steps=1, sparse_start=3)
    y, physics = problem(batch=2)
    y = y * torch.tensor([1.0, 7.0])[:, None, None, None]
    physics.noise_model = GaussianNoise(torch.tensor([0.03, 0.5]))
    with torch.no_grad():
        both = model(y, physics)
        second = MultiCoilMRI(physics.coil_maps[1:], physics.mask[1:], noise_model=GaussianNoise(torch.tensor([0.5])))
        torch.testing.assert_close(both[1:], model(y[1:], second), rtol=1e-4, atol=1e-4)


def test_ending_data_consistency_solves_its_problem():
    model = tiny("recurrentvarnet", steps=1, data_consistency=True, scale="none")
    y, physics = problem()
    with_end = model(y, physics)
    weight, model.log_consistency = model.log_consistency.exp(), None
    without = model(y, physics)
    gradient = physics.A_adjoint(physics.A(with_end) - y) + weight * (with_end - without)
    assert float((gradient.norm() / (weight * without).norm()).detach()) < 1e-3


@OPTIONS
def test_gradients_reach_every_weight(options):
    model = tiny("recurrentvarnet", **options)
    y, physics = problem(coils=3)
    physics.noise_model.sigma = torch.tensor(0.1)
    model(y, physics).square().sum().backward()
    dead = without_gradient(model)
    if options.get("initialiser") == "none":  # what takes the first state, which is zero
        dead = [name for name in dead if not (name.startswith("regularisers.0.") and "state" in name)]
    assert dead == []


@OPTIONS
def test_scale_of_the_data_is_kept(options):
    model = tiny("recurrentvarnet", **options)
    y, physics = problem()
    with torch.no_grad():
        torch.testing.assert_close(model(1e4 * y, physics), 1e4 * model(y, physics), rtol=1e-3, atol=1.0)


def test_memory_is_saved_for_the_same_gradients():
    y, physics = problem(batch=2)
    gradients = []
    for save in (False, True):
        model = tiny("recurrentvarnet", save_memory=save)
        model(y, physics).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_examples_of_a_batch_do_not_mix():
    model = tiny("recurrentvarnet", noise_input=True, block=2)
    y, physics = problem(batch=2)
    with torch.no_grad():
        both = model(y, physics)
        second = model(y[1:], MultiCoilMRI(physics.coil_maps[1:], physics.mask[1:]))
    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-5)


def test_empty_coils_change_nothing():
    model = tiny("recurrentvarnet", warm_start=2)
    y, physics = problem()
    more = torch.nn.functional.pad(y, (0, 0, 0, 0, 0, 3))
    maps = torch.nn.functional.pad(physics.coil_maps, (0, 0, 0, 0, 0, 3))
    with torch.no_grad():
        torch.testing.assert_close(
            model(more, MultiCoilMRI(maps, physics.mask)), model(y, physics), rtol=1e-4, atol=1e-5
        )


def test_autocast_keeps_the_transforms_in_float32():
    model = tiny("recurrentvarnet", noise_input=True, block=2)
    y, physics = problem()
    with torch.no_grad():
        exact = model(y, physics)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(y, physics)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.03


@BAD_SCANS
@pytest.mark.parametrize(
    "options", [{}, {"block": 2, "warm_start": 2, "data_consistency": True}, {"sparse_start": 2}], ids=str
)
def test_unusual_scans(scan, options):
    y, physics = problem(**scan)
    with torch.no_grad():
        x = tiny("recurrentvarnet", **options)(y, physics)
    assert x.shape == (len(y), 2 * physics.n_sets, *physics.spatial)
    assert torch.isfinite(x).all()


def test_shipped_weights_give_what_they_gave_before_steps_could_recur():
    """Numbers of the version before `recon.models.recursion`, of a problem that is drawn from a seed."""
    y, physics = problem()
    with torch.no_grad():
        x = recon.load_model("recurrentvarnet-light")(y, physics)
    assert float(x.norm()) == pytest.approx(24.12684, rel=1e-4)
    expected = [[0.59646, -0.07550, 0.37818], [-2.60996, 0.01560, 0.45294], [-0.23816, 0.05867, 1.08515]]
    torch.testing.assert_close(x[0, 0, ::8, ::8], torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_errors():
    y, physics = problem()
    with pytest.raises(OptionError, match="at least one step"):
        RecurrentVarNet(0)
    with pytest.raises(ShapeError, match="do not fit"):
        tiny("recurrentvarnet")(y[:, :2], physics)


def test_regulariser_of_one_layer(generator):
    net = RecurrentRegulariser(2, 2, 4, 1)
    x = torch.randn(1, 2, 9, 7, generator=generator)
    update, state = net(x, [torch.zeros(1, 4, 9, 7)])
    assert update.shape == x.shape
    assert len(state) == 1
