"""ISTA-Net+: ISTA-Net whose transform acts on features of the image and adds to it what is missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recon.models import registry
from recon.models.gradient_step import Seen
from recon.models.ista_net import RHO, THETA, Features, Transform, kernels, soft_threshold
from recon.models.recursion import Recursion
from recon.models.unrolled import PIXELS, UnrolledReconstructor, quieten


@registry.register("ista-net-plus")
class ISTANetPlus(UnrolledReconstructor):
    r"""ISTA-Net+ [1]_: in each phase a gradient step and a soft threshold in a transform of learned features.

    .. math::

        r &= x - \rho\, A^T (A x - y) \\
        x &= r + G(\tilde H(\mathrm{soft}(H(D(r)), \theta)))

    Training adds 0.01 times the symmetry residuals, :math:`\tilde H(H(D(r))) - D(r)`, to the mean square error.

    Parameters
    ----------
    phases
        9 as published, with weights of their own.
    features, channels, stitch, scale, measurements, pixels
        As of `recon.models.ista_net.ISTANet`.
    quiet
        Begin with corrections G a tenth as large as published: a short training gets further.

    References
    ----------
    .. [1] Zhang, Ghanem, ISTA-Net: Interpretable optimization-inspired deep network for image compressive sensing, CVPR
       2018.
    """

    own_losses = ("symmetry",)
    linear_start = True

    def __init__(
        self,
        phases: int = 9,
        features: int = 32,
        *,
        channels: int = 1,
        stitch: bool = False,
        scale: str = "none",
        quiet: bool = False,
        measurements: int = 0,
        pixels: int = PIXELS,
    ) -> None:
        super().__init__(
            channels, features, stitch=stitch, crop=True, scale=scale, measurements=measurements, pixels=pixels
        )
        self.recursion = Recursion(phases)
        self.blocks = nn.ModuleList(PlusPhase(channels, features) for _ in range(phases))
        if quiet:
            quieten(self.blocks, "G")


class PlusPhase(nn.Module):
    """D, H, its inverse and G, named as in the paper.

    Parameters
    ----------
    channels, features
        Of images, and of the transform.
    placement
        Where gains, if there are any, multiply the features: after both ``transforms``, H and its inverse, or on both
        sides of the ``threshold``.
    """

    def __init__(self, channels: int, features: int, placement: str = "transforms") -> None:
        super().__init__()
        self.step, self.threshold = nn.Parameter(torch.tensor(RHO)), nn.Parameter(torch.tensor(THETA))
        self.D, self.G = kernels(channels, features), kernels(features, channels)
        self.H, self.inverse = Transform(features, features, features), Transform(features, features, features)
        self.placement = placement

    def forward(self, r: Seen, gains: Tensor | None, symmetry: bool) -> tuple[Seen, Features | None]:
        """Return the next image, and the symmetry residual where it is wanted."""
        first, second = (None, None) if gains is None else gains.unbind(0)
        d = self.D(r)
        f = self.H(d, first)
        s = soft_threshold(f, self.threshold)
        x = r + self.G(self._back(s, second))
        return x, self._back(f, second) - d if symmetry else None

    def _back(self, f: Features, gain: Tensor | None) -> Features:
        if gain is not None and self.placement == "threshold":
            f, gain = f * gain[:, None, None], None
        return self.inverse(f, gain)
