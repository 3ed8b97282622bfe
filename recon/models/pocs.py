"""Projections onto convex sets: the data, and either a smooth phase or sparse wavelets."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.calibration.partial_fourier import pocs
from recon.models import registry
from recon.physics import MultiCoilMRI
from recon.physics.errors import MaskError, ShapeError
from recon.physics.layout import to_channels
from recon.regularisation import (
    CoilOperator,
    backprojection,
    check_measurements,
    largest_eigenvalue,
    single,
)
from recon.sparsity import SparseDetails
from recon.variational import backprojected_noise, image_scale, noise_levels
from recon.wavelets import Wavelets

_ONE_SIDED = 0.1  # part of the lines missing on one side from which on it is partial Fourier
_COMPLETE = 0.8  # part of the samples in between that are there
_NOISE_FACTOR = 0.7  # last threshold over the noise of the zero-filled image
_FIRST = 0.1  # first threshold, relative to the image
_TYPICAL = 0.003  # last threshold where the noise is not known
_CURE = "Use l1-wavelet for this sampling"


@registry.register("pocs")
class POCS(Reconstructor):
    r"""Projections onto convex sets, for partial Fourier sampling and for single coils.

    Where one side of k-space is missing and the rest complete, each coil's image gets its low-resolution phase, and
    its samples back, in turns [Haacke 1991]. Any other sampling is filled by soft thresholds of the image's wavelets,
    and the samples put back, in turns [Lustig 2007; with several coils, Samsonov 2004]; the threshold falls from
    the largest coefficients down to the noise.

    Parameters
    ----------
    threshold
        Last threshold, for data scaled so that the zero-filled image's 99.9th percentile is 1. None: from the
        operator's noise level, or that of outer k-space; 0.003 where neither is known.
    iterations
        Number of turns.
    """

    def __init__(self, threshold: float | None = None, *, iterations: int = 50) -> None:
        super().__init__()
        self.threshold, self.iterations = threshold, iterations
        self.details: dict[str, float] = {}

    @torch.no_grad()
    def forward(self, y: Complex[Tensor, "b coil *samples"], physics: CoilOperator) -> Float[Tensor, "b channel *s"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator.

        Raises
        ------
        ShapeError
            Measurements that do not fit the operator, or are not on a grid.
        MaskError
            Partial Fourier with lines missing in between.
        """
        if not isinstance(physics, MultiCoilMRI):
            raise ShapeError("POCS fills Cartesian k-space", found=tuple(y.shape), cure=_CURE)
        check_measurements(y, physics)
        axis = partial_axis(physics.mask)
        if axis is not None:
            self.details = {"partial_axis": float(axis)}
            x = physics.combine(pocs(y * physics.mask, physics.mask, axis, self.iterations))
            return to_channels(x if physics.n_sets > 1 else x[:, None])
        self.details = {}
        sigmas = noise_levels(y, physics)
        images = []
        for index in range(y.shape[0]):
            y_i, physics_i = single(y, physics, index)
            b = backprojection(y_i, physics_i)
            threshold = self._threshold(y_i, physics_i, None if sigmas is None else sigmas[index])
            self.details["threshold" if index == 0 else f"threshold_{index}"] = threshold
            images.append(_sparse(b, physics_i, threshold, self.iterations))
        return to_channels(torch.cat(images))

    def _threshold(self, y: Tensor, physics: MultiCoilMRI, sigma: float | None) -> float:
        """Last threshold, relative to the image's scale."""
        if self.threshold is not None:
            return self.threshold
        if sigma is None:
            return _TYPICAL
        b = backprojection(y, physics)
        scale = image_scale(b)
        if scale == 0:
            return 0.0
        return _NOISE_FACTOR * backprojected_noise(physics, sigma, b) / scale


def _sparse(b: Tensor, physics: MultiCoilMRI, last: float, iterations: int) -> Tensor:
    """Put the samples back and shrink the wavelets in turns, the threshold falling geometrically to ``last``."""
    norm = max(largest_eigenvalue(physics), torch.finfo(b.real.dtype).tiny)
    scale = image_scale(b) / norm
    wavelets = Wavelets(physics.spatial, dtype=b.real.dtype, device=b.device)
    prox = SparseDetails(wavelets, 1.0, seed=0)
    x = b / norm
    first = max(_FIRST, last)
    for turn in range(1, iterations + 1):
        x = prox(x, scale * first * (last / first) ** (turn / iterations))
        x = x + (b - physics.normal(x)) / norm
    return prox(x, scale * last)


def partial_axis(mask: Bool[Tensor, "b 1 *spatial"]) -> int | None:
    """Find the axis along which one side of k-space is missing, counted from the end.

    Raises
    ------
    MaskError
        Partial Fourier with a few lines missing in between, which is neither.
    """
    sampled = mask.any(0)[0]
    for axis in range(-1, -sampled.ndim - 1, -1):
        lines = sampled.movedim(axis, 0).flatten(1).any(1)
        n = len(lines)
        index = lines.nonzero()
        first, last = int(index[0]), int(index[-1]) + 1
        one_sided = (first == 0) != (last == n) and first + n - last > _ONE_SIDED * n
        if not one_sided:
            continue
        inside = mask.narrow(2 + sampled.ndim + axis, first, last - first)
        if bool(inside.all()):
            return axis
        if float(inside.float().mean()) > _COMPLETE:
            raise MaskError("partial Fourier with lines missing in between", cure=_CURE)
    return None
