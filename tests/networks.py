"""Small problems and networks for the tests of learned models."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, LinearPhysics
from galaxies import observation

from recon.datasets.random import as_generator
from recon.datasets.sparse import bernoulli_gaussian, gaussian_projections, noise_of_snr
from recon.models import registry, takes_stamps
from recon.physics import MultiCoilMRI
from recon.physics.matrix import MatrixOperator

TINY = {
    "coast": {"phases": 2, "features": 8},
    "deepinv-varnet": {"cascades": 2, "depth": 3, "features": 8},
    "diffusion-denoiser": {"widths": (16, 32), "blocks": (1, 1)},
    "drunet-pnp": {"features": 4, "blocks": 1},
    "galaxy-admm": {"iterations": 2, "widths": (2, 3, 4), "blocks": 1},
    "lista": {"measurements": 6, "unknowns": 8, "layers": 2},
    "ista-net": {"phases": 2, "features": 8},
    "ista-net-plus": {"phases": 2, "features": 8},
    "modl": {"iterations": 2, "depth": 3, "features": 8},
    "ram": {"widths": (4, 6), "blocks": 1},
    "ram-light": {"widths": (16, 32), "blocks": (1, 1), "questions": (1,)},
    "recursive-coast": {"phases": 2, "recursions": 2, "features": 8},
    "recursive-ista-net-plus": {"phases": 2, "recursions": 2, "features": 8},
    "recurrentvarnet": {"steps": 2, "hidden": 8, "layers": 2},
    "shapenet": {"width": 4, "growth": 3, "layers": (1, 2)},
    "tikhonet": {"width": 4, "growth": 3, "layers": (1, 2)},
    "unem": {"iterations": 2},
    "unfolded-fista": {"iterations": 3},
    "unfolded-iht": {"iterations": 3},
    "unfolded-ista": {"iterations": 3, "learn_thresholds": True},
    "unet": {"features": 8, "pools": 2},
    "varnet": {"cascades": 2, "features": 8, "pools": 2},
}
BAD_SCANS = pytest.mark.parametrize(
    "scan",
    [
        {"coils": 1},
        {"coils": 64, "shape": (10, 12)},
        {"shape": (23, 17)},
        {"shape": (5, 3)},
        {"share": 1.0},
        {"share": 0.02},
        {"sets": 2, "batch": 2},
    ],
    ids=str,
)


def tiny(name: str, **arguments: object) -> torch.nn.Module:
    """A small network with random weights, the same each time; those that start as zeros or ones are changed too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = registry[name](**{**TINY[name], **arguments})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def problem_of(name: str) -> tuple[torch.Tensor, LinearPhysics]:
    """Measurements that a model takes."""
    if name == "lista":
        return sparse_problem(batch=2)
    if name == "diffusion-denoiser":
        return torch.randn(2, 1, 12, 10, generator=as_generator(0)), Denoising(GaussianNoise(0.5))
    return observation(2)[1:] if takes_stamps(name) else problem()


def sparse_problem(
    m: int = 6, n: int = 8, *, batch: int, rate: float = 0.2, snr: float = 30.0, seed: int = 0
) -> tuple[torch.Tensor, MatrixOperator]:
    """Noisy projections of sparse vectors."""
    matrix = gaussian_projections(m, n, seed=seed)
    physics = MatrixOperator(matrix)
    y = physics.A(bernoulli_gaussian((batch, n), rate, seed=seed + 1))
    return y + noise_of_snr(matrix, rate, snr) * torch.randn(y.shape, generator=as_generator(seed + 2)), physics


def problem(
    *,
    batch: int = 1,
    sets: int = 1,
    coils: int = 4,
    shape: tuple[int, int] = (24, 24),
    share: float = 0.4,
    seed: int = 0,
) -> tuple[torch.Tensor, MultiCoilMRI]:
    """Random k-space and maps, with a fully sampled middle."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, sets, coils, *shape, generator=g, dtype=torch.complex64)
    maps = maps / torch.linalg.vector_norm(maps, dim=2, keepdim=True)
    mask = torch.rand(batch, 1, *shape, generator=g) < share
    h, w = shape
    mask[..., h // 2 - 1 : h // 2 + 2, w // 2 - 1 : w // 2 + 2] = True
    y = torch.randn(batch, coils, *shape, generator=g, dtype=torch.complex64)
    return y * mask, MultiCoilMRI(maps, mask)


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Names of the trainable weights that the loss does not reach."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.any()))
    ]
