"""Block compressed sensing: layout, padding, norm, pseudo-inverse, matrices, agreement with deepinv, bad input."""

from __future__ import annotations

import deepinv
import pytest
import torch
from torch import nn

from recon.physics import BlockCompressedSensing
from recon.physics.errors import DataError, DTypeError, OptionError, ShapeError
from recon.physics.measurement_matrices import dct_matrix, gaussian_matrix, hadamard_matrix, measurements_at


def dense(physics, channels=1):
    """The operator as a matrix ``(measurements, pixels)``."""
    y, x = physics.img_size
    pixels = torch.eye(channels * y * x, dtype=torch.float64).reshape(-1, channels, y, x)
    return physics.A(pixels).flatten(1).T


def random_physics(generator, m=5, size=(7, 9), block=(3, 4)):
    matrix = torch.randn(m, block[0] * block[1], dtype=torch.float64, generator=generator)
    return BlockCompressedSensing(matrix, size, block)


def test_every_block_is_multiplied_by_the_matrix_row_by_row(generator):
    physics = random_physics(generator)
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64, generator=generator)
    y = physics.A(x)
    assert y.shape == (2, 3, 5, 3, 3)
    assert physics.padded_size == (9, 12)
    torch.testing.assert_close(y[1, 2, :, 1, 0], physics.matrix @ x[1, 2, 3:6, 0:4].flatten())
    corner = torch.zeros(3, 4, dtype=torch.float64)
    corner[:1, :1] = x[0, 1, 6:, 8:]
    torch.testing.assert_close(y[0, 1, :, 2, 2], physics.matrix @ corner.flatten())


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (8, 8), (3, 4)])
def test_blocks_and_back(size, generator):
    physics = random_physics(generator, size=size)
    x = torch.randn(2, 1, *size, dtype=torch.float64, generator=generator)
    padded = physics.pad(x)
    assert padded.shape[2:] == physics.padded_size
    blocks = physics.to_blocks(padded)
    assert blocks.shape == (2, 1, *physics.grid, 3, 4)
    assert torch.equal(physics.from_blocks(blocks), padded)
    assert torch.equal(physics.from_blocks(blocks)[..., : size[0], : size[1]], x)
    assert not padded[..., size[0] :, :].any()
    assert not padded[..., size[1] :].any()


def test_the_padded_operator_measures_the_same(generator):
    physics = random_physics(generator)
    x = torch.randn(1, 1, 7, 9, dtype=torch.float64, generator=generator)
    whole = physics.padded()
    assert whole.img_size == physics.padded_size == whole.padded_size
    torch.testing.assert_close(whole.A(physics.pad(x)), physics.A(x))
    assert whole.matrix is physics.matrix


def test_norm_is_exact_and_follows_the_matrix(generator):
    physics = random_physics(generator)
    singular = torch.linalg.svdvals(dense(physics))
    assert physics.sqnorm == pytest.approx(float(singular[0]) ** 2, rel=1e-12)
    physics.matrix.mul_(2)
    assert physics.sqnorm == pytest.approx(4 * float(singular[0]) ** 2, rel=1e-12)
    physics.update_parameters(matrix=physics.matrix / 2)
    assert physics.sqnorm == pytest.approx(float(singular[0]) ** 2, rel=1e-12)


@pytest.mark.parametrize("m", [3, 5, 12])
def test_pseudo_inverse_is_that_of_the_whole_operator(m, generator):
    physics = random_physics(generator, m=m)
    y = torch.randn(1, 1, m, 3, 3, dtype=torch.float64, generator=generator)  # border blocks cannot fit it
    expected = torch.linalg.pinv(dense(physics)) @ y.flatten()
    torch.testing.assert_close(physics.A_dagger(y).flatten(), expected)


