"""`reconstruct`: from a scan (or tensors) to a `Result`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from torch import Tensor

from recon.checkpoint import sha256
from recon.choice import Verdict, compare, shipped_card
from recon.datasets import Image, Scan, Stamps
from recon.datasets import open as open_file
from recon.metrics import evaluate
from recon.models import takes_stamps
from recon.physics.errors import DataError, OptionError
from recon.prepare import Preparation, Whitening, prepare
from recon.provenance import provenance
from recon.result import Result, stack_metrics
from recon.slices import BASIC, FULL, IN_IMAGE, SliceResult, Trust, reconstruct_slice
from recon.spool import Spool
from recon.volumes import as_slices, stack_volume
from recon.zoo import is_file, load_model

Progress = Callable[[int, int], None]


@overload
def reconstruct(data: Tensor, *, physics: LinearPhysics, model: str | Reconstructor = ...) -> Tensor: ...
@overload
def reconstruct(
    data: Scan | str | Path,
    *,
    model: str | Reconstructor = ...,
    coils: int | None = ...,
    whiten: Whitening = ...,
    map_sets: Literal[1, 2] | None = ...,
    slices: Sequence[int] | None = ...,
    trust: Trust = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
    spool: Path | None = ...,
) -> Result: ...


def reconstruct(
    data: Tensor | Scan | str | Path,
    *,
    physics: LinearPhysics | None = None,
    model: str | Reconstructor = "auto",
    coils: int | None = None,
    whiten: Whitening = "auto",
    map_sets: Literal[1, 2] | None = None,
    slices: Sequence[int] | None = None,
    trust: Trust = FULL,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    spool: Path | None = None,
) -> Result | Tensor:
    """Reconstruct a scan, or tensors with their operator.

    Parameters
    ----------
    data
        A scan, the path of one, or measurements ``y`` that belong to ``physics``.
    physics
        The operator of the measurements; then the image comes back as a tensor, and the options below
        don't apply.
    model
        A name from `recon.models`, ``"auto"``, or any deepinv `Reconstructor`.
    coils
        Compress to this many virtual coils.
    whiten
        ``"auto"`` (by the file's noise scan), ``"corners"`` (by the corners of k-space) or ``"none"``.
    map_sets
        Sets of ESPIRiT maps, 1 or 2 (soft SENSE); None: as the data need.
    slices
        Indices of the slices wanted; None: all.
    trust
        How much is spent on hold-out error and noise map.
    seed
        Seed of all random choices.
    device
        None: the accelerator if there is one, else the CPU.
    progress
        Called with (slices done, slices in all).
    spool
        Folder in which finished slices are kept, so that an interrupted call goes on where it was.

    Returns
    -------
    Result
        In the units of the measurements; a tensor where ``physics`` was given.

    Raises
    ------
    ReconError
        Data, mask, maps or options that cannot be used; the message says which.
    """
    if physics is not None:
        if not isinstance(data, Tensor):
            raise OptionError("an operator was given without measurements as a tensor", found=type(data).__name__)
        return _on_tensors(data, physics, model)
    if isinstance(data, str | Path):
        data = only_scan(open_file(data), data)
    if not isinstance(data, Scan):
        raise OptionError("measurements as a tensor need their operator", cure="Give physics=...")
    how = Preparation(coils=coils, whiten=whiten, map_sets=map_sets, device=device)
    return execute(Plan(data, model, how, slices, trust, seed), progress=progress, spool=spool)


def only_scan(opened: Scan | Image | Stamps, file: str | Path) -> Scan:
    """Return what was opened if it is raw k-space; else raise `DataError`."""
    if isinstance(opened, Scan):
        return opened
    if isinstance(opened, Image):
        cure = "Make measurements from it with `recon simulate`"
        raise DataError("this file holds an image, not raw measurements", file=file, cure=cure)
    raise DataError("this file holds galaxy stamps, not k-space", file=file)


def _on_tensors(y: Tensor, physics: LinearPhysics, model: str | Reconstructor) -> Tensor:
    if not torch.isfinite(torch.view_as_real(y) if y.is_complex() else y).all():
        raise DataError("the measurements have values that are not finite")
    chosen = model if isinstance(model, Reconstructor) else load_model("l1-wavelet" if model == "auto" else model)
    with torch.no_grad():
        return chosen(y, physics)


def execute(plan: Plan, *, progress: Progress | None = None, spool: Path | None = None) -> Result:
    """Do what is planned; parameters and errors as those of `reconstruct`."""
    start = time.perf_counter()
    store = None if spool is None else Spool(spool, plan.key())
    plan.decide(store)
    done: list[SliceResult] = []
    for count, index in enumerate(plan.wanted):
        done.append(plan.run(index) if store is None else run_stored(plan, store, index))
        if progress is not None:
            progress(count + 1, len(plan.wanted))
    result = _assemble(plan, done)
    result.provenance = provenance(plan, done, time.perf_counter() - start)
    _compare_with_reference(plan, result)
    return result


def run_stored(plan: Plan, store: Spool, index: int) -> SliceResult:
    """Take a slice from the store, or reconstruct it and put it there."""
    kept = store.get(index)
    if kept is None:
        plan.decide(store)
        leader = plan.leader(index)
        first = store.get(leader) if leader != index else None
        if first is not None:
            plan.remember(leader, first)
        kept = plan.run(index)
        store.put(index, kept)
    return kept


class Plan:
    """What is to be done to which slices of a scan.

    Slices go in groups of neighbours; where a method searches for its strength, the first of a group does so for
    all. Whoever runs a slice, in whatever order, gets the same image.

    Parameters are those of `reconstruct`.
    """

    GROUP = 8

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
        self.wanted = _wanted(self.sliced, slices)
        self.checked = _spread(self.wanted, trust.slices)
        self._leaders = {index: self.wanted[place - place % self.GROUP] for place, index in enumerate(self.wanted)}
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

    def _reconstruct(self, index: int, trust: Trust) -> SliceResult:
        neighbour = None if self.leader(index) == index else self._reports[self.leader(index)]
        self.decide()
        return reconstruct_slice(
            self.sliced, index, self.model, self.how, trust, self.seed, neighbour, self._verdict, self._load
        )


def _wanted(scan: Scan, slices: Sequence[int] | None) -> list[int]:
    if slices is None:
        return list(range(scan.n_slices))
    bad = [index for index in slices if not 0 <= index < scan.n_slices]
    if bad or not slices:
        raise OptionError(
            "no such slice" if bad else "no slice was asked for",
            file=scan.source.path,
            found=", ".join(map(str, bad)) or None,
            expected=f"0 to {scan.n_slices - 1}",
        )
    return list(slices)


def _spread(wanted: list[int], count: int) -> set[int]:
    """Choose ``count`` slices evenly, the middle one first."""
    if count <= 0:
        return set()
    places = np.linspace(0, len(wanted), min(count, len(wanted)) * 2 + 1)[1::2].astype(int)
    return {wanted[place] for place in places}


def _assemble(plan: Plan, done: list[SliceResult]) -> Result:
    if len({tuple(item.image.shape) for item in done}) > 1:
        # Slices may differ in their sets of maps; the extra sets of the others are empty.
        channels = max(item.image.shape[0] for item in done)
        for item in done:
            missing = channels - item.image.shape[0]
            item.image = torch.nn.functional.pad(item.image, (0, 0, 0, 0, 0, missing))
    image = torch.stack([item.image for item in done])
    maps: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for item in done for name in item.maps):
        shape = next(item.maps[name].shape for item in done if name in item.maps)
        blank = torch.full(shape, math.nan)
        maps[name] = torch.stack([item.maps.get(name, blank) for item in done])
    if plan.axis is not None:
        n_axis = plan.scan.spatial[plan.axis]
        image = stack_volume(image, plan.axis, n_axis)
        maps = {name: stack_volume(value, plan.axis, n_axis) for name, value in maps.items() if name in IN_IMAGE}
    return Result(
        image=image,
        uncertainty=maps.pop("uncertainty", None),
        interval=maps.pop("interval", None),
        maps=maps,
        metrics=stack_metrics([item.metrics for item in done]),
        spacing=plan.scan.spacing,
        affine=plan.scan.affine,
    )


def _compare_with_reference(plan: Plan, result: Result) -> None:
    scan, wanted = plan.sliced, plan.wanted
    if scan.reference is None:
        return
    magnitudes = result.magnitude
    for place, index in enumerate(wanted):
        reference = torch.from_numpy(np.asarray(scan.reference[index], dtype=np.float32))
        magnitude = magnitudes[place]
        if reference.shape != magnitude.shape:
            result.provenance["warnings"].append(
                f"not compared: the file's reference is {tuple(reference.shape)}, the image {tuple(magnitude.shape)}"
            )
            return
        for name, value in evaluate(magnitude[None], reference[None], level=None).items():
            result.metrics.setdefault(name, [math.nan] * len(wanted))[place] = float(value)
