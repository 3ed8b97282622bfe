"""Total generalised variation."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.models import registry
from recon.proximal import TGVProx
from recon.variational import penalised


@registry.register("tgv")
class TotalGeneralisedVariation(Reconstructor):
    r"""Second-order total generalised variation [Knoll 2011, eq. 5 and 11].

    .. math:: \min_{x, w} \tfrac12 \|Ax - y\|^2 + \lambda \left(\|\nabla x - w\|_{2,1} + 2 \|E w\|_{2,1}\right)

    Slopes cost nothing but where they change, so that smooth shading does not turn into stairs as by total variation.
    Joint over directions, the real and the imaginary part, and all sets of coil maps.

    Parameters
    ----------
    regularisation
        :math:`\lambda` for data scaled so that the zero-filled image's 99.9th percentile is 1. None: from the
        operator's noise level or that of outer k-space (see `recon.variational`), from left-out samples where neither
        is known.
    max_iter, tol
        Stop after so many iterations, or once the image changes by less than ``tol`` of itself.
    """

    def __init__(self, regularisation: float | None = None, *, max_iter: int = 80, tol: float = 3e-4) -> None:
        super().__init__()
        self.regularisation, self.max_iter, self.tol = regularisation, max_iter, tol
        self.details: dict[str, float] = {}

    @torch.no_grad()
    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b channel *spatial"]:
        """Reconstruct; each image of a batch has its own weight.

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
        x, self.details = penalised(
            y, physics, TGVProx, regularisation=self.regularisation, max_iter=self.max_iter, tol=self.tol
        )
        return x
