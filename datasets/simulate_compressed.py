"""Simulated block compressed sensing: from an image to its measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Num
from numpy import ndarray
from torch import Tensor

from recon.datasets.arrays import check_finite, levels_of
from recon.datasets.compressed import COLOURS, CompressedScan
from recon.datasets.random import child_generator
from recon.datasets.readers import open as open_file
from recon.datasets.scan import Image, Source
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.errors import DTypeError, OptionError, ShapeError
from recon.physics.measurement_matrices import dct_matrix, gaussian_matrix, hadamard_matrix, measurements_at

MATRICES = ("gaussian", "hadamard", "dct")
_MATRIX, _NOISE = 0, 1  # children of the seed
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in YCbCr


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedSimulation:
    """Measurements, and the image that they were made of.

    Parameters
    ----------
    scan
        The measurements.
    truth
        ``(slice, y, x)``, or ``(slice, y, x, 3)`` where the channels of a colour image were measured.
    """

    scan: CompressedScan
    truth: Image


def simulate_compressed(
    image: Image,
    matrix: Float[Tensor, "m n"] | Float[ndarray, "m n"],
    block: tuple[int, int] = (33, 33),
    *,
    sigma: float = 0.0,
    colour: str = "luminance",
    seed: int = 0,
) -> CompressedSimulation:
    """Measure every block of an image by a matrix.

    Parameters
    ----------
    image
        Real. Of a colour image see ``colour``.
    matrix
        ``(m, n)``, see `make_matrix` and `read_matrix`.
    block
        (h, w).
    sigma
        Standard deviation of Gaussian noise in each measurement, in the units of the image.
    colour
        ``"luminance"``: Y of YCbCr, rounded where the image is made of integers, as the papers have it;
        ``"channels"``: red, green and blue one by one.
    seed
        Of the noise.

    Raises
    ------
    DataError, DTypeError, ShapeError, OptionError
        An image that is not finite, complex, or smaller than a block; a matrix that does not fit; a negative noise.
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise OptionError("a noise level is a number from 0 on", found=sigma)
    if colour not in COLOURS:
        raise OptionError("no such colour", found=colour, expected=f"one of {', '.join(COLOURS)}")
    pixels = _numbers(image)
    levels = levels_of(pixels)
    is_colour = pixels.ndim == 4
    if is_colour and colour == "luminance":
        pixels = luminance(pixels)
    planes = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    x = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))
    size = (int(x.shape[2]), int(x.shape[3]))
    if size[0] < block[0] or size[1] < block[1]:
        raise OptionError(
            "the image is smaller than a block",
            file=image.source.path,
            found=f"image {size[0]} x {size[1]}, block {block[0]} x {block[1]}",
            cure=f"Take smaller blocks, such as --block {min(*size, 8)}",
        )
    physics = BlockCompressedSensing(torch.as_tensor(matrix, dtype=torch.float32), size, block)
    y = physics.A(x)
    if sigma:
        y = y + sigma * torch.randn(y.shape, generator=child_generator(seed, _NOISE))
    scan = CompressedScan(
        measurements=y.contiguous().numpy(),
        matrix=physics.matrix.numpy(),
        block=block,
        size=size,
        source=image.source,
        peak=255.0 if levels == "uint8" else float(x.abs().max()),
        levels=levels,
        sigma=sigma,
        colour=colour if is_colour else None,
        unit=image.unit,
        spacing=image.spacing,
        affine=image.affine,
        notes=() if physics.orthonormal else ("the rows of the matrix are not orthonormal",),
    )
    truth = pixels if levels is None else np.asarray(pixels, dtype=levels)
    return CompressedSimulation(
        scan=scan,
        truth=Image(pixels=truth, source=image.source, spacing=image.spacing, affine=image.affine, unit=image.unit),
    )


