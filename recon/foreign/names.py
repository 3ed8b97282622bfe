"""Finding the weights in a foreign file, and giving them our names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recon.foreign import Weights
from recon.physics.errors import CheckpointError

_CONTAINERS = ("state_dict", "model", "model_state_dict", "classy_state_dict")  # of Lightning, DIRECT, others
_WRAPPERS = re.compile(r"((module|_orig_mod|model|network|net|unet|varnet)\.)*")  # of Lightning modules, DDP, compile


def weights_with(content: Mapping[str, Any], signature: str, what: str) -> Weights:
    """Return the weights among which one has the name ``signature``, without what stands before all their names.

    Parameters
    ----------
    content
        Of the file: the weights themselves, or a training state that holds them.
    signature
        A name that tells the model.
    what
        Those are, for messages.

    Raises
    ------
    CheckpointError
        There are none such.
    """
    for state in (content, *(content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping))):
        for name in state:
            prefix = str(name).removesuffix(signature)
            if str(name).endswith(signature) and _WRAPPERS.fullmatch(prefix):
                return {
                    str(key)[len(prefix) :]: value
                    for key, value in state.items()
                    if str(key).startswith(prefix) and isinstance(value, Tensor)
                }
    raise CheckpointError(
        f"the file does not hold the weights of {what}",
        found=", ".join(str(key) for key in list(content)[:4]) or "nothing",
        expected=f"a name that ends in {signature}",
        cure="Give the model that they are for with --model",
    )


def renamed(weights: Weights, rules: Sequence[tuple[str, str]]) -> Weights:
    """Rename all weights by the first rule, a regular expression and its replacement, that fits the whole name.

    Raises
    ------
    CheckpointError
        A name that no rule fits.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    return {_renamed(name, compiled): value for name, value in weights.items()}


def _renamed(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        if found := pattern.fullmatch(name):
            return found.expand(replacement)
    raise CheckpointError("the file holds weights that the model does not have", found=name)


def numbered(weights: Weights, pattern: str) -> Iterator[tuple[int, Tensor]]:
    """Yield the weights whose names fit a pattern with one number, in the order of the numbers from 0.

    Raises
    ------
    CheckpointError
        A number is missing.
    """
    found = {int(match[1]): value for name, value in weights.items() if (match := re.fullmatch(pattern, name))}
    for place, (number, value) in enumerate(sorted(found.items())):
        if number != place:
            raise CheckpointError("the file lacks weights", found=f"none of the number {place} like {pattern}")
        yield number, value


def size(weights: Weights, name: str, axis: int) -> int:
    """Size of an axis of weights.

    Raises
    ------
    CheckpointError
        There are no such weights, or they have fewer axes.
    """
    if name not in weights or weights[name].ndim <= axis:
        raise CheckpointError("the file lacks weights, or they have another shape", found=f"no fitting {name}")
    return weights[name].shape[axis]


def scalars(weights: Weights, pattern: str) -> Tensor:
    """Put the single numbers whose names fit a pattern with one number together.

    Raises
    ------
    CheckpointError
        One is missing, or is not a single number.
    """
    values = [value for _, value in numbered(weights, pattern)]
    if any(value.shape != (1,) for value in values):
        raise CheckpointError("weights that should be one number are not", found=pattern)
    return torch.cat(values)
