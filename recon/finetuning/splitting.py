"""Measurements parted in two: some are kept and reconstructed from, the others are predicted.

For k-space the calibration centre is always kept, and lines are left out as a whole (`recon.left_out`); of stamps
pixels are masked; of block compressed sensing rows of the matrix are left out; of any other operator single entries.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import singledispatch

import torch
from deepinv.loss import SplittingLoss
from deepinv.physics import LinearPhysics
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
    """Choose the entries that are left out, broadcastable to ``y``: alike in all channels."""
    shape = (y.shape[0], 1, *y.shape[2:]) if y.ndim > 2 else tuple(y.shape)
    return (torch.rand(shape, generator=rng) < fraction).to(y.device)


@chosen.register
def _(physics: MultiCoilMRI, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    return choose_left_out(physics.mask, fraction, 1, rng)[0]


@chosen.register
def _(physics: NonCartesianMRI, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    return (torch.rand(1, 1, y.shape[-1], generator=rng) < fraction).to(y.device)


@chosen.register
def _(physics: PSFConvolution, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:
    drawn = (torch.rand(y.shape, generator=rng) < fraction).to(y.device)
    return drawn if physics.weight is None else drawn & (physics.weight > 0)


@chosen.register
def _(physics: BlockCompressedSensing, y: Tensor, fraction: float, rng: torch.Generator) -> Bool[Tensor, "..."]:  # noqa: ARG001
    rows = y.shape[2]
    part = torch.zeros(rows, dtype=torch.bool)
    if rows > 1:
        part[torch.randperm(rows, generator=rng)[: max(round(fraction * rows), 1)]] = True
    return part[None, None, :, None, None].to(y.device)


@singledispatch
def restricted(physics: LinearPhysics, y: Tensor, left_out: Bool[Tensor, "..."]) -> tuple[Tensor, LinearPhysics]:
    """Return the entries that are kept, and their operator."""
    with warnings.catch_warnings():  # deepinv's, that a mask before an operator costs its closed-form inverse
        warnings.filterwarnings("ignore", message=".*DecomposablePhysics")
        return SplittingLoss.split((~left_out).to(y.real.dtype), y, physics)


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
