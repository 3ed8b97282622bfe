"""How the shapes in a catalogue answer to shear: through deblurring and measurement, on the very data."""

from __future__ import annotations

import torch
from deepinv.models import Reconstructor
from jaxtyping import Float, Int
from torch import Tensor

from recon.models.convolution import Grid
from recon.models.stamps import filled, seen_pixels
from recon.physics import PSFConvolution
from recon.shear import ShearResponses, adaptive_moments, shear_responses

STEP = 0.01
NAMES = ("r_e1", "r_e2", "r11", "r12", "r21", "r22")
"""Columns: distortion of the stamp as it is for the responses, and its responses ``d e_i / d g_j``."""


def response_columns(
    y: Float[Tensor, "b 1 y x"],
    physics: PSFConvolution,
    model: Reconstructor,
    *,
    numbers: Int[Tensor, " b"],
    seed: int,
) -> dict[str, Float[Tensor, " b"]]:
    """Return the columns `NAMES`; NaN where the PSF or one of the five shapes cannot be measured.

    Masked pixels are filled from their neighbours first, and count as seen.

    Parameters
    ----------
    y
        Square stamps.
    physics
        With Gaussian noise of known level.
    model
        What deblurs.
    numbers
        Of the objects: the noise that is added depends on them and on ``seed``.

    Raises
    ------
    ShapeError
        Stamps that are not square.
    """
    psf = physics.psf.expand(len(y), -1, -1, -1)
    known = adaptive_moments(psf, guess=2.0).converged
    columns = {name: torch.full_like(y[:, 0, 0, 0], torch.nan) for name in NAMES}
    if not bool(known.any()):
        return columns
    whole = filled(y, Grid.of(physics, y), seen_pixels(y, physics))
    found = shear_responses(
        whole[known],
        psf[known],
        physics.noise_model.sigma.expand(len(y))[known],
        lambda x, _psf: adaptive_moments(x),
        model,
        step=STEP,
        ids=numbers[known],
        seed=seed,
    )
    R, e = found.response, found.e[0]
    usable = torch.isfinite(R).flatten(1).all(1) & torch.isfinite(e).all(1)
    for name, value in zip(NAMES, (*e.unbind(1), *R.flatten(1).unbind(1)), strict=True):
        columns[name][known] = torch.where(usable, value, torch.nan)
    return columns


def of_columns(columns: dict[str, Float[Tensor, " n"]]) -> ShearResponses:
    """Return the columns `NAMES` as `recon.shear` takes them."""
    e = torch.stack([columns["r_e1"], columns["r_e2"]], -1)
    R = torch.stack([torch.stack([columns[f"r{i}{j}"] for i in (1, 2)], -1) for j in (1, 2)])  # [j, object, i]
    sheared = [e + sign * STEP * R[j] for j in (0, 1) for sign in (1, -1)]
    return ShearResponses(e=torch.stack([e, *sheared]), good=torch.isfinite(e).all(1).expand(5, -1), step=STEP)
