"""Some stamps as tensors: `StampBatch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

from recon.datasets.tensors import TensorBatch

if TYPE_CHECKING:
    from recon.physics import PSFConvolution


@dataclass(frozen=True, kw_only=True, eq=False)
class StampBatch(TensorBatch):
    """Some objects of `Stamps` as tensors in single precision; row by row as in the file.

    Parameters
    ----------
    y
        ``(b, 1, y, x)`` in the units of the file; 0 where masked.
    psf
        ``(b, 1, h, w)``, or ``(1, 1, h, w)`` for all: sum 1, centre at ``n // 2``.
    weight
        ``(b, 1, y, x)`` inverse variance, 0 where masked; None: no weights and nothing masked.
    sigma
        ``(b,)`` standard deviation of the noise: the file's, that of the weights, or an estimate.
    jacobian
        ``(b, 2, 2)``: d(u, v)/d(x, y) in arcseconds, as `galsim.JacobianWCS`; None: unknown.
    ids
        ``(b,)`` as in the file.
    flags
        ``(b,)`` of `StampFlag`.
    pixel_scale
        Arcseconds a pixel; None: unknown.
    """

    y: Float[Tensor, "b 1 y x"]
    psf: Float[Tensor, "#b 1 h w"]
    sigma: Float[Tensor, " b"]
    ids: Shaped[ndarray, " b"]
    flags: Int[ndarray, " b"]
    weight: Float[Tensor, "b 1 y x"] | None = None
    jacobian: Float[Tensor, "b 2 2"] | None = None
    pixel_scale: float | None = None

    def physics(self) -> PSFConvolution:
        """Return the operator of these stamps: convolution by their PSFs, Gaussian noise of their level."""
        from deepinv.physics.noise import GaussianNoise

        from recon.physics import PSFConvolution

        return PSFConvolution(
            self.psf,
            tuple(self.y.shape[-2:]),
            pixel_scale=self.pixel_scale,
            noise_model=GaussianNoise(self.sigma),
            weight=self.weight,
        )
