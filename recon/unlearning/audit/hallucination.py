"""Did it stop to paint what the data do not show? What lies in the null space of the operator [Bhadra 2021; Xue 2024].

Three figures: energy of the unseen part of the error; false structures, which are connected regions where that part
is strong; and the response to a piece of what is forgotten that is put where the operator hardly sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from deepinv.models import Reconstructor
from jaxtyping import Bool, Complex, Float
from numpy import ndarray
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recon.datasets.random import child_generator
from recon.hallucination import hallucination_map, null_part
from recon.physics import MultiCoilMRI
from recon.training.batches import TrainingBatch
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_TEST,
    JOINT,
    NO_ORACLE,
    ORACLE,
    RETAIN_TEST,
    UNLEARNED,
    CannotError,
    Picture,
    Row,
    Subjects,
    magnitude,
    spread,
)
from recon.unlearning.examples import Examples

_STRUCTURE = 0.1  # of the image's brightness: unseen error that counts as structure
_PIXELS = 5  # of the smallest structure
_BRIGHT = 0.999  # quantile that is an image's brightness
_SLICES, _PATCHES, _PLACES = 6, 3, 4  # where a piece of what is forgotten is tried
_SHARE = 3  # the piece's side is this part of the image's
_PICTURES = 3


def hallucination(subjects: Subjects) -> Row:
    """Compare the networks in the null space."""
    figures, pictures = null_space_error(subjects)
    cannot: dict[str, str] = {}
    energy = figures["null-space energy"]
    if ORACLE not in energy:
        cannot["excess of null-space energy"] = NO_ORACLE
    else:
        figures["excess"] = {name: value - energy[ORACLE] for name, value in energy.items() if name != ORACLE}
        if figures["excess"][JOINT] > 0:
            figures["share of the excess gone"] = 1 - figures["excess"][UNLEARNED] / figures["excess"][JOINT]
        else:
            cannot["share of the excess gone"] = (
                "the joint model makes up no more than the oracle: there is no excess to be removed"
            )
    try:
        figures["response to a piece in the null space"] = patch_response(subjects)
    except CannotError as error:
        cannot["response to a piece in the null space"] = str(error)
    return Row(figures, cannot, pictures)


def null_space_error(subjects: Subjects) -> tuple[dict[str, Any], list[Picture]]:
    """Energy of the unseen error over that of the truth, and false structures a slice, of every network.

    Raises
    ------
    CannotError
        No truth, another operator than MRI's, or networks that give magnitudes.
    """
    examples, targets, names = subjects.examples(RETAIN_TEST), subjects.targets(RETAIN_TEST), subjects.present()
    maps = {name: subjects.remember(name, "null maps", make=partial(_null_maps, subjects, name)) for name in names}
    truth = float(sum(float(target.square().sum()) for target in targets))
    energies = {name: [float(one.double().square().sum()) for one in found] for name, found in maps.items()}
    bright = [float(torch.linalg.vector_norm(target, dim=0).flatten().quantile(_BRIGHT)) for target in targets]
    figures = {
        "null-space energy": {name: sum(values) / truth for name, values in energies.items()},
        "false structures a slice": {
            name: float(
                np.mean([structures((m > _STRUCTURE * b).cpu().numpy()) for m, b in zip(found, bright, strict=True)])
            )
            for name, found in maps.items()
        },
        "slices": len(targets),
    }
    pictures: list[Picture] = []
    for i in sorted(np.argsort(energies[JOINT])[-_PICTURES:].tolist()):
        title = examples[i].name
        shown = {name: magnitude(subjects.images(name, RETAIN_TEST)[i]) for name in names}
        pictures += [
            Picture("reconstruction", title, {"truth": magnitude(targets[i]), **shown}),
            Picture("null space", title, {name: found[i].cpu().numpy() for name, found in maps.items()}),
        ]
    return figures, pictures


def _null_maps(subjects: Subjects, name: str) -> list[Float[Tensor, "y x"]]:
    examples, targets = subjects.examples(RETAIN_TEST), subjects.targets(RETAIN_TEST)
    found = []
    for i, (x, target) in enumerate(zip(subjects.images(name, RETAIN_TEST), targets, strict=True)):
        if x.shape != target.shape:
            raise CannotError("the networks give magnitudes, which have no null space")
        found.append(hallucination_map(x[None], target[None], _mri(examples, [i]))[0])
    return found


def structures(mask: Bool[ndarray, "y x"]) -> int:
    """Count the connected regions of 5 pixels or more; diagonal neighbours connect."""
    regions, _ = label(mask, structure=np.ones((3, 3)))
    return int((np.bincount(regions.ravel())[1:] >= _PIXELS).sum())


def patch_response(subjects: Subjects) -> dict[str, Any]:
    r"""How much of an unseen piece of what is forgotten a network paints into what is kept.

    The piece is put somewhere in the anatomy and projected on the null space, :math:`\delta`; its measurements are
    added. The response :math:`\langle f(y + A \delta) - f(y), \delta \rangle / \|\delta\|^2` is 1 where the network
    completes what it hardly sees, 0 where it leaves it out. Each network is given the worst of several pieces and
    places in each slice.

    Raises
    ------
    CannotError
        Another operator than MRI's, networks that give magnitudes, or matrices in which no piece fits.
    """
    hidden = subjects.remember("", "pieces", make=lambda: _hidden(subjects))
    found = {
        name: subjects.remember(name, "responses", make=partial(_responses, subjects.models[name], hidden))
        for name in subjects.present()
    }
    return {
        "worst": {name: float(np.mean([max(one) for one in responses])) for name, responses in found.items()},
        "mean": {name: float(np.mean(responses)) for name, responses in found.items()},
        "energy seen": float(np.mean([one.seen for one in hidden])),
        "pieces and places": _PATCHES * _PLACES,
    }


@dataclass(frozen=True, eq=False)
class _Hidden:
    """A slice, and pieces in its null space with what the operator sees of them."""

    batch: TrainingBatch
    delta: Float[Tensor, "placed channel y x"]
    extra: Complex[Tensor, "placed coil y x"]

    @property
    def seen(self) -> float:
        return float(self.extra.abs().square().sum() / self.delta.square().sum())


@torch.no_grad()
def _hidden(subjects: Subjects) -> list[_Hidden]:
    kept = spread(subjects.examples(RETAIN_TEST), _SLICES)
    pieces = _pieces(subjects, FORGET_TEST if FORGET_TEST in subjects.sets else FORGET)
    found = []
    for i in range(len(kept)):
        physics = _mri(kept, [i])
        anatomy = torch.linalg.vector_norm(physics.A_adjoint(kept.batch([i]).y), dim=1)
        delta = null_part(_placed(pieces, anatomy[0], child_generator(subjects.seed, 11, i)), physics)
        found.append(_Hidden(kept.batch([i] * len(delta)), delta, physics.A(delta)))
    return found


@torch.no_grad()
def _responses(model: Reconstructor, hidden: Sequence[_Hidden]) -> list[list[float]]:
    responses = []
    for one in hidden:
        physics = one.batch.physics()
        change = model(one.batch.y + one.extra, physics) - model(one.batch.y, physics)
        if change.shape != one.delta.shape:
            raise CannotError("the networks give magnitudes, which have no null space")
        strength = one.delta.square().flatten(1).sum(1)
        responses.append(((change * one.delta).flatten(1).sum(1) / strength).tolist())
    return responses


def _pieces(subjects: Subjects, source: str) -> Float[Tensor, "piece channel side side"]:
    """Cut the most detailed square of several images, its border faded out."""
    examples = spread(subjects.examples(source), _PATCHES)
    batches = list(examples.batches(1))
    joint = subjects.models[JOINT]
    images = [joint(b.y, b.physics())[0] if b.target is None else b.target[0] for b in batches]
    smallest = min(min(x.shape[-2:]) for x in (*images, *subjects.images(JOINT, RETAIN_TEST)))
    side = max(smallest // _SHARE, 1)
    window = torch.hann_window(side + 2, periodic=False, dtype=images[0].dtype)[1:-1].to(images[0].device)
    pieces = []
    for x in images:
        energy = x.square().sum(0)[None]
        mean = avg_pool2d(x[None], side, stride=1)[0].square().sum(0)
        top, left = divmod(int((avg_pool2d(energy, side, stride=1)[0] - mean).argmax()), mean.shape[1])
        pieces.append(x[:, top : top + side, left : left + side] * window[:, None] * window)
    return torch.stack(pieces)


def _placed(
    pieces: Float[Tensor, "piece channel side side"], anatomy: Float[Tensor, "y x"], rng: torch.Generator
) -> Float[Tensor, "placed channel y x"]:
    """Put each piece at several places of the anatomy, bright ones more often."""
    side = pieces.shape[-1]
    weights = avg_pool2d(anatomy[None], side, stride=1)[0]
    places = torch.multinomial(weights.flatten().cpu(), _PLACES, replacement=True, generator=rng).tolist()
    images = pieces.new_zeros(len(pieces) * _PLACES, pieces.shape[1], *anatomy.shape)
    for i, piece in enumerate(pieces):
        for j, place in enumerate(places):
            top, left = divmod(place, weights.shape[1])
            images[i * _PLACES + j, :, top : top + side, left : left + side] = piece
    return images


def _mri(examples: Examples, indices: list[int]) -> MultiCoilMRI:
    physics = examples.batch(indices).physics()
    if not isinstance(physics, MultiCoilMRI):
        raise CannotError(f"the null space is known of Cartesian MRI only, not of {type(physics).__name__}")
    return physics
