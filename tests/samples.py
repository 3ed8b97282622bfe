"""Small valid files, one function a format, written by the other side's own library wherever it has one.

``@sample("name")`` adds a format. The fuzz test damages each of them, and the recognition test checks that
exactly the reader of that name answers to it (a variant is called ``name-variant``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

SAMPLES: dict[str, Callable[[Path], Path]] = {}
"""Name of a reader (and a variant of its files) to a function that writes such a file into a folder."""


def sample(name: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        assert name not in SAMPLES
        SAMPLES[name] = make
        return make

    return register


def complex_normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
