"""Recursive COAST: five blocks, four times each, a quarter of the weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recon.models import registry
from recon.models.coast import ControlledPhase
from recon.models.recursion import FeatureModulation, Recursion, Turn, conditions
from recon.models.unrolled import Gains, UnrolledReconstructor, quieten


@registry.register("recursive-coast")
class RecursiveCOAST(UnrolledReconstructor):
    r"""R-COAST [1]_: each phase of `recon.models.coast` is applied several times in a row.

    One recursive feature modulation unit makes the gains of all blocks from twice the sampling ratio, the length of the
    pass and the turn.

    Parameters
    ----------
    phases
        Blocks; 5 as published.
    recursions
        Most turns of each, as many as it has outside training; 4 as published.
    features, channels, stitch, crop, scale, quiet
        As of `recon.models.coast.COAST`.

    References
    ----------
    .. [1] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
    """

    def __init__(
        self,
        phases: int = 5,
        recursions: int = 4,
        features: int = 32,
        *,
        channels: int = 1,
        stitch: bool = True,
        crop: bool = True,
        scale: str = "none",
        quiet: bool = False,
    ) -> None:
        super().__init__(channels, features, stitch=stitch, crop=crop, scale=scale)
        self.recursion = Recursion(phases, recursions)
        self.blocks = nn.ModuleList(ControlledPhase(channels, features) for _ in range(phases))
        self.control = FeatureModulation(3, features)
        if quiet:
            quieten(self.blocks, "tail")

    def gains(self, turns: Sequence[Turn], ratio: float) -> Gains | None:
        """Return one gain a feature for each turn."""
        return self.control(conditions(turns, self.blocks[0].get_parameter("step"), 2 * ratio))[:, None]
