"""Attribution: curvature, TracIn, influence and SOURCE against closed forms; the linear datamodelling score."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from deepinv.models import Reconstructor
from exact_hessian import ExactHessian
from networks import problem, tiny
from torch import nn
from unlearning_problems import LinearNetwork, Ridge, fitted, linear_examples, ridge_solution

from recon.models.convgru import ReplicatedConv
from recon.physics.errors import OptionError, ShapeError
from recon.physics.layout import to_complex
from recon.training.examples import Example
from recon.unlearning.attribution.blocks import Layout, factors
from recon.unlearning.attribution.curvature import EKFAC, roots
from recon.unlearning.attribution.datamodel import datamodelling_score, draw_subsets
from recon.unlearning.attribution.estimators import Problem, Segment, adam_units, influence, source, tracin
from recon.unlearning.attribution.figures import Hallucination, figure_of
from recon.unlearning.examples import Examples, item_of
from recon.unlearning.layers import flat
from recon.unlearning.objectives import SelfSupervised, Supervised

PENALTY = 0.05


def mri_examples(count: int, shape: tuple[int, int] = (24, 24)) -> Examples:
    items = []
    for i in range(count):
        y, physics = problem(shape=shape, seed=i)
        target = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(100 + i))
        example = Example(
            y=y[0],
            mask=physics.mask[0, 0],
            coil_maps=physics.coil_maps[0, 0],
            sigma=float("nan"),
            target=to_complex(target)[0, 0],
            name=f"slice {i}",
        )
        items.append(item_of(example, origin=f"file{i // 2}"))
    return Examples(items)


def ridge_problem(train: Examples, query: Examples) -> Problem:
    return Problem(train=train, objective=Ridge(PENALTY), query=query, figure=Ridge(0.0))


def exact(train: Examples):
    return lambda models, scale: ExactHessian(models, train, Ridge(PENALTY), scale)


def figures(weights: torch.Tensor, query: Examples) -> torch.Tensor:
    """What `Ridge(0)` says of each query."""
    y, x = (torch.stack([item.content[i] for item in query]) for i in (0, 1))
    return 0.5 * (y @ weights.T - x).square().sum(1)


def without(train: Examples, index: int, share: float) -> torch.Tensor:
    """Weights where a share of one example's objective, penalty included, is left out."""
    y, x = (torch.stack([item.content[i] for item in train]) for i in (0, 1))
    w = torch.full((len(y),), 1 / len(y), dtype=y.dtype)
    w[index] *= 1 - share
    gram = (y.T * w) @ y + PENALTY * (1 - share / len(y)) * torch.eye(y.shape[1], dtype=y.dtype)
    return torch.linalg.solve(gram, (y.T * w) @ x).T


def test_the_exact_influence_is_leaving_one_out_to_first_order() -> None:
    train, query = linear_examples(60, seed=1, noise=0.5), linear_examples(4, seed=1, noise=2.0)
    model = fitted(train, PENALTY)
    found = influence(ridge_problem(train, query), model, exact(train)([model], None), damping=0)
    small, whole = 1e-4, []
    for m in range(len(train)):
        slope = (figures(without(train, m, small), query) - figures(without(train, m, -small), query)) / (2 * small)
        torch.testing.assert_close(found[:, m], slope, rtol=1e-5, atol=1e-9)
        whole.append(figures(ridge_solution(train.subset([i for i in range(60) if i != m]), PENALTY), query))
    exactly = torch.stack(whole, 1) - figures(model.layers[0].weight, query)[:, None]
    assert (found - exactly).norm() < 0.25 * exactly.norm()
    assert torch.corrcoef(torch.stack((found.flatten(), exactly.flatten())))[0, 1] > 0.99


def test_tracin_is_the_sum_of_products_of_gradients() -> None:
    train, query = linear_examples(7, seed=1), linear_examples(3, seed=2)
    models = [LinearNetwork(5, 3, 4).double() for _ in range(3)]
    segments = [Segment((models[0], models[1]), steps=4, lr=0.1), Segment((models[2],), steps=3, lr=0.2)]
    found = tracin(ridge_problem(train, query), segments)
    wanted = torch.zeros(3, 7, dtype=torch.float64)
    for model, weight in zip(models, (0.2, 0.2, 0.6), strict=True):
        for q in range(3):
            ours = torch.autograd.grad(Ridge(0.0)(model, query.batch([q]), None), list(model.parameters()))
            for m in range(7):
                theirs = torch.autograd.grad(Ridge(PENALTY)(model, train.batch([m]), None), list(model.parameters()))
                wanted[q, m] += weight * sum((a * b).sum() for a, b in zip(ours, theirs, strict=True)) / 7
    torch.testing.assert_close(found, wanted)


