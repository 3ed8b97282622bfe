"""deepinv's variational network in image space."""

from __future__ import annotations

import copy

from deepinv.models import DnCNN
from deepinv.models import VarNet as DeepinvVarNet
from jaxtyping import Complex, Float
from torch import Tensor

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.models.scaling import unit_scale
from recon.models.sets import EachSet
from recon.models.unet import check_cartesian
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError


@registry.register("deepinv-varnet")
class ImageVarNet(LearnedReconstructor):
    r"""Variational network [1]_, deepinv's: gradient steps on the image, and a DnCNN that all of them share.

    .. math:: x_{t+1} = x_t - \eta_t A^H (A x_t - y) - D(x_t), \quad x_0 = A^H y

    Parameters
    ----------
    cascades
        Number of steps.
    depth, features
        Layers of the DnCNN, and their channels.

    References
    ----------
    .. [1] Hammernik et al., Learning a variational network for reconstruction of accelerated MRI data, MRM 2018.
    """

    def __init__(self, cascades: int = 12, depth: int = 7, features: int = 64) -> None:
        super().__init__()
        if cascades < 1 or depth < 2 or features < 1:
            raise OptionError("VarNet has a cascade and two layers at least", found=f"{cascades}, {depth}, {features}")
        denoiser = DnCNN(2, 2, depth=depth, nf=features, pretrained=None)
        self.network = DeepinvVarNet(EachSet(denoiser, 2), num_cascades=cascades, mode="varnet")

    def forward(self, y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI) -> Float[Tensor, "b channel y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            K-space, of any scale.
        physics
            Its operator; several sets of maps are refined each by itself.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI in 2D.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        unit = unit_scale(y, physics)
        return self.network(y / unit, copy.copy(physics)) * unit  # deepinv sets the mask of the one it is given
