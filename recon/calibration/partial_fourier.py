"""Partial Fourier: the missing part of k-space from the smooth phase of the image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.physics.errors import MaskError, OptionError
from recon.physics.fft import fft_centred, ifft_centred


def homodyne(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."], axis: int
) -> Complex[Tensor, "b coil *spatial"]:
    """Fill the missing side by homodyne detection [Noll, Nishimura, Macovski, IEEE TMI 10:154 (1991)].

    Samples without a partner on the other side of the centre count twice, with a ramp in between; what is in phase
    with the low-resolution image is kept.

    Parameters
    ----------
    kspace
        DC in the centre; fully sampled but for one side along `axis`.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``.
    axis
        Partial axis, counted from the end (-1: x, -2: y, -3: z).

    Returns
    -------
    Tensor
        Complete k-space; acquired samples unchanged.

    Raises
    ------
    MaskError
        Samples along the axis that are not one run across the centre.
    """
    first, last = acquired_range(mask, axis, kspace.shape)
    n = kspace.shape[axis]
    if last - first == n:
        return kspace
    lines = _lines(first, last, kspace, axis)
    partner = lines.flip(axis) if n % 2 else lines.flip(axis).roll(1, axis)
    half = _half_width(first, last, n)
    distance = _distance(kspace, axis)
    ramp = (distance / (half + 1)).clamp(-1, 1) * (
        1 if first == 0 else -1
    )  # rises from the acquired to the missing side
    weight = torch.where(lines & partner, 1 - ramp, 2 * lines.to(ramp.dtype))
    dims = tuple(range(2, kspace.ndim))
    phase = _phase(kspace, axis, half)
    image = ifft_centred(kspace * weight, dims)
    filled = fft_centred((image * phase.conj()).real * phase, dims)
    return torch.where(lines, kspace, filled)


def pocs(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."], axis: int, n_iter: int = 10
) -> Complex[Tensor, "b coil *spatial"]:
    """Fill the missing side by projection on the low-resolution phase and on the data in turns [Haacke, JMR 92 (1991)].

    Parameters
    ----------
    kspace
        DC in the centre; fully sampled but for one side along `axis`.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``.
    axis
        Partial axis, counted from the end (-1: x, -2: y, -3: z).
    n_iter
        Number of turns.

    Returns
    -------
    Tensor
        Complete k-space; acquired samples unchanged.

    Raises
    ------
    MaskError
        Samples along the axis that are not one run across the centre.
    """
    first, last = acquired_range(mask, axis, kspace.shape)
    n = kspace.shape[axis]
    if last - first == n:
        return kspace
    lines = _lines(first, last, kspace, axis)
    dims = tuple(range(2, kspace.ndim))
    phase = _phase(kspace, axis, _half_width(first, last, n))
    filled = kspace
    for _ in range(n_iter):
        image = ifft_centred(filled, dims)
        filled = torch.where(lines, kspace, fft_centred(image.abs() * phase, dims))
    return filled


def acquired_range(mask: Bool[Tensor, "..."], axis: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the first sampled index along an axis and the one after the last; in between every line has samples.

    Raises
    ------
    OptionError
        An axis that is not spatial.
    MaskError
        Samples that are not one run across the centre.
    """
    if not -(len(shape) - 2) <= axis < 0:
        raise OptionError("the partial axis is not a spatial one", found=axis, expected="-1, -2 or -3")
    n = shape[axis]
    lines = mask.movedim(axis, 0).flatten(1).any(1).expand(n)
    index = lines.nonzero().flatten()
    first, last = (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)
    if len(index) != last - first or not first < n // 2 < last or (first > 0 and last < n):
        raise MaskError(
            "not a partial Fourier mask",
            found=f"{len(index)} of {n} lines from {first} to {last}",
            expected="one run of lines from one edge of k-space to beyond its centre",
        )
    return first, last


def _half_width(first: int, last: int, n: int) -> int:
    """Lines on each side of the centre that have a partner."""
    return min(n // 2 - first, last - 1 - n // 2)


def _lines(first: int, last: int, kspace: Tensor, axis: int) -> Bool[Tensor, "..."]:
    index = torch.arange(kspace.shape[axis], device=kspace.device)
    return ((index >= first) & (index < last)).view(-1, *(1,) * (-axis - 1))


def _distance(kspace: Tensor, axis: int) -> Float[Tensor, "..."]:
    n = kspace.shape[axis]
    index = torch.arange(n, device=kspace.device, dtype=kspace.real.dtype) - n // 2
    return index.view(-1, *(1,) * (-axis - 1))


def _phase(kspace: Tensor, axis: int, half: int) -> Tensor:
    """Phase factor of the image of the symmetric middle, under a Hann window against ringing."""
    window = torch.cos(0.5 * torch.pi * (_distance(kspace, axis) / (half + 1)).clamp(-1, 1)).square()
    return torch.sgn(ifft_centred(kspace * window, tuple(range(2, kspace.ndim))))