def whole_matrix(curvature, layout: Layout, model: nn.Module) -> torch.Tensor:
    """The matrix itself, column by column."""
    zero = layout.matrices({name: torch.zeros_like(p) for name, p in model.named_parameters()})
    sizes = [x.numel() for x in zero.values()]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = zip(zero.items(), unit.split(sizes), strict=True)
        vector = {name: part.view_as(x) for (name, x), part in parts}
        columns.append(flat(curvature.apply(lambda s: s, vector).values()))
    return torch.stack(columns, 1)


def gauss_newton(model: nn.Module, layout: Layout, train: Examples) -> torch.Tensor:
    """J^T J, of the objective's identity as second derivative, from one derivative after another."""
    total = 0
    for i in range(len(train)):
        batch = train.batch([i])
        outputs = model(batch.y, batch.physics()).flatten()
        rows = [flat(layout.gradient(model, value, retain=True).values()) for value in outputs]
        total = total + torch.stack(rows).T @ torch.stack(rows)
    return total / len(train)


def test_ekfac_of_one_linear_layer_is_the_gauss_newton_matrix() -> None:
    train = linear_examples(9, seed=3)
    model = fitted(train, PENALTY)
    layout = Layout(model)
    found = whole_matrix(EKFAC([model], train, Ridge(PENALTY), probes=3), layout, model)
    torch.testing.assert_close(found, gauss_newton(model, layout, train))
    y = torch.stack([item.content[0] for item in train])
    torch.testing.assert_close(found, torch.kron(torch.eye(3, dtype=torch.float64), y.T @ y / 9))


def test_ekfac_of_two_layers_has_the_trace_of_each_block() -> None:
    """Eigenvalues that are means of squares keep the trace, whatever the eigenvectors."""
    train, model = linear_examples(6, seed=3), LinearNetwork(5, 3, 4).double()
    layout = Layout(model)
    found = whole_matrix(EKFAC([model], train, Ridge(0.0), probes=3), layout, model)
    wanted = gauss_newton(model, layout, train)
    assert not found[:20, 20:].any()
    for part in (slice(0, 20), slice(20, 32)):
        torch.testing.assert_close(found[part, part].trace(), wanted[part, part].trace())
    difference = (found - wanted)[:20, :20].norm()
    assert 0 < difference < 0.5 * wanted[:20, :20].norm()


def test_roots_have_the_curvature(generator) -> None:
    """All directions have it exactly; drawn vectors have each pixel's block of channels in the mean."""
    x = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1, -1])[:, None]
    value = 0.5 * (weights * (3 * x[0, 0].square() + 2 * x[0, 0] * x[0, 1] + x[0, 1].square())).sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    wanted = torch.stack([torch.autograd.grad(g, x, retain_graph=True)[0].flatten() for g in gradient.flatten()])
    wanted = wanted * (torch.arange(24) % 12 < 8)  # of the third row it is negative
    rows = torch.stack([b.flatten() for b in roots(value, x, 24, generator)])
    torch.testing.assert_close(rows.T @ rows, wanted)
    drawn = torch.stack([b.flatten() for _ in range(200) for b in roots(value, x, 4, generator)])
    found = drawn.T @ drawn / 200
    assert (found - wanted).abs().max() < 0.2 * wanted.max()
    assert list(roots(x.sum(), x, 5, generator)) == []


def test_source_of_one_segment_is_its_closed_form() -> None:
    train, query = linear_examples(20, seed=1), linear_examples(3, seed=2)
    model = LinearNetwork(5, 3).double()
    found = source(ridge_problem(train, query), [Segment((model,), 30, 0.02)], exact(train), optimiser="sgd")
    y = torch.stack([item.content[0] for item in train])
    hessian = torch.kron(torch.eye(3).double(), y.T @ y / 20 + PENALTY * torch.eye(5).double())
    filtered = torch.linalg.solve(hessian, torch.eye(15).double() - torch.linalg.matrix_exp(-0.6 * hessian))
    w = model.layers[0].weight.detach()
    ours = [torch.outer(w @ i.content[0] - i.content[1], i.content[0]).flatten() for i in query]
    theirs = [torch.outer(w @ i.content[0] - i.content[1], i.content[0]) + PENALTY * w for i in train]
    wanted = torch.stack(ours) @ filtered @ torch.stack([g.flatten() for g in theirs], 1) / 20
    torch.testing.assert_close(found, wanted)


