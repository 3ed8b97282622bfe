"""Multi-coil MRI along any trajectory, by non-uniform FFTs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Complex, Float
from pytorch_finufft.functional import finufft_type1, finufft_type2
from torch import Tensor

from recon.physics import operators, trajectories
from recon.physics.coils import CoilPhysics
from recon.physics.errors import OptionError, ShapeError
from recon.physics.layout import to_channels, to_complex
from recon.physics.sense import coil_images

_EPS = {torch.float32: 1e-6, torch.float64: 1e-12}  # relative accuracy of the transforms


@operators.register("noncartesian-mri")
class NonCartesianMRI(CoilPhysics):
    r"""Fourier samples of coil images at :math:`k_j`, scaled so that a Cartesian trajectory gives `MultiCoilMRI` [1]_.

    .. math:: y_{c,j} = \frac{1}{\sqrt N} \sum_m \sum_s S_{s,c}(m)\, x_s(m)\, e^{-2\pi i\, k_j \cdot m / n},

    with :math:`m` counted from index :math:`n // 2` and :math:`N` pixels. `A_adjoint_A` is Toeplitz: a product with a
    real kernel between FFTs of twice the size [2]_, exact to the accuracy of the transforms.

    Parameters
    ----------
    coil_maps
        ``(b, coil, *spatial)``, or ``(b, set, coil, *spatial)``; two or three spatial axes, as the trajectory has.
    trajectory
        ``(sample, axis)`` in cycles per field of view, within +-n/2, axes ordered (y, x) or (z, y, x).
    density
        Density compensation ``(sample,)``, such as `density_compensation` makes; used by `gridded` only, so that
        `A` and `A_adjoint` stay each other's adjoint and the noise stays white.
    noise_model, coil_chunk, max_iter, tol
        As in `MultiCoilMRI`.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        Maps, trajectory or density do not fit.

    References
    ----------
    .. [1] Barnett, Magland, af Klinteberg, A parallel nonuniform fast Fourier transform library, SISC 2019.
    .. [2] Fessler et al., Toeplitz-based iterative image reconstruction for MRI, IEEE TSP 2005.
    """

    trajectory: Tensor
    density: Tensor | None

    def __init__(
        self,
        coil_maps: Complex[Tensor, "*b coil y x"],
        trajectory: Float[Tensor, "sample axis"],
        *,
        density: Float[Tensor, "sample"] | None = None,
        noise_model: NoiseModel | None = None,
        coil_chunk: int | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
    ) -> None:
        n_axes = trajectory.shape[1]
        if n_axes not in (2, 3):
            raise ShapeError("a trajectory has two or three axes", found=tuple(trajectory.shape))
        super().__init__(
            coil_maps,
            n_axes=n_axes,
            noise_model=noise_model,
            coil_chunk=coil_chunk,
            max_iter=max_iter,
            tol=tol,
        )
        if density is not None and density.shape != trajectory.shape[:1]:
            raise ShapeError(
                "one density weight a sample", found=tuple(density.shape), expected=tuple(trajectory.shape[:1])
            )
        real, device = coil_maps.real.dtype, coil_maps.device
        self.register_buffer("trajectory", trajectory.to(device))
        self.register_buffer("density", None if density is None else density.to(device, real))
        points = _points(trajectory.to(device), self.spatial)
        self.register_buffer("_nufft_points", points.to(real), persistent=False)
        kernel = toeplitz_kernel(points, self.spatial).to(real)
        self._set_gram(torch.complex(kernel, -kernel)[None, None], self._dims)

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[NonCartesianMRI, Float[Tensor, "b channel y x"]]:
        """Make a random instance and an image for the shared operator test."""
        maps = torch.randn(batch, 3, 12, 9, dtype=dtype.to_complex(), generator=generator).to(device)
        x = torch.randn(batch, 2, 12, 9, dtype=dtype, generator=generator).to(device)
        return cls(maps, trajectories.radial((12, 9), spokes=7), noise_model=GaussianNoise(0.1)), x

    def update_parameters(self, coil_maps: Tensor | None = None, **_noise_parameters: object) -> None:
        """Replace the coil maps by others of the same size; the noise model's parameters are left."""
        if coil_maps is None:
            return
        maps = self._checked_maps(coil_maps).to(self.coil_maps.device)
        if tuple(maps.shape[3:]) != self.spatial or maps.dtype != self.coil_maps.dtype:
            raise ShapeError(
                "new coil maps have the size and dtype of the old ones",
                found=f"{tuple(maps.shape)} {maps.dtype}",
                expected=f"{tuple(self.coil_maps.shape)} {self.coil_maps.dtype}",
            )
        self.coil_maps = self._in_layout(maps)
        self.img_size = (2 * self.n_sets, *self.spatial)

    def A(self, x: Float[Tensor, "b channel *spatial"], **parameters: Any) -> Complex[Tensor, "b coil sample"]:
        """Measure images of ``2 * set`` real channels; what `update_parameters` takes can be given here, and stays."""
        self.update_parameters(**parameters)
        return self.expand(to_complex(x))

    def A_adjoint(self, y: Complex[Tensor, "b coil sample"], **parameters: Any) -> Float[Tensor, "b channel *spatial"]:
        """Apply the adjoint; `gridded` also compensates the density."""
        self.update_parameters(**parameters)
        return to_channels(self._with_sets(self.combine(y)))

    def gridded(self, y: Complex[Tensor, "b coil sample"]) -> Float[Tensor, "b channel *spatial"]:
        """Zero-filled image: the adjoint of the samples times their density compensation [Pipe, Menon 1999]."""
        if self.density is None:
            raise OptionError("gridding needs a density", cure="Give density=density_compensation(trajectory, shape)")
        return self.A_adjoint(y * self.density)

    def expand(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b coil sample"]:
        """Take the samples of all coils of an image ``(b, *spatial)`` or ``(b, set, *spatial)``."""
        x = self._with_sets(x) * math.prod(self.spatial) ** -0.5
        return _sampled(self._nufft_points, coil_images(self.coil_maps, x))

    def combine(self, k: Complex[Tensor, "b coil sample"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """Adjoint of `expand`: ``(b, *spatial)`` for one set of maps, else ``(b, set, *spatial)``."""
        if tuple(k.shape[1:]) != (self.coil_maps.shape[2], self.trajectory.shape[0]):
            raise ShapeError(
                "samples that do not fit",
                found=tuple(k.shape),
                expected=f"(b, {self.coil_maps.shape[2]}, {self.trajectory.shape[0]})",
            )
        images = _spread(self._nufft_points, k * math.prod(self.spatial) ** -0.5, self.spatial)
        sets = [(self.coil_maps[:, s].conj() * images).sum(1) for s in range(self.n_sets)]
        return self._without_sets(torch.stack(sets, 1))


def toeplitz_kernel(points: Float[Tensor, "axis sample"], shape: Sequence[int]) -> Float[Tensor, "*double"]:
    r"""Real factor of :math:`E^H E` between unnormalised FFTs of twice the size (divided by that size) [Fessler 2005].

    :math:`E^H E` is a convolution with :math:`\frac1N \sum_j e^{2\pi i k_j \cdot d / n}`, whose
    differences :math:`d` lie within :math:`\pm(n - 1)`.

    Parameters
    ----------
    points
        In radians a pixel. The kernel is computed in double precision.
    shape
        (y, x) or (z, y, x) of the image.
    """
    double = tuple(2 * n for n in shape)
    points = points.double()
    ones = torch.ones(points.shape[1], dtype=torch.complex128, device=points.device)
    psf = _spread(points, ones, double)  # differences -n ... n - 1
    for dim in range(-len(shape), 0):
        psf.select(dim, 0).zero_()  # -n is never used, and without it the kernel is Hermitian: its FFT is real
    dims = tuple(range(-len(shape), 0))
    kernel = torch.fft.fftn(torch.fft.ifftshift(psf, dims), dim=dims).real
    return kernel / (math.prod(shape) * math.prod(double))


def density_compensation(
    trajectory: Float[Tensor, "sample axis"], shape: Sequence[int], iterations: int = 30
) -> Float[Tensor, "sample"]:
    r"""Density compensation by iteration, :math:`w \leftarrow w / (\psi * w)` at the samples [Pipe, Menon 1999].

    The kernel :math:`\psi = \prod \mathrm{sinc}^2` is the Fourier transform of a triangle as wide as two fields of
    view, so the convolution is exact by two non-uniform FFTs, is positive, and leaves a Cartesian grid at 1.

    Parameters
    ----------
    trajectory
        In cycles per field of view, within +-n/2.
    shape
        (y, x) or (z, y, x) of the image.
    iterations
        Thirty give smooth images back within a percent, where samples lie half a cycle per field of view apart along
        the readout; at a whole cycle the centre stays wrong however many there are.
    """
    points = _points(trajectory, shape).double()
    window = torch.ones((), dtype=torch.float64, device=points.device)
    for n in shape:
        ramp = 1 - torch.arange(-n, n, dtype=torch.float64, device=points.device).abs() / n
        window = window[..., None] * ramp
    double = tuple(2 * n for n in shape)
    weights = torch.ones(points.shape[1], dtype=torch.float64, device=points.device)
    for _ in range(iterations):
        image = _spread(points, weights.to(torch.complex128), double, eps=1e-6) * window
        spread = _sampled(points, image, eps=1e-6).real / math.prod(shape)
        weights = weights / spread.clamp_min(1e-12)
    return weights.to(trajectory.dtype)


def _points(trajectory: Tensor, shape: Sequence[int]) -> Tensor:
    """Radians a pixel, the sample axis last, as finufft wants them."""
    size = torch.tensor(tuple(shape), dtype=torch.float64, device=trajectory.device)
    if trajectory.shape[1] != len(shape):
        raise ShapeError(
            "trajectory and image have the same axes", found=tuple(trajectory.shape), expected=tuple(shape)
        )
    points = trajectory.double() / size
    if not bool((points.abs() <= 0.5 + 1e-6).all()):
        raise OptionError(
            "the trajectory leaves the k-space of this matrix",
            found=f"{float(trajectory.abs().max()):.4g} cycles per field of view",
            expected=f"within +-n/2 of {tuple(shape)}",
            cure="Give cycles per field of view, or a larger matrix",
        )
    return (2 * math.pi * points).T.contiguous()


def _sampled(points: Tensor, images: Tensor, eps: float | None = None) -> Tensor:
    return finufft_type2(points, images.contiguous(), eps=eps or _EPS[points.dtype], isign=-1, modeord=0)


def _spread(points: Tensor, values: Tensor, shape: Sequence[int], eps: float | None = None) -> Tensor:
    eps = eps or _EPS[points.dtype]
    return finufft_type1(points, values.contiguous(), tuple(shape), eps=eps, isign=1, modeord=0)
