"""Where random numbers come from, one rule for seeds and generators; and what counts as a number."""

from __future__ import annotations

import numpy as np
import torch

Seed = int | torch.Generator
Number = int | float


def as_generator(seed: Seed) -> torch.Generator:
    """Return a generator: the one given, or a new one of the given seed."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def child_generator(seed: int, *path: int) -> torch.Generator:
    """Return the generator of one part of a larger random object (slice 7 of volume ``seed``).

    The parts are independent of each other and of the order in which they are asked for.
    """
    state = np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
