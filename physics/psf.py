"""Convolution by one point-spread function (PSF) an object, as real FFTs on a zero-padded grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Complex, Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import DataError, DTypeError, OptionError, PSFWarning, ShapeError

SUM_TOLERANCE = 1e-3
"""A PSF whose sum is this close to 1 is normalised without a word: files round."""


def normalised_psf(psf: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """Divide each PSF by its sum, so that convolution keeps flux; warns (`PSFWarning`) where the sum was not 1.

    Raises
    ------
    DataError
        A PSF that is not finite, or whose sum is not positive.
    """
    total = psf.sum(dim=(-2, -1), keepdim=True)
    if psf.is_meta:
        return psf / total
    sums = total.detach()
    if not bool((torch.isfinite(sums) & (sums > 0)).all()):
        bad = sums[~(torch.isfinite(sums) & (sums > 0))]
        raise DataError(
            "a PSF that cannot be normalised",
            found=f"{bad.numel()} with sum {float(bad[0])}",
            expected="a positive sum",
        )
    off = (sums - 1).abs()
    if bool((off > SUM_TOLERANCE).any()):
        worst = float(sums.flatten()[off.argmax()])
        warnings.warn(f"the PSF sums to {worst:.6g}, not to 1; it is normalised", PSFWarning, stacklevel=2)
    return psf / total


@operators.register("psf-convolution")
class PSFConvolution(LinearPhysics):
    r"""Linear convolution by a PSF, cropped to the stamp: :math:`y = C\,F^{-1}(\hat H \cdot F P x)`.

    :math:`P` pads with zeros to `grid`, on which nothing wraps round into the stamp, and :math:`C` crops. The centre
    of a PSF is the pixel ``n // 2`` on both axes, for even sizes too: a delta there is the identity. Its sum is 1:
    flux is kept, but for light that leaves the stamp.

    Parameters
    ----------
    psf
        ``(b, 1, h, w)``, or ``(1, 1, h, w)`` for all objects, sampled like the stamps and with the pixel response
        in it. Any size: it may be larger than the stamp.
    shape
        (y, x) of the stamps; None: that of whatever comes. With it, the transfer function is made at once.
    pixel_scale
        Arcseconds a pixel, kept for those who measure.
    noise_model
        `GaussianNoise` with sigma ``(b,)``, or `recon.physics.SkyNoise` (Poisson with sky, gain and read noise).
    weight
        ``(b, 1, y, x)`` inverse variance of the stamps, 0 where a pixel is masked; None: unknown.

    Raises
    ------
    ShapeError, DTypeError, DataError
        A PSF or weight of another shape, not real, or a PSF that cannot be normalised.
    """

    psf: Tensor
    weight: Tensor | None
    _transfers: dict[tuple[int, int, torch.dtype], Tensor]

    def __init__(
        self,
        psf: Float[Tensor, "#b 1 h w"],
        shape: Sequence[int] | None = None,
        *,
        pixel_scale: float | None = None,
        noise_model: NoiseModel | None = None,
        weight: Float[Tensor, "#b 1 y x"] | None = None,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), device=psf.device)
        self.pixel_scale = pixel_scale
        self.shape = None if shape is None else _two(shape)
        self.img_size = None if self.shape is None else (1, *self.shape)
        self.register_buffer("psf", _checked_psf(psf))
        self.register_buffer("weight", None if weight is None else self._checked_weight(weight))
        if self.shape is not None:
            self.transfer(self.shape)

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[PSFConvolution, Float[Tensor, "b 1 y x"]]:
        """Make a random instance and stamps for the shared operator test."""
        psf = torch.rand(batch, 1, 5, 8, dtype=dtype, generator=generator)
        x = torch.randn(batch, 1, 11, 8, dtype=dtype, generator=generator).to(device)
        return cls((psf / psf.sum((-2, -1), keepdim=True)).to(device), noise_model=GaussianNoise(0.1)), x

    def update_parameters(
        self, psf: Tensor | None = None, weight: Tensor | None = None, **noise_parameters: object
    ) -> None:
        """Replace the PSF, the weight, or (by name, as deepinv does) parameters of the noise model."""
        if psf is not None:
            self.psf = _checked_psf(psf).to(self.psf.device)
            self._transfers.clear()
        if weight is not None:
            self.weight = self._checked_weight(weight).to(self.psf.device)
        self.noise_model.update_parameters(**noise_parameters)

    def grid(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (Y, X) of the padded grid of stamps ``(y, x)``.

        At least the extent of the full convolution, or twice the stamp where the PSF is larger than it; never so
        small that the PSF's wings wrap round into the stamp. A length whose FFT is fast, even along x.
        """
        lengths = []
        for n, h, step in zip(_two(shape), self.psf.shape[-2:], (1, 2), strict=True):
            lengths.append(_fast_length(max(n + h // 2, min(n + h - 1, 2 * n)), step))
        return lengths[0], lengths[1]

    def transfer(
        self, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Complex[Tensor, "#b 1 grid_y half_grid_x"]:
        """Return the transfer function on the `grid` of stamps ``(y, x)``: ``rfft2`` of the PSF, origin at index 0.

        It is kept for the next call, unless the PSF requires its gradient.
        """
        dtype = dtype or self.psf.dtype
        grid = self.grid(shape)
        if self.psf.requires_grad:
            return _transfer(self.psf.to(dtype), grid)
        key = (*grid, dtype)
        if key not in self._transfers:
            with torch.inference_mode(mode=False), torch.no_grad():  # what is kept must serve a later training step
                self._transfers[key] = _transfer(self.psf.to(dtype), grid)
        return self._transfers[key]

    def pad(self, x: Float[Tensor, "*b y x"], shape: Sequence[int]) -> Float[Tensor, "*b grid_y grid_x"]:
        """Put zeros after the stamp, up to the `grid` of ``shape``."""
        Y, X = self.grid(shape)
        return torch.nn.functional.pad(x, (0, X - x.shape[-1], 0, Y - x.shape[-2]))

    def A(self, x: Float[Tensor, "b 1 y x"], **parameters: Any) -> Float[Tensor, "b 1 y x"]:
        """Convolve; what `update_parameters` takes can be given here, and stays."""
        self.update_parameters(**parameters)
        return self._filtered(x, lambda spectrum, H: spectrum * H)

    def A_adjoint(self, y: Float[Tensor, "b 1 y x"], **parameters: Any) -> Float[Tensor, "b 1 y x"]:
        """Correlate with the PSF."""
        self.update_parameters(**parameters)
        return self._filtered(y, lambda spectrum, H: spectrum * H.conj())

    def A_adjoint_A(self, x: Float[Tensor, "b 1 y x"], **parameters: Any) -> Float[Tensor, "b 1 y x"]:
        """Convolve, crop and correlate."""
        return self.A_adjoint(self.A(x, **parameters))

    def solve(
        self, rhs: Float[Tensor, "b 1 y x"], rho: float | Float[Tensor, "b"] | Float[Tensor, "#b 1 1 1"]
    ) -> Float[Tensor, "b 1 y x"]:
        r"""Solve :math:`(|\hat H|^2 + \rho)\,\hat x = F P\,\mathrm{rhs}` on the padded grid, and crop.

        The zero-padded stamp counts as the whole sky here, as in every closed-form deblurring step; the normal
        equations of `A` itself, with its crop, are solved by ``prox_l2``.
        """
        rho = rho[:, None, None, None] if isinstance(rho, Tensor) and rho.ndim == 1 else rho
        return self._filtered(rhs, lambda spectrum, H: spectrum / (H.real.square() + H.imag.square() + rho))

    def _filtered(self, x: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        shape = self._checked_shape(x)
        H = self.transfer(shape, x.dtype)
        Y, X = self.grid(shape)
        # Along x only the rows of the stamp: the others are zero before, and cropped after.
        spectrum = torch.fft.fft(torch.fft.rfft(x, n=X), n=Y, dim=-2)
        rows = torch.fft.ifft(multiply(spectrum, H), dim=-2)[..., : shape[0], :]
        return torch.fft.irfft(rows, n=X)[..., : shape[1]]

    def _checked_shape(self, x: Tensor) -> tuple[int, int]:
        shape = (int(x.shape[-2]), int(x.shape[-1]))
        if x.is_complex() or not x.is_floating_point():
            raise DTypeError("stamps are real floating-point numbers", found=x.dtype)
        if (
            x.ndim != 4
            or x.shape[1] != 1
            or self.psf.shape[0] not in (1, x.shape[0])
            or self.shape not in (None, shape)
        ):
            b = "b" if self.psf.shape[0] == 1 else self.psf.shape[0]
            y, columns = self.shape or ("y", "x")
            raise ShapeError(
                "stamps that do not fit the PSF", found=tuple(x.shape), expected=f"({b}, 1, {y}, {columns})"
            )
        return shape

    def _checked_weight(self, weight: Tensor) -> Tensor:
        b = self.psf.shape[0]
        fits = weight.ndim == 4 and weight.shape[1] == 1 and (1 in (b, weight.shape[0]) or weight.shape[0] == b)
        if not fits or (self.shape is not None and tuple(weight.shape[2:]) != self.shape):
            raise ShapeError(
                "a weight that does not fit the stamps", found=tuple(weight.shape), expected="(b, 1, y, x)"
            )
        return weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PSFConvolution:
        self._transfers = {}  # made anew in the other precision, or on the other device
        return super()._apply(fn, recurse)


def _checked_psf(psf: Tensor) -> Tensor:
    if not psf.is_floating_point():
        raise DTypeError("a PSF is made of real floating-point numbers", found=psf.dtype)
    if psf.ndim != 4 or psf.shape[1] != 1 or 0 in psf.shape:
        raise ShapeError(
            "a PSF of a shape that cannot be used", found=tuple(psf.shape), expected="(b, 1, h, w) or (1, 1, h, w)"
        )
    return normalised_psf(psf)


def _transfer(psf: Tensor, grid: tuple[int, int]) -> Tensor:
    """Transform the PSF with its centre at index 0; one that is larger than the grid is folded, which keeps its sum."""
    for dim, n in zip((-2, -1), grid, strict=True):
        size = psf.shape[dim]
        fill = [0, -size % n] if dim == -1 else [0, 0, 0, -size % n]
        folded = torch.nn.functional.pad(psf, fill).unflatten(dim, (-1, n))
        psf = folded.sum(dim - 1).roll(-(size // 2), dim)
    return torch.fft.rfft2(psf)


def _two(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise OptionError("a stamp has two axes", found=tuple(shape), expected="(y, x)")
    return int(shape[0]), int(shape[1])


def _fast_length(n: int, step: int) -> int:
    """Return the least multiple of ``step`` from ``n`` on that has no prime factor above 5."""
    n += -n % step
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += step
