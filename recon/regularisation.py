"""How strong a regularisation is, by the samples themselves: leave some out, and see how well they are predicted.

The noise of the left-out samples is independent of the image, so that their squared error is, up to a constant, the
error against the noise-free samples: the strength that predicts best is the one that suits noise, aliasing and image,
and the noise level itself need not be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Bool, Num
from torch import Tensor

from recon.physics import BlockCompressedSensing, MultiCoilMRI, NonCartesianMRI
from recon.physics.errors import ShapeError
from recon.physics.layout import last_axes, to_complex
from recon.physics.linalg import max_eigenvalue

_CORE = 8  # side of the centre of k-space that always stays: its few samples hold most of the energy
_STRONG = 0.05  # share of the rows of a measurement matrix, those of most energy, that always stay

CoilOperator = MultiCoilMRI | NonCartesianMRI


@dataclass(frozen=True, eq=False)
class Split:
    """Measurements without some samples, and how well an image predicts those.

    Parameters
    ----------
    y, physics
        What is left, for the reconstruction.
    error
        Mean squared error of an image ``(1, set or channel, *spatial)`` at the samples left out.
    """

    y: Tensor
    physics: LinearPhysics
    error: Callable[[Tensor], float]


def leave_out(
    y: Num[Tensor, "1 ..."], physics: LinearPhysics, *, fraction: float = 0.08, seed: int = 0
) -> Split | None:
    """Leave out a random part of the samples; None where there are too few, or nobody knows how.

    Of block compressed sensing whole rows of the matrix are left out, the same of every block.

    Parameters
    ----------
    y, physics
        Measurements of one image and their operator.
    fraction
        Part that is left out, apart from the very centre of k-space and the rows of most energy.
    seed
        Of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(physics, BlockCompressedSensing):
        return _leave_out_rows(y, physics, fraction, generator)
    if not isinstance(physics, CoilOperator):
        return None
    if isinstance(physics, NonCartesianMRI):
        left = _some(physics.trajectory.abs().amax(1) >= _CORE / 2, fraction, generator)
        if left is None:
            return None
        shorter = NonCartesianMRI(physics.coil_maps, physics.trajectory[~left])
        probe = NonCartesianMRI(physics.coil_maps, physics.trajectory[left])
        measured = y[..., left]
        return Split(y[..., ~left], shorter, lambda x: _mean_square(probe.expand(x) - measured))
    mask = physics.mask
    outside = mask.clone()
    outside[last_axes(slice(max(n // 2 - _CORE // 2, 0), n // 2 + _CORE // 2) for n in physics.spatial)] = False
    left = _some(outside, fraction, generator)
    if left is None:
        return None
    kept = MultiCoilMRI(physics.coil_maps, mask & ~left, three_d=physics.three_d)
    chosen = left.expand_as(y)
    measured = y[chosen]
    return Split(y, kept, lambda x: _mean_square(physics.expand(x)[chosen] - measured))


def _leave_out_rows(
    y: Tensor, physics: BlockCompressedSensing, fraction: float, generator: torch.Generator
) -> Split | None:
    weakest_first = y.square().mean((0, 1, 3, 4)).argsort()
    candidates = torch.zeros(len(weakest_first), dtype=torch.bool, device=y.device)
    candidates[weakest_first[: len(weakest_first) - math.ceil(_STRONG * len(weakest_first))]] = True
    left = _some(candidates, fraction, generator)
    if left is None:
        return None
    matrix = physics.matrix.detach()
    kept = BlockCompressedSensing(matrix[~left], physics.img_size, physics.block)
    probe = BlockCompressedSensing(matrix[left], physics.img_size, physics.block)
    measured = y[:, :, left]
    return Split(y[:, :, ~left], kept, lambda x: _mean_square(probe.A(x) - measured))


def _some(candidates: Bool[Tensor, "*any"], fraction: float, generator: torch.Generator) -> Tensor | None:
    """Choose a random part of the candidates."""
    places = candidates.flatten().nonzero()[:, 0]
    count = round(fraction * len(places))
    if count == 0:
        return None
    chosen = torch.zeros(candidates.numel(), dtype=torch.bool, device=candidates.device)
    chosen[places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]] = True
    return chosen.reshape(candidates.shape)


def least_on_path(
    error: Callable[[float], float], start: float, *, ratio: float = 0.6, most: int = 16, patience: int = 2
) -> float:
    """Find the strength of least error, going down from ``start`` in steps of ``ratio`` until it has passed.

    Going from strong to weak, each solution is a good start for the next. The minimum is refined by a parabola in
    the strength's logarithm. Where the first step goes uphill, the path goes up instead.

    Parameters
    ----------
    error
        Of a strength; called in the order of the path.
    start
        First strength.
    ratio
        Of one strength to the one before it, below 1.
    most
        Most evaluations.
    patience
        How many worse ones in a row end the path.
    """
    tried = {0: error(start)}
    for direction in (1, -1):
        place = direction
        while len(tried) < most:
            tried[place] = error(start * ratio**place)
            best = min(tried, key=tried.__getitem__)
            if direction * (place - best) >= patience:
                break
            place += direction
        if min(tried, key=tried.__getitem__) != 0:
            break
    best = min(tried, key=tried.__getitem__)
    offset = 0.0
    if best - 1 in tried and best + 1 in tried:
        below, above = tried[best - 1] - tried[best], tried[best + 1] - tried[best]
        offset = 0.5 * (below - above) / (below + above) if below + above > 0 else 0.0
    return start * ratio ** (best + offset)


def largest_eigenvalue(physics: LinearPhysics, like: Num[Tensor, "b ..."] | None = None) -> float:
    r"""Upper bound of the largest eigenvalue of :math:`A^H A`; an operator without coils needs an image, ``like``.

    Operators that know their ``sqnorm`` (block compressed sensing, CT) are believed. For Cartesian sampling it is that
    of :math:`S^H S`, which masks and the orthonormal FFT do not enlarge, by its rows' sums: 1 for maps of ESPIRiT,
    without a power iteration.
    """
    if isinstance(physics, MultiCoilMRI):
        maps = physics.coil_maps
        gram = torch.einsum("bsc...,btc...->bst...", maps.conj(), maps)
        return float(gram.abs().sum(2).max())
    if not isinstance(physics, NonCartesianMRI) and hasattr(physics, "sqnorm"):
        return (1 + 1e-4) * float(physics.sqnorm)
    generator = torch.Generator().manual_seed(0)
    if not isinstance(physics, NonCartesianMRI):
        assert like is not None
        x0 = torch.randn(like[:1].shape, dtype=like.dtype, generator=generator).to(like.device)
        return 1.02 * float(max_eigenvalue(physics.A_adjoint_A, x0, tol=1e-3).max())
    maps = physics.coil_maps
    x0 = torch.randn((1, physics.n_sets, *physics.spatial), dtype=maps.dtype, generator=generator).to(maps.device)
    return 1.02 * float(max_eigenvalue(physics.normal, x0, tol=1e-3).max())


def single(y: Num[Tensor, "b ..."], physics: LinearPhysics, index: int) -> tuple[Num[Tensor, "1 ..."], LinearPhysics]:
    """One image's measurements and operator out of a batch; without coils the operator may have a mask an image."""
    if y.shape[0] == 1:
        return y, physics
    if not isinstance(physics, CoilOperator):
        mask = getattr(physics, "mask", None)
        if isinstance(mask, Tensor) and mask.ndim > 3 and len(mask) == len(y):
            physics = physics.clone()
            physics.mask = mask[index : index + 1]
        return y[index : index + 1], physics
    maps = physics.coil_maps[index if physics.coil_maps.shape[0] > 1 else 0][None]
    if isinstance(physics, NonCartesianMRI):
        return y[index : index + 1], NonCartesianMRI(maps, physics.trajectory, density=physics.density)
    mask = physics.mask[index if physics.mask.shape[0] > 1 else 0][None]
    return y[index : index + 1], MultiCoilMRI(maps, mask, three_d=physics.three_d)


def backprojection(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Num[Tensor, "b set *spatial"]:
    """:math:`A^H y`: complex images with an axis of sets for MRI, real ones with channels for others."""
    image = physics.A_adjoint(y)
    return to_complex(image) if isinstance(physics, CoilOperator) else image


def normal_of(physics: LinearPhysics) -> Callable[[Tensor], Tensor]:
    """:math:`A^H A` of images as `backprojection` gives them."""
    normal: Callable[[Tensor], Tensor] = physics.normal if isinstance(physics, CoilOperator) else physics.A_adjoint_A
    return normal


def check_measurements(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> None:
    """Raise `ShapeError` unless ``y`` has the coils, the samples and the batch of its operator.

    Operators without coils check what they are given themselves.
    """
    if not isinstance(physics, CoilOperator):
        return
    maps = physics.coil_maps
    samples = physics.spatial if isinstance(physics, MultiCoilMRI) else (physics.trajectory.shape[0],)
    batches = {maps.shape[0], physics.mask.shape[0] if isinstance(physics, MultiCoilMRI) else 1} - {1}
    fits = tuple(y.shape[1:]) == (maps.shape[2], *samples) and batches <= {y.shape[0]}
    if not fits:
        raise ShapeError(
            "measurements that do not fit their operator",
            found=tuple(y.shape),
            expected=(max(batches, default="any batch"), maps.shape[2], *samples),
        )


def _mean_square(error: Tensor) -> float:
    value = float(error.abs().square().mean())
    return value if math.isfinite(value) else math.inf
