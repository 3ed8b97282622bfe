"""MRI with one coil: the sampled Fourier transform of a complex image."""

from __future__ import annotations

import torch
from deepinv.physics import MRI
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Float, Shaped
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import MaskError
from recon.physics.fft import centring_phases
from recon.physics.layout import to_channels, to_complex


@operators.register("mri")
class SingleCoilMRI(MRI):
    r"""Sampled centred Fourier transform, :math:`y = M F x`, as deepinv's `MRI`: real with two channels on both sides.

    The shifts of the centred FFT are phases here (`recon.physics.fft.centring_phases`), which is faster; the
    singular value decomposition, ``A_dagger`` and ``prox_l2`` are deepinv's.

    Parameters
    ----------
    mask
        0 and 1 (or bool): ``(y, x)``, ``(b | 1, 1, y, x)`` or deepinv's ``(b | 1, 2, y, x)``.
    noise_model
        Of the sampled entries; None: no noise.

    Raises
    ------
    MaskError
        A mask that is empty or of another shape.
    """

    def __init__(self, mask: Shaped[Tensor, "*b y x"], *, noise_model: NoiseModel | None = None) -> None:
        if mask.ndim not in (2, 4) or (mask.ndim == 4 and mask.shape[1] not in (1, 2)):
            raise MaskError("a mask of a shape that cannot be used", found=tuple(mask.shape), expected="(y, x)")
        if not mask.is_meta and not bool(mask.any()):
            raise MaskError("the mask samples nothing")
        if not mask.is_floating_point():
            mask = mask.to(torch.get_default_dtype())
        super().__init__(mask=mask[None, None] if mask.ndim == 2 else mask, noise_model=noise_model, device=mask.device)
        self.img_size = tuple(self.mask.shape[1:])
        phase_m, phase_k = centring_phases(self.img_size[1:], mask.dtype.to_complex(), mask.device)
        self.register_buffer("_phase_m", phase_m, persistent=False)
        self.register_buffer("_phase_k", phase_k, persistent=False)

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[SingleCoilMRI, Float[Tensor, "b 2 y x"]]:
        """Make a random instance and an image for the shared operator test."""
        mask = (torch.rand(batch, 1, 10, 9, generator=generator) < 0.5).to(device, dtype)
        x = torch.randn(batch, 2, 10, 9, dtype=dtype, generator=generator).to(device)
        return cls(mask, noise_model=GaussianNoise(0.1)), x

    def V_adjoint(self, x: Float[Tensor, "b 2 y x"]) -> Float[Tensor, "b 2 y x"]:
        """Transform to k-space."""
        return to_channels(torch.fft.fft2(to_complex(x) * self._phase_m, norm="ortho") * self._phase_k)

    def V(self, k: Float[Tensor, "b 2 y x"]) -> Float[Tensor, "b 2 y x"]:
        """Transform back to the image."""
        return to_channels(torch.fft.ifft2(to_complex(k) * self._phase_k.conj(), norm="ortho") * self._phase_m.conj())
