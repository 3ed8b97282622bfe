"""Losses against their definitions, and the schedule of the learning rate."""

from __future__ import annotations

import math

import pytest
import torch

from recon import metrics
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.training.examples import Batch
from recon.training.losses import LOSSES, WeightedLoss
from recon.training.schedule import Schedule


def batch(target: torch.Tensor | None, n: int = 3) -> Batch:
    return Batch(
        y=torch.zeros(n, 1, 16, 12, dtype=torch.complex64),
        mask=torch.ones(n, 1, 16, 12, dtype=torch.bool),
        coil_maps=torch.ones(n, 1, 16, 12, dtype=torch.complex64),
        sigma=torch.zeros(n),
        target=target,
        names=("a", "b", "c")[:n],
    )


@pytest.fixture
def pair(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and target, each example of another scale."""
    scale = torch.tensor([1.0, 5.0, 0.1])[:, None, None, None]
    target = scale * torch.randn(3, 2, 16, 12, generator=generator)
    return target + 0.2 * scale * torch.randn(3, 2, 16, 12, generator=generator), target


# Those of galaxies and of tasks have their own tests.
OF_OTHER_DATA = {"multi_scale", "mse", "shape", "weighted_l1", "weighted_squared_error"}


def test_losses_are_what_they_are_called(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, target = pair
    a, t = (torch.view_as_complex(z.movedim(1, -1).contiguous()) for z in pair)
    expected = {
        "l1": (a.abs() - t.abs()).abs().mean(),
        "nmse": sum(metrics.nmse(i, r) for i, r in zip(a, t, strict=True)) / 3,
        "l2": sum((i - r).norm() / r.norm() for i, r in zip(a, t, strict=True)) / 3,
        "magnitude_l2": sum((i.abs() - r.abs()).norm() / r.norm() for i, r in zip(a, t, strict=True)) / 3,
        "complex_l1": (a - t).abs().mean(),
        "squared_error": (a - t).abs().square().mean() / 2,  # over both channels
        # The metric divides windows' variances by 48, the loss by 49.
        "ssim": 1 - sum(metrics.ssim(i, r) for i, r in zip(a, t, strict=True)) / 3,
    }
    assert set(expected) == set(LOSSES) - OF_OTHER_DATA
    for name, value in expected.items():
        found = float(LOSSES[name](x, batch(target)))
        assert found == pytest.approx(float(value), rel=2e-2 if name == "ssim" else 1e-5), name


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"weighted_l1", "weighted_squared_error"}))
def test_losses_vanish_at_the_target_and_have_finite_gradients(name: str) -> None:
    target = torch.zeros(1, 2, 16, 12)
    target[:, :, 4:10, 3:9] = 1.0
    x = torch.zeros_like(target).requires_grad_()  # where magnitudes have no derivative
    LOSSES[name](x, batch(target, 1)).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert float(LOSSES[name](target, batch(target, 1))) == pytest.approx(0, abs=1e-6)


def test_weighted_sum(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, target = pair
    total, parts = WeightedLoss({"l1": 2.0, "ssim": 0.5})(x, batch(target))
    assert float(total) == pytest.approx(2 * float(parts["l1"]) + 0.5 * float(parts["ssim"]))


def test_losses_are_taken_in_full_precision(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, target = pair
    loss = WeightedLoss({"l1": 1.0, "ssim": 1.0})
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = loss(x, batch(target))
    assert torch.equal(low, loss(x, batch(target))[0])


def test_refuses_what_cannot_be_compared(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, target = pair
    with pytest.raises(OptionError, match="found l3"):
        WeightedLoss({"l3": 1.0})
    with pytest.raises(OptionError, match="none"):
        WeightedLoss({})
    with pytest.raises(DataError, match="has none; found a, b, c"):
        LOSSES["l1"](x, batch(None))
    with pytest.raises(ShapeError, match="Compare magnitudes"):
        LOSSES["l2"](x[:, :1], batch(target))
    LOSSES["l1"](x[:, :1].abs(), batch(target))  # a root sum of squares has a magnitude too


def test_schedule_of_the_paper() -> None:
    factor = Schedule()
    assert factor(0) == pytest.approx(1e-3)
    assert factor(499) == pytest.approx(0.5)
    assert [factor(n) for n in (999, 49_999)] == [1.0, 1.0]
    assert factor(50_000) == pytest.approx(0.2)
    assert factor(100_000) == pytest.approx(0.04)


def test_cosine() -> None:
    factor = Schedule("cosine", warmup=0, period=100, factor=0.1)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factor(100) == pytest.approx(0.1)
    assert factor(1000) == pytest.approx(0.1)


@pytest.mark.parametrize("numbers", [{"warmup": -1}, {"period": 0}, {"factor": 1.5}])
def test_no_schedule(numbers: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="no learning rate schedule"):
        Schedule(**numbers)
