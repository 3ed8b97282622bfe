"""Images on a coarser grid: blurred by a point-spread function and decimated, or resampled by any factor."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from deepinv.physics import Downsampling, LinearPhysics
from deepinv.physics.functional import conv_transpose2d_fft
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import OptionError
from recon.physics.kernels import check_fits, checked_kernel

Filter = Literal["bicubic", "bilinear", "gaussian", "sinc"]
Border = Literal["circular", "replicate", "reflect", "constant"]


@operators.register("super-resolution")
class SuperResolution(Downsampling):
    r"""Blur and decimation, :math:`y = S_q (h * x)`: deepinv's `Downsampling`, for any size of image.

    Parameters
    ----------
    factor
        Every so-manyth pixel is kept, from the first on.
    img_size
        (c, y, x) of the fine image.
    kernel
        The point-spread function, ``(h, w)`` or ``(b | 1, c | 1, h, w)`` on the fine grid, or the name of an
        anti-alias filter (`Filter`); None: bare decimation.
    padding
        What lies beyond the image, one of `Border`; with ``circular``, the default, ``prox_l2`` is a closed formula
        where the factor divides the size.
    noise_model
        None: no noise.

    Raises
    ------
    OptionError, ShapeError, DataError
        A factor, filter or border that cannot be used.
    """

    def __init__(
        self,
        factor: float,
        img_size: tuple[int, int, int],
        kernel: Float[Tensor, "*b h w"] | str | None = "bicubic",
        *,
        padding: str = "circular",
        noise_model: NoiseModel | None = None,
    ) -> None:
        if factor != int(factor) or not 1 <= factor <= min(img_size[1:]):
            raise OptionError(
                "a factor that images cannot be decimated by",
                found=factor,
                expected=f"a whole number from 1 to {min(img_size[1:])}",
                cure="Fractions are for resampling",
            )
        if isinstance(kernel, str) and kernel not in get_args(Filter):
            raise OptionError(
                "an anti-alias filter that is not known",
                found=repr(kernel),
                expected=f"one of {', '.join(get_args(Filter))}",
            )
        if padding not in get_args(Border):
            raise OptionError("a border that is not known", found=repr(padding), expected=", ".join(get_args(Border)))
        if isinstance(kernel, Tensor):
            kernel = checked_kernel(kernel)
        device = kernel.device if isinstance(kernel, Tensor) else "cpu"
        super().__init__(
            img_size=tuple(img_size),
            filter=kernel,
            factor=int(factor),
            padding=padding,
            device=device,
            noise_model=noise_model or ZeroNoise(),
        )
        if self.filter is not None:
            check_fits(self.filter, img_size)
        self.img_size = tuple(img_size)

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[SuperResolution, Float[Tensor, "b c y x"]]:
        """Make a random instance and an image for the shared operator test."""
        kernel = torch.rand(3, 3, dtype=dtype, generator=generator).to(device)
        x = torch.randn(batch, 2, 11, 9, dtype=dtype, generator=generator).to(device)
        return cls(2, (2, 11, 9), kernel / kernel.sum(), noise_model=GaussianNoise(0.1)), x

    def update_parameters(
        self,
        filter: Tensor | str | None = None,  # noqa: A002 - deepinv's name
        factor: float | Tensor | None = None,
        **parameters: Any,
    ) -> None:
        """Replace filter or factor; where none is given nothing is computed anew, since the image's size stays."""
        if filter is not None or factor is not None:
            super().update_parameters(filter=filter, factor=factor, **parameters)

    def A_adjoint(
        self,
        y: Float[Tensor, "b c v u"],
        filter: Tensor | str | None = None,  # noqa: A002
        factor: float | Tensor | None = None,
        **parameters: Any,
    ) -> Float[Tensor, "b c y x"]:
        """Apply the adjoint; by FFT, which is ten times faster than deepinv's transposed convolution."""
        self.update_parameters(filter=filter, factor=factor, device=y.device, **parameters)
        x = y.new_zeros(y.shape[0], y.shape[1], *self.img_size[1:])
        x[..., :: self.factor, :: self.factor] = y
        return x if self.filter is None else conv_transpose2d_fft(x, self.filter, padding=self.padding)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, **options: Any) -> Tensor:
        """Solve deepinv's proximal problem; by conjugate gradients where its closed formula does not hold."""
        divides = all(n % self.factor == 0 for n in self.img_size[1:])
        if self.filter is None or not divides or self.padding != "circular":
            return LinearPhysics.prox_l2(self, z, y, gamma, **options)
        return super().prox_l2(z, y, gamma, **options)


