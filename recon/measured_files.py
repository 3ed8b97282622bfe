"""Measurements by any operator: simulated from images, read with their operator, reconstructed to results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from numpy import ndarray
from torch import Tensor

from recon.datasets import Image, Measurements, Source, wanted_slices
from recon.datasets.arrays import check_finite, levels_of
from recon.datasets.sinograms import oriented, read_planes
from recon.measured import Measured, chosen_method, effective_sigma, reconstruct_measured
from recon.metrics import evaluate
from recon.physics.errors import DataError, DTypeError, OptionError, ReconError
from recon.physics.noise import WATER, attenuation_of
from recon.physics_options import CTOptions, MRIOptions
from recon.physics_spec import PhysicsSpec, parse_spec
from recon.prepare import Preparation
from recon.provenance import PACKAGES, machine, unique
from recon.result import Result, stack_metrics


def simulate_measurements(image: Image, spec: PhysicsSpec) -> Measurements:
    """Measure every slice of an image by an operator, with its noise.

    Measurements are in the units of the image. For CT, Hounsfield units become attenuation and the pixel its size in
    mm; of other images, where photons are to be counted, the brightest becomes water, with pixels of 1 mm.

    Parameters
    ----------
    image
        Real, grey or colour (or complex, for MRI).
    spec
        The operator and its noise, see `recon.physics_spec.parse_spec`.

    Raises
    ------
    DataError, DTypeError, OptionError
        An image that is not finite, of the wrong kind, or an operator that does not fit it.
    """
    pixels = image.stacked()
    check_finite(pixels, "the image has pixels", image.source.path)
    x = _planes(pixels, spec, image.source.path)
    scale, offset, notes = 1.0, 0.0, []
    if isinstance(spec.options, CTOptions):
        photons = spec.options.photons
        if image.unit == "HU":
            x, scale, offset = attenuation_of(x), 1000 / WATER, -1000.0
            if image.spacing is not None and spec.options.pixel == 1.0:
                spec = replace(spec, options=replace(spec.options, pixel=float(image.spacing[-1])))
            notes.append(f"Hounsfield units became attenuation in 1/mm, {WATER:g} of water")
        elif photons is not None and float(x.max()) > 0:
            scale = float(x.max()) / WATER
            x = x / scale
            notes.append("the brightest pixel became as dense as water, in pixels of 1 mm")
    physics = spec.build(tuple(x.shape[1:]))
    with torch.no_grad():
        y = torch.cat([physics(plane) for plane in x.split(1)])
    sigma = spec.options.sigma
    if isinstance(spec.options, CTOptions) and spec.options.photons is not None:
        sigma = effective_sigma(y, physics)
    return Measurements(
        measurements=y.numpy(),
        physics=str(spec),
        img_size=_size(x),
        arrays={name: values.numpy() for name, values in spec.arrays.items()},
        sigma=sigma,
        gain=spec.options.gain,
        scale=scale,
        offset=offset,
        unit=image.unit,
        levels=levels_of(pixels),
        reference=x.numpy(),
        spacing=image.spacing,
        source=image.source,
        notes=tuple(notes),
    )


def measurements_of(path: str | Path, text: str, *, variable: str | None = None) -> Measurements:
    """Take the array of a file for measurements by an operator.

    Sinograms may stand either way round; the detector gets as many cells as they have, and the image is a square as
    wide, unless the text says otherwise (``size=256``). A mosaic is one plane, or three with zeros.

    Parameters
    ----------
    path
        A picture, or an array in .npy, .tif, .mat, .h5 ...
    text
        The operator, see `recon.physics_spec.parse_physics`.
    variable
        Name of the array in a file of several.

    Raises
    ------
    ReconError
        A file, text or shape that cannot be used.
    """
    spec, planes = parse_spec(text), read_planes(path, variable)
    if isinstance(spec.options, CTOptions):
        if planes.ndim != 3:
            raise DataError("a sinogram has no colours", file=path, found=planes.shape)
        planes = oriented(planes, spec.options.angles, path)
        if spec.options.detectors is None:
            spec = replace(spec, options=replace(spec.options, detectors=int(planes.shape[1])))
    if isinstance(spec.options, MRIOptions):
        raise OptionError("raw k-space is opened as such", file=path, cure="Leave --physics out")
    y = _as_channels(planes)
    size = spec.options.image_size((int(y.shape[1]), int(y.shape[2]), int(y.shape[3])), spec.arrays)
    if spec.name == "demosaicing":
        mask = spec.build(size).mask
        y = (y * mask).contiguous() if y.shape[1] in (1, 3) else y
    return Measurements(
        measurements=y.numpy(),
        physics=str(spec),
        img_size=size,
        arrays={name: values.numpy() for name, values in spec.arrays.items()},
        sigma=spec.options.sigma,
        gain=spec.options.gain,
        levels=None if isinstance(spec.options, CTOptions) else levels_of(planes),
        source=Source("array", Path(path)),
    )


def operator_of(data: Measurements) -> LinearPhysics:
    """Make the operator of measurements; its noise model says what the file does."""
    arrays = {name: torch.from_numpy(np.asarray(values, dtype=np.float32)) for name, values in data.arrays.items()}
    try:
        return parse_spec(data.physics, arrays).build(data.img_size)
    except ReconError as error:
        raise type(error)(error.problem, file=data.source.path, found=error.found, expected=error.expected) from error


def reconstruct_measurements(
    data: Measurements,
    model: str | Reconstructor = "auto",
    *,
    sigma: float | None = None,
    gain: float | None = None,
    tile: int | None = None,
    slices: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Reconstruct the slices of measurements, in the units of the image that was measured.

    Parameters
    ----------
    data
        The measurements.
    model, sigma, gain, tile
        As those of `recon.measured.reconstruct_measured`; the noise that the file tells is taken where none is given.
    slices, device, progress
        As those of `recon.reconstruct`.

    Raises
    ------
    ReconError
        As `reconstruct_measured`, and a slice that does not exist.
    """
    start = time.perf_counter()
    wanted = wanted_slices(data.n_slices, slices, data.source.path)
    device = Preparation(device=device).resolved_device()
    physics = operator_of(data).to(device)
    method = chosen_method(model, data.img_size[0], physics, device)
    images, spreads, rows, done = [], [], [], []
    for count, index in enumerate(wanted):
        y = torch.from_numpy(data.slice(index))[None].to(device)
        measured = reconstruct_measured(y, physics, method, sigma=sigma, gain=gain, tile=tile)
        rows.append(_figures(measured, y, data, index))
        images.append((measured.image[0] * data.scale + data.offset).cpu())
        if measured.spread is not None:
            spreads.append((measured.spread[0] * data.scale).cpu())
        done.append(measured)
        if progress is not None:
            progress(count + 1, len(wanted))
    return Result(
        image=torch.stack(images),
        uncertainty=None if not spreads else torch.stack(spreads),
        metrics=stack_metrics(rows),
        provenance=_provenance(data, done, wanted, model, time.perf_counter() - start),
        spacing=data.spacing,
        unit=data.unit,
        levels=data.levels,
    )


