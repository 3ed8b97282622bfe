"""Sparse recovery: its data and operator, thresholds, objectives; ISTA, FISTA and IHT, plain and unfolded."""

from __future__ import annotations

import copy
import math

import deepinv
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

import recon
from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections, noise_of_snr
from recon.datasets.tensors import TensorBatch
from recon.models import registry
from recon.models.thresholding import momenta
from recon.models.unfolded_ista import UnfoldedFISTA, UnfoldedIHT, UnfoldedISTA
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.matrix import MatrixOperator
from recon.sparse_problem import check_options, sparse_problem
from recon.training.data.sparse import SparseData
from recon.training.losses import LOSSES
from recon.training.module import ReconstructionModule
from recon.training.schedule import Schedule

CONSTANT = Schedule(warmup=0, period=10**6)


def problem(m=30, n=60, batch=4, *, rate=0.08, dtype=torch.float64, shape=None):
    """Noisy projections of sparse signals: (x, y, physics)."""
    matrix = gaussian_projections(m, n, seed=0, dtype=dtype)
    physics = MatrixOperator(matrix, shape)
    x = bernoulli_gaussian((batch, *physics.img_size), rate, seed=1, dtype=dtype)
    noise = torch.randn(batch, m, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return x, physics.A(x) + noise_of_snr(matrix, rate, 30.0) * noise, physics


def posed(y, physics, penalty="l1", **options):
    options = {"regularisation": None, "relative": 0.05, "sparsity": "auto"} | options
    return sparse_problem(y, physics, penalty, **options)


# --- data and operator ----------------------------------------------------------------------------------------


def test_signals_are_sparse_and_normal() -> None:
    x = bernoulli_gaussian((400, 100), 0.1, seed=0)
    assert float((x != 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(x[x != 0].std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(x, bernoulli_gaussian((400, 100), 0.1, seed=0))
    assert bool((bernoulli_gaussian((50,), 1.0, seed=0) != 0).all())


def test_columns_of_the_matrix_are_of_norm_one() -> None:
    assert float(gaussian_projections(400, 200, seed=0).square().sum(0).mean()) == pytest.approx(1, abs=0.01)


def test_noise_is_what_the_snr_says() -> None:
    matrix = gaussian_projections(100, 200, seed=0)
    clean = bernoulli_gaussian((3000, 200), 0.1, seed=1) @ matrix.T
    sigma = noise_of_snr(matrix, 0.1, 20.0)
    assert 10 * math.log10(float(clean.square().mean()) / sigma**2) == pytest.approx(20, abs=0.1)


def test_operator_of_a_matrix() -> None:
    matrix = torch.arange(12.0).reshape(2, 6)
    physics = MatrixOperator(matrix, (1, 2, 3))
    x = torch.randn(4, 1, 2, 3)
    torch.testing.assert_close(physics.A(x), x.reshape(4, 6) @ matrix.T)
    assert physics.sqnorm == pytest.approx(float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1]), rel=1e-5)
    for wrong in (torch.zeros(4, 1, 3, 2), torch.zeros(4, 6)):
        with pytest.raises(ShapeError, match="do not fit the matrix"):
            physics.A(wrong)
    with pytest.raises(ShapeError, match="do not fit the matrix"):
        physics.A_adjoint(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="does not fit the images"):
        MatrixOperator(matrix, (2, 2))
    with pytest.raises(DataError, match="not finite"):
        MatrixOperator(matrix / 0)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_no_such_rate(rate: float) -> None:
    with pytest.raises(OptionError, match="not zero"):
        bernoulli_gaussian((3,), rate, seed=0)
    with pytest.raises(OptionError, match="a row and a column"):
        gaussian_projections(0, 3, seed=0)


# --- the problem ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_threshold_is_the_proximal_map(penalty: str) -> None:
    """No other value of any coefficient costs less: against a fine grid."""
    _, y, physics = problem(batch=1)
    p = posed(y, physics, penalty)
    z = torch.linspace(-2, 2, 60, dtype=y.dtype)[None]
    weight = 0.3
    threshold = weight if penalty == "l1" else math.sqrt(2 * weight)
    found = p.prox(z, torch.full((1, 1), threshold, dtype=y.dtype))
    grid = torch.linspace(-2.5, 2.5, 5001, dtype=y.dtype)
    grid[2500] = 0.0
    penalties = (lambda u: u.abs()) if penalty == "l1" else (lambda u: (u != 0).to(u))
    cost = 0.5 * (grid[:, None] - z) ** 2 + weight * penalties(grid)[:, None]
    best = 0.5 * (found - z) ** 2 + weight * penalties(found)
    assert bool((best <= cost.amin(0) + 1e-9).all())


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_objective_by_its_formula(penalty: str) -> None:
    x, y, physics = problem()
    p = posed(y, physics, penalty, regularisation=0.3)
    penalties = x.abs().sum(1) if penalty == "l1" else (x != 0).sum(1)
    residual = (physics.A(x) - y).square().sum(1)
    torch.testing.assert_close(p.objective(x), 0.5 * residual + 0.3 * penalties)
    torch.testing.assert_close(p.relative_objective(torch.zeros_like(x)), torch.ones(4, dtype=y.dtype))


def test_zero_is_the_solution_from_the_largest_strength_on() -> None:
    _, y, physics = problem()
    for name in ("ista", "fista", "iht"):
        assert not registry[name](20, relative=1.001)(y, physics).any(), name
        assert registry[name](20, relative=0.98)(y, physics).any(), name


def test_complex_images_are_shrunk_by_magnitude() -> None:
    maps = torch.ones(1, 1, 1, 4, 4, dtype=torch.complex128)
    physics = recon.physics.MultiCoilMRI(maps[:, 0], torch.ones(1, 1, 4, 4, dtype=torch.bool))
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    p = posed(physics.A(x), physics, sparsity="pixels")
    shrunk = p.prox(x, torch.full((1, 1, 1, 1), 0.5, dtype=x.dtype))
    z = torch.complex(x[:, 0], x[:, 1])
    expected = z / z.abs() * (z.abs() - 0.5).clamp_min(0)
    torch.testing.assert_close(torch.complex(shrunk[:, 0], shrunk[:, 1]), expected)
    weight = float(p.strength)
    torch.testing.assert_close(p.objective(x), weight * z.abs().sum()[None], rtol=1e-9, atol=1e-9)


def test_wavelets_leave_the_coarse_part() -> None:
    matrix = torch.eye(16 * 16, dtype=torch.float64)
    physics = MatrixOperator(matrix, (1, 16, 16))
    flat = torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64)
    for name in ("ista", "iht"):
        torch.testing.assert_close(registry[name](5)(physics.A(flat), physics), flat, rtol=1e-8, atol=1e-8)
    spike = torch.zeros_like(flat)
    spike[..., 5, 5] = 1
    assert not torch.allclose(registry["ista"](5, relative=0.5)(physics.A(spike), physics), spike, atol=1e-2)


# --- classical ------------------------------------------------------------------------------------------------


def test_agrees_with_deepinv() -> None:
    _, y, physics = problem()
    strength = 0.1
    # FISTA has another sequence of momenta there: the same minimum.
    for name, solver, steps in (("ista", deepinv.optim.PGD, 25), ("fista", deepinv.optim.FISTA, 3000)):
        theirs = solver(
            data_fidelity=deepinv.optim.L2(),
            prior=deepinv.optim.L1Prior(),
            stepsize=1 / physics.sqnorm,
            lambda_reg=strength,
            max_iter=steps,
            early_stop=False,
            custom_init=lambda y, physics: {"est": (0 * physics.A_adjoint(y), 0 * physics.A_adjoint(y))},
        )
        ours = registry[name](steps, regularisation=strength)(y, physics)
        error = 1e-9 if name == "ista" else 1e-4
        torch.testing.assert_close(ours, theirs(y, physics), rtol=error, atol=error)


def test_solution_is_optimal() -> None:
    """Zero is a subgradient: A^T(y - Ax) is lambda sign(x) where x is not 0, and within it elsewhere."""
    _, y, physics = problem()
    x = registry["fista"](4000, regularisation=0.1)(y, physics)
    correlation = physics.A_adjoint(y - physics.A(x))
    on = x.abs() > 1e-6
    torch.testing.assert_close(correlation[on], 0.1 * x.sign()[on], rtol=1e-4, atol=1e-6)
    assert float(correlation[~on].abs().max()) <= 0.1 + 1e-6


def test_objective_falls() -> None:
    _, y, physics = problem()
    for name in ("ista", "iht"):
        model = registry[name](40)
        p = model.problem(y, physics)
        values = torch.stack([p.objective(x) for x in model.trajectory(p)])
        assert bool((values[1:] <= values[:-1] + 1e-12).all()), name


def test_momenta_of_the_paper() -> None:
    t = [1.0]
    for _ in range(5):
        t.append((1 + math.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    assert momenta(5) == pytest.approx([(t[k] - 1) / t[k + 1] for k in range(5)])


@pytest.mark.parametrize("name", ["ista", "fista", "iht", "unfolded-ista", "unfolded-fista", "unfolded-iht"])
def test_scales_with_its_measurements_and_keeps_batches_apart(name: str) -> None:
    _, y, physics = problem()
    x = registry[name](10)(y, physics)
    torch.testing.assert_close(registry[name](10)(1024 * y, physics), 1024 * x)
    torch.testing.assert_close(registry[name](10)(y[2:3], physics), x[2:3])
    assert not registry[name](10)(0 * y, physics).any()
    with pytest.raises(DataError, match="not finite"):
        registry[name](10)(y / 0, physics)


def test_other_operators() -> None:
    """A blur whose norm is not known, one PSF a stamp; and coils."""
    physics, x = recon.physics.operators["psf-convolution"].example(torch.Generator().manual_seed(0), batch=2)
    assert registry["ista"](5)(physics.A(x), physics).shape == x.shape
    alone = recon.physics.PSFConvolution(physics.psf[1:])
    pair = registry["ista"](5)(physics.A(x), physics)
    torch.testing.assert_close(registry["ista"](5)(alone.A(x[1:]), alone), pair[1:], rtol=1e-3, atol=1e-4)


def test_reconstructs_coils_by_wavelets(generator: torch.Generator) -> None:
    yy, xx = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    image = ((yy**2 + xx**2) < 0.6).float() + 0.5 * ((yy - 0.2).abs() + xx.abs() < 0.3).float()
    mask = torch.rand(1, 1, 32, 32, generator=generator) < 0.5
    mask[..., 12:20, 12:20] = True
    physics = recon.physics.MultiCoilMRI(torch.ones(1, 1, 32, 32, dtype=torch.complex64), mask)
    truth = torch.stack((image, 0 * image))[None]
    y = physics.A(truth)
    zero_filled = physics.A_adjoint(y)
    for name, relative, bound in (("ista", None, 0.8), ("fista", None, 0.8), ("iht", 0.1, 0.95)):
        x = registry[name](relative=relative)(y, physics)
        assert (x - truth).norm() < bound * (zero_filled - truth).norm(), name


@pytest.mark.parametrize(
    "options",
    [{"iterations": 0}, {"relative": 0.0}, {"relative": math.nan}, {"regularisation": -1.0}],
    ids=str,
)
def test_refuses(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        registry["ista"](**options)
    with pytest.raises(OptionError):
        registry["unfolded-iht"](**options)
    with pytest.raises(OptionError, match="found curvelets"):
        check_options(iterations=1, regularisation=None, relative=0.1, sparsity="curvelets")
    with pytest.raises(OptionError, match="number of knots"):
        UnfoldedISTA(5, knots=6)


# --- unfolded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ista", "fista", "iht"])
@pytest.mark.parametrize("options", [{}, {"knots": 4}, {"learn_thresholds": True}], ids=str)
def test_untrained_is_the_classical_one(name: str, options: dict[str, object]) -> None:
    _, y, physics = problem()
    model = registry[f"unfolded-{name}"](12, **options).double()
    torch.testing.assert_close(model(y, physics), registry[name](12)(y, physics), rtol=1e-5, atol=1e-6)
    model.depth = 7
    torch.testing.assert_close(model(y, physics), registry[name](7)(y, physics), rtol=1e-5, atol=1e-6)


def test_knots_are_interpolated() -> None:
    model = UnfoldedISTA(7, knots=3)
    with torch.no_grad():
        model.step.copy_(torch.tensor([1.0, 3.0, 2.0]).expm1().log())
    sizes, thresholds = model.schedule()
    assert sizes.tolist() == pytest.approx([1, 5 / 3, 7 / 3, 3, 8 / 3, 7 / 3, 2])
    assert thresholds is None


class Told(torch.nn.Module):
    """A network's own loss as the output of a module."""

    def __init__(self, network, y, physics, loss: str) -> None:
        super().__init__()
        self.network, self.y, self.operator, self.loss = network, y, [physics], loss

    def forward(self):
        return self.network.with_losses(self.y, self.operator[0], (self.loss,))[1][self.loss]


@pytest.mark.parametrize("loss", ["objective", "objective-all-layers"])
@pytest.mark.parametrize("cls", [UnfoldedISTA, UnfoldedFISTA, UnfoldedIHT])
def test_gradients_of_the_steps(cls: type, loss: str) -> None:
    """Against differences; those of IHT where no coefficient enters or leaves the support."""
    _, y, physics = problem()
    soft = cls.penalty == "l1"
    told = Told(cls(4, learn_thresholds=soft).double(), y, physics, loss)
    names = [name for name, _ in told.named_parameters()]
    assert len(names) == (2 if soft else 1)

    def value(*parameters):
        return torch.func.functional_call(told, dict(zip(names, parameters, strict=True)), ())

    assert torch.autograd.gradcheck(value, list(told.parameters()), eps=1e-7, atol=1e-5)


def test_losses_of_the_network_by_their_definition() -> None:
    _, y, physics = problem()
    model = UnfoldedISTA(6, relative=0.05).double()
    x, told = model.with_losses(y, physics, ("objective", "objective-all-layers"))
    torch.testing.assert_close(x, model(y, physics))
    p = model.problem(y, physics)
    energy = 0.5 * y.square().sum(1)
    layers = torch.stack([(p.objective(x) / energy).mean() for x in model.trajectory(p)])
    torch.testing.assert_close(told["objective"], layers[-1])
    torch.testing.assert_close(told["objective-all-layers"], layers.mean())
    _, last = model.with_losses(y, physics, ("objective",))
    torch.testing.assert_close(last["objective"], layers[-1])


def trained(network: str, loss: str, *, steps: int = 60, layers: int = 8, lr: float = 0.05) -> ReconstructionModule:
    data = SparseData(shape=(8, 8), measurements=32, rate=0.08, train=32 * steps, validation=4, batch_size=32)
    arguments = {"iterations": layers, "relative": 0.05}
    module = ReconstructionModule(network, arguments, loss={loss: 1.0}, lr=lr, schedule=CONSTANT)
    Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        devices=1,
    ).fit(module, data)
    return module.eval()


def test_supervised_is_nearer_to_the_truth_and_unsupervised_to_the_minimum() -> None:
    data = SparseData(shape=(8, 8), measurements=32, rate=0.08, validation=200, seed=5)
    batch = data.collate([data.validation_set()[i] for i in range(200)])
    found = {}
    for loss in ("mse", "objective", "objective-all-layers"):
        network = trained("unfolded-ista", loss).network
        with torch.no_grad():
            x, told = network.with_losses(batch.y, batch.physics(), ("objective",))
        found[loss] = (float((x - batch.target).square().mean()), float(told["objective"]))
    with torch.no_grad():
        plain = UnfoldedISTA(8, relative=0.05)
        x, told = plain.with_losses(batch.y, batch.physics(), ("objective",))
        limit = registry["fista"](1000, relative=0.05)(batch.y, batch.physics())
        least = float(plain.problem(batch.y, batch.physics()).relative_objective(limit).mean())
    ista = (float((x - batch.target).square().mean()), float(told["objective"]))
    assert found["mse"][0] < min(found["objective"][0], ista[0])
    assert found["mse"][1] > found["objective"][1]
    assert least <= found["objective"][1] < ista[1]
    assert found["objective-all-layers"][1] < ista[1]
    assert found["objective"][1] - least < 0.7 * (ista[1] - least)


def test_networks_without_losses_of_their_own_are_trained_as_before() -> None:
    with pytest.raises(OptionError, match="found objective"):
        ReconstructionModule("unet", {"features": 4, "pools": 1}, loss={"objective": 1.0})
    with pytest.raises(OptionError, match="objective-all-layers"):  # listed among those there are
        ReconstructionModule("unfolded-ista", loss={"objectives": 1.0})


def test_training_data_are_the_same_for_the_same_seed_and_other_ones_each_epoch() -> None:
    data = SparseData(shape=(4, 5), measurements=8, train=6, validation=3, batch_size=3)
    images = data.training_set()
    first = images[2].y
    assert torch.equal(first, data.training_set()[2].y)
    images.set_epoch(1)
    assert not torch.equal(first, images[2].y)
    assert not torch.equal(first, data.validation_set()[2].y)
    batch = data.collate([images[i] for i in range(3)])
    assert isinstance(batch, TensorBatch)
    assert batch.physics() is data.operator
    noise = batch.y - data.operator.A(batch.target)
    assert 0 < float(noise.std()) < 3 * data.sigma
    moved = batch.to("meta")
    assert moved.physics().matrix.device.type == moved.y.device.type == "meta"
    assert data.operator.matrix.device.type == "cpu"
    assert "rate 0.1" in data.card().summary
    with pytest.raises(OptionError, match="images have two sides"):
        SparseData(shape=(4, 0))


def test_mse_is_in_units_of_the_noise() -> None:
    data = SparseData(shape=(4, 5), measurements=8, validation=3)
    batch = data.collate([data.validation_set()[i] for i in range(3)])
    expected = 4.0 / data.sigma**2
    assert float(LOSSES["mse"](batch.target + 2.0, batch)) == pytest.approx(expected, rel=1e-4)


def test_is_registered_and_described() -> None:
    assert {"ista", "fista", "iht", "unfolded-ista", "unfolded-fista", "unfolded-iht"} <= set(recon.models())
    assert copy.deepcopy(UnfoldedISTA(3)).arguments["iterations"] == 3
    assert np.isclose(float(UnfoldedISTA(3).schedule()[0].sum().detach()), 3)