def test_source_of_endless_training_is_the_influence() -> None:
    train, query = linear_examples(20, seed=1), linear_examples(3, seed=2)
    model, asked = fitted(train, PENALTY), ridge_problem(train, query)
    found = source(asked, [Segment((model,), 10**6, 1.0)], exact(train), optimiser="sgd")
    torch.testing.assert_close(found, influence(asked, model, exact(train)([model], None), damping=0))


def test_source_of_many_segments_is_the_derivative_of_the_training() -> None:
    """Descent from 0, differentiated by an example's weight through all of its steps."""
    train, query, steps, lr = linear_examples(12, seed=1), linear_examples(3, seed=2), 128, 0.02
    y, x = (torch.stack([item.content[i] for item in train]) for i in (0, 1))
    weights = torch.ones(12, dtype=torch.float64, requires_grad=True)
    w, course = torch.zeros(3, 5, dtype=torch.float64), []
    for _ in range(steps):
        course.append(w.detach())
        residual = (y @ w.T - x) * weights[:, None]
        w = w - lr * (residual.T @ y / 12 + PENALTY * weights.mean() * w)
    course.append(w.detach())
    wanted = torch.stack([-torch.autograd.grad(f, weights, retain_graph=True)[0] for f in figures(w, query)])

    def network(step: int) -> LinearNetwork:
        model = LinearNetwork(5, 3).double()
        model.layers[0].weight.data.copy_(course[step])
        return model

    errors = []
    for count in (1, 4, 16):
        length = steps // count
        segments = [Segment((network(i * length), network((i + 1) * length)), length, lr) for i in range(count)]
        found = source(ridge_problem(train, query), segments, exact(train), optimiser="sgd")
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.02


def test_source_with_adam_preconditions() -> None:
    """Against the formula with the matrix P H, which is not symmetric."""
    train, query = linear_examples(20, seed=1), linear_examples(3, seed=2)
    model, asked = LinearNetwork(5, 3).double(), ridge_problem(train, query)
    found = source(asked, [Segment((model,), 30, 0.02)], exact(train), optimiser="adam", batch_size=4)
    layout = Layout(model)
    gradients = torch.stack([
        flat(layout.gradient(model, Ridge(PENALTY)(model, train.batch([i]), None)).values()) for i in range(20)
    ])  # fmt: skip
    square = gradients.mean(0).square() + gradients.var(0, correction=0) / 4
    p = torch.diag(square.rsqrt())
    torch.testing.assert_close(flat(adam_units(asked, [model], 4).values()), square**-0.25)
    y = torch.stack([item.content[0] for item in train])
    hessian = torch.kron(torch.eye(3).double(), y.T @ y / 20 + PENALTY * torch.eye(5).double())
    filtered = torch.linalg.solve(p @ hessian, torch.eye(15).double() - torch.linalg.matrix_exp(-0.6 * p @ hessian)) @ p
    ours = torch.stack([flat(x.values()) for x in asked.asked(model)])
    torch.testing.assert_close(found, ours @ filtered @ gradients.T / 20)


LAYERS = {
    "linear": (nn.Linear(4, 3), (2, 4)),
    "linear on images": (nn.Linear(5, 3, bias=False), (2, 3, 6, 5)),
    "convolution": (nn.Conv2d(2, 3, 3, padding=1), (2, 2, 5, 6)),
    "strides": (nn.Conv2d(2, 3, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), bias=False), (2, 2, 7, 8)),
    "replicated": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (1, 2, 5, 6)),
    "replicating itself": (ReplicatedConv(2, 3, 3, dilation=2), (1, 2, 5, 6)),
    "transposed": (nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False), (2, 3, 4, 5)),
    "transposed, padded": (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_sums_of_products(name, generator) -> None:
    module, shape = copy.deepcopy(LAYERS[name][0]).double(), LAYERS[name][1]
    layout = Layout(nn.ModuleDict({"a": module}))
    assert layout.layers == ("a",)
    given = torch.randn(shape, generator=generator, dtype=torch.float64)
    output = module(given)
    back = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    wanted = layout.gradient(nn.ModuleDict({"a": module}), (output * back).sum())["a"]
    with_bias = module.bias is not None and "transposed" not in name
    left, right = factors(module, given, back, bias=with_bias)
    torch.testing.assert_close(left.T @ right, wanted)


def test_weights_of_no_layer_are_rows(generator) -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.GroupNorm(1, 2), nn.Conv2d(2, 1, 3, padding="same"))
    layout = Layout(net)
    assert layout.layers == ()
    entries = layout.gradient(net, net(torch.randn(1, 2, 8, 8, generator=generator)).square().sum())
    assert sum(x.numel() for x in entries.values()) == sum(p.numel() for p in net.parameters())
    assert all(len(x) == 1 for x in entries.values())
    with pytest.raises(OptionError, match="can be trained"):
        Layout(net.requires_grad_(False))


