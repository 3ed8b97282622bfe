"""Removal of readout oversampling."""

from __future__ import annotations

from jaxtyping import Complex
from torch import Tensor

from recon.physics.errors import OptionError
from recon.physics.fft import fft_centred, ifft_centred


def remove_oversampling(
    kspace: Complex[Tensor, "b coil *spatial"], axis: int, factor: float = 2.0
) -> Complex[Tensor, "b coil *spatial_cut"]:
    """Keep the central ``1 / factor`` of the field of view along a fully sampled readout.

    Both transforms are orthonormal, so the image keeps its values and the noise its level per sample; only the samples
    get fewer. A mask that does not depend on the readout stays valid, with the shorter length.

    Parameters
    ----------
    kspace
        DC in the centre, fully sampled along `axis`.
    axis
        Readout axis, counted from the end (-1: x, -2: y, -3: z).
    factor
        Length of the encoded field of view over that of the wanted one, at least 1.

    Raises
    ------
    OptionError
        A factor below 1, or an axis that is not spatial.
    """
    n = kspace.shape[axis] if -(kspace.ndim - 2) <= axis < 0 else 0
    kept = round(n / factor) if factor >= 1 else 0
    if kept < 1:
        raise OptionError(
            "readout oversampling that cannot be removed",
            found=f"factor {factor:g} along axis {axis} of k-space {tuple(kspace.shape)}",
            expected="a factor of at least 1 along a spatial axis, counted from the end",
        )
    image = ifft_centred(kspace, (axis,)).narrow(axis, n // 2 - kept // 2, kept)
    return fft_centred(image, (axis,))
