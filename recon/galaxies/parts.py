"""The parts of a run over many stamps: in memory, or in a spool and read when asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped
from numpy import ndarray

from recon.galaxies.catalogue import blank
from recon.galaxies.deblurring import StampPart
from recon.physics.errors import OutputError
from recon.spool import Spool


@runtime_checkable
class Part(Protocol):
    """What some neighbouring objects give; see `recon.galaxies.deblurring.StampPart`."""

    @property
    def image(self) -> Float32[ndarray, "b y x"]: ...  # noqa: D102

    @property
    def columns(self) -> dict[str, Shaped[ndarray, " b"]]: ...  # noqa: D102

    @property
    def seconds(self) -> float: ...  # noqa: D102

    @property
    def notes(self) -> list[str]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class StoredPart:
    """A part in a spool, and whether its columns have responses to shear."""

    store: Spool
    index: int
    responses: bool

    @property
    def image(self) -> Float32[ndarray, "b y x"]:
        """Read the deblurred stamps."""
        return self._read("image")["image"]

    @property
    def columns(self) -> dict[str, Shaped[ndarray, " b"]]:
        """Read the columns of the catalogue."""
        return self._read(*blank(0, responses=self.responses), "flags")

    @property
    def seconds(self) -> float:
        """Read how long it took."""
        return float(self._read("seconds")["seconds"])

    @property
    def notes(self) -> list[str]:
        """Read what was repaired."""
        return list(json.loads(str(self._read("notes")["notes"])))

    def _read(self, *names: str) -> dict[str, ndarray]:
        found = self.store.get_arrays(self.index, names)
        if found is None:
            raise OutputError(f"part {self.index} of the finished stamps is gone", cure="Reconstruct them again")
        return found


def store_part(store: Spool, index: int, part: StampPart) -> None:
    """Put a part into a spool."""
    notes = np.array(json.dumps(part.notes))
    store.put_arrays(index, {"image": part.image, "seconds": np.array(part.seconds), "notes": notes, **part.columns})
