"""One slice: prepared, reconstructed, and judged by what its own data say."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from torch import Tensor

from recon.choice import Verdict, choose, outside
from recon.conformal import Calibration, Sampling
from recon.datasets import Scan
from recon.hallucination import as_seen_by, hallucination_map, unsure_null_part
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, MaskError
from recon.prepare import Preparation, Problem, prepare
from recon.trust import RESIDUAL_LIMIT, data_residual, g_factor, hold_out_error, noise_map, residual_map
from recon.uncertainty import deviation, equivariant_bootstrap
from recon.zoo import load_model


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How much is spent on saying how far the image can be trusted.

    In forward passes of the method a slice: 1 for the image, 1 (samples in a plane) or 4 (lines) for the hold-out
    error, ``replicas + 1`` for the noise map, and with a learned model ``replicas`` for the bootstrap (or as many as
    its intervals were calibrated with).

    Parameters
    ----------
    slices
        Number of slices, evenly spread, that get a hold-out error and a noise map; the data residual is
        computed for all.
    replicas
        Noise draws for the noise map (pseudo-replica method) and replicas of a learned model's bootstrap; 0: none.
    hold_out
        Whether to leave out samples and predict them.
    """

    slices: int = 3
    replicas: int = 8
    hold_out: bool = True


# Maps that live in image space, the others in k-space.
IN_IMAGE = ("uncertainty", "interval", "g_factor", "bootstrap", "null_space", "hallucination")
FULL, BASIC = Trust(), Trust(slices=0, replicas=0, hold_out=False)


@dataclass(kw_only=True, eq=False)
class SliceResult:
    """What one slice gives: image and maps ``(channel, y, x)``, figures, and what was done."""

    image: Tensor
    maps: dict[str, Tensor]
    metrics: dict[str, float]
    report: dict[str, Any]


def reconstruct_slice(
    scan: Scan,
    index: int,
    model: str | Reconstructor,
    how: Preparation,
    trust: Trust,
    seed: int,
    neighbour: Mapping[str, Any] | None = None,
    verdict: Verdict | None = None,
    load: Callable[[str], Reconstructor] = load_model,
) -> SliceResult:
    """Reconstruct slice ``index`` and say how far it can be trusted.

    Parameters
    ----------
    scan, index, model, how, trust, seed
        As those of `recon.reconstruct`.
    neighbour
        Report of a slice nearby whose strength is to be taken, in proportion to the noise, where the method
        would search for its own.
    verdict
        For ``auto``: what `recon.choice.compare` found for the scan.
    load
        Returns the model of a name; one that keeps models saves reading weights for every slice.

    Raises
    ------
    DataError
        The method gave values that are not finite, or the data cannot be used.
    """
    start = time.perf_counter()
    problem = prepare(scan, index, how)
    prepared = time.perf_counter()
    name, why = (type(model).__name__, "given") if isinstance(model, Reconstructor) else (model, "asked for")
    if name == "auto":
        name, why = choose(problem, verdict)
    method = model if isinstance(model, Reconstructor) else load(name)
    if neighbour is not None and neighbour["model"] == name:
        method = _with_strength_of(neighbour, method, problem)
    with torch.no_grad():
        x = method(problem.y, problem.physics)
    spread = getattr(method, "spread", None)  # of posterior samples, before the method is used for anything else
    if not torch.isfinite(x).all():
        raise DataError(f"{name} gave values that are not finite in slice {index}", file=scan.source.path)
    finished = time.perf_counter()
    details = {key: float(value) for key, value in getattr(method, "details", {}).items()}
    maps, metrics, warnings = _trusted(x, method, problem, trust, seed, spread)
    crop = _crop_to(scan, x)
    calibration = None
    if getattr(method, "learned", False):
        warnings += _not_at_home(method, problem)
        found = _learned(x, method, problem, trust, seed)
        if found and scan.reference is not None:
            found |= _beside_reference(x, scan.reference[index], crop, problem)
        maps |= found
        calibration = _calibration(method)
    report = {
        "index": index,
        "model": name,
        "why": why,
        "details": details,
        "calibration": None if calibration is None else calibration.to_card(),
        "steps": problem.steps,
        "notes": problem.notes,
        "warnings": warnings,
        "scale": problem.scale,
        "sigma": problem.sigma,
        "seconds": {
            "prepare": prepared - start,
            "model": finished - prepared,
            "trust": time.perf_counter() - finished,
        },
    }
    return SliceResult(
        image=crop(x[0] * problem.scale * _of_channels(problem.intensity, x.shape[1])).cpu(),
        maps={key: (crop(value) if key in IN_IMAGE else value).cpu() for key, value in maps.items()},
        metrics=metrics,
        report=report,
    )


