"""Filtered back-projection of computed tomography."""

from __future__ import annotations

from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor

from recon.models import registry
from recon.physics.ct import Tomography
from recon.physics.errors import OptionError


@registry.register("fbp")
class FilteredBackProjection(Reconstructor):
    """Filtered back-projection with a ramp, of parallel beams, and of fan beams sorted into such [Kak, Slaney 1988].

    The standard of scanners for full angular coverage; streaks where angles are few.
    """

    def forward(self, y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Sinograms ``(b, c, detector, angle)``.
        physics
            Their operator.

        Raises
        ------
        OptionError
            An operator that is not CT.
        ShapeError
            Sinograms that do not fit the geometry.
        """
        if not isinstance(physics, Tomography):
            raise OptionError("filtered back-projection is for CT", found=type(physics).__name__)
        return physics.fbp(y)
