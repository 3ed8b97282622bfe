"""One batch of stamps: deblurred, measured, measured again in more noise, and flagged."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from deepinv.models import Reconstructor
from deepinv.physics.noise import GaussianNoise
from jaxtyping import Bool, Float, Float32, Shaped
from numpy import ndarray
from torch import Tensor

from recon.datasets.stamp_batch import StampBatch
from recon.galaxies.catalogue import MEASURED, POOR_FIT, UNUSABLE, ObjectFlag, blank, measure
from recon.galaxies.responses import response_columns
from recon.physics import PSFConvolution

_FEWEST = 2  # replicas of an object from which an error is taken


@dataclass(kw_only=True, eq=False)
class StampPart:
    """What some neighbouring objects give.

    Parameters
    ----------
    image
        ``(b, y, x)`` deblurred, in the units of the stamps; NaN where there is none.
    columns
        Of the catalogue but for the id, ``(b,)`` each.
    seconds
        That it took.
    notes
        What was repaired on reading.
    """

    image: Float32[ndarray, "b y x"]
    columns: dict[str, Shaped[ndarray, " b"]]
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def deblur(
    batch: StampBatch,
    model: Reconstructor,
    *,
    replicas: int,
    generator: torch.Generator,
    first: int = 0,
    seed: int | None = None,
) -> StampPart:
    """Deblur and measure; every object keeps its row, and what is wrong with it becomes a flag.

    Parameters
    ----------
    batch
        Stamps on the device of the model.
    model
        One for stamps.
    replicas
        Errors are the root mean square change of a measurement when noise of the data's level is added to the data
        and all is done again, so many times. 0: no errors.
    generator
        Of that noise.
    first
        Number of the first object.
    seed
        Of the noise that is added for the responses to shear; None: no responses.
    """
    columns = blank(len(batch), responses=seed is not None)
    flags = batch.flags.astype(np.int32)
    columns["sigma"] = batch.sigma.cpu().numpy()
    image = np.full((len(batch), *batch.y.shape[2:]), np.nan, np.float32)
    noise = [torch.randn(batch.y.shape, generator=generator) for _ in range(replicas)]
    usable = np.flatnonzero((flags & UNUSABLE) == 0)
    if usable.size:
        rows = torch.from_numpy(usable).to(batch.y.device)
        y, physics = batch.y[rows], _physics_of(batch, rows)
        x = model(y, physics)
        finite = torch.isfinite(x).flatten(1).all(1)
        flags[usable[~finite.cpu().numpy()]] |= ObjectFlag.NOT_FINITE
        usable = usable[finite.cpu().numpy()]
        x = torch.where(finite[:, None, None, None], x, 0)
        values, moment_flags = measure(x)
        chi2 = residual_chi2(x, y, physics)
        image[usable] = x[finite, 0].cpu().numpy()
        flags[usable] |= moment_flags[finite].cpu().numpy()
        flags[usable] |= np.where(chi2[finite].cpu().numpy() > POOR_FIT, ObjectFlag.POOR_FIT, 0).astype(np.int32)
        columns["chi2"][usable] = chi2[finite].cpu().numpy()
        for name, value in values.items():
            columns[name][usable] = value[finite].cpu().numpy()
        if seed is not None:
            sane = torch.where(finite[:, None, None, None], y, 0)
            answers = response_columns(sane, physics, model, numbers=first + rows, seed=seed)
            columns |= {name: _in_place(value[finite], usable, len(batch)) for name, value in answers.items()}
        if replicas:
            errors, known = _errors(y, physics, values, model, [n.to(y.device)[rows] for n in noise])
            for name, value in errors.items():
                columns[f"{name}_error"][usable] = value[finite].cpu().numpy()
            flags[usable] |= np.where(known[finite].cpu().numpy(), 0, ObjectFlag.NO_ERRORS).astype(np.int32)
    return StampPart(image=image, columns=columns | {"flags": flags})


def residual_chi2(
    x: Float[Tensor, "b 1 y x"], y: Float[Tensor, "b 1 y x"], physics: PSFConvolution
) -> Float[Tensor, " b"]:
    """Return the mean over seen pixels of the squared residual ``y - Hx`` in units of the noise."""
    inverse_variance = _inverse_variance(y, physics)
    squared = ((y - physics.A(x)).square() * inverse_variance).sum((1, 2, 3))
    return squared / (inverse_variance > 0).sum((1, 2, 3)).clamp_min(1)


def _in_place(values: Tensor, rows: ndarray, n: int) -> Shaped[ndarray, " n"]:
    whole = np.full(n, np.nan, np.float32)
    whole[rows] = values.cpu().numpy()
    return whole


def _physics_of(batch: StampBatch, rows: Tensor) -> PSFConvolution:
    return PSFConvolution(
        batch.psf if len(batch.psf) == 1 else batch.psf[rows],
        tuple(batch.y.shape[-2:]),
        pixel_scale=batch.pixel_scale,
        noise_model=GaussianNoise(batch.sigma[rows]),
        weight=None if batch.weight is None else batch.weight[rows],
    )


def _inverse_variance(y: Tensor, physics: PSFConvolution) -> Float[Tensor, "b 1 y x"]:
    if physics.weight is not None:
        return physics.weight
    return physics.noise_model.sigma[:, None, None, None].square().reciprocal().expand_as(y)


def _errors(
    y: Tensor, physics: PSFConvolution, values: dict[str, Tensor], model: Reconstructor, noise: list[Tensor]
) -> tuple[dict[str, Float[Tensor, " b"]], Bool[Tensor, " b"]]:
    """Return the root mean square changes in noise, NaN where there are too few, and where there are enough."""
    inverse_variance = _inverse_variance(y, physics)
    level = torch.where(inverse_variance > 0, inverse_variance.clamp_min(torch.finfo(y.dtype).tiny).rsqrt(), 0)
    total = {name: torch.zeros_like(values[name]) for name in MEASURED}
    count = {name: torch.zeros_like(values[name]) for name in MEASURED}
    for one in noise:
        x = model(y + level * one, physics)
        finite = torch.isfinite(x).flatten(1).all(1)
        again, _ = measure(torch.where(finite[:, None, None, None], x, 0))
        for name in MEASURED:
            change = (again[name] - values[name]).square()
            good = finite & torch.isfinite(change)
            total[name] += torch.where(good, change, 0)
            count[name] += good
    errors = {
        name: torch.where(count[name] >= _FEWEST, (total[name] / count[name].clamp_min(1)).sqrt(), torch.nan)
        for name in MEASURED
    }
    return errors, torch.isfinite(errors["g1"])
