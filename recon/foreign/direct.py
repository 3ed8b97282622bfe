"""DIRECT's recurrent variational network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recon.foreign import Foreign, Weights, converters
from recon.foreign.names import numbered, renamed, scalars, size, weights_with
from recon.physics.errors import CheckpointError

_GATES = ("reset", "update", "out")  # the order of ours
_INITIALISER = [
    (r"initializer\.conv_blocks\.(\d+)\.1\.(weight|bias)", r"initialiser.convolutions.\1.\2"),
    (r"initializer\.out_blocks\.(\d+)\.0\.(weight|bias)", r"initialiser.outputs.\1.\2"),
]
_MAPS = [
    (rf"{theirs}\.layer_{a}\.conv\.weight", rf"maps.{ours}.{b}.weight")
    for theirs, ours in (
        (r"down_sample_layers\.(\d+)", r"down.\1"),
        (r"conv", "bottom"),
        (r"up_conv\.(\d+)", r"merge.\1"),
    )
    for a, b in ((1, 0), (2, 3))
] + [
    (r"up_transpose_conv\.(\d+)\.conv\.weight", r"maps.up.\1.0.weight"),
    (r"conv_out\.(weight|bias)", r"maps.last.\1"),
]


@converters.register("recurrentvarnet")
def recurrentvarnet(content: Mapping[str, Any]) -> Foreign:
    """Convert ``direct.nn.recurrentvarnet.RecurrentVarNet``, with its U-Net for coil maps where the file has one.

    The result is a root sum of squares, as there.

    The weights do not tell whether DIRECT's Fourier transform was centred when the initialiser was trained (as for
    fastMRI's data: ``initialiser=kspace``) or not (as for Calgary-Campinas: ``kspace-corner``, which is assumed),
    nor the number of steps where all share their weights.

    Raises
    ------
    CheckpointError
        Other weights, or the variant with normalised inputs, which ours does not have.
    """
    theirs = weights_with(content, "block_list.0.learning_rate", "a RecurrentVarNet of DIRECT")
    if any(".regularizer.convgru." in name for name in theirs):
        raise CheckpointError("a RecurrentVarNet with normalised inputs", expected="normalized: false")
    step_sizes = scalars(theirs, r"block_list\.(\d+)\.learning_rate")
    layers = sum(1 for _ in numbered(theirs, r"block_list\.0\.regularizer\.reset_gates\.(\d+)\.0\.weight"))
    hidden = size(theirs, "block_list.0.regularizer.conv_blocks.0.1.weight", 0)
    ours: Weights = {"step_sizes": step_sizes}
    for t in range(len(step_sizes)):
        ours |= _regulariser(theirs, f"block_list.{t}.regularizer.", f"regularisers.{t}.", layers, hidden)
    initialiser = {name: value for name, value in theirs.items() if not name.endswith(".learning_rate")}
    ours |= renamed(initialiser, _INITIALISER)
    arguments: dict[str, Any] = {
        "steps": len(step_sizes),
        "hidden": hidden,
        "layers": layers,
        "initialiser": "kspace-corner" if initialiser else "none",
        "output": "rss",
        "scale": "kspace",
    }
    if initialiser:
        arguments["initialiser_scales"] = _scales(ours)
    if "sensitivity_model" in content:
        of_maps = weights_with(
            content["sensitivity_model"], "down_sample_layers.0.layer_1.conv.weight", "DIRECT's U-Net for coil maps"
        )
        ours |= renamed(of_maps, _MAPS)
        arguments["refine_maps"] = size(ours, "maps.down.0.0.weight", 0)
    notes = ("weights trained with a centred Fourier transform, as on fastMRI, need --set initialiser=kspace",)
    return Foreign(arguments=arguments, weights=ours, notes=notes if initialiser else ())


def _regulariser(theirs: Weights, block: str, ours: str, layers: int, hidden: int) -> Weights:
    """Convert one step's convolutions and gates, which leave ``theirs``; gates there take input and state together."""
    converted: Weights = {}
    for layer in range(layers + 1):
        name = f"{ours}convolutions.{layer}" if layer < layers else f"{ours}last"
        for kind in ("weight", "bias"):
            converted[f"{name}.{kind}"] = _taken(theirs, f"{block}conv_blocks.{layer}.1.{kind}")
    for layer in range(layers):
        names = [f"{block}{gate}_gates.{layer}.0" for gate in _GATES]
        gates = [_taken(theirs, f"{name}.weight", (hidden, 2 * hidden, 1, 1)) for name in names]
        biases = [_taken(theirs, f"{name}.bias", (hidden,)) for name in names]
        unit = f"{ours}units.{layer}"
        converted |= {
            f"{unit}.of_input.weight": torch.cat([gate[:, :hidden] for gate in gates]),
            f"{unit}.of_input.bias": torch.cat(biases),
            f"{unit}.of_state.weight": torch.cat([gate[:, hidden:] for gate in gates[:2]]),
            f"{unit}.of_reset_state.weight": gates[2][:, hidden:].contiguous(),
        }
    return converted


def _taken(weights: Weights, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """Take weights out."""
    if name not in weights or (shape is not None and weights[name].shape != shape):
        raise CheckpointError("the file lacks weights, or they have another shape", found=f"no fitting {name}")
    return weights.pop(name)


def _scales(ours: Weights) -> int:
    """How many of the last convolutions' outputs are put together: as many as have the channels that come in."""
    into = size(ours, "initialiser.outputs.0.weight", 1)
    widths = [value.shape[0] for _, value in numbered(ours, r"initialiser\.convolutions\.(\d+)\.weight")]
    for scales in range(1, len(widths) + 1):
        if sum(widths[-scales:]) == into:
            return scales
    raise CheckpointError("an initialiser that cannot be used", found=f"{widths} channels, {into} together")
