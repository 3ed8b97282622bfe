"""Quantised weights in a file of safetensors: packed codes without the structural zeros, and their scales.

The metadata of the file say under ``quantised``, as JSON, for each packed weight: name, levels, shape, blocks, and the
name of its scale. All other weights are stored as they are. A model that is loaded has plain weights
``scale * codes``, bit by bit those of the model that was saved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from recon.onebit.network import block_mask, quantised_weights
from recon.onebit.packing import pack, packed_bytes, unpack
from recon.onebit.quantiser import Levels, Scale
from recon.physics.errors import CheckpointError, OptionError

KEY = "quantised"
_SCALE = "quantised.scale."


@torch.no_grad()
def packed(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Pack what is quantised among the weights of a network.

    Parameters
    ----------
    network
        In which some weights may have a quantiser.
    weights
        Its state; what is shared is there once.

    Returns
    -------
    dict, list
        What is to be stored, and what the metadata say of the packed weights. A network in the first stage of its
        training gives plain weights.
    """
    found = list(quantised_weights(network))
    ours = tuple(".parametrizations.".join(weight.name.rsplit(".", 1)) + "." for weight in found)
    stored = {name: value for name, value in weights.items() if not name.startswith(ours)}
    table: list[dict[str, Any]] = []
    scales: dict[Scale, str] = {}
    for weight in found:
        quantiser, latent = weight.quantiser, weight.latent
        if not quantiser.active:
            stored[weight.name] = quantiser.masked(latent).detach()
            continue
        keep = slice(None) if quantiser.mask is None else quantiser.mask
        entry = {
            "name": weight.name,
            "levels": quantiser.levels,
            "shape": list(latent.shape),
            "blocks": quantiser.blocks,
        }
        if quantiser.levels == "full":
            stored[weight.name] = latent.detach()[keep].flatten()
        else:
            name = scales.setdefault(quantiser.scale, f"{_SCALE}{len(scales)}")
            entry["scale"] = name
            stored[name] = quantiser.scale().detach()
            stored[weight.name] = pack(quantiser.codes(latent)[keep].flatten().to(torch.int8), quantiser.levels)
        table.append(entry)
    return stored, table


def unpacked(weights: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Return plain weights of what `packed` gave.

    Parameters
    ----------
    weights, metadata
        Of a file.
    path
        Of it, for messages.

    Raises
    ------
    CheckpointError
        Metadata that cannot be used, or packed weights that do not fit them.
    """
    if KEY not in metadata:
        return dict(weights)
    try:
        table = json.loads(metadata[KEY])
        plain = {name: value for name, value in weights.items() if not name.startswith(_SCALE)}
        for entry in table:
            plain[entry["name"]] = _unpacked(entry, weights, path)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the file does not say how its weights are packed: {type(error).__name__} {error}", file=path
        ) from error
    return plain


def _unpacked(entry: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> Tensor:
    name, levels, shape = entry["name"], entry["levels"], [int(n) for n in entry["shape"]]
    if levels not in get_args(Levels) or min(shape) < 1:
        raise CheckpointError(
            f"weights {name!r} of an unknown kind",
            file=path,
            found=f"{levels}, {shape}",
            cure="It may need a newer release",
        )
    plain = torch.zeros(shape)
    try:
        mask = block_mask(plain, int(entry["blocks"]), name)
    except OptionError as error:
        raise CheckpointError(error.problem, file=path, found=error.found) from error
    count = plain.numel() if mask is None else int(mask.sum())
    value = weights[name]
    found, expected = value.numel() * value.element_size(), packed_bytes(count, levels)
    if found != expected or (levels != "full" and value.dtype != torch.uint8):
        raise CheckpointError(
            f"the packed weights {name!r} do not fit their shape", file=path, found=f"{found} bytes", expected=expected
        )
    values = value if levels == "full" else weights[entry["scale"]] * unpack(value, count, levels)
    plain[slice(None) if mask is None else mask] = values.reshape(shape) if mask is None else values
    return plain
