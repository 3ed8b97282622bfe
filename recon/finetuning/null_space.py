"""What measurements alone do not tell: the part of an image that its own operator is blind to.

The image is measured again in another position, or by another of the operators, and must come back
[Chen 2021; Tachella 2022]. Both are deepinv's losses, relative to the mean square of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from deepinv.loss import EILoss, MOILoss
from deepinv.models import Reconstructor
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise
from deepinv.transform import Reflect, Rotate, Shift, Transform
from jaxtyping import Float
from torch import Tensor

from recon.finetuning.measurements import Measurement
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError
from recon.sparse_problem import OBJECTIVES
from recon.trust import rebuilt
from recon.uncertainty import moved_maps, moves

NULL_SPACE = ("none", "equivariant", "multi-operator")
WEIGHT = 0.1
"""Of the term beside the loss of the measurements, both relative."""
_SHIFT = 0.1  # share of the image


class NullSpace:
    """The null-space term of a name.

    Parameters
    ----------
    name
        One of `NULL_SPACE`.
    weight
        Of the term.
    operators
        Those that an image may be measured by again; for ``multi-operator`` two or more of one image size.

    Raises
    ------
    OptionError
        No such term, a negative weight, or ``multi-operator`` with less than two operators.
    """

    def __init__(self, name: str, weight: float = WEIGHT, operators: Sequence[LinearPhysics] = ()) -> None:
        if name not in NULL_SPACE or not weight >= 0:
            raise OptionError("no such null-space term", found=f"{name}, {weight:g}", expected=", ".join(NULL_SPACE))
        if name == "multi-operator" and len(operators) < 2:
            raise OptionError(
                "multi-operator needs measurements by two operators or more",
                found=len(operators),
                cure="Take equivariant",
            )
        self.name, self.weight, self.operators = name, weight, list(operators)

    def __call__(
        self, model: Reconstructor, x: Float[Tensor, "b c *spatial"], measurement: Measurement, rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the weighted term for an image ``x`` of a measurement; 0 where there is none."""
        if self.name == "none" or self.weight == 0:
            return x.new_zeros(())
        if self.name == "equivariant":
            return self.weight * _equivariant(model, x, measurement.physics, rng)
        others = [_as_seen_here(other, measurement.physics) for other in self.operators]
        noisy = _has_white_noise(measurement.physics)
        loss = MOILoss(physics=others, metric=_relative, apply_noise=noisy, rng=rng)
        return self.weight * loss(x, measurement.physics, model)


def automatic_term(loss: str, measurements: Sequence[Measurement]) -> tuple[str, str]:
    """Return the name of the term for measurements of which nobody said how, and why."""
    if loss == "ssdu":
        return "none", "what is left out tells of the null space"
    if loss in OBJECTIVES:
        return "none", "the objective has its own prior"
    if _differ(measurements):
        return "multi-operator", "the measurements were made by several operators"
    return "equivariant", "all measurements were made by one operator"


def _differ(measurements: Sequence[Measurement]) -> bool:
    first = measurements[0].physics
    return (
        len(measurements) > 1
        and all(
            isinstance(m.physics, MultiCoilMRI)
            and isinstance(first, MultiCoilMRI)
            and m.physics.mask.shape == first.mask.shape
            for m in measurements
        )
        and any(not torch.equal(m.physics.mask, first.mask) for m in measurements)
    )


def _as_seen_here(other: LinearPhysics, here: LinearPhysics) -> LinearPhysics:
    """Of k-space the sampling of another scan, with this one's coils; else the other operator."""
    if isinstance(other, MultiCoilMRI) and isinstance(here, MultiCoilMRI):
        return rebuilt(here, mask=other.mask)
    return other


def _equivariant(model: Reconstructor, x: Tensor, physics: LinearPhysics, rng: torch.Generator) -> Tensor:
    if isinstance(physics, MultiCoilMRI) and x.shape[1] == 2 * physics.n_sets:
        move = moves(physics, rng)  # the coils go along, so that the object stays inside them
        position = move.get_params(x)
        moved: LinearPhysics = rebuilt(physics, coil_maps=moved_maps(physics.coil_maps, move, position))
        return EILoss(partial(move.transform, **position), metric=_relative)(x, moved, model)
    return EILoss(_transform(x, rng), metric=_relative, apply_noise=_has_white_noise(physics))(x, physics, model)


def _has_white_noise(physics: LinearPhysics) -> bool:
    """Whether noise may be added to any image: Poisson noise is not of images that dip below 0."""
    return isinstance(physics.noise_model, GaussianNoise)


def _transform(x: Tensor, rng: torch.Generator) -> Transform:
    """Small shifts and mirror images; quarter turns too of square images."""
    small = Reflect(dim=(-2, -1), rng=rng) * Shift(shift_max=_SHIFT, rng=rng)
    return small * Rotate(multiples=90, positive=True, rng=rng) if x.shape[-1] == x.shape[-2] else small


def _relative(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    return (a - b).square().mean() / b.detach().square().mean().clamp_min(torch.finfo(b.dtype).tiny)
