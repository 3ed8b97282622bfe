"""Did it stop to paint what the data do not show? What lies in the null space of the operator [Bhadra 2021; Xue 2024].

Three figures: energy of the unseen part of the error; false structures, which are connected regions where that part
is strong; and the response to a piece of what is forgotten that is put where the operator hardly sees it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recon.datasets.random import child_generator
from recon.hallucination import hallucination_map, null_part
from recon.physics import MultiCoilMRI
from recon.unlearning.audit.subjects import (
    FORGET,
    FORGET_TEST,
    JOINT,
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
        cannot["excess of null-space energy"] = "the oracle was not given"
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
    maps: list[Float[Tensor, "model y x"]] = []
    counts: list[list[int]] = []
    for i, target in enumerate(targets):
        physics = _mri(examples, [i])
        images = [subjects.images(name, RETAIN_TEST)[i] for name in names]
        if any(x.shape != target.shape for x in images):
            raise CannotError("the networks give magnitudes, which have no null space")
        found = hallucination_map(torch.stack(images), target.expand(len(images), *target.shape), physics)
        bright = float(torch.linalg.vector_norm(target, dim=0).flatten().quantile(_BRIGHT))
        maps.append(found)
        counts.append([structures((one > _STRUCTURE * bright).cpu().numpy()) for one in found])
    truth = float(sum(float(target.square().sum()) for target in targets))
    energies = torch.stack([found.square().sum((-2, -1)) for found in maps]).double().cpu().numpy()
    figures = {
        "null-space energy": dict(zip(names, (energies.sum(0) / truth).tolist(), strict=True)),
        "false structures a slice": dict(zip(names, np.mean(counts, axis=0).tolist(), strict=True)),
        "slices": len(targets),
    }
    worst = np.argsort(-energies[:, names.index(JOINT)])[:_PICTURES]
    pictures: list[Picture] = []
    for i in sorted(int(n) for n in worst):
        title = examples[i].name
        shown = {name: magnitude(subjects.images(name, RETAIN_TEST)[i]) for name in names}
        pictures += [
            Picture("reconstruction", title, {"truth": magnitude(targets[i]), **shown}),
            Picture("null space", title, dict(zip(names, maps[i].cpu().numpy(), strict=True))),
        ]
    return figures, pictures


def structures(mask: Bool[ndarray, "y x"]) -> int:
    """Count the connected regions of 5 pixels or more; diagonal neighbours connect."""
    regions, _ = label(mask, structure=np.ones((3, 3)))
    return int((np.bincount(regions.ravel())[1:] >= _PIXELS).sum())


@torch.no_grad()
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
    kept = spread(subjects.examples(RETAIN_TEST), _SLICES)
    pieces = _pieces(subjects, FORGET_TEST if FORGET_TEST in subjects.sets else FORGET)
    names = subjects.present()
    responses: dict[str, list[list[float]]] = {name: [] for name in names}
    seen: list[float] = []
    for i in range(len(kept)):
        physics = _mri(kept, [i])
        y = kept.batch([i]).y
        anatomy = torch.linalg.vector_norm(physics.A_adjoint(y), dim=1)
        delta = null_part(_placed(pieces, anatomy[0], child_generator(subjects.seed, 11, i)), physics)
        strength = delta.square().flatten(1).sum(1)
        extra = physics.A(delta)
        seen.append(float((extra.abs().square().sum() / strength.sum()).cpu()))
        many = kept.batch([i] * len(delta))
        for name in names:
            network = subjects.models[name]
            base = network(y, physics)
            if base.shape[1:] != delta.shape[1:]:
                raise CannotError("the networks give magnitudes, which have no null space")
            change = network(y + extra, many.physics()) - base
            responses[name].append(((change * delta).flatten(1).sum(1) / strength).tolist())
    figures: dict[str, Any] = {
        "worst": {name: float(np.mean([max(one) for one in found])) for name, found in responses.items()},
        "mean": {name: float(np.mean(found)) for name, found in responses.items()},
        "energy seen": float(np.mean(seen)),
        "pieces and places": _PATCHES * _PLACES,
    }
    return figures


def _pieces(subjects: Subjects, source: str) -> Float[Tensor, "piece channel side side"]:
    """Cut the most detailed square of several images, its border faded out."""
    examples = spread(subjects.examples(source), _PATCHES)
    batches = list(examples.batches(1))
    joint = subjects.models[JOINT]
    images = [joint(b.y, b.physics())[0] if b.target is None else b.target[0] for b in batches]
    smallest = min(min(x.shape[-2:]) for x in (*images, *subjects.images(UNLEARNED, RETAIN_TEST)))
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
