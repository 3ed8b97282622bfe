"""What is forgotten and what is kept: of a linear network that knows both, and of networks for MRI."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unlearning_problems import (
    A,
    B,
    LinearNetwork,
    fitted,
    linear_examples,
    only,
    ridge_solution,
)

from recon.training.data.simulated import Acquisition, SimulatedScans
from recon.unlearning.examples import Examples, item_of


@pytest.fixture
def sets() -> tuple[Examples, Examples]:
    return linear_examples(12, seed=1), linear_examples(20, seed=2)


@pytest.fixture
def joint(sets) -> LinearNetwork:
    forget, retain = sets
    return fitted(forget + retain)


@pytest.fixture
def two_layers(sets) -> LinearNetwork:
    model = LinearNetwork(5, 3, hidden=3).double()
    with torch.no_grad():
        model.layers[0].weight.copy_(ridge_solution(sets[0] + sets[1]))
        model.layers[1].weight.copy_(torch.eye(3) + 0.1)
    return model


@pytest.fixture
def retain() -> Examples:
    return only(linear_examples(12, seed=2), A)


@pytest.fixture
def forget() -> Examples:
    return only(linear_examples(8, seed=1), B)


@pytest.fixture(scope="session")
def scans() -> Examples:
    """Scans of one matrix, to forget and to keep."""

    def image(rng: torch.Generator) -> tuple[Tensor, str]:
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        inside = ((rows / 0.8) ** 2 + (columns / 0.7) ** 2 < 1).float()
        return inside * (0.5 + 0.5 * torch.rand(32, 32, generator=rng)), "phantom"

    how = Acquisition(coils=(3, 3), calibration=(8, 8), layers=0.0)
    data = SimulatedScans(image, length=6, acquisition=how, matrix=(32, 32))
    return Examples([item_of(data[i], origin=f"phantom{i}", index=i) for i in range(6)])
