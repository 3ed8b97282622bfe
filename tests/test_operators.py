"""Every registered operator: adjoint, linear, its norm, dtype, device, batch, and a normal operator that agrees."""

from __future__ import annotations

import pytest
import torch

from recon.physics import operators
from recon.physics.linalg import max_eigenvalue

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}

every_operator = pytest.mark.parametrize("name", list(operators))
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE))


def make(name, generator, dtype=torch.float64, batch=1):
    return operators[name].example(generator, dtype=dtype, device="cpu", batch=batch)


def inner(a, b):
    """Real inner product of each batch element."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return (a * b).flatten(1).sum(1)


@every_operator
@every_dtype
@pytest.mark.parametrize("batch", [1, 3])
def test_adjoint_by_dot_product(name, dtype, batch, generator):
    physics, x = make(name, generator, dtype, batch)
    y = physics.A(x)
    assert len(x) == len(y) == batch
    v = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    left, right = inner(y, v), inner(x, physics.A_adjoint(v))
    scale = inner(y, y).sqrt() * inner(v, v).sqrt()
    assert ((left - right).abs() <= TOLERANCE[dtype] * scale).all()


@every_operator
@every_dtype
def test_linear(name, dtype, generator):
    physics, x = make(name, generator, dtype)
    z = torch.randn(x.shape, dtype=dtype, generator=generator)
    together, apart = physics.A(2 * x - 3 * z), 2 * physics.A(x) - 3 * physics.A(z)
    assert torch.linalg.vector_norm(together - apart) <= TOLERANCE[dtype] * torch.linalg.vector_norm(apart)


@every_operator
@every_dtype
@pytest.mark.parametrize("batch", [1, 3])
def test_normal_operator_is_adjoint_of_forward(name, dtype, batch, generator):
    physics, x = make(name, generator, dtype, batch)
    fast, plain = physics.A_adjoint_A(x), physics.A_adjoint(physics.A(x))
    assert fast.shape == x.shape
    assert torch.linalg.vector_norm(fast - plain) <= TOLERANCE[dtype] * torch.linalg.vector_norm(plain)


@every_operator
def test_norm_is_the_largest_singular_value(name, generator):
    physics, x = make(name, generator)
    columns = [physics.A_adjoint_A(e.reshape(x.shape)).flatten() for e in torch.eye(x.numel(), dtype=x.dtype)]
    exact = torch.linalg.eigvalsh(torch.stack(columns))[-1]
    by_power = max_eigenvalue(physics.A_adjoint_A, x, max_iter=300, tol=1e-7)
    torch.testing.assert_close(by_power, exact[None], rtol=1e-3, atol=0)
    by_deepinv = physics.compute_sqnorm(x, max_iter=300, tol=1e-7, verbose=False)
    torch.testing.assert_close(by_deepinv, exact, rtol=1e-3, atol=0)


@every_operator
@every_dtype
def test_dtype_and_device_of_the_input_are_kept(name, dtype, generator):
    physics, x = make(name, generator, dtype)
    y = physics.A(x)
    assert y.dtype in (dtype, dtype.to_complex())
    assert y.device == x.device
    for back in (physics.A_adjoint(y), physics.A_adjoint_A(x)):
        assert back.dtype == dtype
        assert back.device == x.device


@every_operator
def test_batch_elements_do_not_mix(name, generator):
    physics, x = make(name, generator, batch=3)
    silent = x.clone()
    silent[1] = 0
    y, y_silent = physics.A(x), physics.A(silent)
    torch.testing.assert_close(y_silent[[0, 2]], y[[0, 2]])
    assert not y_silent[1].any()


@every_operator
def test_gradients_are_the_adjoints(name, generator):
    physics, x = make(name, generator)
    y = physics.A(x)
    assert torch.autograd.gradcheck(physics.A, x.clone().requires_grad_(), atol=1e-6, fast_mode=True)
    assert torch.autograd.gradcheck(physics.A_adjoint, y.clone().requires_grad_(), atol=1e-6, fast_mode=True)
    assert torch.autograd.gradcheck(physics.A_adjoint_A, x.clone().requires_grad_(), atol=1e-6, fast_mode=True)


@every_operator
def test_moves_and_copies(name, generator):
    physics, x = make(name, generator)
    expected = physics.A_adjoint_A(x)
    torch.testing.assert_close(physics.clone().A_adjoint_A(x), expected)
    assert physics.to("meta").A_adjoint_A(x.to("meta")).device.type == "meta"


@every_operator
def test_noise_has_the_stated_level_in_each_part(name, generator):
    physics, x = make(name, generator)
    clean = physics.A(x)
    noise = torch.stack([physics(x, sigma=0.3) - clean for _ in range(20)])
    noise = torch.view_as_real(noise) if noise.is_complex() else noise
    sampled = noise[noise != 0]
    assert 0.28 < sampled.std() < 0.32


@every_operator
def test_deepinv_tests_the_adjoint(name, generator):
    physics, x = make(name, generator)
    assert physics.adjointness_test(x) < 1e-9
