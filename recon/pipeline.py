"""`reconstruct`: from a scan to a `Result`, from galaxy stamps to a `StampResult`, from tensors to a tensor."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from numpy import ndarray
from torch import Tensor

from recon.compressed import CompressedProblem, choose_compressed, reconstruct_compressed
from recon.datasets import CompressedScan, Image, Measurements, Scan, Stamps
from recon.datasets import open as open_file
from recon.datasets.readers import Opened
from recon.galaxies.choice import choose
from recon.galaxies.opening import Array, stamps_of
from recon.galaxies.plan import REPLICAS, StampPlan
from recon.galaxies.plan import execute as execute_stamps
from recon.galaxies.result import StampResult
from recon.measured import reconstruct_measured
from recon.measured_files import measurements_of, reconstruct_measurements
from recon.metrics import evaluate
from recon.physics import BlockCompressedSensing, MultiCoilMRI, NonCartesianMRI, PSFConvolution
from recon.physics.errors import DataError, OptionError, PSFWarning
from recon.prepare import Preparation, Whitening
from recon.provenance import provenance, unique
from recon.result import Result, stack_metrics
from recon.scan_plan import Plan
from recon.slices import FULL, IN_IMAGE, SliceResult, Trust
from recon.spool import Spool
from recon.volumes import stack_volume

Progress = Callable[[int, int], None]
_FOR_STAMPS = {"psf", "weight", "mask", "replicas", "responses"}


@overload
def reconstruct(
    data: Tensor,
    *,
    physics: LinearPhysics,
    model: str | Reconstructor = ...,
    sigma: float | None = ...,
    gain: float | None = ...,
    tile: int | None = ...,
    device: torch.device | str | None = ...,
) -> Tensor: ...
@overload
def reconstruct(
    data: Measurements,
    *,
    model: str | Reconstructor = ...,
    sigma: float | None = ...,
    gain: float | None = ...,
    tile: int | None = ...,
    slices: Sequence[int] | None = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
) -> Result: ...
@overload
def reconstruct(
    data: Stamps | ndarray | Tensor,
    *,
    psf: Array | str | Path | None = ...,
    weight: Array | str | Path | None = ...,
    mask: Array | str | Path | None = ...,
    sigma: Array | float | None = ...,
    replicas: int | None = ...,
    responses: bool = ...,
    model: str | Reconstructor = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
    spool: Path | None = ...,
) -> StampResult: ...
@overload
def reconstruct(
    data: str | Path,
    *,
    psf: Array | str | Path,
    weight: Array | str | Path | None = ...,
    mask: Array | str | Path | None = ...,
    sigma: Array | float | None = ...,
    replicas: int | None = ...,
    responses: bool = ...,
    model: str | Reconstructor = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
    spool: Path | None = ...,
) -> StampResult: ...
@overload
def reconstruct(
    data: Scan,
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
@overload
def reconstruct(
    data: CompressedScan,
    *,
    model: str | Reconstructor = ...,
    slices: Sequence[int] | None = ...,
    trust: Trust = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
) -> Result: ...
@overload
def reconstruct(
    data: str | Path,
    *,
    model: str | Reconstructor = ...,
    seed: int = ...,
    device: torch.device | str | None = ...,
    progress: Progress | None = ...,
    spool: Path | None = ...,
) -> Result | StampResult: ...


def reconstruct(
    data: Array | Scan | CompressedScan | Measurements | Stamps | str | Path,
    *,
    physics: LinearPhysics | str | None = None,
    model: str | Reconstructor = "auto",
    psf: Array | str | Path | None = None,
    weight: Array | str | Path | None = None,
    mask: Array | str | Path | None = None,
    sigma: Array | float | None = None,
    gain: float | None = None,
    tile: int | None = None,
    replicas: int | None = None,
    responses: bool = False,
    coils: int | None = None,
    whiten: Whitening = "auto",
    map_sets: Literal[1, 2] | None = None,
    slices: Sequence[int] | None = None,
    trust: Trust = FULL,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    spool: Path | None = None,
) -> Result | StampResult | Tensor:
    """Reconstruct scans, compressed measurements, or tensors with their operator; deblur and measure galaxy stamps.

    Parameters
    ----------
    data
        A scan, compressed measurements, measurements with their operator, stamps, the path of any of these; stamps as
        an array ``(n, y, x)`` or ``(y, x)`` with their ``psf``; or measurements ``y`` that belong to ``physics``.
    physics
        The operator of the measurements, and the image comes back as a tensor; or, of a file of an array, what
        `recon.physics_spec.parse_physics` understands (``"ct:angles=60"``).
    model
        A name from `recon.models`, ``"auto"``, or any deepinv `Reconstructor`.
    psf, weight, mask
        Of stamps: arrays ``(n, h, w)`` or one ``(h, w)`` for all, or files; as `recon.datasets.Stamps` has them.
    sigma
        Standard deviation of the noise, of stamps one for all or ``(n,)``; by default that of the weights or of the
        operator's noise model, else estimated.
    gain, tile
        Of measurements with their operator: gain of Poisson noise, and side of the tiles of large images; see
        `recon.measured.reconstruct_measured`.
    replicas
        Of stamps: how often all is done again in more noise for the errors, by default 4; 0: no errors.
    responses
        Of stamps: measure how each shape answers to shear, through all of it, for `StampResult.mean_shear`; takes as
        long as five replicas.
    coils
        Compress to this many virtual coils.
    whiten
        ``"auto"`` (by the file's noise scan), ``"corners"`` (by the corners of k-space) or ``"none"``.
    map_sets
        Sets of ESPIRiT maps, 1 or 2 (soft SENSE); None: as the data need.
    slices
        Indices of the slices wanted; None: all.
    trust
        How much is spent on hold-out error and noise map; of compressed measurements on the former, in all slices.
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
    Result, or StampResult
        In the units of the measurements; a tensor where ``physics`` was given.

    Warns
    -----
    PSFWarning
        PSFs of stamps were normalised, moved to their centre, or cannot be used (their objects are flagged).

    Raises
    ------
    ReconError
        Data, mask, maps or options that cannot be used; the message says which.
    """
    options = {
        "psf": psf,
        "weight": weight,
        "mask": mask,
        "replicas": replicas,
        "responses": responses or None,
        "sigma": sigma,
        "gain": gain,
        "tile": tile,
        "coils": coils,
        "whiten": None if whiten == "auto" else whiten,
        "map_sets": map_sets,
        "slices": slices,
        "trust": None if trust == FULL else trust,
        "spool": spool,
    }
    given = {name for name, value in options.items() if value is not None}
    if isinstance(physics, str) and isinstance(data, str | Path):
        data, physics = measurements_of(data, physics), None
    if physics is not None:
        if not isinstance(data, Tensor) or isinstance(physics, str):
            raise OptionError("an operator was given without measurements as a tensor", found=type(data).__name__)
        return _on_tensors(data, physics, model, _one_number(sigma), gain, tile, device)
    if isinstance(data, str | Path) and not given & _FOR_STAMPS:
        opened = open_file(data)
        if isinstance(opened, Measurements) or sigma is None:
            several = Stamps | CompressedScan | Measurements
            data = opened if isinstance(opened, several) else only_scan(opened, data)
    if isinstance(data, Measurements):
        _refuse(given - {"sigma", "gain", "tile", "slices", "trust"}, "measurements with their operator", data)
        return reconstruct_measurements(
            data,
            model,
            sigma=_one_number(sigma),
            gain=gain,
            tile=tile,
            slices=slices,
            device=device,
            progress=progress,
        )
    if isinstance(data, Scan):
        _refuse(given - {"coils", "whiten", "map_sets", "slices", "trust", "spool"}, "raw measurements", data)
        how = Preparation(coils=coils, whiten=whiten, map_sets=map_sets, device=device)
        return execute(Plan(data, model, how, slices, trust, seed), progress=progress, spool=spool)
    if isinstance(data, CompressedScan):
        _refuse(given - {"slices", "trust"}, "compressed measurements", data)
        return reconstruct_compressed(
            data, model, slices=slices, hold_out=trust.hold_out, seed=seed, device=device, progress=progress
        )
    if not isinstance(data, Stamps | str | Path) and psf is None:
        raise OptionError(
            "measurements as a tensor need their operator", cure="Give physics=..., or for galaxy stamps psf=..."
        )
    _refuse(given - _FOR_STAMPS - {"sigma", "spool"}, "galaxy stamps", data)
    stamps = stamps_of(data, psf, weight, mask, sigma)
    plan = StampPlan(
        stamps,
        model,
        replicas=REPLICAS if replicas is None else replicas,
        responses=responses,
        seed=seed,
        device=device,
    )
    deblurred = execute_stamps(plan, progress=progress, spool=spool)
    for note in unique(note for part in deblurred.parts for note in part.notes):
        warnings.warn(note, PSFWarning, stacklevel=2)
    return deblurred


def _refuse(unfit: set[str], what: str, data: object) -> None:
    """Refuse options that would do nothing."""
    if unfit:
        source = getattr(data, "source", None)
        raise OptionError(f"{what} have no {min(unfit)}", file=None if source is None else source.path)


def only_scan(opened: Opened, file: str | Path) -> Scan:
    """Return what was opened if it is raw k-space; else raise `DataError`."""
    opened = only_measurements(opened, file)
    if isinstance(opened, Scan):
        return opened
    what = {CompressedScan: "compressed measurements", Measurements: "measurements with their operator"}.get(
        type(opened), "galaxy stamps"
    )
    raise DataError(f"this file holds {what}, not k-space", file=file)


def only_measurements(opened: Opened, file: str | Path) -> Scan | CompressedScan | Measurements | Stamps:
    """Return what was opened if it is measurements of any kind; an image raises `DataError`."""
    if isinstance(opened, Image):
        cure = "Make measurements from it with `recon simulate`, or name the PSF of galaxy stamps with psf=... (--psf)"
        raise DataError("this file holds an image, not raw measurements", file=file, cure=cure)
    return opened


def _on_tensors(
    y: Tensor,
    physics: LinearPhysics,
    model: str | Reconstructor,
    sigma: float | None,
    gain: float | None,
    tile: int | None,
    device: torch.device | str | None,
) -> Tensor:
    if device is not None:
        y, physics = y.to(device), physics.clone().to(device)
    if model == "auto" and isinstance(physics, PSFConvolution):
        model = choose(physics.psf)[0]
    elif model == "auto" and isinstance(physics, BlockCompressedSensing):
        model = choose_compressed(CompressedProblem(y=y[:1], physics=physics, peak=1.0))[0]
    elif model == "auto" and isinstance(physics, MultiCoilMRI | NonCartesianMRI):
        model = "l1-wavelet"
    return reconstruct_measured(y, physics, model, sigma=sigma, gain=gain, tile=tile).image


def _one_number(sigma: Array | float | None) -> float | None:
    if sigma is None or isinstance(sigma, int | float):
        return sigma
    raise OptionError("the noise level of measurements with their operator is one number", found=type(sigma).__name__)


def execute(plan: Plan, *, progress: Progress | None = None, spool: Path | None = None) -> Result:
    """Do what is planned; parameters and errors as those of `reconstruct`."""
    start = time.perf_counter()
    store = None if spool is None else Spool(spool, plan.key())
    plan.decide(store)
    done: list[SliceResult] = []
    for count, index in enumerate(plan.wanted):
        done.append(plan.run(index) if store is None else plan.run_stored(store, index))
        if progress is not None:
            progress(count + 1, len(plan.wanted))
    result = _assemble(plan, done)
    result.provenance = provenance(plan, done, time.perf_counter() - start)
    _compare_with_reference(plan, result)
    return result


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
