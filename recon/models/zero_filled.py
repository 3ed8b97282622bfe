"""Zero-filled reconstruction: the coil-combined adjoint."""

from __future__ import annotations

from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float, Num
from torch import Tensor

from recon.models import registry
from recon.physics import NonCartesianMRI
from recon.physics.noncartesian import density_compensation
from recon.regularisation import check_measurements


@registry.register("zero-filled")
class ZeroFilled(Reconstructor):
    r"""Zero-filled image, combined by the coil maps: :math:`x = A^H y` [Roemer 1990].

    For full sampling this is the image of the best signal-to-noise ratio. Off the grid the samples are weighted by
    their density first. Of compressed measurements and other operators it is the adjoint too.
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
        if not isinstance(physics, NonCartesianMRI):
            return physics.A_adjoint(y)
        density = physics.density
        if density is None:
            density = density_compensation(physics.trajectory, physics.spatial).to(y.real.dtype)
        return physics.A_adjoint(y * density)
