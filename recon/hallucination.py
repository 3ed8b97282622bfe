r"""What of an image its data cannot vouch for: the part in the null space of the operator [1]_.

With several coils hardly anything is strictly invisible, but much is seen so weakly that noise drowns it. A component
of the image counts as unseen where the samples carry less than a tenth of the energy that they carry of an average one
(a g-factor above 3). The projection is smooth there,

.. math:: P = I - (A^H A + \epsilon I)^{-1} A^H A, \quad \epsilon = 0.1 \operatorname{tr}(A^H A) / n,

the exact null space's projection with Tikhonov's pseudo-inverse in place of the truncated one of [1]_.

References
----------
.. [1] Bhadra, Kelkar, Brooks, Anastasio, On hallucinations in tomographic image reconstruction, IEEE TMI 40, 2021,
   eq. 14 and 19.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recon.physics import MultiCoilMRI
from recon.physics.errors import ShapeError
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient

_UNSEEN = 0.1
_ITERATIONS, _TOLERANCE = 60, 1e-3  # far below what a map shows


@torch.no_grad()
def null_part(x: Float[Tensor, "b channel *spatial"], physics: MultiCoilMRI) -> Float[Tensor, "b channel *spatial"]:
    """Project images on what the operator does not see (see the module), by about 20 conjugate gradients.

    Parameters
    ----------
    x
        Two channels a set of coil maps; a batch of 1 of the operator serves any batch.
    physics
        The operator. Pixels without coil maps are in its null space.
    """
    image = to_complex(x)
    seen = physics.normal(image)
    maps = physics.coil_maps.abs().square().sum(dim=2)
    inside = maps.sum() / (maps > 0).sum().clamp_min(1)  # 1 for maps of unit norm
    epsilon = _UNSEEN * float(inside * physics.mask.float().mean())
    solved = conjugate_gradient(lambda z: physics.normal(z) + epsilon * z, seen, max_iter=_ITERATIONS, tol=_TOLERANCE)
    return to_channels(image - solved)


def hallucination_map(
    x: Float[Tensor, "b channel *spatial"],
    reference: Float[Tensor, "..."],
    physics: MultiCoilMRI,
) -> Float[Tensor, "b *spatial"]:
    """Magnitude of the unseen part of the error: what the method made up, or left out, without asking the data.

    Parameters
    ----------
    x, reference
        Reconstruction and truth, in one scale.
    physics
        The operator.

    Raises
    ------
    ShapeError
        The two differ in shape.
    """
    if x.shape != reference.shape:
        raise ShapeError("image and reference differ", found=tuple(reference.shape), expected=tuple(x.shape))
    return torch.linalg.vector_norm(null_part(x - reference, physics), dim=1)


def unsure_null_part(
    found: Float[Tensor, "replica b channel *spatial"],
    x: Float[Tensor, "b channel *spatial"],
    physics: MultiCoilMRI,
) -> Float[Tensor, "b *spatial"]:
    """Root mean square, over bootstrap replicas, of the unseen part of what changes: the map without a reference.

    Where it is strong, detail comes from the method and another measurement of the same image would have brought
    out other detail. Where it is weak the method is sure of itself, which does not make it right.

    Parameters
    ----------
    found
        From `recon.uncertainty.equivariant_bootstrap`.
    x
        The image that they were simulated of.
    physics
        The operator of its data.
    """
    unseen = torch.stack([null_part(replica - x, physics) for replica in found])
    return torch.linalg.vector_norm(unseen, dim=2).square().mean(dim=0).sqrt()


def as_seen_by(reference: Float[Tensor, "b y x"], x: Float[Tensor, "b channel y x"]) -> Float[Tensor, "b channel y x"]:
    """Give a magnitude reference the phase, and the shares of the sets of maps, of the reconstruction.

    An error of the phase then goes unnoticed, as it does in a magnitude image.

    Parameters
    ----------
    reference
        Magnitude, in the scale of ``x``.
    x
        The reconstruction.
    """
    magnitude = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    first = torch.zeros_like(x)
    first[:, 0] = 1
    direction = torch.where(magnitude > 0, x / magnitude.clamp_min(torch.finfo(x.dtype).tiny), first)
    return reference[:, None] * direction
