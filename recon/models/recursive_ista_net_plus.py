"""Recursive ISTA-Net+: three blocks, three times each, a third of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recon.models import registry
from recon.models.ista_net_plus import PlusPhase
from recon.models.recursion import FeatureModulation, Recursion, Turn, conditions
from recon.models.unrolled import PIXELS, Gains, UnrolledReconstructor, quieten
from recon.physics.errors import OptionError

_GAINS = 2  # of each turn


@registry.register("recursive-ista-net-plus")
class RecursiveISTANetPlus(UnrolledReconstructor):
    r"""Recursive ISTA-Net+ [1]_: each block of `recon.models.ista_net_plus` is applied several times in a row.

    Step size and threshold of a block are those of all its turns. Two recursive feature modulation units tell the
    features how long the pass is and where it is.

    Parameters
    ----------
    phases
        Blocks; 3 as published.
    recursions
        Most turns of each, as many as it has outside training; 3 as published.
    features
        Channels of the transform.
    modulation
        Where the units' gains multiply the features. The authors publish their number only; ``transforms``, after the
        transform and after its inverse, and ``threshold``, before and after the soft threshold, both have it. ``none``:
        no units.
    channels, stitch, scale, quiet, measurements, pixels
        As of `recon.models.ista_net_plus.ISTANetPlus`.

    References
    ----------
    .. [1] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
    """

    own_losses = ("symmetry",)
    linear_start = True

    def __init__(
        self,
        phases: int = 3,
        recursions: int = 3,
        features: int = 32,
        *,
        modulation: str = "transforms",
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
        if modulation not in ("transforms", "threshold", "none"):
            raise OptionError("no such modulation", found=modulation, expected="transforms, threshold or none")
        self.recursion = Recursion(phases, recursions)
        placement = "transforms" if modulation == "none" else modulation
        self.blocks = nn.ModuleList(PlusPhase(channels, features, placement) for _ in range(phases))
        units = 0 if modulation == "none" else _GAINS
        self.modulation = nn.ModuleList(FeatureModulation(2, features).start_near_one() for _ in range(units))
        if quiet:
            quieten(self.blocks, "G")

    def gains(self, turns: Sequence[Turn], ratio: float) -> Gains | None:  # noqa: ARG002 - weights are of one ratio
        """Return two gains a feature for each turn."""
        if not self.modulation:
            return None
        known = conditions(turns, self.blocks[0].get_parameter("step"))
        return torch.stack([unit(known) for unit in self.modulation], 1)
