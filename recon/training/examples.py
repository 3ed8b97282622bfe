"""What a network is trained on: one slice of k-space with its coil maps, and batches of such slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepinv.physics import GaussianNoise
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn.functional import pad

from recon.calibration import espirit, lowres_maps
from recon.datasets.tensors import TensorBatch
from recon.physics import MultiCoilMRI
from recon.physics.errors import CalibrationError, DataError, ShapeError
from recon.physics.layout import to_channels

PEAK = 0.999  # the quantile of the zero-filled magnitude that is scaled to 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One slice, scaled so that the zero-filled image's 99.9th percentile is 1.

    Parameters
    ----------
    y
        ``(coil, y, x)`` k-space, zero where it is not sampled.
    mask
        ``(y, x)``.
    coil_maps
        ``(coil, y, x)``.
    sigma
        Standard deviation of the real part of a sample's noise; NaN where unknown.
    target
        ``(y, x)`` complex, what the network should give; None where only the measurements are known.
    scale
        What ``y`` and ``target`` were divided by.
    name
        File and slice, for messages.
    """

    y: Complex[Tensor, "coil y x"]
    mask: Bool[Tensor, "y x"]
    coil_maps: Complex[Tensor, "coil y x"]
    sigma: float
    target: Complex[Tensor, "y x"] | None
    scale: float = 1.0
    name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(TensorBatch):
    """Examples of one matrix, their coils filled up to the same number with maps and samples that are zero."""

    y: Complex[Tensor, "b coil y x"]
    mask: Bool[Tensor, "b 1 y x"]
    coil_maps: Complex[Tensor, "b coil y x"]
    sigma: Float[Tensor, " b"]
    target: Float[Tensor, "b 2 y x"] | None
    names: tuple[str, ...]

    def physics(self) -> MultiCoilMRI:
        """Return the operator; its noise model has one sigma an example where all are known."""
        known = bool(torch.isfinite(self.sigma).all())
        return MultiCoilMRI(self.coil_maps, self.mask, noise_model=GaussianNoise(self.sigma) if known else None)


def make_example(
    k: Complex[Tensor, "coil y x"],
    mask: Bool[Tensor, "#y x"],
    *,
    target: Complex[Tensor, "coil y x"] | None,
    coil_maps: Complex[Tensor, "coil y x"] | None = None,
    sigma: float = float("nan"),
    name: str = "",
) -> Example:
    """Estimate coil maps from the sampled data, as a reconstruction would, combine the target by them, and scale.

    Parameters
    ----------
    k
        K-space; what the mask leaves out is ignored.
    mask
        True where sampled.
    target
        K-space of which the target is made: full, and best without noise. None: there is no target.
    coil_maps
        Maps to be used instead of estimated ones.
    sigma, name
        As in `Example`.

    Raises
    ------
    DataError
        Nothing is left of the image.
    """
    y = k * mask
    if coil_maps is None:
        try:
            coil_maps = espirit(y[None], mask[None, None], sets=1).maps[0, 0]
        except CalibrationError:
            coil_maps = lowres_maps(y[None], mask[None, None])[0]
    physics = MultiCoilMRI(coil_maps[None], mask[None, None])
    scale = float(torch.quantile(physics.combine(y[None]).abs(), PEAK))
    if not (scale > 0 and torch.isfinite(y).all()):
        raise DataError("an example without signal, or not finite", file=name or None)
    return Example(
        y=y / scale,
        mask=mask.expand(y.shape[1:]),
        coil_maps=coil_maps,
        sigma=sigma / scale,
        target=None if target is None else physics.combine(target[None])[0] / scale,
        scale=scale,
        name=name,
    )


def collate(examples: Sequence[Example]) -> Batch:
    """Make a batch; matrices must agree, numbers of coils need not.

    Raises
    ------
    ShapeError
        Examples of several matrices.
    """
    shapes = {tuple(example.y.shape[1:]) for example in examples}
    if len(shapes) != 1:
        raise ShapeError(
            "a batch of slices of several matrices", found=sorted(shapes), cure="Take a batch size of 1, or crop"
        )
    most = max(len(example.y) for example in examples)

    def filled(x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, 0, 0, most - len(x)))

    targets = [example.target for example in examples if example.target is not None]
    return Batch(
        y=torch.stack([filled(example.y) for example in examples]),
        mask=torch.stack([example.mask for example in examples])[:, None],
        coil_maps=torch.stack([filled(example.coil_maps) for example in examples]),
        sigma=torch.tensor([example.sigma for example in examples]),
        target=to_channels(torch.stack(targets)[:, None]) if len(targets) == len(examples) else None,
        names=tuple(example.name for example in examples),
    )
