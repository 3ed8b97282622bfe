"""deepinv's denoisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon.foreign import Foreign, converters
from recon.foreign.names import numbered, size, weights_with


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
