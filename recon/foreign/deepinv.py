"""deepinv's networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recon.foreign import Foreign, Weights, converters
from recon.foreign.names import numbered, renamed, size, weights_with


@converters.register("drunet-pnp")
def drunet(content: Mapping[str, Any]) -> Foreign:
    """Convert ``deepinv.models.DRUNet`` for grey images.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    weights = weights_with(content, "m_head.weight", "a DRUNet of deepinv")
    blocks = sum(1 for _ in numbered(weights, r"m_body\.(\d+)\.res\.0\.weight"))
    return Foreign(
        arguments={"features": size(weights, "m_head.weight", 0), "blocks": blocks},
        weights={f"denoiser.{name}": value for name, value in weights.items()},
    )


_RAM_PARTS = (
    (r"(gain|conv[12]\.weight)", r"{}\1"),
    (r"PhysicsBlock\.decoding_conv\.tail(\d+)\.convin\.weight", r"{}decode.\1.weight"),
    (r"PhysicsBlock\.encoding_conv\.head(\d+)\.convin\.weight", r"{}encode.\1.first.weight"),
    (r"PhysicsBlock\.encoding_conv\.head(\d+)\.zero_conv_skip\.weight", r"{}encode.\1.first_skip.weight"),
    (r"PhysicsBlock\.encoding_conv\.head(\d+)\.conv10\.weight", r"{}encode.\1.middle.weight"),
    (r"PhysicsBlock\.encoding_conv\.head(\d+)\.conv20\.weight", r"{}encode.\1.last.weight"),
    (r"PhysicsBlock\.encoding_conv\.head(\d+)\.skipconv0\.weight", r"{}encode.\1.last_skip.weight"),
)
_RAM_REST = (
    (r"fact_realign", "step"),
    (r"m_(head|tail)\.conv(\d+)\.weight", r"\1.\2.weight"),
)
_RAM_UNUSED = re.compile(r".*PhysicsBlock\.(decoding_conv\.tail\d+\.zero_conv_skip\.weight|gain(_.*)?)")


@converters.register("ram")
def ram(content: Mapping[str, Any]) -> Foreign:
    """Convert ``deepinv.models.RAM``, and the file that its authors published.

    Weights that no formula of theirs uses are left out.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    weights = weights_with(content, "fact_realign", "a RAM of deepinv")
    used = {name: value for name, value in weights.items() if not _RAM_UNUSED.fullmatch(name)}
    named: Weights = {}
    for name, value in used.items():
        found = re.fullmatch(r"(?:m_(down|up)(\d+)|m_(body))\.enc\.(\d+)\.(.*)|(pool|up)(\d+)\.weight", name)
        if found is None:
            named |= renamed({name: value}, _RAM_REST)
        elif found[6]:
            named[f"{'pool' if found[6] == 'pool' else 'unpool'}.{int(found[7]) - 1}.weight"] = value
        else:
            stage = "body" if found[3] else f"{found[1]}.{int(found[2]) - 1}"
            named |= renamed({found[5]: value}, [(p, r.format(f"{stage}.{found[4]}.")) for p, r in _RAM_PARTS])
    heads = [
        size({name: value}, name, 1) - 2 for name, value in named.items() if re.fullmatch(r"head\.\d+\.weight", name)
    ]
    widths = [size(weights, f"pool{i}.weight", 1) for i in range(1, _count(weights, r"pool(\d+)\.weight") + 1)]
    widths.append(size(weights, f"pool{len(widths)}.weight", 0))
    return Foreign(
        arguments={
            "channels": tuple(heads),
            "widths": tuple(widths),
            "blocks": _count(weights, r"m_body\.enc\.(\d+)\.gain"),
        },
        weights=named,
    )


def _count(weights: Weights, pattern: str) -> int:
    return sum(1 for name in weights if re.fullmatch(pattern, name))