def test_pseudo_inverse_of_orthonormal_rows_is_the_adjoint(generator):
    physics = BlockCompressedSensing(gaussian_matrix(5, 16, generator, dtype=torch.float64), (8, 8), (4, 4))
    y = torch.randn(1, 1, 5, 2, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(physics.A_dagger(y), physics.A_adjoint(y))
    physics.matrix.mul_(2)
    torch.testing.assert_close(physics.A_dagger(y), physics.A_adjoint(y) / 4)


def test_agrees_with_deepinv_on_one_block(generator):
    theirs = deepinv.physics.CompressedSensing(
        m=6, img_size=(2, 4, 5), channelwise=True, rng=torch.Generator().manual_seed(1)
    )
    ours = BlockCompressedSensing(theirs._A, (4, 5), (4, 5))
    x = torch.randn(3, 2, 4, 5, generator=generator)
    y = theirs.A(x)
    torch.testing.assert_close(ours.A(x)[..., 0, 0], y)
    torch.testing.assert_close(ours.A_adjoint(y[..., None, None]), theirs.A_adjoint(y))
    torch.testing.assert_close(ours.A_dagger(y[..., None, None]), theirs.A_dagger(y), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("ordering", ["sequency", "cake_cutting", "zig_zag", "xy"])
def test_hadamard_rows_are_those_of_the_single_pixel_camera(ordering, generator):
    camera = deepinv.physics.SinglePixelCamera(20, (1, 8, 8), ordering=ordering)
    ours = BlockCompressedSensing(hadamard_matrix(20, (8, 8), ordering), (8, 8), (8, 8))
    x = torch.randn(2, 1, 8, 8, generator=generator)
    torch.testing.assert_close(ours.A(x)[:, 0, :, 0, 0], camera.A(x)[:, camera.mask[0].bool()])


def test_dct_rows_are_the_lowest_frequencies():
    from scipy.fft import dctn

    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = torch.from_numpy(dctn(x.numpy(), norm="ortho"))
    every = dct_matrix(35, (5, 7), dtype=torch.float64) @ x.flatten()
    torch.testing.assert_close(every.sort().values, coefficients.flatten().sort().values)
    first = dct_matrix(3, (5, 7), dtype=torch.float64) @ x.flatten()
    lowest = torch.stack((coefficients[0, 0], coefficients[1, 0], coefficients[0, 1]))
    torch.testing.assert_close(first.sort().values, lowest.sort().values)


@pytest.mark.parametrize("kind", ["gaussian", "hadamard", "hadamard-random", "dct", "dct-random"])
def test_rows_are_orthonormal_and_drawn_by_the_seed(kind):
    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        if kind == "gaussian":
            return gaussian_matrix(20, 64, generator)
        if kind.startswith("hadamard"):
            return hadamard_matrix(20, (8, 8), "random" if "random" in kind else "xy", generator)
        return dct_matrix(20, (8, 8), "random" if "random" in kind else "zig_zag", generator)

    first = make(1)
    torch.testing.assert_close(first @ first.T, torch.eye(20), rtol=0, atol=1e-5)
    assert BlockCompressedSensing(first, (8, 8), (8, 8)).orthonormal
    assert not BlockCompressedSensing(1.01 * first, (8, 8), (8, 8)).orthonormal
    assert torch.equal(first, make(1))
    assert torch.equal(first, make(2)) == (kind in ("hadamard", "dct"))


def test_counts_of_the_papers():
    n = 33 * 33
    assert [measurements_at(r, n) for r in (0.1, 0.25, 0.3, 0.4, 0.5)] == [109, 272, 327, 436, 545]  # ISTA-Net
    assert [measurements_at(r, n, "down") for r in (0.01, 0.04)] == [10, 43]
    assert [measurements_at(r, n, "up") for r in (0.1, 0.2, 0.3, 0.4, 0.5)] == [109, 218, 327, 436, 545]  # COAST
    assert [measurements_at(r, n, "half-even") for r in (0.1, 0.2, 0.3, 0.4, 0.5)] == [109, 218, 327, 436, 544]
    assert measurements_at(0.07, 100, "up") == 7
    assert measurements_at(1e-9, n) == 1
    assert measurements_at(1, n) == n


def test_a_learned_matrix_gets_its_gradient(generator):
    matrix = nn.Parameter(gaussian_matrix(4, 9, generator))
    physics = BlockCompressedSensing(matrix, (6, 7), (3, 3))
    assert list(physics.parameters()) == [matrix]
    assert list(physics.padded().parameters()) == [matrix]
    x = torch.rand(2, 1, 6, 7, generator=generator)
    before = physics.sqnorm
    optimiser = torch.optim.SGD(physics.parameters(), lr=0.1)
    loss = (physics.A_adjoint(physics.A(x)) - x).square().mean()
    loss.backward()
    assert matrix.grad.abs().sum() > 0
    optimiser.step()
    assert physics.sqnorm != before
    assert (physics.A_adjoint(physics.A(x)) - x).square().mean() < loss
    assert physics.A_dagger(physics.A(x)).requires_grad


def test_data_of_another_precision_keep_it(generator):
    physics = BlockCompressedSensing(gaussian_matrix(4, 9, generator), (6, 6), (3, 3))
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=generator)
    assert physics.A(x).dtype == torch.float64
    assert physics.A_dagger(physics.A(x)).dtype == torch.float64


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, float("nan")])
def test_ratios_that_there_are_not(ratio):
    with pytest.raises(OptionError, match="above 0 and at most 1"):
        measurements_at(ratio, 1089)


def test_bad_input(generator):
    matrix = gaussian_matrix(4, 9, generator)
    with pytest.raises(OptionError, match="block 3 x 3, image 2 x 9"):
        BlockCompressedSensing(matrix, (2, 9), (3, 3))
    with pytest.raises(ShapeError, match=r"found 4 x 9; expected \(m, 16\) with m from 1 to 16"):
        BlockCompressedSensing(matrix, (8, 8), (4, 4))
    with pytest.raises(ShapeError, match="found 10 x 9"):
        BlockCompressedSensing(torch.zeros(10, 9), (8, 8), (3, 3))
    with pytest.raises(DataError, match="not finite"):
        BlockCompressedSensing(matrix.clone().index_fill_(0, torch.tensor([0]), float("nan")), (8, 8), (3, 3))
    physics = BlockCompressedSensing(matrix, (8, 8), (3, 3))
    with pytest.raises(ShapeError, match="images that do not fit"):
        physics.A(torch.zeros(1, 1, 9, 9))
    with pytest.raises(ShapeError, match="measurements that do not fit"):
        physics.A_adjoint(torch.zeros(1, 1, 4, 2, 3))
    with pytest.raises(DTypeError, match="real floating-point"):
        physics.update_parameters(matrix=matrix.to(torch.complex64))
    with pytest.raises(OptionError, match="powers of 2"):
        hadamard_matrix(5, (33, 33))
    with pytest.raises(OptionError, match="squares"):
        hadamard_matrix(5, (4, 8))
    with pytest.raises(OptionError, match="1 to 9"):
        gaussian_matrix(10, 9, generator)
    with pytest.raises(OptionError, match="need a generator"):
        dct_matrix(3, (3, 3), "random")
    with pytest.raises(OptionError, match="no such ordering"):
        dct_matrix(3, (3, 3), "spiral")
    with pytest.raises(OptionError, match="no such rounding"):
        measurements_at(0.5, 9, "sideways")
