"""A matrix as an operator: sparse recovery, and any linear problem that is small enough to be written down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from deepinv.physics.noise import NoiseModel, ZeroNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import DataError, ShapeError


@operators.register("matrix")
class MatrixOperator(LinearPhysics):
    r"""Measurements :math:`y = A x` of a flattened image by a real matrix.

    Parameters
    ----------
    matrix
        A.
    img_size
        Of an image without its batch, which has n numbers; ``(n,)`` by default.
    noise_model
        None: no noise.

    Raises
    ------
    ShapeError, DataError
        A matrix that does not fit the images, or that is not finite.
    """

    matrix: Tensor

    def __init__(
        self,
        matrix: Float[Tensor, "m n"],
        img_size: Sequence[int] | None = None,
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), device=matrix.device)
        self.img_size = tuple(img_size or matrix.shape[1:])
        if matrix.ndim != 2 or math.prod(self.img_size) != matrix.shape[1]:
            raise ShapeError(
                "a matrix that does not fit the images", found=tuple(matrix.shape), expected=f"(m, {self.img_size})"
            )
        if not bool(torch.isfinite(matrix).all()):
            raise DataError("the matrix is not finite")
        self.register_buffer("matrix", matrix)
        self._sqnorm: float | None = None

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[MatrixOperator, Float[Tensor, "b channel y x"]]:
        """Make a random instance and an image for the shared operator test."""
        matrix = torch.randn(40, 60, dtype=dtype, generator=generator).to(device)
        x = torch.randn(batch, 1, 6, 10, dtype=dtype, generator=generator).to(device)
        return cls(matrix, (1, 6, 10), noise_model=GaussianNoise(0.1)), x

    @property
    def sqnorm(self) -> float:
        """Largest eigenvalue of :math:`A^T A`, kept after the first use."""
        if self._sqnorm is None:
            self._sqnorm = float(torch.linalg.matrix_norm(self.matrix.detach().double(), ord=2)) ** 2
        return self._sqnorm

    def A(self, x: Float[Tensor, "b *image"], **noise_parameters: object) -> Float[Tensor, "b m"]:
        """Multiply; parameters of the noise model, which deepinv hands on, are set there."""
        self.noise_model.update_parameters(**noise_parameters)
        if tuple(x.shape[1:]) != self.img_size:
            raise ShapeError("images that do not fit the matrix", found=tuple(x.shape), expected=("b", *self.img_size))
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Float[Tensor, "b m"], **noise_parameters: object) -> Float[Tensor, "b *image"]:
        """Multiply by the transpose."""
        self.noise_model.update_parameters(**noise_parameters)
        if y.ndim != 2 or y.shape[1] != len(self.matrix):
            raise ShapeError(
                "measurements that do not fit the matrix", found=tuple(y.shape), expected=("b", len(self.matrix))
            )
        return (y @ self.matrix).unflatten(1, self.img_size)