class Picture(Reconstructor):
    """An image, whatever the measurements."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x)

    def forward(self, y, physics):
        return self.x


def test_the_derivative_of_hallucination(generator) -> None:
    examples = mri_examples(1)
    batch = examples.batch([0])
    model = Picture(torch.randn(batch.target.shape, generator=generator))
    direction = torch.randn(batch.target.shape, generator=generator)
    figure = Hallucination()
    slope = (torch.autograd.grad(figure(model, batch, generator), model.x)[0] * direction).sum()
    values = []
    for size in (-0.5, 0.5):  # it is quadratic
        moved = Picture(model.x.detach() + size * direction)
        values.append(figure(moved, batch, generator).item())
    assert float(slope) == pytest.approx(values[1] - values[0], rel=2e-2)
    perfect = Picture(batch.target.clone())
    assert figure(perfect, batch, generator).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["unet", "recurrentvarnet"])
@pytest.mark.parametrize("objective", [Supervised(), SelfSupervised()], ids=["truth", "no truth"])
def test_networks_of_images(name, objective) -> None:
    train, query, model = mri_examples(4), mri_examples(2), tiny(name).eval()
    asked = Problem(train=train, objective=objective, query=query, figure=figure_of("hallucination", objective))

    def fit(models, scale):
        return EKFAC(models, train, objective, scale=scale)

    found = {
        "tracin": tracin(asked, [Segment((model,), 10, 1e-3)]),
        "influence": influence(asked, model, fit([model], None)),
        "source": source(asked, [Segment((model,), 10, 1e-3), Segment((model,), 10, 1e-3)], fit, batch_size=2),
    }
    for scores in found.values():
        assert scores.shape == (2, 4)
        assert torch.isfinite(scores).all()
        assert (scores != 0).all()
    count = sum(x.numel() for x in asked.asked(model)[0].values())
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_network_learns_of_itself_most() -> None:
    """A query that was trained on is helped by itself, and more than by any other."""
    train, model = mri_examples(4), tiny("unet").eval()
    objective = Supervised()
    asked = Problem(train=train, objective=objective, query=train, figure=objective)
    scores = influence(asked, model, EKFAC([model], train, objective))
    assert (scores.argmax(1) == torch.arange(4)).all()
    assert (scores.diagonal() > 0).all()


def test_the_linear_datamodelling_score() -> None:
    rng = torch.Generator().manual_seed(0)
    subsets = draw_subsets(10, 20, rng)
    assert (subsets.sum(1) == 5).all()
    assert len({tuple(row.tolist()) for row in subsets}) > 15
    scores = torch.randn(2, 10, generator=rng, dtype=torch.float64)
    figure = 3 - subsets.double() @ scores.T
    found = datamodelling_score(scores, subsets, figure.exp())  # only ranks matter
    assert found.queries == pytest.approx((1, 1))
    assert datamodelling_score(-scores, subsets, figure).mean == pytest.approx(-1)
    assert datamodelling_score(torch.zeros_like(scores), subsets, figure).mean == 0
    other = torch.stack((scores[0], -scores[1]))
    assert datamodelling_score(other, subsets, figure).mean == pytest.approx(0)
    alone = datamodelling_score(scores[:1], subsets, figure[:, :1])
    assert math.isnan(alone.low)
    with pytest.raises(ShapeError, match="do not fit"):
        datamodelling_score(scores, subsets, figure.T)
    with pytest.raises(OptionError, match="leaves something"):
        draw_subsets(10, 3, rng, share=0.01)


def test_bad_questions() -> None:
    train = linear_examples(5)
    with pytest.raises(OptionError, match="are needed"):
        ridge_problem(train, train.subset([]))
    with pytest.raises(OptionError, match="a segment has"):
        Segment((fitted(train),), 0, 0.1)
    with pytest.raises(OptionError, match="no such figure"):
        figure_of("beauty", Ridge())
    with pytest.raises(OptionError, match="not curved"):
        EKFAC([tiny("unet").eval()], mri_examples(1), Supervised({"complex_l1": 0.0, "l1": 0.0}))
    with pytest.raises(OptionError, match="null space"):
        Hallucination()(fitted(train), train.batch([0]), torch.Generator())
