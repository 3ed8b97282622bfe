"""The layers of a network: which there are, what comes out of them, and a network like it with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor, nn

from recon.models.learned import LearnedReconstructor
from recon.physics.errors import OptionError

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a network by their names, in the order of construction."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _WEIGHTED)}


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return a layer by its name.

    Raises
    ------
    OptionError
        There is none of this name.
    """
    layers = weighted_layers(model)
    if name not in layers:
        raise OptionError("no such layer", found=name, expected=f"one of {', '.join(layers)}")
    return layers[name]


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what comes out of layers, one tensor for each time that a layer is run, with its derivatives."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[name].append(output)

        return hook

    handles = [layer(model, name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def flat(weights: Iterable[Tensor]) -> Float[Tensor, " n"]:
    """Lay weights out as one vector, with derivatives, in whatever memory format they are."""
    return torch.cat([w.reshape(-1) for w in weights])


@contextmanager
def restored(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Put weights back to what they are now when a block ends, however it ends; give that."""
    before = [p.detach().clone() for p in weights]
    try:
        yield before
    finally:
        with torch.no_grad():
            for p, old in zip(weights, before, strict=True):
                p.copy_(old)


def fresh(model: Reconstructor, seed: int) -> Reconstructor:
    """Return a network of the same structure with random weights.

    Raises
    ------
    OptionError
        A layer that cannot draw new weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, LearnedReconstructor):
            new: Reconstructor = type(model)(**model.arguments)
        else:
            new = copy.deepcopy(model)
            for name, module in new.named_modules():
                if next(module.parameters(recurse=False), None) is None:
                    continue
                reset = getattr(module, "reset_parameters", None)
                if reset is None:
                    raise OptionError("a layer that cannot draw new weights", found=name)
                reset()
    first = next(model.parameters())
    return new.to(first.device, first.dtype).eval()
