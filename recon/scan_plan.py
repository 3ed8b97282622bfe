"""What is to be done to the slices of a scan, by one process or by several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from deepinv.models import Reconstructor

from recon.checkpoint import sha256
from recon.choice import Verdict, compare, shipped_card
from recon.datasets import Scan, wanted_slices
from recon.models import takes_stamps
from recon.physics.errors import OptionError
from recon.prepare import Preparation, prepare
from recon.slices import BASIC, SliceResult, Trust, reconstruct_slice
from recon.spool import Spool
from recon.volumes import as_slices
from recon.zoo import is_file, load_model


class Plan:
    """What is to be done to which slices of a scan.

    Slices go in groups of neighbours; where a method searches for its strength, the first of a group does so for
    all. Whoever runs a slice, in whatever order, gets the same image.

    Parameters are those of `reconstruct`.
    """

    group = 8

    def __init__(
        self,
        scan: Scan,
        model: str | Reconstructor,
        how: Preparation,
        slices: Sequence[int] | None,
        trust: Trust,
        seed: int,
    ) -> None:
        self.scan, self.model, self.how, self.trust, self.seed = scan, model, how, trust, seed
        self._load = cache(load_model)
        self._weights = self._checksum()  # an unknown name is told before any work is done
        self.sliced, self.axis = as_slices(scan)
        if self.axis is not None and slices is not None:
            raise OptionError(
                "slices cannot be chosen from a 3D scan", file=scan.source.path, cure="Leave --slices out"
            )
        self.wanted = wanted_slices(self.sliced.n_slices, slices, self.sliced.source.path)
        self.checked = _spread(self.wanted, trust.slices)
        self._leaders = {index: self.wanted[place - place % self.group] for place, index in enumerate(self.wanted)}
        self._reports: dict[int, dict[str, Any]] = {}
        self._verdict: Verdict | None = None
        self._decided = model != "auto" or shipped_card() is None

    def options(self) -> dict[str, Any]:
        """Return the options, JSON-serialisable."""
        return {
            "model": self.model if isinstance(self.model, str) else type(self.model).__name__,
            "coils": self.how.coils,
            "whiten": self.how.whiten,
            "map_sets": self.how.map_sets,
            "trust": asdict(self.trust),
            "seed": self.seed,
        }

    def key(self) -> dict[str, Any]:
        """Return what a finished slice depends on."""
        return {
            "input": self.scan.source.sha256,
            "weights": self._weights,
            "checked": sorted(self.checked),
            **self.options(),
        }

    def _checksum(self) -> str | None:
        """Checksum of the weights that the model has, or that the automatic choice may take; it is for k-space."""
        if self.model == "auto":
            card = shipped_card()
            return None if card is None else card.sha256
        model = self._load(self.model) if isinstance(self.model, str) else self.model
        if takes_stamps(model):
            raise OptionError("this model deconvolves galaxy stamps, not k-space", found=type(model).__name__)
        card = getattr(model, "card", None)
        if card is None and isinstance(self.model, str) and is_file(self.model):
            return sha256(Path(self.model))
        return None if card is None else card.sha256

    def decide(self, store: Spool | None = None) -> None:
        """Let the middle slice decide, once for all, whether ``auto`` takes the learned model.

        What is in the store already is taken from there, so that processes that share one do it once.
        """
        if self._decided:
            return
        known = None if store is None else store.note("verdict")
        if known is None:
            middle = self.wanted[len(self.wanted) // 2]
            self._verdict = compare(prepare(self.sliced, middle, self.how), seed=self.seed)
            if store is not None:
                store.put_note("verdict", {} if self._verdict is None else asdict(self._verdict))
        else:
            self._verdict = Verdict(**known) if known else None
        self._decided = True

    def leader(self, index: int) -> int:
        """Return the slice that searches for the group of ``index``."""
        return self._leaders[index]

    def remember(self, leader: int, item: SliceResult) -> None:
        """Take a leader's result that was found elsewhere."""
        self._reports[leader] = item.report

    def run(self, index: int) -> SliceResult:
        """Reconstruct one slice."""
        leader = self.leader(index)
        if leader != index and leader not in self._reports:
            self.remember(leader, self._reconstruct(leader, BASIC))
        item = self._reconstruct(index, self.trust if index in self.checked else BASIC)
        if leader == index:
            self.remember(index, item)
        return item

    def begin(self, store: Spool) -> None:
        """Do what comes before all slices, once for the processes that share the store."""
        store.make()
        self.decide(store)

    def run_stored(self, store: Spool, index: int) -> SliceResult:
        """Take a slice from the store, or reconstruct it and put it there."""
        kept = store.get(index)
        if kept is None:
            self.decide(store)
            leader = self.leader(index)
            first = store.get(leader) if leader != index else None
            if first is not None:
                self.remember(leader, first)
            kept = self.run(index)
            store.put(index, kept)
        return kept

    def _reconstruct(self, index: int, trust: Trust) -> SliceResult:
        neighbour = None if self.leader(index) == index else self._reports[self.leader(index)]
        self.decide()
        return reconstruct_slice(
            self.sliced, index, self.model, self.how, trust, self.seed, neighbour, self._verdict, self._load
        )


def _spread(wanted: list[int], count: int) -> set[int]:
    """Choose ``count`` slices evenly, the middle one first."""
    if count <= 0:
        return set()
    places = np.linspace(0, len(wanted), min(count, len(wanted)) * 2 + 1)[1::2].astype(int)
    return {wanted[place] for place in places}