@operators.register("resampling")
class Resampling(LinearPhysics):
    r"""Resampling by any factor, :math:`y = R_y\, x\, R_x^T`, with an anti-alias filter as wide as a coarse pixel.

    Separable, with dense matrices, so that the adjoint is exact. With ``cubic`` and ``reflect`` it is Matlab's
    ``imresize`` (deepinv's `DownsamplingMatlab`, which knows whole factors only).

    Parameters
    ----------
    factor
        Fine pixels to a coarse one, above 1; fractions are allowed.
    img_size
        (c, y, x) of the fine image; the coarse one has ``ceil(n / factor)`` pixels.
    kernel
        ``cubic`` (Keys, a = -1/2), ``linear`` or ``box`` (the mean over a coarse pixel's area).
    noise_model
        None: no noise.

    Raises
    ------
    OptionError
        A factor or a kernel that cannot be used.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        factor: float,
        img_size: tuple[int, int, int],
        kernel: str = "cubic",
        *,
        noise_model: NoiseModel | None = None,
    ) -> None:
        if not 1 <= factor <= min(img_size[1:]):
            raise OptionError(
                "a factor that images cannot be resampled by", found=factor, expected=f"from 1 to {min(img_size[1:])}"
            )
        if kernel not in _WINDOWS:
            raise OptionError(
                "a kernel that is not known", found=repr(kernel), expected=f"one of {', '.join(_WINDOWS)}"
            )
        super().__init__(noise_model=noise_model or ZeroNoise(), img_size=tuple(img_size))
        self.factor = float(factor)
        self.register_buffer("rows", resampling_matrix(img_size[1], factor, kernel).float())
        self.register_buffer("columns", resampling_matrix(img_size[2], factor, kernel).float())

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[Resampling, Float[Tensor, "b c y x"]]:
        """Make an instance and an image for the shared operator test."""
        x = torch.randn(batch, 2, 11, 9, dtype=dtype, generator=generator).to(device)
        return cls(1.7, (2, 11, 9), noise_model=GaussianNoise(0.1)).to(device, dtype), x

    def A(self, x: Float[Tensor, "b c y x"], **parameters: Any) -> Float[Tensor, "b c v u"]:
        """Resample to the coarse grid."""
        self.update_parameters(**parameters)
        return self.rows @ x @ self.columns.T

    def A_adjoint(self, y: Float[Tensor, "b c v u"], **parameters: Any) -> Float[Tensor, "b c y x"]:
        """Apply the adjoint."""
        self.update_parameters(**parameters)
        return self.rows.T @ y @ self.columns


def resampling_matrix(n: int, factor: float, kernel: str) -> Float[Tensor, "m n"]:
    """Return the weights, double precision, that resample ``n`` values to ``ceil(n / factor)``; each row sums to 1.

    The centre of coarse pixel j lies at ``(j + 1/2) factor - 1/2``; what is beyond the border is mirrored.
    """
    window, width = _WINDOWS[kernel]
    m = math.ceil(n / factor)
    centre = (torch.arange(m, dtype=torch.float64) + 0.5) * factor - 0.5
    reach = math.ceil(width * factor / 2) + 1
    taps = centre.floor().long()[:, None] + torch.arange(-reach, reach + 1)
    weights = window(taps - centre[:, None], factor)
    weights = weights / weights.sum(1, keepdim=True)
    mirrored = torch.remainder(taps, 2 * n)
    mirrored = torch.where(mirrored < n, mirrored, 2 * n - 1 - mirrored)
    return torch.zeros(m, n, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def _cubic(distance: Tensor, factor: float) -> Tensor:
    t = distance.abs() / factor
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _linear(distance: Tensor, factor: float) -> Tensor:
    return (1 - distance.abs() / factor).clamp_min(0)


def _box(distance: Tensor, factor: float) -> Tensor:
    return ((distance + 0.5).clamp_max(factor / 2) - (distance - 0.5).clamp_min(-factor / 2)).clamp_min(0)


_WINDOWS = {"cubic": (_cubic, 4), "linear": (_linear, 2), "box": (_box, 1)}
"""Weight of a fine pixel by its distance in fine pixels and the factor; width in coarse pixels."""
