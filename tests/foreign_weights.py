"""Weights of other packages' networks for tests: their names and shapes are stored, their values come from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch


def random_state(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights small enough for many steps, none of them zero; the same on every machine."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        spread = 0.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
        centre = 0.8 if name.endswith(("learning_rate", "dc_weight")) else 0.0
        state[name] = torch.from_numpy((centre + spread * rng.standard_normal(tuple(shape))).astype(np.float32))
    return state
