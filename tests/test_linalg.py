"""Conjugate gradients and power iteration against dense algebra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.physics.errors import OptionError
from recon.physics.linalg import History, conjugate_gradient, max_eigenvalue


def hermitian(batch, n, dtype, seed, rank=None):
    g = torch.Generator().manual_seed(seed)
    B = torch.randn(batch, n, rank or n, dtype=dtype, generator=g)
    return B @ B.mH + (0 if rank else 0.1) * torch.eye(n, dtype=dtype)


def times(matrix):
    return lambda x: (matrix @ x.flatten(1)[..., None]).reshape(x.shape)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
    seed=st.integers(0, 99),
    grad=st.booleans(),
)
def test_solves_as_dense_algebra_does(batch, shape, dtype, seed, grad):
    n = shape[0] * shape[1]
    N = hermitian(batch, n, dtype, seed)
    b = torch.randn(batch, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    with torch.set_grad_enabled(grad):
        x = conjugate_gradient(times(N), b, max_iter=20 * n, tol=1e-12)
    expected = torch.linalg.solve(N, b.flatten(1)[..., None]).reshape(b.shape)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grad", [True, False])
def test_each_batch_element_converges_on_its_own(grad):
    N = hermitian(3, 12, torch.complex128, 0)
    b = torch.randn(3, 12, dtype=torch.complex128) * torch.tensor([1e-6, 1, 1e6])[:, None]
    b[1] = 0
    with torch.set_grad_enabled(grad):
        together = conjugate_gradient(times(N), b, max_iter=7, tol=0.0)
        for i in range(3):
            alone = conjugate_gradient(times(N[i : i + 1]), b[i : i + 1], max_iter=7, tol=0.0)
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)
    assert not together[1].any()


def test_error_shrinks_in_the_energy_norm_and_history_tells_the_residual():
    N = hermitian(2, 20, torch.float64, 1)
    b = torch.randn(2, 20, dtype=torch.float64)
    exact = torch.linalg.solve(N, b[..., None])[..., 0]
    energy = []
    for n in range(6):
        history = History()
        x = conjugate_gradient(times(N), b, max_iter=n, tol=0.0, history=history)
        assert history.iterations == n
        residual = torch.linalg.vector_norm(b - times(N)(x), dim=1) / torch.linalg.vector_norm(b, dim=1)
        torch.testing.assert_close(history.residuals[-1], residual)
        e = x - exact
        energy.append((e * times(N)(e)).sum(1))
    assert (torch.stack(energy).diff(dim=0) < 0).all()


def test_stops_at_the_tolerance():
    N = hermitian(2, 30, torch.float64, 2)
    b = torch.randn(2, 30, dtype=torch.float64)
    history = History()
    conjugate_gradient(times(N), b, max_iter=500, tol=1e-3, history=history)
    assert 0 < history.iterations < 500
    assert (history.residuals[-1] <= 1e-3).all()
    assert (history.residuals[-2] > 1e-3).any()


def test_singular_system_gives_the_solution_of_least_norm():
    N = hermitian(1, 15, torch.float64, 3, rank=6)
    b = times(N)(torch.randn(1, 15, dtype=torch.float64))
    x = conjugate_gradient(times(N), b, max_iter=50, tol=1e-12)
    torch.testing.assert_close(x, (torch.linalg.pinv(N, hermitian=True) @ b[..., None])[..., 0], rtol=1e-6, atol=1e-8)


def test_start_is_used_and_left_as_it_was():
    N = hermitian(2, 10, torch.complex128, 4)
    exact = torch.randn(2, 10, dtype=torch.complex128)
    b, start = times(N)(exact), exact + 1e-3
    kept, kept_b = start.clone(), b.clone()
    history = History()
    with torch.no_grad():
        x = conjugate_gradient(times(N), b, start, max_iter=100, tol=1e-10, history=history)
    assert torch.equal(start, kept)
    assert torch.equal(b, kept_b)
    assert (history.residuals[0] < 0.1).all()
    torch.testing.assert_close(x, exact)


def test_gradients_pass_through_all_iterations():
    B = torch.randn(1, 5, 5, dtype=torch.complex128)
    b = torch.randn(1, 5, dtype=torch.complex128, requires_grad=True)

    def solve(b, B):
        return conjugate_gradient(times(B @ B.mH + 0.1 * torch.eye(5)), b, max_iter=3, tol=0.0)

    assert torch.autograd.gradcheck(solve, (b, B.requires_grad_()))


def test_zero_and_options():
    zero = torch.zeros(2, 4)
    assert not conjugate_gradient(lambda x: x, zero).any()
    with pytest.raises(OptionError, match="negative"):
        conjugate_gradient(lambda x: x, zero, max_iter=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_largest_eigenvalue_of_each_batch_element(dtype):
    N = hermitian(3, 12, dtype, 5)
    found = max_eigenvalue(times(N), torch.randn(3, 12, dtype=dtype), max_iter=2000, tol=1e-12)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(N)[:, -1], rtol=1e-6, atol=0.0)


def test_largest_eigenvalue_of_nothing_is_zero():
    assert max_eigenvalue(torch.zeros_like, torch.ones(2, 3)).tolist() == [0, 0]
