"""One-bit weights: gradients, scales, masks, counts, packed files, and what trains with them."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from networks import sparse_problem, tiny
from safetensors import safe_open
from torch import nn

import recon
from recon.cards import Card
from recon.checkpoint import load_checkpoint, save_checkpoint
from recon.cli import main
from recon.models.lista import LISTA
from recon.onebit import (
    Quantisation,
    count_links,
    drop_frozen_gradients,
    payload_bits,
    quantise,
    quantised_weights,
    remove,
    to_step,
)
from recon.onebit.gradients import eight_bit, straight_through_sign, tanh_sign, ternary
from recon.onebit.packing import pack, packed_bytes, unpack
from recon.physics.errors import CheckpointError, DataError, OptionError, ShapeError

LAYERS = ("layers.*.weight",)
LEVELS = ("one-bit", "ternary", "8-bit", "full")


def lista(levels: str | None = "one-bit", *, m: int = 16, n: int = 32, layers: int = 3, **options: object) -> LISTA:
    """A network with random matrices, quantised unless ``levels`` is None."""
    model = LISTA(m, n, layers)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.copy_(0.1 * torch.randn(n, m, generator=generator))
    if levels is not None:
        quantise(model, Quantisation(patterns=LAYERS, levels=levels, **options))
    return model.eval()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in model.layers]


# --- gradients ------------------------------------------------------------------------------------------------


def test_straight_through_is_the_identity_inside_the_clip_and_zero_outside() -> None:
    w = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.4, 1.0, 1.01], requires_grad=True)
    upstream = torch.arange(1.0, 8.0)
    value = straight_through_sign(w)
    assert value.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (gradient,) = torch.autograd.grad(value, w, upstream)
    assert gradient.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_gradient_of_tanh(beta: float) -> None:
    w = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor(beta, dtype=torch.float64)
    (ours,) = torch.autograd.grad(tanh_sign(w, slope).sum(), w)
    (theirs,) = torch.autograd.grad(torch.tanh(slope * w).sum(), w)
    torch.testing.assert_close(ours, theirs)
    assert tanh_sign(w, slope).abs().eq(1).all()


def test_ternary_and_eight_bits() -> None:
    w = torch.tensor([-0.9, -0.2, 0.1, 0.5, 2.0], requires_grad=True)
    value = ternary(w, torch.tensor(0.3))
    assert value.tolist() == [-1, 0, 0, 1, 1]
    assert torch.autograd.grad(value.sum(), w)[0].tolist() == [1, 1, 1, 1, 0]

    scale = torch.tensor(0.01, requires_grad=True)
    value = scale * eight_bit(w, scale)
    torch.testing.assert_close(value.detach(), torch.tensor([-0.9, -0.2, 0.1, 0.5, 1.27]))
    to_w, to_scale = torch.autograd.grad(value.sum(), (w, scale))
    assert to_w.tolist() == [1, 1, 1, 1, 0]
    torch.testing.assert_close(
        to_scale, torch.tensor(127.0)
    )  # of the clipped weight; the others have no rounding error


def test_gradients_reach_latent_weights_and_scale() -> None:
    """Of W = lambda sign(W_r): dL/dW_r = lambda dL/dW, and dL/dlog(lambda) = <dL/dW, W>."""
    model = lista()
    w = model.layers[0].weight
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    latent = next(quantised_weights(model))
    to_latent, to_scale = torch.autograd.grad((w * upstream).sum(), (latent.latent, latent.quantiser.scale.log_factor))
    torch.testing.assert_close(to_latent, latent.quantiser.scale().detach() * upstream)
    torch.testing.assert_close(to_scale, (w * upstream).sum().detach())


# --- scales, masks, what is chosen ----------------------------------------------------------------------------


def test_scale_starts_as_least_squares() -> None:
    model, plain = lista(), lista(None)
    everything = torch.stack(weights(plain))
    assert len({w.quantiser.scale for w in quantised_weights(model)}) == 1
    scale = next(quantised_weights(model)).quantiser.scale()
    torch.testing.assert_close(scale, everything.abs().mean())

    def error(factor: float) -> float:
        return sum(
            float((w - factor * scale * w.sign()).square().sum().detach()) for w in weights(plain)
        )  # not below at either side

    assert error(1.0) < min(error(0.99), error(1.01))


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
def test_a_scale_for_each_matrix(levels: str) -> None:
    plain = lista(None)
    with torch.no_grad():
        plain.layers[1].weight.mul_(10)
    quantise(plain, Quantisation(patterns=LAYERS, levels=levels, scale="matrix"))
    first, second, _ = (float(w.quantiser.scale().detach()) for w in quantised_weights(plain))
    assert 7 < second / first < 14
    if levels == "8-bit":
        original = lista(None).layers[1].weight * 10
        assert (plain.layers[1].weight - original).abs().max() <= 0.5001 * second


@pytest.mark.parametrize("levels", LEVELS)
def test_structural_zeros_are_zero_and_no_gradient_reaches_them(levels: str) -> None:
    model = lista(levels, blocks=4)
    off = ~torch.block_diag(*[torch.ones(8, 4, dtype=torch.bool)] * 4).bool()
    y, physics = sparse_problem(16, 32, batch=4)
    model(y, physics).square().sum().backward()
    for weight, found in zip(weights(model), quantised_weights(model), strict=True):
        assert not weight[off].any()
        assert weight[~off].count_nonzero() > 0.3 * (~off).sum()
        assert not found.latent.grad[off].any()
        assert found.latent.grad[~off].any()


def test_one_bit_weights_take_two_values() -> None:
    for options in ({}, {"gradient": "tanh"}):
        values = torch.stack(weights(lista(**options))).unique()
        assert len(values) == 2
        assert values[0] == -values[1]
    assert len(torch.stack(weights(lista("ternary"))).unique()) == 3
    assert len(torch.stack(weights(lista("one-bit", blocks=2))).unique()) == 3  # and the structural zeros


def test_weights_of_any_registered_network_are_chosen_by_pattern() -> None:
    model = tiny("unet")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    quantise(model, Quantisation(patterns=("network.unet.down.*.weight", "*.bottom.?.weight")))
    chosen = {w.name for w in quantised_weights(model)}
    assert chosen == {n for n in before if n.endswith(".weight") and (".down." in n or ".bottom." in n)}
    for name, value in before.items():
        assert torch.equal(model.get_parameter(name), value) if name not in chosen else True
    for name in chosen:
        place, _, attribute = name.rpartition(".")
        assert len(getattr(model.get_submodule(place), attribute).unique()) == 2


def test_copies_share_their_scale_and_are_apart() -> None:
    model = lista()
    other = copy.deepcopy(model)
    assert len({id(w.quantiser.scale) for w in quantised_weights(other)}) == 1
    with torch.no_grad():
        next(quantised_weights(other)).quantiser.scale.log_factor.add_(1)
    assert not torch.equal(model.layers[2].weight, other.layers[2].weight)
    assert sum(1 for name, _ in model.named_parameters() if "log_factor" in name) == 1


def test_plain_weights_of_the_same_values() -> None:
    model = lista("ternary", blocks=2)
    before = weights(model)
    remove(model)
    assert not list(quantised_weights(model))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in lista(None).named_parameters()]


def test_a_copy_made_plain_leaves_the_original() -> None:
    model = lista()
    before = weights(model)
    remove(copy.deepcopy(model))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    remove(model)


def test_quantising_what_is_quantised_changes_nothing() -> None:
    model = lista()
    before = weights(model)
    remove(model)
    quantise(model, Quantisation(patterns=LAYERS))
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_double_precision() -> None:
    model = lista().double()
    assert weights(model)[0].dtype == torch.float64
    assert len(weights(model)[0].unique()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ()}, "a pattern"),
        ({"patterns": ("nothing.*",)}, "no weight of the network is called 'nothing"),
        ({"patterns": ("log_thresholds",)}, "no matrix"),
        ({"patterns": LAYERS, "blocks": 3}, "3 blocks do not divide"),
        ({"patterns": LAYERS, "start": 5, "freeze": 4}, "freeze after the start"),
        ({"patterns": LAYERS, "rate": 0.0}, "rate above 0"),
        ({"patterns": LAYERS, "beta": (2.0, 1.0)}, "slope of tanh"),
    ],
    ids=str,
)
def test_what_cannot_be_quantised(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quantise(lista(None), Quantisation(**options))


def test_once_is_enough() -> None:
    with pytest.raises(OptionError, match="already"):
        quantise(lista(), Quantisation(patterns=LAYERS))


# --- counts and files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "blocks", "bits"),
    [
        ("one-bit", 1, 512),
        ("one-bit", 4, 128),
        ("ternary", 1, 512 * math.log2(3)),
        ("8-bit", 2, 2048),
        ("full", 4, 4096),
    ],
)
def test_bits_by_hand(levels: str, blocks: int, bits: float) -> None:
    """Three matrices of 16 x 32, three thresholds, one scale."""
    links = count_links(lista(levels, blocks=blocks))
    assert links.links == 3 * 512 + 3
    assert links.bits == pytest.approx(3 * bits + 32 * (3 + (levels != "full")))
    assert links.per_link == links.bits / links.links
    assert links.compression == 1 - links.per_link / 32


def test_less_than_one_bit_where_structure_allows() -> None:
    model = lista(m=128, n=256, layers=4)
    assert 1 < count_links(model).per_link < 1.01
    assert count_links(lista(m=128, n=256, layers=4, blocks=4)).per_link == pytest.approx(1 / 4, abs=2e-3)
    dense = count_links(lista(None))
    assert (dense.per_link, dense.compression) == (32, 0)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("options", [{}, {"blocks": 4}, {"scale": "matrix"}, {"m": 5, "n": 7}], ids=str)
def test_file_size_is_the_formula_and_the_file_is_exact(
    levels: str, options: dict[str, object], tmp_path: Path
) -> None:
    model = lista(levels, **options)
    path = tmp_path / "small.safetensors"
    card = save_checkpoint(path, model, Card())
    links = count_links(model)
    assert payload_bits(path) == links.stored_bits
    if levels != "ternary" and "m" not in options:
        assert payload_bits(path) == links.bits  # whole bytes, so that nothing is lost
    assert 0 <= links.stored_bits - links.bits < 0.03 * links.bits + 8 * 3
    assert card.figures["bits_per_link"] == links.per_link

    loaded, _ = load_checkpoint(path)
    assert not list(quantised_weights(loaded))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(loaded), strict=True))
    y, physics = sparse_problem(model.measurements, model.unknowns, batch=3)
    with torch.no_grad():
        assert torch.equal(loaded(y, physics), model(y, physics))
    if levels == "one-bit":
        assert weights(loaded)[0][weights(loaded)[0] != 0].unique().numel() == 2


def test_other_networks_pack_too(tmp_path: Path) -> None:
    model = tiny("unet").eval()
    quantise(model, Quantisation(patterns=("*.0.weight", "*.3.weight"), scale="matrix"))
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, model, Card())
    loaded, _ = load_checkpoint(path)
    x = torch.randn(1, 2, 24, 24)
    with torch.no_grad():
        assert torch.equal(loaded.network(x), model.network(x))
    assert payload_bits(path) == count_links(model).stored_bits


def test_shared_modules_are_packed_once(tmp_path: Path) -> None:
    model = tiny("deepinv-varnet").eval()
    convolutions = [name for name, p in model.named_parameters() if p.ndim == 4]
    quantise(model, Quantisation(patterns=tuple(convolutions)))
    save_checkpoint(tmp_path / "a.safetensors", model, Card())
    loaded, _ = load_checkpoint(tmp_path / "a.safetensors")
    assert {name for name, _ in loaded.named_parameters()} >= set(convolutions)
    for name in convolutions:
        assert len(loaded.get_parameter(name).unique()) == 2


def test_the_first_stage_is_saved_plain(tmp_path: Path) -> None:
    model = lista(None)
    quantise(model, Quantisation(patterns=LAYERS, blocks=2), active=False)
    path = tmp_path / "a.safetensors"
    assert "bits_per_link" not in save_checkpoint(path, model, Card()).figures
    loaded, _ = load_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(loaded), strict=True))
    assert count_links(model).per_link == 32


@pytest.mark.parametrize("levels", ["one-bit", "ternary", "8-bit"])
@pytest.mark.parametrize("count", [1, 7, 8, 40, 41])
def test_codes_come_back(levels: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    low, high = {"one-bit": (0, 2), "ternary": (-1, 2), "8-bit": (-127, 128)}[levels]
    codes = torch.randint(low, high, (count,), generator=generator)
    codes = (2 * codes - 1 if levels == "one-bit" else codes).to(torch.int8)
    packed = pack(codes, levels)
    assert packed.numel() == packed_bytes(count, levels)
    assert torch.equal(unpack(packed, count, levels), codes.float())


def test_models_and_load_model_take_packed_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, lista(), Card(summary="a test"))
    assert isinstance(recon.load_model(path), LISTA)
    assert main(["models", str(path)]) == 0
    assert "bits_per_link 1.08" in " ".join(capsys.readouterr().out.split())


def rewritten(path: Path, entry: dict[str, object]) -> Path:
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    table = json.loads(metadata["quantised"])
    metadata["quantised"] = json.dumps([{**table[0], **entry}, *table[1:]])
    path.with_suffix(".json").unlink()
    save_file(load_file(path), path, metadata)
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"levels": "two-bit"}, "unknown kind"),
        ({"levels": "8-bit"}, "do not fit their shape; found 64 bytes; expected 512"),
        ({"shape": [32, 17]}, "do not fit their shape"),
        ({"shape": [-32, -16]}, "unknown kind"),
        ({"shape": "many"}, "does not say how"),
        ({"blocks": 3}, "3 blocks do not divide"),
        ({"scale": "nothing"}, "does not say how"),
        ({"name": "log_thresholds"}, "do not fit their shape|no matrix"),
        ({"name": "nothing"}, "does not say how"),
    ],
    ids=str,
)
def test_metadata_that_do_not_fit(entry: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, lista(), Card())
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(rewritten(path, entry))
    assert str(path) in str(error.value)


# --- training -------------------------------------------------------------------------------------------------


def test_stages_by_step() -> None:
    quantisation = Quantisation(patterns=LAYERS, gradient="tanh", start=3, anneal=10, beta=(1.0, 16.0), freeze=5)
    model = lista(None)
    real = weights(lista(None))
    quantise(model, quantisation, active=False)
    to_step(model, quantisation, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), real, strict=True))
    with torch.no_grad():
        for weight in quantised_weights(model):
            weight.latent.mul_(3)
    to_step(model, quantisation, 3)  # the scale has followed
    quantiser = next(quantised_weights(model)).quantiser
    torch.testing.assert_close(quantiser.scale().detach(), 3 * torch.stack(real).abs().mean())
    assert len(weights(model)[0].unique()) == 2
    with torch.no_grad():
        quantiser.scale.log_factor.add_(0.5)
    for step, beta in ((4, 16.0**0.1), (8, 4.0), (13, 16.0), (40, 16.0)):
        to_step(model, quantisation, step)
        assert float(quantiser.beta) == pytest.approx(beta)
    assert quantiser.scale.log_factor.item() == 0.5  # learned from here on


def test_frozen_codes_stay() -> None:
    quantisation = Quantisation(patterns=LAYERS, freeze=2)
    model = lista().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    y, physics = sparse_problem(16, 32, batch=8)
    codes, scales = [], []
    for step in range(5):
        to_step(model, quantisation, step)
        optimizer.zero_grad()
        model(y, physics).square().mean().backward()
        drop_frozen_gradients(model, quantisation, step)
        optimizer.step()
        codes.append(torch.stack(weights(model)).sign())
        scales.append(float(next(quantised_weights(model)).quantiser.scale().detach()))
    assert not torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1], codes[4])
    assert scales[1] != scales[4]


def fit(levels: str | None, layers: int, *, steps: int = 240) -> float:
    """NMSE of unseen signals in dB after a short training in two stages."""
    torch.manual_seed(0)
    model = LISTA(24, 48, layers).train()
    y, physics = sparse_problem(24, 48, batch=512, rate=0.08)
    x = signals(512, 1)
    quantisation = Quantisation(patterns=LAYERS, levels=levels or "one-bit", start=steps // 2)
    model(y[:1], physics)
    if levels is not None:
        quantise(model, quantisation, active=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        to_step(model, quantisation, step)
        chosen = torch.randperm(512)[:128]
        loss = (model(y[chosen], physics) - x[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = signals(512, 7)
    with torch.no_grad():
        error = model.eval()(physics.A(test), physics) - test
    return 10 * math.log10(float(error.square().sum() / test.square().sum()))


def signals(count: int, seed: int) -> torch.Tensor:
    from recon.datasets.sparse import bernoulli_gaussian

    return bernoulli_gaussian((count, 48), 0.08, seed=seed)


def test_error_falls_with_depth_and_one_bit_is_within_a_few_decibels() -> None:
    real = [fit(None, layers) for layers in (1, 8)]
    one_bit = [fit("one-bit", layers) for layers in (1, 8)]
    assert real[1] < real[0] - 2
    assert one_bit[1] < one_bit[0] - 2
    assert one_bit[1] < real[1] + 8


# --- LISTA ----------------------------------------------------------------------------------------------------


def test_lista_starts_as_ista() -> None:
    """The thresholds are of measurements with a mean square of 1."""
    y, physics = sparse_problem(16, 32, batch=3)
    model = LISTA(16, 32, 4).train()
    ours = model(y, physics)
    a = physics.matrix
    scale = y.square().mean(1, keepdim=True).sqrt()
    x, step = torch.zeros(3, 32), 1 / torch.linalg.matrix_norm(a, ord=2) ** 2
    for _ in range(4):
        z = x + step * (y / scale - x @ a.T) @ a
        x = torch.nn.functional.softshrink(z, 0.1)
    torch.testing.assert_close(ours, x * scale, rtol=1e-4, atol=1e-5)


def test_lista_knows_no_unit_and_no_batch() -> None:
    model = lista()
    y, physics = sparse_problem(16, 32, batch=3)
    with torch.no_grad():
        x = model(y, physics)
        torch.testing.assert_close(model(1024 * y, physics), 1024 * x)
        torch.testing.assert_close(model(y[1:2], physics), x[1:2])
        assert not model(0 * y, physics).any()


def test_lista_of_an_image() -> None:
    from recon.physics.matrix import MatrixOperator

    y, physics = sparse_problem(16, 32, batch=3)
    model = lista()
    with torch.no_grad():
        flat = model(y, physics)
        image = model(y, MatrixOperator(physics.matrix, (1, 4, 8)))
    assert image.shape == (3, 1, 4, 8)
    torch.testing.assert_close(image.flatten(1), flat)


def test_one_bit_lista_may_start_from_nothing() -> None:
    model = LISTA(16, 32, 2).train()
    quantise(model, Quantisation(patterns=LAYERS))
    y, physics = sparse_problem(16, 32, batch=3)
    assert model(y, physics).any()
    expected = physics.matrix.T / torch.linalg.matrix_norm(physics.matrix, ord=2) ** 2
    torch.testing.assert_close(weights(model)[0], expected.abs().mean() * expected.sign())
    latents = [weight.latent for weight in quantised_weights(model)]
    with torch.no_grad():
        latents[0].zero_()
    assert latents[1].any()  # each has a storage of its own


def test_lista_refuses_what_does_not_fit() -> None:
    model = lista()
    y, physics = sparse_problem(16, 32, batch=2)
    with pytest.raises(ShapeError, match="16 real numbers"):
        model(y[:, :15], physics)
    with pytest.raises(ShapeError, match="operator that does not fit"):
        model(*sparse_problem(16, 31, batch=2))
    with pytest.raises(DataError, match="not finite"):
        model(y * torch.nan, physics)
    with pytest.raises(OptionError, match="a layer"):
        LISTA(16, 32, 0)
