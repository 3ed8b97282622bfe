"""Plug-and-play reconstruction with deepinv's DRUNet."""

from __future__ import annotations

import torch
from deepinv.models import DRUNet
from deepinv.optim import DPIR
from jaxtyping import Complex, Float
from torch import Tensor

from recon.models import registry
from recon.models.learned import LearnedReconstructor
from recon.models.scaling import unit_scale
from recon.models.sets import EachSet
from recon.models.unet import check_cartesian
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.regularisation import single
from recon.variational import noise_levels

_NOISE = 0.01  # of an image of scale 1, where the level is not known


@registry.register("drunet-pnp")
class DRUNetPnP(LearnedReconstructor):
    """Plug-and-play half-quadratic splitting with DRUNet [1]_, deepinv's DPIR, on the real and imaginary part.

    The denoiser knows no MRI: its weights are those of a denoiser of grey images, such as deepinv's published ones
    (``recon import-weights drunet_deepinv_gray.pth --model drunet-pnp``). Eight iterations from strong to weak
    denoising, down to the level of the noise. It is not trained through the iterations.

    Parameters
    ----------
    features, blocks
        Channels of the first of four scales, and residual blocks of each; 64 and 4 as published.

    References
    ----------
    .. [1] Zhang et al., Plug-and-play image restoration with deep denoiser prior, IEEE TPAMI 2022.
    """

    channels = (1,)  # of its denoiser

    def __init__(self, features: int = 64, blocks: int = 4) -> None:
        super().__init__()
        if min(features, blocks) < 1:
            raise OptionError("DRUNet has a channel and a block at least", found=f"{features}, {blocks}")
        widths = [features * 2**scale for scale in range(4)]
        self.denoiser = DRUNet(1, 1, nc=widths, nb=blocks, pretrained=None)

    def forward(self, y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI) -> Float[Tensor, "b channel y x"]:
        """Reconstruct; each image of a batch with its own noise level.

        Parameters
        ----------
        y
            K-space, of any scale.
        physics
            Its operator; where its noise model tells no level, outer k-space does.

        Raises
        ------
        OptionError
            Physics that are not Cartesian MRI in 2D.
        ShapeError
            Measurements that do not fit the physics.
        """
        check_cartesian(y, physics)
        unit = unit_scale(y, physics)
        sigmas = noise_levels(y, physics)
        images = []
        for index in range(len(y)):
            y_i, physics_i = single(y / unit, physics, index)
            sigma = _NOISE if sigmas is None else sigmas[index] / float(unit[index])
            solver = DPIR(sigma, EachSet(self.denoiser, 1), device=y.device)
            images.append(solver(y_i, physics_i))
        return torch.cat(images) * unit