def _trusted(
    x: Tensor, method: Reconstructor, problem: Problem, trust: Trust, seed: int, spread: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, float], list[str]]:
    """Return maps, figures and warnings that say how far the image of one slice can be trusted."""
    maps: dict[str, Tensor] = {}
    metrics: dict[str, float] = {}
    warnings: list[str] = []
    y, physics, sigma = problem.y, problem.physics, problem.sigma
    complex_image = x.shape[1] != 1
    if isinstance(physics, MultiCoilMRI):
        maps["mask"] = physics.mask[0, 0].float()
    if complex_image and sigma:
        metrics["data_residual"] = float(data_residual(x, y, physics, sigma))
        if metrics["data_residual"] > RESIDUAL_LIMIT:
            warnings.append(
                f"the image misses the data by {metrics['data_residual']:.2f} times the expected noise "
                f"(limit {RESIDUAL_LIMIT}): coil maps, mask or regularisation may not fit"
            )
        if isinstance(physics, MultiCoilMRI):
            maps["residual"] = residual_map(x, y, physics, sigma)[0]
    if trust.hold_out and complex_image and isinstance(physics, MultiCoilMRI):
        try:
            metrics["hold_out_error"] = hold_out_error(method, y, physics, seed=seed).error
        except MaskError as error:  # GRAPPA and partial Fourier need their whole pattern
            warnings.append(f"no hold-out error, because samples left out make another pattern: {error.problem}")
    if spread is not None:
        maps["uncertainty"] = spread[0] * problem.scale * _of_channels(problem.intensity, 1)[0]
    elif trust.replicas and sigma and isinstance(physics, MultiCoilMRI):
        deviation = noise_map(_settled(method), y, physics, sigma, n=trust.replicas, seed=seed)[0]
        maps["uncertainty"] = deviation * problem.scale * _of_channels(problem.intensity, 1)[0]
        if complex_image:
            maps["g_factor"] = g_factor(deviation[None], physics, sigma)[0]
    return maps, metrics, warnings


def _learned(x: Tensor, method: Reconstructor, problem: Problem, trust: Trust, seed: int) -> dict[str, Tensor]:
    """Return the maps that only a learned model's image needs, in the units of the file."""
    physics, sigma = problem.physics, problem.sigma
    if not (trust.replicas and sigma and isinstance(physics, MultiCoilMRI) and x.shape[1] == 2 * physics.n_sets):
        return {}
    calibration = _calibration(method)
    replicas = max(trust.replicas, 2) if calibration is None else calibration.replicas
    found = equivariant_bootstrap(method, problem.y, physics, sigma, x=x, replicas=replicas, seed=seed)
    change = deviation(found, x)
    maps = {"bootstrap": change, "null_space": unsure_null_part(found, x, physics)}
    if calibration is not None:
        maps["interval"] = calibration.half_width(change, Sampling.by(physics.mask))
    unit = problem.scale * _of_channels(problem.intensity, 1)[0]
    return {key: value[0] * unit for key, value in maps.items()}


def _beside_reference(
    x: Tensor, reference: object, crop: Callable[[Tensor], Tensor], problem: Problem
) -> dict[str, Tensor]:
    """Return the hallucination map in the units of the file, where the file's magnitude image fits."""
    physics = problem.physics
    truth = torch.from_numpy(np.array(reference, dtype=np.float32)).to(x.device)
    unit = problem.scale * _of_channels(problem.intensity, 1)[0]
    whole = torch.linalg.vector_norm(x[0], dim=0)
    if truth.shape != crop(whole).shape or not isinstance(physics, MultiCoilMRI):
        return {}
    inside = crop(unit)  # a view, as is what is written to below
    crop(whole).copy_(torch.where(inside > 0, truth / inside.clamp_min(torch.finfo(inside.dtype).tiny), 0))
    return {"hallucination": hallucination_map(x, as_seen_by(whole[None], x), physics)[0] * unit}


def _calibration(method: Reconstructor) -> Calibration | None:
    card = getattr(method, "card", None)
    return None if card is None else Calibration.from_card(card.calibration)


def _not_at_home(method: Reconstructor, problem: Problem) -> list[str]:
    """Warn where the data lie outside what a model's card says that it was trained for."""
    card = getattr(method, "card", None)
    reason = None if card is None or card.covers is None else outside(card.covers, problem)
    if reason is None:
        return []
    return [f"the model was not trained for {reason}: its image and its intervals may be wrong where they look sure"]


def _of_channels(intensity: Tensor, channels: int) -> Tensor:
    """Intensity of each channel: two a set of maps, or one for a magnitude image, where the strongest set counts."""
    if channels == 1:
        return intensity.amax(dim=0, keepdim=True)
    return intensity.repeat_interleave(2, dim=0)


def _with_strength_of(neighbour: Mapping[str, Any], method: Reconstructor, problem: Problem) -> Reconstructor:
    """Return the method with a neighbour's strength; its own, where it does not search or was given one."""
    strength = neighbour["details"].get("regularisation")
    if not getattr(method, "searches", False) or method.regularisation is not None or strength is None:
        return method
    given = copy.copy(method)
    noise = problem.sigma / neighbour["sigma"] if problem.sigma and neighbour["sigma"] else 1.0
    given.regularisation = strength * noise
    return given


def _settled(method: Reconstructor) -> Reconstructor:
    """Return the method with the strength it chose for this slice, so that noise replicas don't choose anew."""
    chosen = getattr(method, "details", {}).get("regularisation")
    if chosen is None:
        return method
    settled = copy.copy(method)
    settled.regularisation = chosen
    return settled


def _crop_to(scan: Scan, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Crop ``(..., y, x)`` centrally to the matrix that the file asks for, where it is the smaller one."""
    height, width = x.shape[-2:]
    if scan.matrix is not None and scan.trajectory is None:
        height, width = (min(have, want) for have, want in zip((height, width), scan.matrix[-2:], strict=True))
    top, left = x.shape[-2] // 2 - height // 2, x.shape[-1] // 2 - width // 2
    return lambda image: image[..., top : top + height, left : left + width]
