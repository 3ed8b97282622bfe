"""Soft threshold of wavelet coefficients as a proximal map."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from recon.wavelets import Wavelets


class SparseDetails:
    r"""Proximal map of :math:`t \sum |\Psi x|` over the detail coefficients; the low-pass part is not penalised.

    Parameters
    ----------
    wavelets
        Orthogonal, so that the proximal map is a threshold of the coefficients.
    threshold
        t.
    seed
        Shifts the wavelets by another random amount at each call; None: never.
    """

    def __init__(self, wavelets: Wavelets, threshold: float, *, seed: int | None = None) -> None:
        self.wavelets, self.threshold = wavelets, threshold
        self._period = 2**wavelets.levels
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._low = (..., *(slice(0, n) for n in wavelets.low))

    def __call__(self, x: Complex[Tensor, "b set *spatial"]) -> Complex[Tensor, "b set *spatial"]:
        """Apply the map."""
        d = len(self.wavelets.spatial)
        shift = None
        if self._generator is not None:
            shift = torch.randint(self._period, (d,), generator=self._generator).tolist()
        parts = torch.view_as_real(x).movedim(-1, 0).contiguous()
        c = self.wavelets.analysis(parts, shift)
        c = c * self._factor(c)
        return torch.complex(*self.wavelets.synthesis(c, shift))

    def _factor(self, c: Float[Tensor, "part b set *spatial"]) -> Float[Tensor, "b set *spatial"]:
        """1 - t / |c|, at least 0."""
        tiny = torch.finfo(c.dtype).tiny
        if c.requires_grad:
            magnitude = torch.linalg.vector_norm(c, dim=0)  # its gradient at 0 is 0
        else:
            magnitude = c[0].square().addcmul_(c[1], c[1]).sqrt_()  # eight times faster
        factor = 1 - self.threshold / magnitude.clamp_min(max(self.threshold, tiny))
        low = torch.ones_like(factor[self._low])
        if not factor.requires_grad:
            factor[self._low] = low
            return factor
        inside = torch.zeros_like(factor, dtype=torch.bool)
        inside[self._low] = True
        return torch.where(inside, 1, factor)

    def penalty(self, x: Complex[Tensor, "b set *spatial"]) -> Float[Tensor, "b"]:
        r"""Sum of the magnitudes of the detail coefficients, without shift and without t."""
        c = self.wavelets.analysis(torch.view_as_real(x).movedim(-1, 0).contiguous())
        magnitude = torch.linalg.vector_norm(c, dim=0)
        return magnitude.flatten(1).sum(1) - magnitude[self._low].flatten(1).sum(1)