def luminance(pixels: Num[ndarray, "*pixels 3"]) -> Float[ndarray, "*pixels"]:
    """Return Y of YCbCr; of integers rounded, as the papers have it."""
    y: ndarray = pixels @ _LUMINANCE
    return y if pixels.dtype.kind == "f" else np.round(y)


def make_matrix(
    kind: str, ratio: float, block: tuple[int, int], *, ordering: str | None = None, seed: int = 0
) -> Float[Tensor, "m n"]:
    """Make a matrix with orthonormal rows.

    Parameters
    ----------
    kind
        One of `MATRICES`.
    ratio
        Rows over pixels of a block.
    block
        (h, w); powers of 2 for ``"hadamard"``.
    ordering
        Of the rows of transforms, see `recon.physics.measurement_matrices`; by default the usual one.
    seed
        Of all random choices.

    Raises
    ------
    OptionError
        A kind, ratio, block or ordering that does not exist.
    """
    if kind not in MATRICES:
        raise OptionError(
            "no such matrix", found=kind, expected=f"one of {', '.join(MATRICES)}, or a file (.npy, .mat)"
        )
    if min(block) < 1:
        raise OptionError("a block has sides of at least one pixel", found=block)
    m = measurements_at(ratio, block[0] * block[1])
    generator = child_generator(seed, _MATRIX)
    if kind == "gaussian":
        if ordering is not None:
            raise OptionError("a Gaussian matrix has no ordering", found=ordering)
        return gaussian_matrix(m, block[0] * block[1], generator)
    if kind == "hadamard":
        return hadamard_matrix(m, block, ordering or "cake_cutting", generator)
    return dct_matrix(m, block, ordering or "zig_zag", generator)


def read_matrix(
    path: Path, block: tuple[int, int], *, ratio: float | None = None, variable: str | None = None
) -> Float[Tensor, "m n"]:
    """Read a matrix from a file of one real array (``.npy``, ``.npz``, ``.mat``), m rows of n pixels.

    Parameters
    ----------
    path
        The file.
    block
        (h, w) that the matrix must fit.
    ratio
        That the matrix must have to within a row; None: any.
    variable
        Name of the array in a file of several.

    Raises
    ------
    FileFormatError, DTypeError, ShapeError, OptionError, DataError
        No such file, not one real array, not finite, or not of this size.
    """
    opened = open_file(path, variable=variable)
    if isinstance(opened, CompressedScan):
        matrix = opened.matrix
    elif not isinstance(opened, Image) or len(opened.pixels.shape) != 3 or opened.pixels.shape[0] != 1:
        raise DTypeError("the file holds no matrix", file=path, expected="one real array (m, n)")
    else:
        matrix = np.asarray(opened.pixels[0])
    m, n = matrix.shape
    if n != block[0] * block[1] or not 1 <= m <= n:
        raise ShapeError(
            "a matrix that does not fit the block",
            file=path,
            found=f"{m} x {n}",
            expected=f"m x {block[0] * block[1]} for blocks of {block[0]} x {block[1]}",
            cure="Give it the other way round" if m == block[0] * block[1] else "Name the block with --block",
        )
    check_finite(matrix, "the matrix has values", path)
    if ratio is not None and abs(m - ratio * n) >= 1:
        raise OptionError("a matrix of another ratio", file=path, found=f"{m} x {n}", expected=f"ratio {ratio}")
    return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))


def phantom() -> Image:
    """Return the Shepp-Logan phantom in 8 bit, 264 x 264."""
    from skimage.data import shepp_logan_phantom

    pixels = np.round(255 * np.pad(shepp_logan_phantom()[::2, ::2], 32)).astype(np.uint8)
    return Image(pixels=pixels[None], source=Source("Shepp-Logan phantom"))


def _numbers(image: Image) -> ndarray:
    """Return all pixels of an image, real and finite."""
    pixels = image.stacked()
    if pixels.dtype.kind not in "biuf":
        raise DTypeError("only real images are measured", file=image.source.path, found=pixels.dtype)
    check_finite(pixels, "the image has pixels", image.source.path)
    return pixels
