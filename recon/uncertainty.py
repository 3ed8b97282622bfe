"""How far an image may be off, by the equivariant bootstrap: reconstruct it again from data simulated of itself.

The maps of `recon.trust` say what measurement noise does. They are blind to what a method adds or takes away of its
own accord, which with a learned one is most of the error. Here the image is taken for the truth, measured again in
other positions, and reconstructed: where it does not come back, it may not have been right the first time.
"""

from __future__ import annotations

import torch
from deepinv.transform import Reflect, Rotate, Shift, Transform
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from recon.datasets.random import Number, Seed, as_generator
from recon.physics import MultiCoilMRI
from recon.physics.errors import OptionError, ShapeError
from recon.trust import Model, check_sigma, rebuilt

METHOD = "equivariant bootstrap"
REPLICAS = 6
"""Reconstructions that `deviation` is made of unless the weights were calibrated with another number."""

_SHIFT = 0.04  # share of the matrix: enough to move edges over the grid of a network's pooling
_SMOOTHING = 5  # pixels; a deviation of a few replicas is too grainy to be used pixel by pixel


@torch.no_grad()
def equivariant_bootstrap(
    model: Model,
    y: Complex[Tensor, "b coil y x"],
    physics: MultiCoilMRI,
    sigma: Number,
    *,
    x: Float[Tensor, "b channel y x"] | None = None,
    replicas: int = REPLICAS,
    seed: Seed = 0,
) -> Float[Tensor, "replica b channel y x"]:
    r"""Reconstruct simulated measurements of the moved image and move the results back [Tachella 2024, alg. 1].

    .. math:: x^{(i)} = T_i^{-1}\, \hat x\bigl(A_i T_i \hat x(y) + n_i\bigr)

    :math:`T_i` mirrors the image at random, shifts it a little round the edges and, where matrix and sampling have no
    preferred axis, turns it by multiples of 90 degrees. The coil maps are moved along (:math:`A_i`), so that the
    object stays inside its coils and every pixel keeps its share of the coils' encoding; the sampling pattern is not
    moved. For the image this is as if the pattern had been mirrored and turned: other components are missing each
    time, and ones that the method filled in from what it has learned have to come out of the data.

    Costs ``replicas`` forward passes of the model, and one more where ``x`` is not given.

    Parameters
    ----------
    model
        The method.
    y, physics
        The measurements and their operator, which is not changed.
    sigma
        See `recon.trust`.
    x
        The model's image of ``y``, two channels a set of coil maps.
    replicas
        Reconstructions, at least 2.
    seed
        Generator or seed of positions and noise.

    Returns
    -------
    Tensor
        The images, each in the position of ``x``.

    Raises
    ------
    DataError
        A noise level that is not above 0.
    OptionError
        Fewer than two replicas.
    ShapeError
        The image is real, or has three axes.

    References
    ----------
    Tachella, Pereyra, Equivariant bootstrapping for uncertainty quantification in imaging inverse problems,
    AISTATS 2024.
    """
    check_sigma(sigma)
    if replicas < 2:
        raise OptionError("a deviation needs two replicas or more", found=replicas)
    x = model(y, physics) if x is None else x
    if x.shape[1] != 2 * physics.n_sets or x.ndim != 4:
        raise ShapeError(
            "only complex images of two axes can be measured again", found=tuple(x.shape), expected=physics.img_size
        )
    rng = as_generator(seed)
    move = moves(physics, rng)
    found = []
    for _ in range(replicas):
        position = move.get_params(x)
        moved = rebuilt(physics, coil_maps=moved_maps(physics.coil_maps, move, position))
        noise = torch.view_as_complex(torch.randn((*y.shape, 2), generator=rng, dtype=y.real.dtype)).to(y.device)
        simulated = moved.A(move.transform(x, **position)) + sigma * noise * physics.mask
        found.append(move.inverse(model(simulated, moved), **position))
    return torch.stack(found)


def deviation(
    found: Float[Tensor, "replica b channel y x"], x: Float[Tensor, "b channel y x"]
) -> Float[Tensor, "b y x"]:
    """Root mean square change of the magnitude, over the replicas and over 5 x 5 pixels.

    The mean is taken around ``x`` and not around the replicas' own mean, so that what all of them lose counts.

    Parameters
    ----------
    found
        From `equivariant_bootstrap`.
    x
        The image that they were simulated of.
    """
    change = torch.linalg.vector_norm(found, dim=2) - torch.linalg.vector_norm(x, dim=1)
    return smoothed(change.square().mean(dim=0)).sqrt()


def smoothed(values: Float[Tensor, "b y x"]) -> Float[Tensor, "b y x"]:
    """Mean over 5 x 5 pixels, over fewer at the edges."""
    return avg_pool2d(values[:, None], _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False)[:, 0]


def moves(physics: MultiCoilMRI, rng: torch.Generator) -> Transform:
    """Return random positions; quarter turns only where undersampling looks the same along both axes."""
    small = Reflect(dim=(-2, -1), rng=rng) * Shift(shift_max=_SHIFT, rng=rng)
    mask = physics.mask
    of_lines = any(torch.equal(mask, mask.narrow(axis, 0, 1).expand_as(mask)) for axis in (-2, -1))
    if physics.spatial[0] == physics.spatial[1] and not of_lines:
        return small * Rotate(multiples=90, positive=True, rng=rng)
    return small


def moved_maps(
    maps: Complex[Tensor, "b set coil y x"], move: Transform, position: dict[str, Tensor]
) -> Complex[Tensor, "b set coil y x"]:
    """Move coil maps as images; the transforms take real ones with a single axis before the spatial ones."""
    parts = torch.view_as_real(maps).movedim(-1, 3)
    moved = move.transform(parts.flatten(1, 3), **position).reshape(parts.shape)
    return torch.view_as_complex(moved.movedim(3, -1).contiguous())
