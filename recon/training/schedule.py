"""How the learning rate changes with the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from recon.physics.errors import OptionError


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate: linear warm-up, then steps down or a cosine.

    The defaults are those of RecurrentVarNet [Yiasemis 2022].

    Parameters
    ----------
    kind
        ``step``: times ``factor`` after each ``period``; ``cosine``: falls to ``factor`` over one ``period`` and stays
        there; ``constant``.
    warmup
        Steps over which the rate rises from 0.
    period
        In steps, from the start.
    factor
        See ``kind``.

    Raises
    ------
    OptionError
        Numbers that make no schedule.
    """

    kind: Literal["step", "cosine", "constant"] = "step"
    warmup: int = 1000
    period: int = 50_000
    factor: float = 0.2

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.period <= 0 or not 0 <= self.factor <= 1:
            raise OptionError(
                "no learning rate schedule",
                found=f"warmup {self.warmup}, period {self.period}, factor {self.factor:g}",
                expected="warmup 0 or more, a positive period, a factor from 0 to 1",
            )

    def __call__(self, step: int) -> float:
        """Return the factor at a step, which counts from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "constant":
            return rise
        if self.kind == "step":
            return rise * self.factor ** (step // self.period)
        fall = (1 + math.cos(math.pi * min(step / self.period, 1.0))) / 2
        return rise * (self.factor + (1 - self.factor) * fall)
