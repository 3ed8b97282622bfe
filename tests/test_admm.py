"""Unrolled ADMM for deconvolution, its mathematics: closed forms, dense solves, numerical minima."""

from __future__ import annotations

import math

import pytest
import torch
from galaxies import psf_like
from scipy.optimize import minimize_scalar
from torch import Tensor

from recon.models.admm import gaussian_update, poisson_update, three_variables, two_variables
from recon.models.convolution import Grid, centred_transfer
from recon.physics import PSFConvolution

DOUBLE = torch.float64


def circular(psf: Tensor, n: int) -> Grid:
    return Grid(centred_transfer(psf, (n, n)), (n, n), (n, n))


def constant(*values: float, n: int) -> list[Tensor]:
    return [torch.full((1, n), value, dtype=DOUBLE) for value in values]


@pytest.mark.parametrize("split", [2, 3])
def test_delta_psf_and_identity_converge_to_the_data(split: int, generator: torch.Generator) -> None:
    y = torch.randn(1, 1, 9, 12, generator=generator, dtype=DOUBLE)
    delta = torch.zeros(1, 1, 4, 5, dtype=DOUBLE)
    delta[..., 2, 2] = 1
    grid = Grid.of(PSFConvolution(delta), y)
    if split == 2:
        x = two_variables(y, grid, *constant(0.7, n=60), lambda a, _: a)
    else:
        x = three_variables(
            torch.zeros_like(y),
            grid,
            *constant(0.3, 2.0, n=200),
            lambda a, _: a,
            lambda v, r: gaussian_update(v, y, 1.0, r),
        )
    torch.testing.assert_close(x, y, rtol=0, atol=1e-8)


def test_deblurring_is_a_dense_solve(generator: torch.Generator) -> None:
    n, rho = 8, 0.37
    psf = torch.rand(1, 1, 5, 4, generator=generator, dtype=DOUBLE)
    physics = PSFConvolution(psf / psf.sum())
    y, rhs = torch.randn(2, 1, 1, n, n, generator=generator, dtype=DOUBLE)
    grid = Grid.of(physics, y)
    Y, X = grid.grid
    # The matrix of circular convolution on the padded grid, a column a delta.
    eye = torch.eye(Y * X, dtype=DOUBLE).reshape(-1, 1, Y, X)
    whole = Grid(grid.H, grid.grid, grid.grid)
    H = whole.A(eye).reshape(Y * X, Y * X).T

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, X - n, 0, Y - n)).flatten()

    dense = torch.linalg.solve(H.T @ H + rho * torch.eye(Y * X, dtype=DOUBLE), H.T @ padded(y) + padded(rhs))
    expected = dense.reshape(1, 1, Y, X)[..., :n, :n]
    torch.testing.assert_close(grid.deblur(grid.spectrum(y), rhs, rho), expected, rtol=0, atol=1e-12)
    # and this matrix, cropped, is the operator
    A = H.reshape(Y, X, Y, X)[:n, :n, :n, :n].reshape(n * n, n * n)
    torch.testing.assert_close(physics.A(y).flatten(), A @ y.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "y", "rho", "vt", "expected"), [(1, 2, 1, 2, 2.0), (1, 2, 1, 1, math.sqrt(2)), (3, 0, 0.5, 1, 0.0)]
)
def test_poisson_update_in_closed_form(alpha: float, y: float, rho: float, vt: float, expected: float) -> None:
    arguments = (torch.tensor(float(v), dtype=DOUBLE) for v in (vt, y))
    assert float(poisson_update(*arguments, alpha, rho)) == pytest.approx(expected, abs=1e-12)


def test_updates_are_numerical_minima(generator: torch.Generator) -> None:
    for _ in range(10):
        vt, y, alpha, rho = (torch.rand(4, generator=generator, dtype=DOUBLE) * 3 + 0.05).unbind()

        def poisson(v: float, y: Tensor = y, vt: Tensor = vt, alpha: Tensor = alpha, rho: Tensor = rho) -> float:
            return float(alpha * v - y * math.log(v) + rho / 2 * (v - vt) ** 2)

        best = minimize_scalar(poisson, bounds=(1e-9, 20), method="bounded", options={"xatol": 1e-10}).x
        assert float(poisson_update(vt, y, alpha, rho)) == pytest.approx(best, abs=1e-5)
        found = gaussian_update(vt, y, alpha, rho)
        assert float(alpha * (found - y) + rho * (found - vt)) == pytest.approx(0, abs=1e-12)
    assert float(gaussian_update(vt, y, 0.0, rho)) == pytest.approx(float(vt))  # masked


@pytest.mark.parametrize("penalties", [(1.0, 1.0), (0.3, 2.0)])
def test_ridge_denoiser_gives_the_tikhonov_solution(penalties: tuple[float, float], generator: torch.Generator) -> None:
    n, mu = 12, 0.1
    y = torch.randn(1, 1, n, n, generator=generator, dtype=DOUBLE)
    grid = circular(psf_like(1, 9, dtype=DOUBLE), n)
    expected = grid.stamps(grid.H.conj() * grid.spectrum(y) / (grid.HtH + mu))
    rho1, rho2 = constant(*penalties, n=250)
    found = three_variables(
        y,
        grid,
        rho1,
        rho2,
        lambda a, _: a * penalties[0] / (penalties[0] + mu),
        lambda v, r: gaussian_update(v, y, 1.0, r),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    for rho in penalties:
        found = two_variables(y, grid, *constant(rho, n=1500), lambda a, _, rho=rho: a * rho / (rho + mu))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    # penalties that change from one iteration to the next lead to the same image
    changing = torch.linspace(1.0, 0.2, 600, dtype=DOUBLE)[None]
    found = two_variables(y, grid, changing, lambda a, k: a * changing[0, k] / (changing[0, k] + mu))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_masked_pixels_of_either_split_solve_the_masked_problem(generator: torch.Generator) -> None:
    """With a ridge, the image is that of the dense normal equations with the masked rows left out."""
    n, mu, rho = 8, 0.2, 0.6
    grid = circular(psf_like(1, 7, dtype=DOUBLE), n)
    y = torch.randn(1, 1, n, n, generator=generator, dtype=DOUBLE)
    seen = torch.rand(1, 1, n, n, generator=generator) < 0.8
    H = grid.A(torch.eye(n * n, dtype=DOUBLE).reshape(-1, 1, n, n)).reshape(n * n, n * n).T
    M = torch.diag(seen.flatten().double())
    expected = torch.linalg.solve(H.T @ M @ H + mu * torch.eye(n * n, dtype=DOUBLE), H.T @ M @ y.flatten())
    spoilt = torch.where(seen, y, 1e3)
    two = two_variables(spoilt * seen, grid, *constant(rho, n=600), lambda a, _: a * rho / (rho + mu), seen)
    three = three_variables(
        torch.zeros_like(y),
        grid,
        *constant(rho, 1.3, n=600),
        lambda a, _: a * rho / (rho + mu),
        lambda v, r: gaussian_update(v, spoilt, seen.double(), r),
    )
    for x in (two, three):
        torch.testing.assert_close(x.flatten(), expected, rtol=0, atol=1e-6)
