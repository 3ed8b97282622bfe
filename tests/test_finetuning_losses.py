"""Losses, parts, null-space terms and adapters of fine-tuning, held against closed forms."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from deepinv.physics import GaussianNoise, Inpainting, PoissonNoise
from deepinv.physics.noise import PoissonGaussianNoise, ZeroNoise
from galaxies import observation
from networks import tiny
from to_tune import SIGMA, Shrink, noisy, pair, rng, scan

from recon.finetuning.holding_out import hold_out, recorrupted
from recon.finetuning.loop import Descent, descend
from recon.finetuning.losses import LOSSES, Unsure, automatic, make_loss, r2r, ssdu, sure
from recon.finetuning.low_rank import add_adapters, merge_adapters
from recon.finetuning.measurements import Measurement, Standardised
from recon.finetuning.null_space import NullSpace, automatic_term
from recon.finetuning.splitting import split
from recon.physics import Denoising, MultiCoilMRI
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.errors import OptionError
from recon.trust import rebuilt

# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.0, 0.4, 1.0])
def test_sure_of_a_shrinkage_is_its_closed_form(a):
    m = noisy(256)
    torch.manual_seed(0)
    value, x = sure(Shrink(a), m, rng())
    power = m.y.square().mean()
    expected = ((1 - a) ** 2 * power - SIGMA**2 + 2 * SIGMA**2 * a) / power
    assert float(value.detach()) == pytest.approx(float(expected), abs=0.01)
    assert torch.equal(x, Shrink(a)(m.y, m.physics))


def test_sure_is_least_at_wieners_shrinkage():
    m = noisy(256)
    model, looks = Shrink(1.0), iter(range(100, 0, -1))  # every look finds it better, so that the last weights stay
    how = Descent(steps=60, lr=0.05, every=10)
    descend(model, [m], lambda f, each, g: sure(f, each, g)[0], lambda: float(next(looks)), how)
    assert float(model.a.detach()) == pytest.approx(float(1 - SIGMA**2 / m.y.square().mean()), abs=0.03)


def test_sure_weighs_stamps_by_their_own_noise():
    m = noisy(128)
    scaled = Measurement(y=torch.cat((m.y[:1], 1000 * m.y[1:])), physics=copy.deepcopy(m.physics))
    scaled.physics.noise_model = GaussianNoise(torch.tensor([SIGMA, 1000 * SIGMA]))
    for f in (Shrink(0.3), Shrink(0.9)):
        values = []
        for each in (m, scaled):
            torch.manual_seed(0)
            values.append(float(sure(f, each, rng())[0].detach()))
        assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_unsure_learns_its_multiplier_by_the_divergence():
    m, model = noisy(128), Shrink(0.6).train()
    loss = Unsure(rate=1e-2)
    first = float(loss.loss.sigma2)
    torch.manual_seed(0)
    value, _ = loss(model, m, rng())
    # Of a shrinkage the divergence is a; the multiplier goes up by the rate times its derivative, 2 a.
    assert float(loss.loss.sigma2) - first == pytest.approx(1e-2 * 2 * 0.6, rel=0.02)
    view = Standardised(m, m.y.square().flatten(1).mean(1).sqrt()[:, None, None, None])
    power = float(view.y.square().mean())
    assert float(value.detach()) == pytest.approx((0.4**2 * power - first + 2 * first * 0.6) / power, rel=0.02)
    kept = float(loss.loss.sigma2)
    with torch.no_grad():
        loss(model.eval(), m, rng())
    assert float(loss.loss.sigma2) == kept  # only training moves it


def test_r2r_is_in_the_mean_the_error_against_the_clean_measurements():
    g = rng(3)
    clean = torch.randn(1, 1, 256, 256, generator=g)
    physics = Denoising(GaussianNoise(SIGMA))
    m = Measurement(y=clean + SIGMA * torch.randn(clean.shape, generator=g), physics=physics)
    differences = []
    for a in (0.5, 0.9):
        torch.manual_seed(1)
        value = float(r2r(Shrink(a), m, rng())[0].detach()) * float(m.y.square().mean())
        supervised = (1 - a) ** 2 * float(clean.square().mean()) + a**2 * SIGMA**2 / (1 - 0.15)
        differences.append(value - supervised)
    assert differences[0] == pytest.approx(differences[1], abs=0.03)  # the noise of the target, whatever the network


@pytest.mark.parametrize("name", ["sure-poisson", "sure-poisson-gaussian"])
def test_sure_of_photons_is_the_error_against_the_truth(name):
    g, gain, sigma = rng(1), 0.1, 0.2 if name == "sure-poisson-gaussian" else 0.0
    clean = 0.5 + torch.rand(1, 1, 256, 256, generator=g)
    y = gain * torch.poisson(clean / gain, generator=g) + sigma * torch.randn(clean.shape, generator=g)
    physics = Denoising(PoissonGaussianNoise(gain, sigma) if sigma else PoissonNoise(gain))
    m = Measurement(y=y, physics=physics)
    torch.manual_seed(0)
    for a in (0.5, 0.9):
        value, _ = make_loss(name)(Shrink(a), m, rng())
        truth = float((a * y - clean).square().mean() / y.square().mean())
        assert float(value.detach()) == pytest.approx(truth, abs=0.02)


def test_ssdu_compares_what_is_left_out_only():
    m = scan()
    model = Shrink(0.7)
    value, x = ssdu(model, m, rng(5))
    kept, left_out = split(m, 0.2, rng(5))
    u, v = m.y[left_out.expand_as(m.y)], m.physics.A(model(*pair(kept)))[left_out.expand_as(m.y)]
    u, v = torch.view_as_real(u), torch.view_as_real(v)
    expected = (u - v).norm() / u.norm() + (u - v).abs().sum() / u.abs().sum()
    assert torch.allclose(value, expected, rtol=1e-5)
    assert torch.equal(x, model(*pair(kept)))


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_has_a_gradient_and_is_the_same_in_double_precision(name):
    if name.startswith("objective"):
        model, m = tiny("unfolded-ista"), noisy(24, noise=GaussianNoise(SIGMA))
    elif "poisson" in name:
        model, m = Shrink(0.5), noisy(24)
        noise = PoissonNoise(0.1) if name == "sure-poisson" else PoissonGaussianNoise(0.1, 0.2)
        m = Measurement(y=m.y.abs(), physics=m.physics)
        m.physics.noise_model = noise
    else:
        model, m = Shrink(0.5), scan()
    values = []
    for dtype in (torch.float32, torch.float64):
        each = m
        if dtype == torch.float64:
            y = m.y.to(torch.complex128 if m.y.is_complex() else dtype)
            each = Measurement(y=y, physics=copy.deepcopy(m.physics).to(dtype))
            if isinstance(m.physics, MultiCoilMRI):
                maps = m.physics.coil_maps.to(torch.complex128)
                each = Measurement(y=y, physics=MultiCoilMRI(maps, m.physics.mask, noise_model=GaussianNoise(0.05)))
        torch.manual_seed(0)
        value, _ = make_loss(name)(copy.deepcopy(model).to(dtype), each, rng())
        values.append(value)
    assert values[1].dtype == torch.float64
    assert bool(torch.isfinite(values[0]))
    torch.manual_seed(0)
    value, _ = make_loss(name)(model, m, rng())
    value.backward()
    assert any(bool(p.grad.abs().sum() > 0) for p in model.parameters())
    if name in ("ssdu", "mc", "objective"):  # without probes, which are drawn in the precision of the data
        assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-4)


def test_data_choose_the_loss_and_say_why():
    assert automatic(scan(), can_split=True)[0] == "ssdu"
    assert automatic(noisy(16), can_split=True)[0] == "sure"
    assert automatic(noisy(16, noise=PoissonNoise(0.1)), can_split=True)[0] == "sure-poisson"
    assert automatic(noisy(16, noise=PoissonGaussianNoise(0.1, 0.1)), can_split=True)[0] == "sure-poisson-gaussian"
    assert automatic(noisy(16, noise=GaussianNoise(0.0)), can_split=True)[0] == "mc"
    unknown = Measurement(y=noisy(16).y, physics=Denoising(ZeroNoise()))
    assert automatic(unknown, can_split=True)[0] == "ssdu"
    assert automatic(unknown, can_split=False)[0] == "unsure"
    assert all(automatic(noisy(16), can_split=True))


# Parts ----------------------------------------------------------------------------------------------------------------


def with_centre(mask):
    mask = mask.clone()
    mask[..., 8:16, 8:16] = True
    return mask


def parts():
    stamps = observation(3)
    matrix = torch.linalg.qr(torch.randn(16, 16, generator=rng()))[0][:10]
    cs = BlockCompressedSensing(matrix, (8, 8), (4, 4))
    lines = torch.zeros(1, 1, 24, 24, dtype=torch.bool)
    lines[..., ::2] = True
    lines[..., 10:14] = True
    of_lines, of_points = (rebuilt(scan().physics, mask=mask) for mask in (lines, with_centre(scan().physics.mask)))
    return {
        "points": Measurement(y=of_points.A(of_points.A_adjoint(scan().y)), physics=of_points),
        "lines": Measurement(y=scan().y * lines, physics=of_lines),
        "stamps": Measurement(y=stamps[1], physics=stamps[2]),
        "blocks": Measurement(y=cs.A(torch.rand(2, 1, 8, 8, generator=rng())), physics=cs),
        "other": noisy(16),
    }


@pytest.mark.parametrize("kind", ["points", "lines", "stamps", "blocks", "other"])
def test_parts_are_disjoint_and_together_all_that_was_measured(kind):
    m = parts()[kind]
    kept, left_out = split(m, 0.3, rng(1))
    again, same = split(m, 0.3, rng(1))
    assert torch.equal(left_out, same)
    assert torch.equal(kept.y, again.y)
    assert 0 < float(left_out.float().mean()) < 0.6
    x = m.physics.A_adjoint(m.y)
    whole = m.physics.A(x)
    seen = kept.physics.A(x)
    if kind == "blocks":
        rows = left_out[0, 0, :, 0, 0]
        assert torch.equal(kept.y, m.y[:, :, ~rows])
        assert torch.allclose(seen, whole[:, :, ~rows])
        return
    assert not bool((kept.y != 0)[left_out.expand_as(m.y)].any())
    assert torch.equal(kept.y, torch.where(left_out, 0, m.y))
    if kind == "stamps":
        assert torch.equal(kept.physics.weight > 0, ~left_out)
    else:
        assert torch.allclose(seen, torch.where(left_out, 0, whole), atol=1e-5)
    if kind in ("points", "lines"):
        assert torch.equal(kept.physics.mask | left_out, m.physics.mask)
        assert not bool((kept.physics.mask & left_out).any())
        assert bool(kept.physics.mask[..., 10:14, 10:14].all())  # the calibration centre stays
    if kind == "lines":
        assert torch.equal(left_out, left_out[..., :1, :].expand_as(left_out))


def test_the_real_view_is_an_isometry_of_what_was_measured():
    m = scan()
    view = Standardised(m, torch.full((1, 1, 1, 1), 2.0))
    assert view.y.shape == (1, 2 * 4 * int(m.physics.mask.sum()))
    assert torch.equal(view.unpack(view.y), m.y)
    assert float(view.y.norm() * 2) == pytest.approx(float(m.y.abs().square().sum().sqrt()), rel=1e-5)
    x = m.physics.A_adjoint(m.y)
    assert torch.allclose(view.A(x), view.pack(m.physics.A(x)))


def test_what_an_operator_does_not_measure_is_no_part_of_the_view():
    mask = (torch.rand(1, 1, 16, 16, generator=rng()) < 0.5).float()
    physics = Inpainting((1, 16, 16), mask=mask, noise_model=GaussianNoise(SIGMA))
    m = Measurement(y=physics(torch.rand(1, 1, 16, 16, generator=rng())), physics=physics)
    view = Standardised(m, m.deviation)
    assert view.y.numel() == int(mask.sum())
    assert torch.allclose(view.unpack(view.y), m.y)
    assert not bool(recorrupted(m, rng()).kept.y[mask == 0].any())


def test_recorrupted_copies_have_independent_noise():
    g = rng(0)
    physics = Denoising(GaussianNoise(SIGMA))
    noise = SIGMA * torch.randn(1, 1, 256, 256, generator=g)
    held = recorrupted(Measurement(y=noise, physics=physics), rng(7))
    first, second = held.kept.y, held.whole.y
    assert abs(float((first * second).mean())) < 4 * float(first.std() * second.std()) / 256
    assert float(first.std()) == pytest.approx(float(held.kept.physics.noise_model.sigma), rel=0.02)
    assert physics.noise_model.sigma == SIGMA


def test_few_scans_give_a_part_each_and_many_are_held_out_whole():
    few = hold_out(Shrink(), [scan(i) for i in range(2)], seed=0)
    assert len(few.training) == len(few.held_out) == 2
    for kept, part in zip(few.training, few.held_out, strict=True):
        assert not bool((kept.physics.mask & part.left_out).any())
    scans = [scan(i) for i in range(10)]
    many = hold_out(Shrink(), scans, seed=0)
    assert (len(many.held_out), len(many.training)) == (2, 8)
    apart = {part.whole.name for part in many.held_out}
    assert apart.isdisjoint({m.name for m in many.training})
    assert many.training[0] in scans


def test_a_network_that_takes_no_part_is_judged_by_recorruption():
    class Whole(Shrink):
        def forward(self, y, physics):
            if not isinstance(physics, Denoising):
                raise OptionError("only images")
            return super().forward(y, physics)

    holding = hold_out(Whole(), [noisy(16)], seed=0)
    assert holding.how == "recorrupted"
    assert holding.training[0].physics.noise_model.sigma > SIGMA
    with pytest.raises(OptionError, match=r"nothing can be held out.*only images"):
        hold_out(Whole(), [Measurement(y=noisy(16).y, physics=Denoising(ZeroNoise()))], seed=0)


# Null space -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [scan, partial(noisy, 24)], ids=["k-space", "image"])
def test_an_equivariant_network_has_no_equivariant_loss(sample):
    m = sample()
    if isinstance(m.physics, MultiCoilMRI):
        m = Measurement(y=m.y, physics=rebuilt(m.physics, mask=torch.ones_like(m.physics.mask)))
    m.physics.noise_model = GaussianNoise(0.0)
    x = m.physics.A_adjoint(m.y)
    assert float(NullSpace("equivariant")(Shrink(1.0), x, m, rng())) < 1e-8
    half = NullSpace("equivariant", 2.0)(Shrink(0.5), x, m, rng())
    assert float(half.detach()) == pytest.approx(2 * 0.25, rel=1e-3)


def test_multi_operator_measures_by_the_sampling_of_others():
    scans = [scan(i) for i in range(3)]
    term = NullSpace("multi-operator", 1.0, [m.physics for m in scans])
    x = scans[0].physics.A_adjoint(scans[0].y)
    seen = []

    class Spy(Shrink):
        def forward(self, y, physics):
            seen.append((physics.mask, physics.coil_maps))
            return super().forward(y, physics)

    for seed in range(8):
        term(Spy(), x, scans[0], rng(seed))
    assert {next(i for i, m in enumerate(scans) if torch.equal(m.physics.mask, mask)) for mask, _ in seen} == {0, 1, 2}
    assert all(torch.equal(maps, scans[0].physics.coil_maps) for _, maps in seen)
    assert automatic_term("sure", scans)[0] == "multi-operator"
    assert automatic_term("sure", scans[:1])[0] == "equivariant"
    assert automatic_term("ssdu", scans)[0] == "none"


# Adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recurrentvarnet", "galaxy-admm"])
def test_merged_adapters_give_the_same_images(name):
    model = tiny(name).eval()
    data = scan() if name == "recurrentvarnet" else Measurement(y=observation(2)[1], physics=observation(2)[2])
    with torch.no_grad():
        before = model(*pair(data))
        count = add_adapters(model, 2)
        assert torch.equal(model(*pair(data)), before)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == count < sum(p.numel() for p in tiny(name).parameters())
        for p in trained:
            p.add_(0.1 * torch.randn(p.shape, generator=rng()))
        adapted = model(*pair(data))
        merge_adapters(model)
        assert torch.allclose(model(*pair(data)), adapted, atol=1e-5 * float(adapted.abs().max()))
    assert not torch.allclose(adapted, before, rtol=1e-3)
    assert model.state_dict().keys() == tiny(name).state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
