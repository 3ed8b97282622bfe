"""fastMRI's U-Net and end-to-end variational network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon.foreign import Foreign, Weights, converters
from recon.foreign.names import numbered, renamed, scalars, size, weights_with
from recon.physics.errors import CheckpointError

# Dropout stands between the convolutions there, so that the second is layer 4; the last convolution belongs to a block.
_UNET = [
    (rf"{theirs}\.layers\.{a}\.weight", rf"{ours}.{b}.weight")
    for theirs, ours in (
        (r"down_sample_layers\.(\d+)", r"down.\1"),
        (r"conv", "bottom"),
        (r"up_conv\.(\d+)(?:\.0)?", r"merge.\1"),
    )
    for a, b in ((0, 0), (4, 3))
] + [
    (r"up_transpose_conv\.(\d+)\.layers\.0\.weight", r"up.\1.0.weight"),
    (r"up_conv\.\d+\.1\.(weight|bias)", r"last.\1"),
]


@converters.register("unet")
def unet(content: Mapping[str, Any]) -> Foreign:
    """Convert ``fastmri.models.Unet``, of one channel (magnitudes) or two (complex images).

    Raises
    ------
    CheckpointError
        Other weights, or a number of channels that is neither.
    """
    theirs = weights_with(content, "down_sample_layers.0.layers.0.weight", "a U-Net of fastMRI")
    ours = renamed(theirs, _UNET)
    channels = size(ours, "down.0.0.weight", 1)
    if channels not in (1, 2) or size(ours, "last.weight", 0) != channels:
        raise CheckpointError("a U-Net of a number of channels that is not known", found=channels, expected="1 or 2")
    return Foreign(
        arguments={**_sizes(ours), "magnitude": channels == 1},
        weights={f"network.unet.{name}": value for name, value in ours.items()},
    )


@converters.register("varnet")
def varnet(content: Mapping[str, Any]) -> Foreign:
    """Convert ``fastmri.models.VarNet``, with its network for coil maps; the result is a root sum of squares.

    Raises
    ------
    CheckpointError
        Other weights.
    """
    theirs = weights_with(content, "cascades.0.dc_weight", "a VarNet of fastMRI")
    steps = scalars(theirs, r"cascades\.(\d+)\.dc_weight")
    ours: Weights = {"step_sizes": steps}
    parts = {"sens_net.norm_unet.unet.": "maps.unet."}
    parts |= {f"cascades.{t}.model.unet.": f"cascades.{t}.unet." for t in range(len(steps))}
    for name, value in theirs.items():
        part = next((part for part in parts if name.startswith(part)), None)
        if part is not None:
            ours |= {parts[part] + key: v for key, v in renamed({name.removeprefix(part): value}, _UNET).items()}
        elif not name.endswith(".dc_weight"):
            raise CheckpointError("the file holds weights that the model does not have", found=name)
    cascade, maps = (_below(ours, part) for part in ("cascades.0.unet.", "maps.unet."))
    sizes = _sizes(maps)
    return Foreign(
        arguments={
            "cascades": len(steps),
            **_sizes(cascade),
            "estimate_maps": True,
            "map_features": sizes["features"],
            "map_pools": sizes["pools"],
            "output": "rss",
        },
        weights=ours,
    )


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _sizes(weights: Weights) -> dict[str, int]:
    pools = sum(1 for _ in numbered(weights, r"down\.(\d+)\.0\.weight"))
    return {"features": size(weights, "down.0.0.weight", 0), "pools": pools}
