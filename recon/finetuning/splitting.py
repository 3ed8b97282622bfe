"""Measurements parted in two: some are kept and reconstructed from, the others are predicted.

For k-space the calibration centre is always kept, and lines are left out as a whole (`recon.left_out`); of stamps
pixels are masked; of block compressed sensing rows of the matrix are left out; of any other operator single entries.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import singledispatch

import torch
from deepinv.physics import Inpainting, LinearPhysics
from jaxtyping import Bool
from torch import Tensor

from recon.finetuning.measurements import Measurement, noise_deviation
from recon.left_out import choose_left_out
from recon.physics import MultiCoilMRI, NonCartesianMRI, PSFConvolution
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.errors import DataError
from recon.trust import rebuilt


def split(measurement: Measurement, fraction: float, rng: torch.Generator) -> tuple[Measurement, Bool[Tensor, "..."]]:
    """Leave out a part of the entries.

    Parameters
    ----------
    measurement
        All of them.
    fraction
        Share that is left out, of what may be.
    rng
        Of the choice.

    Returns
    -------
    Measurement, Tensor
        What is kept, with its operator; which entries of ``measurement.y`` are left out. Together they are all that
        was measured, and nothing is in both.

    Raises
    ------
    DataError
        There is nothing that could be left out.
    """
    y, physics = measurement.y, measurement.physics
    left_out = chosen(physics, y, fraction, rng)
    if not bool(left_out.any()):
        raise DataError("too few measurements to leave some out", file=measurement.name or None, found=tuple(y.shape))
    kept_y, kept_physics = restricted(physics, y, left_out)
    return replace(measurement, y=kept_y, physics=kept_physics), left_out


@singledispatch
def chosen(physics: LinearPhysics, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    """Choose the entries that are left out, broadcastable to ``y``: alike in all images of the batch and channels."""
    shape = (1, 1, *y.shape[2:]) if y.ndim > 2 else (1, *y.shape[1:])
    return _drawn(shape, fraction, rng).to(y.device)


@chosen.register
def _(physics: MultiCoilMRI, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    return choose_left_out(physics.mask, fraction, 1, rng)[0]


@chosen.register
def _(physics: NonCartesianMRI, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    return _drawn((1, 1, y.shape[-1]), fraction, rng).to(y.device)


@chosen.register
def _(physics: PSFConvolution, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:
    drawn = _drawn(tuple(y.shape), fraction, rng).to(y.device)
    return drawn if physics.weight is None else drawn & (physics.weight > 0)


@chosen.register
def _(physics: BlockCompressedSensing, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    part = _drawn((y.shape[2],), fraction, rng)
    return part[None, None, :, None, None].to(y.device)


def _drawn(shape: tuple[int, ...], fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:
    """Draw a share of the entries, one at least; none where there is one only."""
    count = math.prod(shape)
    part = torch.zeros(count, dtype=torch.bool)
    if count > 1:
        part[torch.randperm(count, generator=rng)[: max(round(fraction * count), 1)]] = True
    return part.reshape(shape)


@singledispatch
def restricted(physics: LinearPhysics, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    """Return the entries that are kept, and their operator."""
    selection = Inpainting(tuple(y.shape[1:]), mask=(~left_out).to(y.real.dtype), device=y.device)
    with warnings.catch_warnings():  # deepinv's, that a mask before an operator costs its closed-form inverse
        warnings.filterwarnings("ignore", message=".*DecomposablePhysics")
        kept = selection * physics
    kept.noise_model = physics.noise_model
    return selection.A(y), kept


@restricted.register
def _(physics: MultiCoilMRI, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    return y * ~left_out, rebuilt(physics, mask=physics.mask & ~left_out)


@restricted.register
def _(physics: NonCartesianMRI, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    kept = ~left_out[0, 0]
    rest = NonCartesianMRI(
        physics.coil_maps,
        physics.trajectory[kept],
        density=None if physics.density is None else physics.density[kept],
        noise_model=physics.noise_model,
        coil_chunk=physics.coil_chunk,
        max_iter=physics.max_iter,
        tol=physics.tol,
    )
    return y[..., kept], rest


@restricted.register
def _(physics: PSFConvolution, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    weight = physics.weight
    if weight is None:
        deviation = noise_deviation(physics, y)
        weight = torch.ones_like(y) if deviation is None else deviation.square().reciprocal().expand_as(y)
    kept = PSFConvolution(
        physics.psf,
        physics.shape,
        pixel_scale=physics.pixel_scale,
        noise_model=physics.noise_model,
        weight=weight * ~left_out,
    )
    return torch.where(left_out, 0, y), kept


@restricted.register
def _(physics: BlockCompressedSensing, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    rows = ~left_out[0, 0, :, 0, 0]
    kept = BlockCompressedSensing(
        physics.matrix[rows], physics.img_size, physics.block, noise_model=physics.noise_model
    )
    return y[:, :, rows], kept
