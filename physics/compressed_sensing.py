"""Block compressed sensing: every block of an image multiplied by one measurement matrix."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from recon.physics import operators
from recon.physics.errors import DataError, DTypeError, OptionError, ShapeError
from recon.physics.measurement_matrices import has_orthonormal_rows


@operators.register("block-cs")
class BlockCompressedSensing(LinearPhysics):
    r"""Block compressed sensing [1]_, :math:`y_i = \Phi x_i` of every block :math:`x_i` of an image.

    Blocks lie side by side from the top left corner; an image that is not made of whole blocks is filled up with zeros
    at its bottom and right, as ISTA-Net [2]_ and COAST have it. A block is a vector row by row. Channels are measured
    one by one, with the same matrix.

    Parameters
    ----------
    matrix
        :math:`\Phi`, ``(m, n)`` with n the pixels of a block and :math:`1 \le m \le n`. Its rows need not be
        orthonormal. A `torch.nn.Parameter` stays one: then the matrix is learned.
    img_size
        (y, x) of the images, no side smaller than the block's.
    block
        (h, w).
    noise_model
        Of the measurements.

    Attributes
    ----------
    ratio
        :math:`m / n`.
    padded_size
        (y, x) of the image with whole blocks.
    grid
        (rows, columns) of blocks.

    Raises
    ------
    ShapeError, DTypeError, DataError, OptionError
        A matrix that does not fit the block, is not real or not finite; a block larger than the image.

    References
    ----------
    .. [1] Gan, Block compressed sensing of natural images, DSP 2007.
    .. [2] Zhang, Ghanem, ISTA-Net, CVPR 2018.
    """

    matrix: Tensor
    _sqnorm: tuple[int, float] | None
    _inverses: tuple[int, list[list[Tensor]]] | None

    def __init__(
        self,
        matrix: Float[Tensor, "m n"],
        img_size: tuple[int, int],
        block: tuple[int, int] = (33, 33),
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), device=matrix.device)
        self.img_size, self.block = _two(img_size, "an image"), _two(block, "a block")
        if any(side < size for side, size in zip(self.img_size, self.block, strict=True)):
            raise OptionError(
                "a block that is larger than the image",
                found=f"block {_times(self.block)}, image {_times(self.img_size)}",
                cure="Take smaller blocks",
            )
        checked = _checked(matrix, self.block)
        if isinstance(matrix, nn.Parameter):
            self.matrix = matrix
        else:
            self.register_buffer("matrix", checked)
        self.grid = (-(-self.img_size[0] // self.block[0]), -(-self.img_size[1] // self.block[1]))
        self.padded_size = (self.grid[0] * self.block[0], self.grid[1] * self.block[1])
        self._sqnorm = self._inverses = None

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[BlockCompressedSensing, Float[Tensor, "b c y x"]]:
        """Make a random instance and images for the shared operator test."""
        matrix = torch.randn(5, 12, dtype=dtype, generator=generator).to(device)
        x = torch.randn(batch, 2, 7, 9, dtype=dtype, generator=generator).to(device)
        return cls(matrix, (7, 9), (3, 4), noise_model=GaussianNoise(0.1)), x

    @property
    def ratio(self) -> float:
        """Measurements a pixel of a block."""
        return self.matrix.shape[0] / self.matrix.shape[1]

    @property
    def sqnorm(self) -> float:
        r"""Largest eigenvalue of :math:`A^T A`: that of :math:`\Phi \Phi^T`, exact, and kept until the matrix changes.

        The image has at least one whole block, so that padding does not lower it.
        """
        version = self._version()
        if self._sqnorm is None or self._sqnorm[0] != version or version < 0:
            matrix = self.matrix.detach().double()
            self._sqnorm = version, float(torch.linalg.eigvalsh(matrix @ matrix.mT)[-1])
        return self._sqnorm[1]

    @property
    def orthonormal(self) -> bool:
        r"""Whether :math:`\Phi \Phi^T` is the identity, as far as a file's rounding lets it."""
        return has_orthonormal_rows(self.matrix.detach())

    def padded(self) -> BlockCompressedSensing:
        """Return the same operator, sharing its matrix, for images of whole blocks (`padded_size`)."""
        whole = BlockCompressedSensing(self.matrix, self.padded_size, self.block, noise_model=self.noise_model)
        whole._sqnorm = self._sqnorm
        return whole

    def update_parameters(self, matrix: Tensor | None = None, **noise_parameters: object) -> None:
        """Replace the matrix by another of any m, or (by name, as deepinv does) parameters of the noise model."""
        if matrix is not None:
            self.matrix = _checked(matrix, self.block).to(self.matrix.device)
            self._sqnorm = self._inverses = None
        self.noise_model.update_parameters(**noise_parameters)

    def to_blocks(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c rows columns h w"]:
        """Cut a padded image into its blocks; a view."""
        if tuple(x.shape[2:]) != self.padded_size:
            raise ShapeError("an image not of whole blocks", found=tuple(x.shape), expected=self.padded_size)
        (rows, columns), (h, w) = self.grid, self.block
        return x.unflatten(3, (columns, w)).unflatten(2, (rows, h)).transpose(3, 4)

    def from_blocks(self, blocks: Float[Tensor, "b c rows columns h w"]) -> Float[Tensor, "b c y x"]:
        """Put the blocks of a padded image together."""
        return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)

    def pad(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c padded_y padded_x"]:
        """Fill an image up with zeros at its bottom and right; one of whole blocks is returned as it is."""
        if x.is_complex() or not x.is_floating_point():
            raise DTypeError("images are real floating-point numbers", found=x.dtype)
        if x.ndim != 4 or tuple(x.shape[2:]) != self.img_size:
            raise ShapeError(
                "images that do not fit the operator", found=tuple(x.shape), expected=("b", "c", *self.img_size)
            )
        missing = self.padded_size[0] - self.img_size[0], self.padded_size[1] - self.img_size[1]
        return pad(x, (0, missing[1], 0, missing[0])) if any(missing) else x

    def A(self, x: Float[Tensor, "b c y x"], **parameters: Any) -> Float[Tensor, "b c m rows columns"]:
        """Measure; what `update_parameters` takes can be given here, and stays."""
        self.update_parameters(**parameters)
        return (self._vectors(x) @ self.matrix.to(x.dtype).mT).movedim(-1, 2)

    def A_adjoint(self, y: Float[Tensor, "b c m rows columns"], **parameters: Any) -> Float[Tensor, "b c y x"]:
        r"""Apply :math:`\Phi^T` to the measurements of each block, and crop."""
        self.update_parameters(**parameters)
        return self._image(self._measurements(y) @ self.matrix.to(y.dtype))

    def A_adjoint_A(self, x: Float[Tensor, "b c y x"], **parameters: Any) -> Float[Tensor, "b c y x"]:
        """Measure and apply the adjoint, without a change of layout in between."""
        self.update_parameters(**parameters)
        matrix = self.matrix.to(x.dtype)
        return self._image((self._vectors(x) @ matrix.mT) @ matrix)

    def A_dagger(self, y: Float[Tensor, "b c m rows columns"], **parameters: Any) -> Float[Tensor, "b c y x"]:
        """Return the image of least norm among those that fit the measurements best; exact, padding considered."""
        self.update_parameters(**parameters)
        v, (h, w) = self._measurements(y), self.block
        blocks = v.new_zeros(*v.shape[:-1], h, w)
        for (where_y, h_seen), of_row in zip(self._spans(0), self._pseudo_inverses(), strict=True):
            for (where_x, w_seen), inverse in zip(self._spans(1), of_row, strict=True):
                seen = v[:, :, where_y, where_x] @ inverse.to(y.dtype).mT
                blocks[:, :, where_y, where_x, :h_seen, :w_seen] = seen.unflatten(-1, (h_seen, w_seen))
        return self._crop(self.from_blocks(blocks))

    def _vectors(self, x: Tensor) -> Tensor:
        """Pixels of each block, the last axis: one product of all rows is faster than a strided convolution."""
        return self.to_blocks(self.pad(x)).flatten(4)

    def _image(self, vectors: Tensor) -> Tensor:
        return self._crop(self.from_blocks(vectors.unflatten(-1, self.block)))

    def _crop(self, x: Tensor) -> Tensor:
        return x[..., : self.img_size[0], : self.img_size[1]]

    def _measurements(self, y: Tensor) -> Tensor:
        expected = (self.matrix.shape[0], *self.grid)
        if y.ndim != 5 or tuple(y.shape[2:]) != expected:
            raise ShapeError(
                "measurements that do not fit the operator", found=tuple(y.shape), expected=("b", "c", *expected)
            )
        return y.movedim(2, -1)

    def _version(self) -> int:
        """Count the changes in place of the matrix, which training makes; -1 where nobody counts."""
        return -1 if self.matrix.is_inference() else self.matrix._version  # noqa: SLF001 - torch has no public one

    def _spans(self, axis: int) -> list[tuple[slice, int]]:
        """Which blocks along an axis lie wholly in the image, and which in part; with how many of their pixels."""
        size, whole = self.block[axis], self.img_size[axis] // self.block[axis]
        rest = self.img_size[axis] % size
        return [(slice(0, whole), size), *([(slice(whole, whole + 1), rest)] if rest else [])]

    def _pseudo_inverses(self) -> list[list[Tensor]]:
        r""":math:`\Phi_s^T (\Phi_s \Phi_s^T)^+`, with the columns s of :math:`\Phi` of pixels in the image."""
        version = self._version()
        if self._inverses is not None and self._inverses[0] == version >= 0 and not self.matrix.requires_grad:
            return self._inverses[1]
        pixels = self.matrix.unflatten(1, self.block).double()
        inverses = [
            [_pseudo_inverse(pixels[:, :h, :w].flatten(1)).to(self.matrix.dtype) for _, w in self._spans(1)]
            for _, h in self._spans(0)
        ]
        self._inverses = version, inverses
        return inverses

    def _apply(self, fn: Any, recurse: bool = True) -> BlockCompressedSensing:
        self._inverses = None  # made anew in the other precision, or on the other device
        return super()._apply(fn, recurse)


def _pseudo_inverse(matrix: Tensor) -> Tensor:
    wide = matrix.shape[0] <= matrix.shape[1]
    products = matrix @ matrix.mT if wide else matrix.mT @ matrix
    inverse = torch.linalg.pinv(products, hermitian=True, rtol=1e-11)
    return matrix.mT @ inverse if wide else inverse @ matrix.mT


def _checked(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    if matrix.is_complex() or not matrix.is_floating_point():
        raise DTypeError("a measurement matrix is made of real floating-point numbers", found=matrix.dtype)
    n = block[0] * block[1]
    if matrix.ndim != 2 or matrix.shape[1] != n or not 1 <= matrix.shape[0] <= n:
        raise ShapeError(
            "a measurement matrix that does not fit the block",
            found=_times(matrix.shape),
            expected=f"(m, {n}) with m from 1 to {n}, for blocks of {_times(block)}",
        )
    if not matrix.is_meta and not bool(torch.isfinite(matrix).all()):
        raise DataError("a measurement matrix with values that are not finite")
    return matrix


def _two(size: tuple[int, ...], what: str) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise OptionError(f"{what} has two axes", found=tuple(size), expected="(y, x)")
    return int(size[0]), int(size[1])


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
