"""A network from its registered name and arguments, as configurations and checkpoints write them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recon.models import registry
from recon.physics.errors import OptionError

if TYPE_CHECKING:
    from deepinv.models import Reconstructor


def build(name: str, arguments: Mapping[str, Any]) -> Reconstructor:
    """Return the network of a name, untrained.

    Raises
    ------
    OptionError
        No model of this name, an argument that it does not take, or nothing in it to train.
    """
    network_class = registry[name]
    accepted = list(inspect.signature(network_class).parameters)
    for argument in arguments:
        if argument not in accepted:
            raise OptionError(f"{name} takes no argument {argument!r}", expected=f"some of {', '.join(accepted)}")
    try:
        network = network_class(**arguments)
    except TypeError as error:
        raise OptionError(f"{name} cannot be made of these arguments: {error}", found=dict(arguments)) from error
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise OptionError(f"{name} has no weights, so that there is nothing to train")
    return network
