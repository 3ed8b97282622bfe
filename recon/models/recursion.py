"""Recursion: an unrolled network of few blocks, each applied several times in a row before the next [1]_.

`Recursion` says which block is applied when. A network asks it for its turns and does with each what its equations
say, so that a plain network is one whose blocks have one turn each::

    for turn in self.recursion.turns(recursions):
        x = self.blocks[turn.block](x)

References
----------
.. [1] Alhejaili et al., Recursions Are All You Need: Towards Efficient Deep Unfolding Networks, arXiv 2305.05505.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recon.datasets.random import child_generator
from recon.physics.errors import OptionError

_SMALL = 0.1  # of the gains' spread before training


@dataclass(frozen=True)
class Turn:
    """One application of a block.

    Parameters
    ----------
    block
        Which, from 0.
    number
        Count of this turn in the pass, from 1.
    total
        Turns of the pass.
    most
        Turns of a pass in which every block has as many as it may.
    """

    block: int
    number: int
    total: int
    most: int

    @property
    def condition(self) -> tuple[float, float]:
        """How long the pass is and where the turn is in it, both relative to the longest pass."""
        return self.total / self.most, self.number / self.most


class Recursion(nn.Module):
    """How often each block of a network is applied.

    In training every block has from 1 to ``most`` turns, drawn for each pass and for each block by itself; in
    evaluation all have ``most``. What is drawn depends on the seed and on how many passes there were since, so that it
    is the same in all processes of a training. It has no weights, and so no place in a file of them.

    Parameters
    ----------
    blocks
        L.
    most
        Turns that a block may have; 1: a plain network.
    seed
        Of the draws.

    Raises
    ------
    OptionError
        No blocks, or no turns.
    """

    def __init__(self, blocks: int, most: int = 1, *, seed: int = 0) -> None:
        super().__init__()
        if min(blocks, most) < 1:
            raise OptionError("a network has a block at least, and a block a turn", found=f"{blocks}, {most}")
        self.blocks, self.most = blocks, most
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self._seed, self._passes = seed, 0

    def counts(self, wanted: Sequence[int] | None = None) -> tuple[int, ...]:
        """Return how many turns each block has in the next pass.

        Parameters
        ----------
        wanted
            So many, instead of those drawn or all: for early output, or to look at a block.

        Raises
        ------
        OptionError
            Not one number, 0 or more, for each block; or none above 0.
        """
        if wanted is not None:
            if len(wanted) != self.blocks or min(wanted) < 0 or not any(wanted):
                raise OptionError(
                    "turns that do not fit the network",
                    found=list(wanted),
                    expected=f"{self.blocks} numbers, 0 or more, one above 0",
                )
            return tuple(wanted)
        if not self.training or self.most == 1:
            return (self.most,) * self.blocks
        generator = child_generator(self._seed, self._passes)
        self._passes += 1
        return tuple(torch.randint(1, self.most + 1, (self.blocks,), generator=generator).tolist())

    def turns(self, wanted: Sequence[int] | None = None) -> list[Turn]:
        """Return the turns of the next pass, in their order; parameters and errors as those of `counts`."""
        counts = self.counts(wanted)
        order = [block for block, count in enumerate(counts) for _ in range(count)]
        most = self.blocks * self.most
        return [Turn(block, number, len(order), most) for number, block in enumerate(order, start=1)]


class FeatureModulation(nn.Sequential):
    """Recursive feature modulation unit: from what is known of a turn to a gain for each channel.

    Two linear layers with a ReLU between them.

    Parameters
    ----------
    conditions
        How many numbers are known.
    features
        Channels.
    """

    def __init__(self, conditions: int, features: int = 32) -> None:
        super().__init__(nn.Linear(conditions, features), nn.ReLU(), nn.Linear(features, features))

    def start_near_one(self) -> FeatureModulation:
        """Let the gains be about 1 before training."""
        last = self[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(_SMALL)
            last.bias.fill_(1.0)
        return self


def conditions(turns: Sequence[Turn], like: Tensor, *known: float) -> Float[Tensor, "turn condition"]:
    """Stack what is known of each turn: ``known``, the same for all, then the turn's own.

    Parameters
    ----------
    turns
        Of a pass.
    like
        Tensor whose dtype and device are taken.
    known
        Such as the sampling ratio.
    """
    return torch.tensor([(*known, *turn.condition) for turn in turns], dtype=like.dtype, device=like.device)
