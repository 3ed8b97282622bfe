"""Soft threshold of wavelet coefficients as a proximal map."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d

from recon.physics.layout import last_axes
from recon.wavelets import Wavelets

_POOL = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}


class SparseDetails:
    r"""Proximal map of :math:`\gamma\lambda \sum |\Psi x|` over the detail coefficients, the low-pass ones left alone.

    A coefficient c is multiplied by :math:`\max(0, 1 - t / |c|)` with :math:`t = \gamma\lambda`.
    Reweighted, the factor is

    .. math:: \max\bigl(0, 1 - (t / s)^{3/2}\bigr), \quad s^2 = \tfrac12 |c|^2 + \tfrac12 \overline{|c|^2},

    the mean taken over 3 neighbours an axis: p-shrinkage with p = 1/2 [1]_, which takes less from strong coefficients
    as reweighting does [2]_, and lets neighbours, which are strong together along edges, decide together [3]_.

    Parameters
    ----------
    wavelets
        Orthogonal, so that the proximal map is a threshold of the coefficients.
    strength
        :math:`\lambda`.
    reweighted
        See above; no longer the proximal map of a convex function.
    seed
        Shifts the wavelets by another random amount at each call; None: never.

    References
    ----------
    .. [1] Chartrand, Fast algorithms for nonconvex compressive sensing: MRI reconstruction from very few data,
       ISBI 2009.
    .. [2] Candès, Wakin, Boyd, Enhancing sparsity by reweighted l1 minimization, J Fourier Anal Appl 14, 2008.
    .. [3] Cai, Silverman, Incorporating information on neighbouring coefficients into wavelet estimation,
       Sankhya B 63, 2001.
    """

    def __init__(
        self, wavelets: Wavelets, strength: float, *, reweighted: bool = False, seed: int | None = None
    ) -> None:
        self.wavelets, self.strength, self.reweighted = wavelets, strength, reweighted
        self._period = 2**wavelets.levels
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._low = last_axes(slice(0, n) for n in wavelets.low)

    def __call__(self, x: Num[Tensor, "b set *spatial"], gamma: float) -> Num[Tensor, "b set *spatial"]:
        """Apply the map to complex or real images."""
        d = len(self.wavelets.spatial)
        shift = None
        if self._generator is not None:
            shift = torch.randint(self._period, (d,), generator=self._generator).tolist()
        c = self.wavelets.analysis(parts_of(x), shift)
        c = c * self._factor(c, self.strength * gamma)
        parts = self.wavelets.synthesis(c, shift)
        return torch.complex(*parts) if x.is_complex() else parts[0]

    def _factor(self, c: Float[Tensor, "part b set *spatial"], threshold: float) -> Float[Tensor, "b set *spatial"]:
        power = c[0].square() if len(c) == 1 else c[0].square().addcmul(c[1], c[1])
        if self.reweighted:
            pool = _POOL[len(self.wavelets.spatial)]
            power = 0.5 * (power + pool(power, 3, stride=1, padding=1))
        # Never 0 under the root, whose derivative is not finite there.
        least = max(threshold**2, torch.finfo(c.dtype).tiny)
        ratio = threshold * power.clamp_min(least).rsqrt()
        factor = 1 - (ratio * ratio.sqrt() if self.reweighted and threshold else ratio)
        low = torch.ones_like(factor[self._low])
        if not factor.requires_grad:
            factor[self._low] = low
            return factor
        inside = torch.zeros_like(factor, dtype=torch.bool)
        inside[self._low] = True
        return torch.where(inside, 1, factor)

    def penalty(self, x: Num[Tensor, "b set *spatial"]) -> Float[Tensor, "b"]:
        r"""Sum of the magnitudes of the detail coefficients, without shift and without strength."""
        c = self.wavelets.analysis(parts_of(x))
        magnitude = torch.linalg.vector_norm(c, dim=0)
        return magnitude.flatten(1).sum(1) - magnitude[self._low].flatten(1).sum(1)


def parts_of(x: Num[Tensor, "*image"]) -> Float[Tensor, "part *image"]:
    """Real and imaginary part of a complex image, one after the other; the only part of a real one."""
    return torch.view_as_real(x).movedim(-1, 0).contiguous() if x.is_complex() else x[None].clone()
