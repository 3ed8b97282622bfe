"""The sharing matrix of organs: how large its audit is, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy import ndarray

from recon.datasets.atomic import atomic_path
from recon.json_text import json_text
from recon.physics.errors import OptionError

Verdict = Literal["helps", "harms", "no clear difference"]
NETWORKS: Mapping[str, Mapping[str, int]] = {
    "unet": {"features": 16, "pools": 3},
    "varnet": {"cascades": 3, "features": 8, "pools": 3},
}
FEWEST = 8
"""Training slices of an organ."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the audit is.

    Parameters
    ----------
    accelerations
        Of the scans.
    seconds
        What it may take in all; the steps of the trainings are found from it.
    steps
        Of each training, instead.
    network
        One of `NETWORKS`.
    seeds
        Trainings of each kind, from other first weights. One alone says nothing of how much trainings differ.
    train, test
        Slices of an organ at most, evenly spread.
    matrix
        (y, x) to which images are cropped or filled up; None: as they are.
    batch_size, lr
        Of the trainings.
    seed
        Of all random choices.
    """

    accelerations: tuple[float, ...] = (4.0, 8.0)
    seconds: float = 900.0
    steps: int | None = None
    network: str = "unet"
    seeds: int = 2
    train: int = 80
    test: int = 24
    matrix: tuple[int, int] | None = (96, 96)
    batch_size: int = 4
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise OptionError("no such small network", found=self.network, expected=", ".join(NETWORKS))
        if (
            not self.accelerations
            or min(self.accelerations) < 1
            or len(set(self.accelerations)) < len(self.accelerations)
        ):
            raise OptionError("accelerations are different numbers of 1 or more", found=self.accelerations)
        if min(self.seeds, self.test, self.steps or 1) < 1 or not self.seconds > 0 or self.train < FEWEST:
            raise OptionError(
                "seeds, steps, slices and time are positive",
                found=f"{self.seeds} seeds, {self.train} and {self.test} slices, {self.seconds:g} s",
                expected=f"{FEWEST} training slices or more",
            )


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What an organ gains when another one is trained on beside it.

    Parameters
    ----------
    acceleration, tested, beside
        Of the scans; the organ that is looked at; the other one.
    gain, low, high
        PSNR, dB, over that of training on the organ alone, and its interval (95 %, over slices and seeds).
    hallucination
        Energy of the error where the data see nothing, over that of training alone.
    verdict
        Clear where the interval leaves 0 out and all seeds agree.
    """

    acceleration: float
    tested: str
    beside: str
    gain: float
    low: float
    high: float
    hallucination: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class DataAudit:
    """The sharing matrix.

    Parameters
    ----------
    organs
        Training and test slices of each.
    plan
        What was done; ``steps`` are those that the budget allowed.
    sharing
        An entry for each acceleration and ordered pair.
    psnr
        (acceleration, organ that was tested, organ that alone was trained on) -> dB.
    notes
        What to know before the figures are used.
    seconds, complete
        What it took; whether it was interrupted.
    pictures
        A test slice of each organ, for the page.
    """

    organs: Mapping[str, tuple[int, int]]
    plan: Plan
    sharing: tuple[Sharing, ...]
    psnr: Mapping[tuple[float, str, str], float]
    notes: tuple[str, ...]
    seconds: float
    complete: bool
    pictures: Mapping[str, ndarray] = field(default_factory=dict, repr=False)

    @property
    def advice(self) -> list[str]:
        """Say what is clear: the strongest effects first."""
        clear = sorted((s for s in self.sharing if s.verdict != "no clear difference"), key=lambda s: -abs(s.gain))
        return [
            f"{s.beside} {s.verdict} {s.tested} at {s.acceleration:g}x: {s.gain:+.2f} dB, {s.low:+.2f} to {s.high:+.2f}"
            for s in clear
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return {
            "organs": {name: {"train": train, "test": test} for name, (train, test) in self.organs.items()},
            "plan": asdict(self.plan),
            "sharing": [asdict(s) for s in self.sharing],
            "psnr": [
                {"acceleration": a, "tested": tested, "trained": trained, "psnr": value}
                for (a, tested, trained), value in self.psnr.items()
            ],
            "advice": self.advice,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "complete": self.complete,
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write `as_dict` as JSON."""
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(json_text(self.as_dict()) + "\n", encoding="utf-8")

    def report(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a self-contained HTML page with the matrix as a heat map."""
        from recon.unlearning.data_audit_page import data_audit_page

        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(data_audit_page(self), encoding="utf-8")
