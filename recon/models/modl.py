"""MoDL: alternating data consistency by conjugate gradients and a denoiser with shared weights."""

from __future__ import annotations

from deepinv.models import DnCNN
from deepinv.models import MoDL as DeepinvMoDL
from jaxtyping import Complex, Float
from torch import Tensor

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.models.scaling import unit_scale
from recon.models.sets import EachSet
from recon.models.unet import check_cartesian
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError


@registry.register("modl")
class MoDL(LearnedReconstructor):
    r"""MoDL [1]_, deepinv's: a convolutional denoiser, the same in all iterations, between data consistency steps.

    .. math:: u_k = \arg\min_u \tfrac{\gamma_k}{2} \|A u - y\|^2 + \tfrac12 \|u - x_k\|^2, \quad x_{k+1} = D(u_k)

    by conjugate gradients, with :math:`\gamma_k` learned and :math:`D` a DnCNN with a skip connection.

    Parameters
    ----------
    iterations
        Number of both steps; 10 as published.
    depth, features
        Layers of the DnCNN, and their channels.

    References
    ----------
    .. [1] Aggarwal et al., MoDL: model-based deep learning architecture for inverse problems, IEEE TMI 2019.
    """

    def __init__(self, iterations: int = 10, depth: int = 5, features: int = 64) -> None:
        super().__init__()
        if iterations < 1 or depth < 2 or features < 1:
            raise OptionError(
                "MoDL has an iteration and two layers at least", found=f"{iterations}, {depth}, {features}"
            )
        denoiser = DnCNN(2, 2, depth=depth, nf=features, pretrained=None)
        self.network = DeepinvMoDL(EachSet(denoiser, 2), num_iter=iterations)
        for name, parameter in self.network.params_algo.named_parameters():
            # A noise level that the DnCNN ignores, and a weight that half-quadratic splitting does not use.
            parameter.requires_grad_(name.startswith("stepsize"))

    def forward(self, y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI) -> Float[Tensor, "b channel y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            K-space, of any scale.
        physics
            Its operator; several sets of maps are denoised each by itself.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI in 2D.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        unit = unit_scale(y, physics)
        return self.network(y / unit, physics) * unit
