"""The calibration block, the kernels that span it, and what they become in image space."""

from __future__ import annotations

from math import pi, prod, sqrt

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.physics.errors import CalibrationError

_GREATEST_NOISE = 0.1  # of the largest singular value: above, more signal would be lost than noise


def calibration_region(mask: Bool[Tensor, "*spatial"], limit: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Size of the largest fully sampled block around the centre of k-space.

    Blocks start ``width // 2`` before index ``n // 2``. Of all that are fully sampled the one with the most samples
    is taken, after each side has been cut to `limit`; for a line mask that is all of the lines in the middle.

    Parameters
    ----------
    mask
        True where sampled, of the spatial shape (2D or 3D), without batch or coil axes.
    limit
        Longest useful side along each axis.

    Returns
    -------
    tuple of int
        Samples along each axis; all zero where the centre itself is not sampled.
    """
    counts = mask.to(torch.int64)
    size = torch.ones((), dtype=torch.int64, device=mask.device)
    for axis, n in enumerate(mask.shape):
        width = torch.arange(1, min(n, limit[axis] if limit else n) + 1, device=mask.device)
        start = n // 2 - width // 2
        cumulated = torch.nn.functional.pad(counts.movedim(axis, -1).cumsum(-1), (1, 0)).movedim(-1, axis)
        counts = cumulated.index_select(axis, start + width) - cumulated.index_select(axis, start)
        size = size[..., None] * width
    full = torch.where(counts == size, size, 0).flatten()
    if full.numel() == 0 or int(full.max()) == 0:
        return (0,) * mask.ndim
    index = int(full.argmax())
    return tuple(int(i) + 1 for i in torch.unravel_index(torch.tensor(index), counts.shape))


def centre_block(array: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cut the block of `size` around index ``n // 2`` out of the last axes."""
    for axis, (n, width) in enumerate(zip(array.shape[-len(size) :], size, strict=True), -len(size)):
        array = array.narrow(axis, n // 2 - width // 2, width)
    return array


def calibration_gram(
    block: Complex[Tensor, "coil *calibration"], kernel: tuple[int, ...]
) -> tuple[Complex[Tensor, "n m"], Complex[Tensor, "s s"], bool]:
    """Calibration matrix of all patches [Uecker 2014, eq. 1], and the smaller one of its two Gram matrices.

    Returns
    -------
    matrix
        ``(coil * prod(kernel), patches)``: one patch a column.
    gram
        ``matrix @ matrix^H``, or ``matrix^H @ matrix`` where there are fewer patches than coefficients.
    dual
        Whether the second was taken.
    """
    patches = block
    for axis, width in enumerate(kernel):
        patches = patches.unfold(axis + 1, width, 1)
    dims = len(kernel)
    order = [0, *range(dims + 1, 2 * dims + 1), *range(1, dims + 1)]
    matrix = patches.permute(order).reshape(block.shape[0] * prod(kernel), -1)
    dual = matrix.shape[1] < matrix.shape[0]
    return matrix, matrix.mH @ matrix if dual else matrix @ matrix.mH, dual


def calibration_kernels(
    block: Complex[Tensor, "coil *calibration"], kernel: tuple[int, ...], threshold: float, sigma: float = 0.0
) -> tuple[Complex[Tensor, "r coil *kernel"], float]:
    """Orthonormal kernels that span the row space of the calibration matrix [Uecker 2014, eq. 4].

    Parameters
    ----------
    block
        Fully sampled k-space around the centre.
    kernel
        Size of the kernels.
    threshold
        Singular values below `threshold` times the largest belong to the null space.
    sigma
        Standard deviation of the noise of the real part, if known: singular values that noise alone can reach, which is
        ``sqrt(2) sigma (sqrt(rows) + sqrt(columns))`` [Marchenko and Pastur], belong there too, up to a tenth of the
        largest.

    Returns
    -------
    kernels
        Those of the row space, by falling singular value.
    threshold
        The one that was used, relative to the largest singular value.

    Raises
    ------
    CalibrationError
        The block is all zero.
    """
    matrix, gram, dual = calibration_gram(block, kernel)
    values, vectors = torch.linalg.eigh(gram)
    singular = values.clamp_min(0).sqrt().flip(0)
    largest = float(singular[0])
    if not largest > 0:
        raise CalibrationError("the middle of k-space is all zero", cure="Check that its centre is at index n // 2")
    edge = sqrt(2) * sigma * (sqrt(matrix.shape[0]) + sqrt(matrix.shape[1]))
    threshold = max(threshold, min(edge / largest, _GREATEST_NOISE))
    kept = int((singular > threshold * largest).sum())
    vectors = vectors[:, -kept:].flip(1)
    if dual:  # left singular vectors from the right ones
        vectors = matrix @ (vectors / singular[:kept])
    return vectors.T.reshape(kept, block.shape[0], *kernel), threshold


def kernel_autocorrelation(
    kernels: Complex[Tensor, "r coil *kernel"],
) -> Complex[Tensor, "*lag coil coil"]:
    """Autocorrelation of the kernels, summed over them: the Fourier coefficients of the image-space covariance.

    The covariance ``G(x)`` of ESPIRiT [Uecker 2014, eq. 9] is a trigonometric polynomial of degree ``kernel - 1``,
    so these few coefficients say all, and no kernel ever needs a transform of the size of the image.

    Returns
    -------
    Tensor
        ``(2 * kernel - 1, ..., coil, coil)``, lag 0 in the middle, scaled so that ``G`` has eigenvalues in [0, 1].
    """
    size = kernels.shape[2:]
    dims = tuple(range(-len(size), 0))
    spectrum = torch.fft.ifftn(kernels, s=[2 * k for k in size], dim=dims, norm="forward")
    spectrum = spectrum.movedim((0, 1), (-1, -2))  # (*2k, coil, r)
    lags = torch.fft.fftshift(
        torch.fft.fftn(spectrum @ spectrum.mH, dim=tuple(range(len(size))), norm="forward"), tuple(range(len(size)))
    )
    return lags[tuple(slice(1, None) for _ in size)] / prod(size)


def fourier_basis(coordinates: Float[Tensor, " n"], degree: int, like: Tensor) -> Complex[Tensor, "n lag"]:
    """Evaluate ``exp(2 pi i d x)`` for coordinates in fields of view and lags ``-degree..degree``."""
    lag = torch.arange(-degree, degree + 1, device=like.device)
    phase = 2 * pi * coordinates.to(like.device, torch.float64)[:, None] * lag
    return torch.polar(torch.ones_like(phase), phase).to(like.dtype)
