"""The list of samples, and what their makers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent.parent / "data"
SAMPLES: dict[str, Callable[[Path], Path]] = {}
"""Name of a reader (and a variant of its files) to a function that writes such a file into a folder."""
OPTIONS: dict[str, str] = {}
"""Name of the variable to be read, for samples of formats that need one."""


def sample(name: str, variable: str | None = None) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        assert name not in SAMPLES
        SAMPLES[name] = make
        if variable is not None:
            OPTIONS[name] = variable
        return make

    return register


def complex_normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
