"""Coil maps from low-resolution images, for data without a calibration block."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from recon.physics.fft import ifft_centred


def lowres_maps(
    kspace: Complex[Tensor, "b coil *spatial"], mask: Bool[Tensor, "..."] | None = None, *, width: int = 24
) -> Complex[Tensor, "b coil *spatial"]:
    """Low-resolution coil images divided by their root sum of squares [Pruessmann et al., MRM 42:952 (1999)].

    They need no fully sampled block, but hold the aliasing of whatever is missing in the middle of k-space, and cover
    the background as well as the object: a fallback where `espirit` cannot be used.

    Parameters
    ----------
    kspace
        DC in the centre.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``.
    width
        Side of the Hann window that cuts out the middle of k-space.

    Returns
    -------
    Tensor
        Unit norm over the coils.
    """
    window = torch.ones((), dtype=kspace.real.dtype, device=kspace.device)
    for n in kspace.shape[2:]:
        distance = (torch.arange(n, device=kspace.device) - n // 2) / (min(width, n) / 2 + 1)
        window = window[..., None] * torch.cos(0.5 * torch.pi * distance.clamp(-1, 1)).square()
    sampled = kspace if mask is None else kspace * mask
    images = ifft_centred(sampled * window, tuple(range(2, kspace.ndim)))
    norm = torch.linalg.vector_norm(torch.view_as_real(images), dim=(1, -1)).unsqueeze(1)
    return images / norm.clamp_min(torch.finfo(norm.dtype).tiny)
