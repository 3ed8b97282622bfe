"""The image of least norm that fits the measurements."""

from __future__ import annotations

from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.models import registry
from recon.regularisation import check_measurements


@registry.register("minimum-norm")
class MinimumNorm(Reconstructor):
    r"""Image of least norm among those that fit the measurements best, :math:`x = A^+ y` [Penrose 1955].

    Nothing is assumed of the image. Exact for compressed measurements, where it is the adjoint if the rows of the
    matrix are orthonormal and the blocks are whole; by conjugate gradients for other operators.
    """

    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b channel *spatial"]:
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
            Measurements that do not fit the operator.
        """
        check_measurements(y, physics)
        return physics.A_dagger(y)
