"""Blur by a kernel: with the border that is really seen, mirrored, or periodic."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from deepinv.physics import Blur as DeepinvBlur
from deepinv.physics import BlurFFT
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import OptionError
from recon.physics.kernels import check_fits, checked_kernel

Border = Literal["valid", "replicate", "reflect", "constant"]
LARGE = 25
"""Pixels of a kernel from which on deepinv's FFT convolution with its adjoint is faster (measured at 256 pixels)."""


@operators.register("blur")
class Blur(DeepinvBlur):
    r"""Convolution :math:`y = w * x` by deepinv, in image space or by FFT, whichever is faster for the kernel.

    Parameters
    ----------
    kernel
        ``(h, w)``, or ``(b | 1, c | 1, h, w)``; its centre is at ``(n - 1) // 2`` of each axis (deepinv's).
    img_size
        (c, y, x) of the images; None: not known beforehand.
    padding
        What lies beyond the image, one of `Border`. ``valid``: nothing is assumed, and ``y`` is smaller by the kernel
        less one pixel; that is how a camera sees the world.
    noise_model
        None: no noise.

    Raises
    ------
    ShapeError, DataError, OptionError
        A kernel that cannot be used, or that is larger than the images; a border that is not known.
    """

    def __init__(
        self,
        kernel: Float[Tensor, "*b h w"],
        img_size: tuple[int, int, int] | None = None,
        *,
        padding: str = "valid",
        noise_model: NoiseModel | None = None,
    ) -> None:
        if padding not in get_args(Border):
            raise OptionError(
                "a border that is not known",
                found=repr(padding),
                expected=f"one of {', '.join(get_args(Border))}; or the operator of a periodic one",
            )
        kernel = checked_kernel(kernel)
        check_fits(kernel, img_size)
        super().__init__(
            filter=kernel,
            padding=padding,
            use_fft=kernel.shape[-2] * kernel.shape[-1] >= LARGE,
            noise_model=noise_model or ZeroNoise(),
            device=kernel.device,
        )
        self.img_size = img_size

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[Blur, Float[Tensor, "b c y x"]]:
        """Make a random instance and an image for the shared operator test."""
        kernel = torch.rand(3, 4, dtype=dtype, generator=generator).to(device)
        x = torch.randn(batch, 2, 9, 8, dtype=dtype, generator=generator).to(device)
        return cls(kernel / kernel.sum(), (2, 9, 8), noise_model=GaussianNoise(0.1)), x


@operators.register("circular-blur")
class CircularBlur(BlurFFT):
    """Convolution on a periodic image, deepinv's `BlurFFT`: its pseudo-inverse and ``prox_l2`` are closed formulae.

    Parameters
    ----------
    kernel
        ``(h, w)``, or ``(1, c | 1, h, w)``.
    img_size
        (c, y, x) of the images.
    noise_model
        None: no noise.

    Raises
    ------
    ShapeError, DataError
        A kernel that cannot be used, or that is larger than the images.
    """

    def __init__(
        self,
        kernel: Float[Tensor, "*b h w"],
        img_size: tuple[int, int, int],
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        kernel = checked_kernel(kernel)
        check_fits(kernel, img_size)
        super().__init__(img_size, kernel, device=kernel.device, noise_model=noise_model or ZeroNoise())

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[CircularBlur, Float[Tensor, "b c y x"]]:
        """Make a random instance and an image for the shared operator test."""
        kernel = torch.rand(3, 3, dtype=dtype, generator=generator).to(device)
        x = torch.randn(batch, 2, 9, 8, dtype=dtype, generator=generator).to(device)
        return cls(kernel / kernel.sum(), (2, 9, 8), noise_model=GaussianNoise(0.1)), x
