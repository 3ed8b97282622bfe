"""Reconstruction of compressed measurements: the model for them, the image in their units, how well it fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import GaussianNoise
from torch import Tensor

from recon.checkpoint import sha256
from recon.datasets import CompressedScan, wanted_slices
from recon.models import registry, takes
from recon.models.learned import LearnedReconstructor
from recon.physics import BlockCompressedSensing
from recon.physics.errors import DataError, OptionError, ReconError
from recon.prepare import Preparation
from recon.provenance import PACKAGES, machine, unique
from recon.regularisation import leave_out
from recon.result import Result, stack_metrics
from recon.zoo import is_file, load_model, ready

CLASSICAL = "l1-wavelet"
_PEAK = 0.999  # percentile of the image that counts as white where the file does not tell


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressedProblem:
    """One slice as models see it: its white is 1.

    Parameters
    ----------
    y, physics
        Measurements ``(1, channel, m, rows, columns)`` and their operator.
    peak
        White in the units of the file.
    """

    y: Tensor
    physics: BlockCompressedSensing
    peak: float


def reconstruct_compressed(
    scan: CompressedScan,
    model: str | Reconstructor = "auto",
    *,
    slices: Sequence[int] | None = None,
    hold_out: bool = True,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Reconstruct the slices of a scan, the channels of each together.

    Parameters
    ----------
    scan
        The measurements.
    model, slices, seed, device, progress
        As those of `recon.reconstruct`.
    hold_out
        Whether rows of the matrix are left out and predicted, where the model can do without them.

    Raises
    ------
    OptionError
        A model that is not for compressed measurements or for this matrix, or a slice that does not exist.
    DataError
        Measurements, or an image, that are not finite.
    """
    start = time.perf_counter()
    path = scan.source.path
    wanted = wanted_slices(scan.n_slices, slices, path)
    device = Preparation(device=device).resolved_device()
    name, why = (type(model).__name__, "given") if isinstance(model, Reconstructor) else (str(model), "asked for")
    if name == "auto":
        name, why = choose_compressed(prepare_compressed(scan, wanted[len(wanted) // 2], device), seed=seed)
    method = (model if isinstance(model, Reconstructor) else load_model(name)).to(device)
    check_takes_compressed(method, path)
    images: list[Tensor] = []
    rows: list[dict[str, float]] = []
    details: list[dict[str, float]] = []
    spent = 0.0
    for count, index in enumerate(wanted):
        problem = prepare_compressed(scan, index, device)
        before = time.perf_counter()
        with torch.no_grad():
            x = method(problem.y, problem.physics)
        spent += time.perf_counter() - before
        if not torch.isfinite(x).all():
            raise DataError(f"{name} gave values that are not finite in slice {index}", file=path)
        details.append({key: float(value) for key, value in getattr(method, "details", {}).items()})
        rows.append(_figures(x, problem, scan.sigma))
        if hold_out and (error := hold_out_error(method, problem, seed=seed)) is not None:
            rows[-1]["hold_out_error"] = error
        images.append((x[0] * problem.peak).cpu())
        if progress is not None:
            progress(count + 1, len(wanted))
    notes = list(scan.notes)
    if not scan.orthonormal:
        notes.append("the rows of the matrix are not orthonormal: steps are scaled by the exact norm of the operator")
    provenance: dict[str, Any] = {
        "input": {
            "path": None if path is None else str(path),
            "sha256": scan.source.sha256,
            "format": scan.source.format,
            "measurements": list(scan.measurements.shape),
        },
        "model": {"name": name, "why": why, "details": details, "weights": _checksum(method, model)},
        "options": {"model": str(model) if isinstance(model, str) else type(model).__name__, "seed": seed},
        "slices": wanted,
        "steps": _steps(scan),
        "notes": unique(notes),
        "warnings": [],
        "seconds": {"total": time.perf_counter() - start, "model": spent},
        **machine(PACKAGES),
    }
    return Result(
        image=torch.stack(images),
        metrics=stack_metrics(rows),
        provenance=provenance,
        spacing=scan.spacing,
        affine=scan.affine,
        unit=scan.unit,
        levels=scan.levels,
    )


def prepare_compressed(scan: CompressedScan, index: int, device: torch.device | str = "cpu") -> CompressedProblem:
    """Make a slice ready: its measurements divided by the image's white, with their operator.

    Raises
    ------
    DataError
        Measurements that are not finite, or all zero.
    """
    y = torch.from_numpy(scan.slice(index))[None].to(device)
    if not y.any():
        raise DataError(f"slice {index} is all zero", file=scan.source.path)
    physics = BlockCompressedSensing(torch.from_numpy(scan.matrix).to(device), scan.size, scan.block)
    peak = scan.peak or float(torch.quantile(physics.A_dagger(y).abs().flatten()[: 2**24], _PEAK))
    if scan.sigma:
        physics.noise_model = GaussianNoise(scan.sigma / peak)
    return CompressedProblem(y=y / peak, physics=physics, peak=peak)


def choose_compressed(problem: CompressedProblem, *, seed: int = 0) -> tuple[str, str]:
    """Return the name of the model for compressed measurements of which nobody said how, and why.

    A learned model whose weights come with the package is taken where it was made for this very matrix, else where it
    predicts left-out measurements at least as well as the best classical one.
    """
    best, why = CLASSICAL, "no learned model that comes with the package is for these measurements"
    learned = [name for name in ready() if takes(name, BlockCompressedSensing) and _is_learned(name)]
    bar = hold_out_error(load_model(CLASSICAL), problem, seed=seed) if learned else None
    for name in learned:
        with suppress(ReconError), torch.no_grad():  # one that cannot be used is passed over
            method = load_model(name).to(problem.y.device)
            error = hold_out_error(method, problem, seed=seed)
            if error is None:
                method(problem.y, problem.physics)
                return name, "trained for this measurement matrix"
            if bar is not None and error <= bar:
                why = f"{name} predicts left-out measurements best (hold-out error {error:.3g} against {bar:.3g})"
                best, bar = name, error
    return best, why


def hold_out_error(method: Reconstructor, problem: CompressedProblem, *, seed: int = 0) -> float | None:
    """Return the relative error of measurements that the method did not see, rows of the matrix that were left out.

    None where there are too few, or where the method needs its whole matrix.
    """
    split = leave_out(problem.y, problem.physics, seed=seed + 1)  # not those by which it chooses its strength
    if split is None:
        return None
    split.physics.noise_model = problem.physics.noise_model
    try:
        with torch.no_grad():
            x = method(split.y, split.physics)
    except OptionError:
        return None
    error, energy = split.error(x), split.error(torch.zeros_like(x))
    return math.sqrt(error / energy) if energy > 0 else None


def check_takes_compressed(method: Reconstructor, path: Path | None = None) -> None:
    """Raise `OptionError` where a model is for other measurements."""
    if not takes(method, BlockCompressedSensing):
        fit = [name for name in ready() if takes(name, BlockCompressedSensing)]
        raise OptionError(
            "this model is not for compressed measurements",
            file=path,
            found=type(method).__name__,
            expected=f"one of {', '.join(fit)}",
        )


def _figures(x: Tensor, problem: CompressedProblem, sigma: float | None) -> dict[str, float]:
    residual = problem.physics.A(x) - problem.y
    figures = {"misfit": float(torch.linalg.vector_norm(residual) / torch.linalg.vector_norm(problem.y))}
    if sigma:
        figures["data_residual"] = float(residual.square().mean().sqrt() * problem.peak / sigma)
    return figures


def _steps(scan: CompressedScan) -> list[str]:
    m, n = scan.matrix.shape
    colour = "" if scan.colour is None else f", {scan.colour} of a colour image"
    return [
        f"{m} measurements of each block of {scan.block[0]} x {scan.block[1]} pixels (ratio {m / n:.3g}){colour}",
        f"divided by {'the file' if scan.peak else 'the least-norm image'}'s white, and the image multiplied by it",
    ]


def _is_learned(name: str) -> bool:
    return issubclass(registry[name], LearnedReconstructor)


def _checksum(method: Reconstructor, model: str | Reconstructor) -> str | None:
    card = getattr(method, "card", None)
    if card is None and isinstance(model, str) and is_file(model):
        return sha256(Path(model))
    return None if card is None else str(card.sha256)
