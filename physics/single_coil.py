"""MRI with one coil: the sampled Fourier transform of a complex image."""

from __future__ import annotations

from typing import Any

import torch
from deepinv.physics import MRI
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Float, Shaped
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import MaskError
from recon.physics.layout import to_channels, to_complex


@operators.register("mri")
class SingleCoilMRI(MRI):
    r"""Sampled centred Fourier transform, :math:`y = M F x`, as deepinv's `MRI`: real with two channels on both sides.

    All is deepinv's but ``A_adjoint_A``, which goes without the shifts of the images.

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
        if not mask.is_meta and mask.ndim == 4 and not torch.equal(mask[:, :1], mask[:, -1:]):
            raise MaskError("the real and the imaginary part of a sample are measured together")
        if not mask.is_floating_point():
            mask = mask.to(torch.get_default_dtype())
        super().__init__(mask=mask[None, None] if mask.ndim == 2 else mask, noise_model=noise_model, device=mask.device)
        self.img_size = tuple(self.mask.shape[1:])

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

    def A_adjoint_A(
        self, x: Float[Tensor, "b 2 y x"], mask: Tensor | None = None, **parameters: Any
    ) -> Float[Tensor, "b 2 y x"]:
        """Transform, mask and transform back; a convolution commutes with shifts, so that only the mask is shifted."""
        self.update_parameters(mask=mask, **parameters)
        weight = torch.fft.ifftshift(self.mask[:, :1].square(), dim=(-2, -1))
        return to_channels(torch.fft.ifft2(torch.fft.fft2(to_complex(x)).mul_(weight)))
