"""Root sum of squares: no coil maps needed."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Complex, Float
from torch import Tensor

from recon.models import registry
from recon.physics import MultiCoilMRI, NonCartesianMRI
from recon.physics.fft import ifft_centred
from recon.physics.noncartesian import density_compensation
from recon.regularisation import check_measurements


@registry.register("rss")
class RootSumOfSquares(Reconstructor):
    r"""Magnitude image :math:`\sqrt{\sum_c |F^H y_c|^2}` of the zero-filled data [Roemer 1990]; coil maps are not used.

    Its noise floor is above zero, and with several coils it is brighter at low signal.
    """

    def forward(
        self, y: Complex[Tensor, "b coil *samples"], physics: MultiCoilMRI | NonCartesianMRI
    ) -> Float[Tensor, "b 1 *spatial"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements.
        physics
            Tells where they were taken.

        Raises
        ------
        ShapeError
            Measurements that do not fit the operator.
        """
        check_measurements(y, physics)
        if isinstance(physics, MultiCoilMRI):
            axes = tuple(range(2, y.ndim))
            return torch.linalg.vector_norm(ifft_centred(y * physics.mask, axes), dim=1, keepdim=True)
        density = physics.density
        if density is None:
            density = density_compensation(physics.trajectory, physics.spatial).to(y.real.dtype)
        one = torch.ones((1, 1, *physics.spatial), dtype=y.dtype, device=y.device)
        alone = NonCartesianMRI(one, physics.trajectory)
        images = alone.combine((y * density).flatten(0, 1)[:, None])
        return torch.linalg.vector_norm(images.unflatten(0, y.shape[:2]), dim=1, keepdim=True)
