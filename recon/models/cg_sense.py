"""CG-SENSE: conjugate gradients on the least-squares problem, stopped where left-out samples say so."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from deepinv.models import Reconstructor
from jaxtyping import Complex, Float
from torch import Tensor

from recon.models import registry
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.layout import to_channels
from recon.physics.linalg import conjugate_gradient
from recon.regularisation import backprojection, check_measurements, leave_out, single

_PATIENCE = 2  # iterations that predict worse before the search ends
_DEFAULT = 8  # where nothing can be left out
_CONVERGED = 1e-4


@registry.register("cg-sense")
class CGSense(Reconstructor):
    r"""Least squares :math:`\min_x \|Ax - y\|` by a few iterations of conjugate gradients [Pruessmann 2001].

    The iterations first build the image up and then its noise, so that their number is the regularisation [Hanke
    1995]. It is the one that best predicts a part of the samples that is left out; the image is then made of all
    samples.

    Parameters
    ----------
    iterations
        None: chosen by the data.
    max_iter
        Most iterations that are tried.
    seed
        Of the choice of samples left out.
    """

    def __init__(self, iterations: int | None = None, *, max_iter: int = 50, seed: int = 0) -> None:
        super().__init__()
        self.iterations, self.max_iter, self.seed = iterations, max_iter, seed
        self.details: dict[str, float] = {}

    def forward(
        self, y: Complex[Tensor, "b coil *samples"], physics: MultiCoilMRI | NonCartesianMRI
    ) -> Float[Tensor, "b channel *spatial"]:
        """Reconstruct; each image of a batch has its own number of iterations.

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
        images = []
        for index in range(y.shape[0]):
            y_i, physics_i = single(y, physics, index)
            iterations = self.iterations
            if iterations is None:
                with torch.no_grad():
                    iterations = self._chosen(y_i, physics_i)
            self.details["iterations" if index == 0 else f"iterations_{index}"] = iterations
            b = backprojection(y_i, physics_i)
            images.append(conjugate_gradient(physics_i.normal, b, max_iter=iterations, tol=_CONVERGED))
        return to_channels(torch.cat(images))

    def _chosen(self, y: Tensor, physics: MultiCoilMRI | NonCartesianMRI) -> int:
        split = leave_out(y, physics, seed=self.seed)
        if split is None:
            return _DEFAULT
        least, best = float("inf"), _DEFAULT
        for n, x in enumerate(_iterates(split.physics, backprojection(split.y, split.physics)), start=1):
            error = split.error(x)
            if error < least:
                least, best = error, n
            if n - best >= _PATIENCE or n == self.max_iter:
                break
        return best


def _iterates(physics: MultiCoilMRI | NonCartesianMRI, b: Tensor) -> Iterator[Tensor]:
    """Each iterate of conjugate gradients from zero, until the residual is small."""
    x, r, p = torch.zeros_like(b), b, b
    rho = first = _energy(b)
    while rho > _CONVERGED**2 * first:
        q = physics.normal(p)
        alpha = rho / torch.linalg.vecdot(p.flatten(), q.flatten()).real
        x, r = x + alpha * p, r - alpha * q
        yield x
        previous, rho = rho, _energy(r)
        p = r + (rho / previous) * p


def _energy(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x).square()
