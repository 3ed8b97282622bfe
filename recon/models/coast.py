"""COAST: one unrolled network for every measurement matrix and sampling ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.models import registry
from recon.models.gradient_step import Seen
from recon.models.ista_net import Features, modulated
from recon.models.recursion import Recursion, Turn
from recon.models.unrolled import Gains, UnrolledReconstructor, quieten

_RHO = 0.5
_BLOCKS = 3  # residual blocks of a phase


@registry.register("coast")
class COAST(UnrolledReconstructor):
    r"""COAST [1]_: in each phase a gradient step and a residual network whose branches the sampling ratio scales.

    .. math:: r = x - \rho\, A^T (A x - y), \quad x = r + \mathrm{tail}(B_3(B_2(B_1(\mathrm{head}(r))))), \quad
        B(z) = z + \alpha(c)\, W_2\, \mathrm{relu}(W_1 z)

    The gains :math:`\alpha` come from the sampling ratio c by a linear layer, the same in all blocks. Trained on random
    matrices, it reconstructs from any with orthonormal rows; of others the step is scaled. The convolutions cross the
    borders of blocks ("deblocking"), which in training, on single blocks, there are none of.

    Parameters
    ----------
    phases
        20 as published, with weights of their own.
    features
        Channels of the residual blocks.
    channels
        Of the images it sees.
    stitch
        Put the blocks together before the convolutions, as published.
    crop
        The network does not see an image's padding to whole blocks. The authors' code lets it, and their weights are
        imported so; that of the recursive version does not.
    scale
        As of `recon.models.ista_net.ISTANet`.
    quiet
        Begin with corrections a tenth as large as published: a short training gets further.

    References
    ----------
    .. [1] You et al., COAST: COntrollable Arbitrary-Sampling NeTwork for compressive sensing, IEEE TIP 2021.
    """

    def __init__(
        self,
        phases: int = 20,
        features: int = 32,
        *,
        channels: int = 1,
        stitch: bool = True,
        crop: bool = True,
        scale: str = "none",
        quiet: bool = False,
    ) -> None:
        super().__init__(channels, features, stitch=stitch, crop=crop, scale=scale)
        self.recursion = Recursion(phases)
        self.blocks = nn.ModuleList(ControlledPhase(channels, features) for _ in range(phases))
        self.control = nn.Linear(1, features)
        if quiet:
            quieten(self.blocks, "tail")

    def gains(self, turns: Sequence[Turn], ratio: float) -> Gains | None:
        """Return one gain a feature, the same for all turns."""
        known = self.control.weight.new_full((1, 1), ratio)
        return self.control(known)[None].expand(len(turns), 1, -1)


class ControlledPhase(nn.Module):
    """Residual network of a phase: head, three controlled blocks, tail."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(_RHO))
        self.head = nn.Conv2d(channels, features, 3, padding=1)
        self.residual = nn.ModuleList(_Controlled(features) for _ in range(_BLOCKS))
        self.tail = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, r: Seen, gains: Tensor, symmetry: bool) -> tuple[Seen, None]:  # noqa: ARG002 - no transform
        """Return the next image; there is no symmetry residual."""
        z = self.head(r)
        for block in self.residual:
            z = block(z, gains[0])
        return r + self.tail(z), None


class _Controlled(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, z: Features, gain: Float[Tensor, " features"]) -> Features:
        """Add the branch, scaled by the gains."""
        return modulated(self.second, torch.relu_(self.first(z)), gain).add_(z)