def _figures(measured: Measured, y: Tensor, data: Measurements, index: int) -> dict[str, float]:
    x, physics = measured.image, measured.physics
    residual = physics.A(x) - y
    norm = torch.linalg.vector_norm(y)
    figures = {"misfit": float(torch.linalg.vector_norm(residual) / norm)} if norm > 0 else {}
    level = effective_sigma(y, physics)
    if level is not None and level > 0:
        seen = y != 0 if data.physics.startswith(("inpainting", "demosaicing", "mri")) else torch.ones_like(y).bool()
        figures["data_residual"] = float(residual[seen].square().mean().sqrt()) / level
    if data.reference is not None and min(data.img_size[1:]) >= 7:
        reference = torch.from_numpy(np.asarray(data.reference[index], dtype=np.float32))
        image = x[0].cpu()
        if data.img_size[0] == 2:
            image, reference = (torch.linalg.vector_norm(v, dim=0, keepdim=True) for v in (image, reference))
        if bool(reference.any()):
            compared = evaluate(image, reference, level=None)
            figures |= {name: float(compared[name]) for name in ("psnr", "ssim") if math.isfinite(compared[name])}
    return figures


def _provenance(
    data: Measurements, done: list[Measured], wanted: list[int], model: str | Reconstructor, seconds: float
) -> dict[str, Any]:
    path = data.source.path
    return {
        "input": {
            "path": None if path is None else str(path),
            "sha256": data.source.sha256,
            "format": data.source.format,
            "measurements": list(data.measurements.shape),
        },
        "model": {"name": done[0].model, "why": done[0].why, "details": [item.details for item in done]},
        "options": {
            "model": model if isinstance(model, str) else type(model).__name__,
            "physics": data.physics,
            "sigma": [item.sigma for item in done],
            "gain": [item.gain for item in done],
        },
        "slices": wanted,
        "steps": [f"operator {data.physics}, images of {' x '.join(map(str, data.img_size))}"],
        "notes": unique([*data.notes, *(note for item in done for note in item.notes)]),
        "warnings": [],
        "seconds": {"total": seconds, "model": seconds},
        **machine(PACKAGES),
    }


def _planes(pixels: ndarray, spec: PhysicsSpec, path: Path | None) -> Tensor:
    """Return the image as the operator sees it, ``(slice, c, y, x)``."""
    if isinstance(spec.options, MRIOptions):
        if pixels.ndim != 3:
            raise DataError("a colour image cannot be measured by MRI", file=path, found=pixels.shape)
        return torch.from_numpy(np.stack([pixels.real, pixels.imag], 1).astype(np.float32))
    if pixels.dtype.kind not in "biuf":
        raise DTypeError("only real images are measured so", file=path, found=pixels.dtype)
    x = _as_channels(pixels)
    if spec.name == "demosaicing" and x.shape[1] == 1:
        raise DataError("demosaicing needs a colour image", file=path, found=pixels.shape)
    return x


def _as_channels(pixels: ndarray) -> Tensor:
    planes = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))


def _size(x: Tensor) -> tuple[int, int, int]:
    return int(x.shape[1]), int(x.shape[2]), int(x.shape[3])
