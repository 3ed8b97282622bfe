"""How many bits a link of a network takes, by formula and in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from recon.onebit.network import quantised_weights
from recon.onebit.packing import packed_bytes

_REAL = 32
_BITS = {"one-bit": 1.0, "ternary": math.log2(3), "8-bit": 8.0, "full": float(_REAL)}
_LENGTH = 8  # bytes at the start of a file of safetensors: the length of its header


@dataclass(frozen=True, kw_only=True)
class Links:
    """The weights of a network and what they take.

    Parameters
    ----------
    links
        All weights, structural zeros among them.
    bits
        Information in them: 1 bit a sign, log2(3) a ternary digit, 32 a real number; structural zeros are free.
    stored_bits
        What a file has of them: as ``bits``, but in whole bytes and with five ternary digits in a byte.
    """

    links: int
    bits: float
    stored_bits: int

    @property
    def per_link(self) -> float:
        """Bits a link."""
        return self.bits / self.links

    @property
    def compression(self) -> float:
        """Share of the bits of real weights that is saved."""
        return 1 - self.per_link / _REAL


def count_links(network: nn.Module) -> Links:
    r"""Count the links of a network and their bits; constants that are not learned do not count.

    .. math:: \frac{\mathrm{nnz}(S) b + 32 (\text{scales} + \text{other weights})}{\text{all weights}}

    with b bits a link that is no structural zero.
    """
    found = list(quantised_weights(network))
    weights = [weight for weight in found if bool(weight.quantiser.active)]
    scales = {id(weight.quantiser.scale) for weight in weights if weight.quantiser.levels != "full"}
    apart = {id(weight.latent) for weight in weights} | {id(weight.quantiser.scale.log_factor) for weight in found}
    others = sum(p.numel() for p in network.parameters() if id(p) not in apart)
    kept = [(weight.quantiser.kept(weight.latent), weight.quantiser.levels) for weight in weights]
    real = _REAL * (len(scales) + others)
    return Links(
        links=others + sum(weight.latent.numel() for weight in weights),
        bits=real + sum(count * _BITS[levels] for count, levels in kept),
        stored_bits=real + sum(8 * packed_bytes(count, levels) for count, levels in kept),
    )


def payload_bits(path: Path) -> int:
    """Bits of a file of safetensors without its header, which has names and shapes."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(_LENGTH), "little")
    return 8 * (path.stat().st_size - _LENGTH - header)
