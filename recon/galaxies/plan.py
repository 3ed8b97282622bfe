"""What is to be done to stamps, in parts of neighbouring objects that any process may do in any order."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Float
from torch import Tensor

from recon.checkpoint import sha256
from recon.datasets import Stamps
from recon.datasets.lazy import take
from recon.datasets.random import child_generator
from recon.datasets.readers import ReadOptions
from recon.galaxies.catalogue import POOR_FIT
from recon.galaxies.choice import choose
from recon.galaxies.deblurring import StampPart, deblur
from recon.galaxies.opening import open_stamps
from recon.galaxies.parts import Part, StoredPart, store_part
from recon.galaxies.result import StampResult, unmeasured
from recon.models import registry, takes_stamps
from recon.physics.errors import OptionError, PSFWarning, ShapeError
from recon.prepare import Preparation
from recon.provenance import PACKAGES, machine, unique
from recon.spool import Spool
from recon.zoo import is_file, load_model, ready

REPLICAS = 4
"""Times that everything is done again in more noise, for the errors."""
_LOOKED_AT = 64  # objects by whose PSFs a model is chosen
_PIXELS = 2**18  # of the stamps in a part; it must not depend on who does it

Progress = Callable[[int, int], None]


class StampPlan:
    """What is to be done to stamps; parameters are those of `recon.reconstruct`."""

    group = 1

    def __init__(
        self,
        stamps: Stamps,
        model: str | Reconstructor,
        *,
        replicas: int = REPLICAS,
        responses: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if replicas < 0 or replicas == 1:
            raise OptionError(
                "errors need at least two replicas", found=replicas, expected="2 or more, or 0: no errors"
            )
        if responses and stamps.shape[0] != stamps.shape[1]:
            raise ShapeError("stamps to be sheared are square", file=stamps.source.path, found=stamps.shape)
        self.stamps, self.replicas, self.responses, self.seed = stamps, replicas, responses, seed
        self.device = Preparation(device=device).resolved_device()
        if isinstance(model, Reconstructor):
            self.name, self.why, method = type(model).__name__, "given", model
        else:
            self.name, self.why = choose(_first_psfs(stamps)) if model == "auto" else (model, "asked for")
            method = load_model(self.name)
        if type(method) in registry.values() and not takes_stamps(method):  # of a user's own nothing is known
            raise OptionError(
                "this model takes k-space, not galaxy stamps", found=self.name, expected=", ".join(for_stamps())
            )
        self._weights = _checksum(method, self.name)
        self._model = method.to(self.device)
        height, width = stamps.shape
        self._size = max(1, _PIXELS // (height * width))

    @property
    def wanted(self) -> range:
        """Numbers of the parts."""
        return range(-(-self.stamps.n // self._size))

    def options(self) -> dict[str, Any]:
        """Return the options, JSON-serialisable."""
        return {"model": self.name, "replicas": self.replicas, "responses": self.responses, "seed": self.seed}

    def key(self) -> dict[str, Any]:
        """Return what a finished part depends on."""
        return {"stamps": fingerprint(self.stamps), "weights": self._weights, "size": self._size, **self.options()}

    def begin(self, store: Spool) -> None:
        """Make the store."""
        store.make()

    def run(self, index: int) -> StampPart:
        """Deblur and measure one part."""
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PSFWarning)
            batch = self.stamps.batch(index * self._size, (index + 1) * self._size).to(self.device)
            part = deblur(
                batch,
                self._model,
                replicas=self.replicas,
                generator=child_generator(self.seed, index),
                first=index * self._size,
                seed=self.seed if self.responses else None,
            )
        for warning in caught:
            if issubclass(warning.category, PSFWarning):
                part.notes.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        part.seconds = time.perf_counter() - start
        return part

    def run_stored(self, store: Spool, index: int) -> StoredPart:
        """Deblur and measure a part, unless it is in the store."""
        if not store.has(index):
            store_part(store, index, self.run(index))
        return StoredPart(store, index, self.responses)


def _first_psfs(stamps: Stamps) -> Float[Tensor, "b 1 h w"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PSFWarning)  # they are told when the stamps are deblurred
        return stamps.batch(0, min(stamps.n, _LOOKED_AT)).psf


def execute(plan: StampPlan, *, progress: Progress | None = None, spool: Path | None = None) -> StampResult:
    """Do what is planned; parameters and errors as those of `recon.reconstruct`."""
    start = time.perf_counter()
    store = None if spool is None else Spool(spool, plan.key())
    parts: list[Part] = []
    for index in plan.wanted:
        parts.append(plan.run(index) if store is None else plan.run_stored(store, index))
        if progress is not None:
            progress(index + 1, len(plan.wanted))
    return StampResult(
        stamps=plan.stamps, parts=parts, provenance=_provenance(plan, parts, time.perf_counter() - start)
    )


@dataclass(frozen=True, kw_only=True)
class StampJob:
    """One file of stamps and how they are to be deblurred; small, so that it travels to the workers.

    The fields are those of `recon.reconstruct` and `recon.datasets.open`.
    """

    path: Path
    spool: Path
    model: str
    replicas: int
    responses: bool
    seed: int
    device: str | None
    format: str | None
    options: ReadOptions

    def plan(self, stamps: Stamps) -> StampPlan:
        """Return what is to be done to ``stamps``."""
        return StampPlan(
            stamps,
            self.model,
            replicas=self.replicas,
            responses=self.responses,
            seed=self.seed,
            device=self.device,
        )

    def open_plan(self) -> StampPlan:
        """Open the file and return what is to be done to it."""
        return self.plan(open_stamps(self.path, self.options, self.format))


@cache
def for_stamps() -> tuple[str, ...]:
    """Return the names of the models for stamps that are ready to be used."""
    return tuple(name for name in ready() if takes_stamps(name))


def fingerprint(stamps: Stamps) -> str:
    """Return a checksum of all that the deblurred stamps depend on, read in pieces."""
    digest = hashlib.sha256()
    for name in ("pixels", "psf", "weight", "mask", "neighbours", "sigma", "flags"):
        array = getattr(stamps, name)
        if array is None:
            continue
        digest.update(f"{name} {tuple(array.shape)}".encode())
        step = max(1, _PIXELS // max(1, int(np.prod(array.shape[1:]))))
        for start in range(0, array.shape[0], step):
            block = take(array, start, min(start + step, array.shape[0]))
            digest.update(str(block.dtype).encode())
            digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()


def _checksum(model: Reconstructor, name: str) -> str | None:
    card = getattr(model, "card", None)
    if card is None:
        return sha256(Path(name)) if is_file(name) else None
    return card.sha256


def _provenance(plan: StampPlan, parts: list[Part], seconds: float) -> dict[str, Any]:
    stamps = plan.stamps
    figures = [(columns["chi2"], unmeasured(columns["flags"])) for columns in (part.columns for part in parts)]
    chi2 = np.concatenate([values for values, _ in figures])
    without = sum(count for _, count in figures)
    middle = float(np.nanmedian(chi2)) if np.isfinite(chi2).any() else float("nan")
    told = unique(note for part in parts for note in part.notes)
    if without:
        told.append(f"{without} of {stamps.n} objects have no shape: see flags")
    if middle > POOR_FIT:
        told.append(f"the deblurred stamps miss the data (median chi2 {middle:.3g}): PSF or noise level may be wrong")
    return {
        "input": {
            "path": None if stamps.source.path is None else str(stamps.source.path),
            "sha256": stamps.source.sha256,
            "format": stamps.source.format,
            "shape": [stamps.n, *stamps.shape],
        },
        "model": {"name": plan.name, "why": plan.why},
        "options": plan.options(),
        "steps": ["cleaned", f"deblurred by {plan.name}", "adaptive moments"]
        + ([f"errors by {plan.replicas} replicas in noise"] if plan.replicas else [])
        + (["responses to shear"] if plan.responses else []),
        "notes": list(stamps.notes),
        "warnings": told,
        "unmeasured": without,
        "chi2": middle,
        "seconds": {"total": seconds, "parts": sum(part.seconds for part in parts)},
        **machine((*PACKAGES, "astropy")),
    }


__all__ = [
    "REPLICAS",
    "StampJob",
    "StampPlan",
    "execute",
    "fingerprint",
    "for_stamps",
]
