"""L1-wavelet compressed sensing with a strength that the samples choose."""

from __future__ import annotations

import math

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.models import registry
from recon.physics.layout import last_axes, to_channels
from recon.pogm import pogm
from recon.regularisation import (
    CoilOperator,
    Split,
    backprojection,
    check_measurements,
    largest_eigenvalue,
    least_on_path,
    leave_out,
    normal_of,
    single,
)
from recon.sparsity import SparseDetails, parts_of
from recon.wavelets import Wavelets

_SEARCH_ITERATIONS = 16  # a strength; each starts from the one before
_AVERAGED = 8  # last images whose mean is taken under cycle spinning


@registry.register("l1-wavelet")
class L1Wavelet(Reconstructor):
    r"""Compressed sensing with wavelets, :math:`\min_x \tfrac12 \|Ax - y\|^2 + \lambda \|\Psi x\|_1` [Lustig 2007].

    :math:`\Psi` are the detail coefficients of orthogonal Daubechies wavelets; each complex coefficient counts by its
    magnitude, each set of coil maps and each channel by itself. Takes MRI and any linear operator on real images.

    POGM with restart, and with the wavelets shifted at random in each iteration, which leaves no blocks
    [Figueiredo, Nowak 2003; as in BART]. By default the norm is reweighted: strong coefficients, and those with strong
    neighbours, are shrunk less (see `recon.sparsity.SparseDetails`).

    Parameters
    ----------
    regularisation
        :math:`\lambda` in the units of ``y``; None: the one that best predicts a part of the samples that is left
        out, after which the image is made of all samples. Reweighted, twice the convex one's is about right.
    reweighted
        False: the convex problem above.
    order
        Vanishing moments of the wavelet.
    iterations
        Of the last solution.
    cycle_spinning
        Shift the wavelets at random.
    seed
        Of shifts and left-out samples.
    """

    searches = True  # its strength, which takes most of the time: neighbouring slices may share it

    def __init__(
        self,
        regularisation: float | None = None,
        *,
        reweighted: bool = True,
        order: int = 4,
        iterations: int = 40,
        cycle_spinning: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.regularisation, self.order, self.iterations = regularisation, order, iterations
        self.reweighted, self.cycle_spinning, self.seed = reweighted, cycle_spinning, seed
        self.details: dict[str, float] = {}

    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b channel *spatial"]:
        """Reconstruct; each image of a batch has its own strength.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator.

        Raises
        ------
        ShapeError
            Measurements that do not fit the operator.
        """
        check_measurements(y, physics)
        self.details = {}
        first = backprojection(*single(y, physics, 0))
        wavelets = Wavelets(first.shape[2:], order=self.order, dtype=y.real.dtype, device=y.device)
        images = []
        for index in range(y.shape[0]):
            y_i, physics_i = single(y, physics, index)
            step = 1 / max(largest_eigenvalue(physics_i, first), torch.finfo(y.real.dtype).tiny)
            strength, x0 = self.regularisation, None
            if strength is None:
                with torch.no_grad():
                    strength, x0 = self._chosen(y_i, physics_i, wavelets, step)
            self.details["regularisation" if index == 0 else f"regularisation_{index}"] = strength
            average = _AVERAGED if self.cycle_spinning else 1
            images.append(self._solve(y_i, physics_i, wavelets, strength, step, self.iterations, x0, average))
        if not isinstance(physics, CoilOperator):
            return torch.cat(images)
        # Where no coil sees anything the data say nothing, and wavelets fill in what leaks from beside.
        seen = (physics.coil_maps != 0).any(dim=2)
        return to_channels(torch.cat(images) * seen.reshape(-1, *images[0].shape[1:]))

    def _solve(
        self,
        y: Tensor,
        physics: LinearPhysics,
        wavelets: Wavelets,
        strength: float,
        step: float,
        iterations: int,
        x0: Tensor | None,
        average: int = 1,
    ) -> Tensor:
        seed = self.seed if self.cycle_spinning else None
        prox = SparseDetails(wavelets, strength, reweighted=self.reweighted, seed=seed)
        b = backprojection(y, physics)
        return pogm(normal_of(physics), b, prox, step, x0=x0, max_iter=iterations, average=average)

    def _chosen(
        self, y: Tensor, physics: LinearPhysics, wavelets: Wavelets, step: float
    ) -> tuple[float, Tensor | None]:
        """Strength of the least prediction error, and the solution nearest to it to start from."""
        b = backprojection(y, physics)
        start = 4 * _typical_detail(b, wavelets)
        split: Split | None = leave_out(y, physics, seed=self.seed)
        if split is None or start == 0:
            return start / 8, None
        best, x, nearest = math.inf, b * step, b * step

        def error(strength: float) -> float:
            nonlocal best, x, nearest
            x = self._solve(split.y, split.physics, wavelets, strength, step, _SEARCH_ITERATIONS, x)
            value = split.error(x)
            if value < best:
                best, nearest = value, x
            return value

        return least_on_path(error, start), nearest


def _typical_detail(b: Num[Tensor, "1 set *spatial"], wavelets: Wavelets) -> float:
    """Estimate the spread of the finest detail coefficients' parts, robust against edges [Donoho 1995]."""
    c = wavelets.analysis(parts_of(b))
    finest = c[last_axes(slice(n, None) for n in wavelets.sizes[min(1, wavelets.levels)])]
    magnitude = torch.linalg.vector_norm(finest, dim=0).flatten()
    magnitude = magnitude[magnitude > 0]
    if magnitude.numel() == 0:
        return 1e-3 * float(b.abs().max())
    return float(magnitude.median()) / math.sqrt(2 * math.log(2))  # the median of a Rayleigh variable
