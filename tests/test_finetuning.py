"""Steps of fine-tuning, all of it on tiny networks, and input that is refused."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import PoissonNoise
from deepinv.physics.noise import ZeroNoise
from galaxies import observation
from networks import problem_of, tiny
from to_tune import Shrink, noisy, pair, scan
from torch import nn

import recon
from recon.cards import read_card
from recon.finetuning.data import check, measurements_of
from recon.finetuning.loop import Descent, descend
from recon.finetuning.losses import automatic
from recon.finetuning.measurements import Measurement
from recon.measured_files import simulate_measurements
from recon.physics import Denoising, FunctionPhysics
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.errors import DataError, OperatorError, OptionError, ShapeError
from recon.physics.measurement_matrices import gaussian_matrix
from recon.physics_spec import parse_spec
from recon.prepare import Preparation

QUICK = Descent(steps=4, lr=1e-3, every=2)


# Steps ----------------------------------------------------------------------------------------------------------------


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def squares(model, m, _rng):
    return (model(m.y, m.physics) - m.y).square().mean()


def test_gradients_of_several_measurements_are_averaged():
    scans = [noisy(8, seed=i) for i in range(3)]
    model = Shrink(0.5)
    for m in scans:
        (squares(model, m, None) / 3).backward()
    gradient = model.a.grad.clone()
    steps = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            steps.append(self.param_groups[0]["params"][0].grad.clone())
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recon.finetuning.loop._optimiser", lambda w, how: Recorder(w, lr=how.lr))
        descend(Shrink(0.5), scans, squares, lambda: 1.0, Descent(steps=1, accumulate=3))
    assert torch.allclose(steps[0], gradient, rtol=1e-5)


def test_it_stops_when_nothing_gets_better_and_keeps_the_best():
    errors = iter([5.0, 4.0, 3.0, 3.5, 3.6, 3.7, 1.0])
    model, seen = Shrink(0.5), []

    def judge():
        seen.append(float(model.a.detach()))
        return next(errors)

    course = descend(model, [noisy(8)], squares, judge, Descent(steps=100, every=2, patience=3))
    assert course.stop == "no better for long"
    assert (course.step, course.after, course.before) == (4, 3.0, 5.0)
    assert [step for step, _ in course.history] == [2, 4, 6, 8, 10]
    assert float(model.a.detach()) == seen[2] != seen[-1]


@pytest.mark.parametrize("bad", ["loss", "error", "growing"])
def test_divergence_ends_it_with_the_best_weights(bad):
    model = Shrink(0.5)
    calls = iter(range(100))

    def objective(f, m, g):
        return squares(f, m, g) * (float("nan") if bad == "loss" and next(calls) > 4 else 1.0)

    looks = iter([1.0, 0.9, float("nan") if bad == "error" else 2.5 if bad == "growing" else 0.95, 0.1, 0.1])
    course = descend(model, [noisy(8)], objective, lambda: next(looks), Descent(steps=20, every=2))
    assert (course.stop, course.after, course.step) == ("diverged", 0.9, 2)
    assert bool(torch.isfinite(model.a))


def test_interruption_keeps_the_best_weights():
    model = Shrink(0.5)
    looks = iter([1.0, 0.5, 0.6])
    best = []

    def tell(step, steps, before, after):
        assert (steps, before) == (50, 1.0)
        if step == 2:
            best.append(float(model.a.detach()))
        if step == 5:
            raise KeyboardInterrupt

    course = descend(model, [noisy(8)], squares, lambda: next(looks), Descent(steps=50, every=2), progress=tell)
    assert (course.stop, course.step) == ("interrupted", 2)
    assert float(model.a.detach()) == best[0]


def test_statistics_of_batches_are_left_alone():
    class WithNorm(Shrink):
        def __init__(self):
            super().__init__(0.5)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, y, physics):
            return self.norm(super().forward(y, physics))

    model = WithNorm()
    descend(model, [noisy(8)], squares, lambda: 1.0, Descent(steps=3))
    assert float(model.norm.running_mean) == 0.0


def test_options_that_make_no_descent_are_refused():
    for bad in ({"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"accumulate": 0}, {"patience": 0}):
        with pytest.raises(OptionError):
            Descent(**bad)


# Altogether -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimiser", "rank"), [("adam", None), ("muon", None), ("adam", 2)])
def test_a_network_gets_better_on_one_scan_and_says_what_was_done(optimiser, rank, tmp_path):
    model, m = tiny("recurrentvarnet"), scan()
    start = weights(model)
    state = torch.random.get_rng_state()
    descent = Descent(steps=12, lr=1e-2, every=3, optimiser=optimiser)
    tuned = recon.finetune(model, pair(m), loss="ssdu", rank=rank, descent=descent, seed=3)
    assert torch.equal(weights(model), start)  # the caller's is left as it was
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tuned.improved
    assert tuned.course.after < 0.98 * tuned.course.before
    told = tuned.card.figures["fine-tuning"]
    assert told["held-out error"] == {"before": tuned.course.before, "after": tuned.course.after}
    assert (told["seed"], told["rank"], told["measurements"]) == (3, rank, 1)
    assert told["loss"].startswith("ssdu")
    assert list(told["data"].values()) == [measurements_of(pair(m)).origins[0].sha256]
    written = tuned.save(tmp_path / "new.safetensors")
    again = recon.load_model(tmp_path / "new.safetensors")
    assert torch.equal(again(*pair(m)), tuned.model(*pair(m)))
    assert read_card(tmp_path / "new.json") == written
    assert "1 measurement:" in written.summary


def test_same_seed_same_weights():
    data = [pair(scan(i, shape=(16, 16))) for i in range(6)]
    runs = [recon.finetune(tiny("recurrentvarnet"), data, loss="sure", descent=QUICK, seed=s) for s in (1, 1, 2)]
    first, same, other = (run.course.history for run in runs)
    assert first == same != other


def test_the_network_comes_back_where_nothing_is_better(tmp_path):
    model = tiny("recurrentvarnet")
    tuned = recon.finetune(model, pair(scan()), descent=Descent(steps=2, lr=1e3, every=1))
    assert not tuned.improved
    assert tuned.course.after == tuned.course.before
    assert torch.equal(weights(tuned.model), weights(model))
    assert any("network that came in" in note for note in tuned.notes)
    assert any("diverged" in note for note in tuned.notes)
    tuned.save(tmp_path / "same.safetensors")


def test_the_card_goes_on_from_that_of_the_network():
    model = recon.load_model("recurrentvarnet")
    before = model.card
    assert before is not None
    small = [scan(0, shape=(32, 24), coils=3)]
    tuned = recon.finetune(model, small, loss="ssdu", descent=Descent(steps=3, every=1, lr=1e-4))
    assert tuned.improved
    assert tuned.card.trained_on[: len(before.trained_on)] == before.trained_on
    assert len(tuned.card.trained_on) == len(before.trained_on) + 1
    assert tuned.card.calibration == {}  # its intervals were measured with other weights
    assert (tuned.card.covers.coils[0], tuned.card.covers.matrix[0]) == (3, 24)


@pytest.mark.parametrize(
    "name", ["coast", "galaxy-admm", "lista", "ista-net-plus", "shapenet", "unet", "unfolded-ista"]
)
def test_other_networks_run(name):
    if name in ("galaxy-admm", "shapenet"):
        _, y, physics = observation(3)
    elif name == "lista":
        y, physics = problem_of(name)
    elif name in ("coast", "ista-net-plus"):
        physics = BlockCompressedSensing(gaussian_matrix(10, 64, torch.Generator().manual_seed(0)), (16, 16), (8, 8))
        y = physics.A(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    elif name == "unfolded-ista":
        y, physics = pair(noisy(24))
    else:
        y, physics = pair(scan())
    loss = "objective" if name == "unfolded-ista" else "auto"
    tuned = recon.finetune(tiny(name), [(y, physics)], loss=loss, descent=QUICK)
    assert tuned.course.after <= tuned.course.before
    assert len(tuned.course.history) == 2 or tuned.course.stop == "diverged"


def test_measurements_of_other_operators_come_with_their_noise():
    image = recon.datasets.Image(pixels=torch.rand(2, 24, 24).numpy(), source=recon.datasets.Source("array"))
    measured = simulate_measurements(image, parse_spec("inpainting:keep=0.7,sigma=0.1"))
    found = measurements_of(measured, how=Preparation(device="cpu"))
    assert len(found) == 2
    assert torch.equal(found[1].y[0], torch.from_numpy(measured.slice(1)))
    assert float(found[0].physics.noise_model.sigma) == pytest.approx(0.1)
    tuned = recon.finetune(tiny("ram-light"), measured, descent=QUICK)
    assert tuned.card.figures["fine-tuning"]["loss"].startswith("sure")
    unknown = Measurement(y=found[0].y, physics=found[0].physics, estimated=True)
    assert automatic(unknown, can_split=True)[0] == "ssdu"


# Bad input ------------------------------------------------------------------------------------------------------------


def test_bad_measurements_are_refused():
    model, (y, physics) = Shrink(), pair(noisy(8))
    with pytest.raises(OptionError, match=r"no measurements.*empty list"):
        recon.finetune(model, [])
    with pytest.raises(DataError, match="not finite"):
        recon.finetune(model, (y / 0, physics))
    with pytest.raises(ShapeError, match="fit"):
        recon.finetune(tiny("recurrentvarnet"), (scan().y[:, :2], scan().physics))
    with pytest.raises(DataError, match="negative"):
        recon.finetune(model, pair(noisy(8, noise=PoissonNoise(0.1))))
    with pytest.raises(OptionError, match="level of Gaussian noise"):
        recon.finetune(model, Measurement(y=y, physics=Denoising(ZeroNoise())), loss="sure")
    with pytest.raises(OptionError, match="no loss is called 'sur'"):
        recon.finetune(model, (y, physics), loss="sur")
    with pytest.raises(OptionError, match="tells no loss 'objective'"):
        recon.finetune(model, (y, physics), loss="objective")
    with pytest.raises(OptionError, match="two operators"):
        recon.finetune(model, (y, physics), null_space="multi-operator")
    with pytest.raises(OptionError, match="without weights"):
        recon.finetune("cg-sense", pair(scan()))
    with pytest.raises(OptionError, match="no gradient"):
        recon.finetune(tiny("drunet-pnp"), pair(scan()), loss="ssdu")
    with pytest.raises(OptionError, match="rank"):
        recon.finetune(tiny("recurrentvarnet"), pair(scan()), rank=1000)
    with pytest.raises(OptionError, match="nothing is known of"):
        recon.finetune(model, [1])


def test_a_noise_level_below_zero_is_refused():
    m = noisy(8)
    m.physics.noise_model.sigma = torch.tensor([-1.0])
    with pytest.raises(DataError, match="noise level"):
        check(m)


def test_a_wrong_adjoint_and_a_nonlinear_operator_are_refused_before_anything_is_done():
    y = noisy(8).y
    wrong = FunctionPhysics(lambda x: 2 * x, lambda v: v, img_size=(1, 8, 8))
    with pytest.raises(OperatorError, match="adjoint"):
        recon.finetune(Shrink(), [pair(noisy(8)), (y, wrong)])  # whichever it is
    affine = FunctionPhysics(lambda x: x + 1, lambda v: v, img_size=(1, 8, 8))
    with pytest.raises(OperatorError, match="not linear"):
        recon.finetune(Shrink(), (y, affine))
