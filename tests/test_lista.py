"""LISTA starts as ISTA, knows no unit, and may have weights of one bit from the start."""

from __future__ import annotations

import pytest
import torch
from networks import sparse_problem
from onebit_networks import LAYERS, lista, weights

from recon.models.lista import LISTA
from recon.onebit import Quantisation, quantise, quantised_weights
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.matrix import MatrixOperator


def test_lista_starts_as_ista() -> None:
    """The thresholds are of measurements with a mean square of 1."""
    y, physics = sparse_problem(16, 32, batch=3)
    model = LISTA(16, 32, 4).train()
    ours = model(y, physics)
    a = physics.matrix
    scale = y.square().mean(1, keepdim=True).sqrt()
    x, step = torch.zeros(3, 32), 1 / torch.linalg.matrix_norm(a, ord=2) ** 2
    for _ in range(4):
        z = x + step * (y / scale - x @ a.T) @ a
        x = torch.nn.functional.softshrink(z, 0.1)
    torch.testing.assert_close(ours, x * scale, rtol=1e-4, atol=1e-5)


def test_lista_knows_no_unit_and_no_batch() -> None:
    model = lista()
    y, physics = sparse_problem(16, 32, batch=3)
    with torch.no_grad():
        x = model(y, physics)
        torch.testing.assert_close(model(1024 * y, physics), 1024 * x)
        torch.testing.assert_close(model(y[1:2], physics), x[1:2])
        assert not model(0 * y, physics).any()


def test_lista_of_an_image() -> None:
    y, physics = sparse_problem(16, 32, batch=3)
    model = lista()
    with torch.no_grad():
        flat = model(y, physics)
        image = model(y, MatrixOperator(physics.matrix, (1, 4, 8)))
    assert image.shape == (3, 1, 4, 8)
    torch.testing.assert_close(image.flatten(1), flat)


def test_one_bit_lista_may_start_from_nothing() -> None:
    model = LISTA(16, 32, 2).train()
    quantise(model, Quantisation(patterns=LAYERS))
    y, physics = sparse_problem(16, 32, batch=3)
    assert model(y, physics).any()
    expected = physics.matrix.T / torch.linalg.matrix_norm(physics.matrix, ord=2) ** 2
    torch.testing.assert_close(weights(model)[0], expected.abs().mean() * expected.sign())
    latents = [weight.latent for weight in quantised_weights(model)]
    with torch.no_grad():
        latents[0].zero_()
    assert latents[1].any()  # each has a storage of its own


def test_lista_refuses_what_does_not_fit() -> None:
    model = lista()
    y, physics = sparse_problem(16, 32, batch=2)
    with pytest.raises(ShapeError, match="16 real numbers"):
        model(y[:, :15], physics)
    with pytest.raises(ShapeError, match="operator that does not fit"):
        model(*sparse_problem(16, 31, batch=2))
    with pytest.raises(DataError, match="not finite"):
        model(y * torch.nan, physics)
    with pytest.raises(OptionError, match="a layer"):
        LISTA(16, 32, 0)
