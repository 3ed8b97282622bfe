"""Weights of other packages, turned into ours: one file a package, one function a model.

``@converters.register(model)`` adds one: it takes what the file holds and returns constructor arguments and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recon.physics.registry import Registry

Weights = dict[str, Tensor]
MATRICES = "matrices beside the weights"
"""Under which name a converter finds the matrices of MATLAB files that belong to the weights, by their own names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """What a foreign file says.

    Parameters
    ----------
    arguments
        Of our model's constructor, as far as the weights tell.
    weights
        Under the names of our model.
    notes
        What a user should know.
    """

    arguments: Mapping[str, Any]
    weights: Weights
    notes: tuple[str, ...] = ()


converters: Registry[Callable[[Mapping[str, Any]], Foreign]] = Registry("weights' importer for", package=__name__)
