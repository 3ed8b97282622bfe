r"""What ISTA, FISTA, IHT and their unfolded versions share: the objective, its gradient and its proximal map.

.. math:: F(x) = \tfrac12 \|Ax - y\|^2 + \lambda\,R(\Psi x), \quad R = \|\cdot\|_1 \text{ or } \|\cdot\|_0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Bool, Float
from torch import Tensor

from recon.physics.errors import DataError, OptionError
from recon.physics.layout import last_axes
from recon.physics.linalg import max_eigenvalue
from recon.regularisation import CoilOperator, check_measurements, largest_eigenvalue
from recon.wavelets import Wavelets

Penalty = Literal["l1", "l0"]
Sparsity = Literal["auto", "pixels", "wavelets"]
Image = Float[Tensor, "b *image"]

OBJECTIVES = ("objective", "objective-all-layers")
"""What a network that unfolds the minimisation can be trained by, without ground truth."""

_IMAGE = 16  # pixels along two axes from which on something is an image, and wavelets make it sparse
_ROUNDING = 100  # of wavelets, over that of one operation
_MARGIN = 1.02  # over the quotient of a power iteration, which comes from below


@dataclass(frozen=True, eq=False)
class SparseProblem:
    """One batch of measurements and what is to be minimised for each.

    Parameters
    ----------
    y, physics
        Measurements and their operator.
    penalty
        l1, or l0: the number of coefficients.
    backprojection
        ``A^T y``.
    strength
        Lambda, of each element: ``(b, 1, ...)``.
    lipschitz
        Largest eigenvalue of ``A^T A``, of each element or of all.
    wavelets
        In which the image is sparse; None: in its pixels.
    complex_pairs
        Channels are real and imaginary parts in turns, which are shrunk together.
    """

    y: Tensor
    physics: LinearPhysics
    penalty: Penalty
    backprojection: Image
    strength: Float[Tensor, "b *ones"]
    lipschitz: Float[Tensor, "#b *ones"]
    wavelets: Wavelets | None
    complex_pairs: bool

    def gradient(self, x: Image) -> Image:
        """Gradient of the data term."""
        return self.physics.A_adjoint_A(x) - self.backprojection

    def prox(self, x: Image, threshold: Tensor) -> Image:
        """Shrink what is below a threshold, which is ``(b, 1, ...)``, to 0.

        With l1 all else is shrunk by it too, so that it is the proximal map of ``threshold * R``; with l0 all else is
        kept: the proximal map of ``threshold**2 / 2 * R``.
        """
        c = self._coefficients(x)
        grouped = self._grouped(c)
        magnitude, threshold = self._magnitude(grouped), threshold.unsqueeze(1)
        if self.penalty == "l1":
            grouped = grouped * torch.relu(1 - threshold / magnitude.clamp_min(torch.finfo(c.dtype).tiny))
        else:
            grouped = grouped * (magnitude > threshold)
        shrunk = grouped.flatten(1, 2)
        if self.wavelets is None:
            return shrunk
        return self.wavelets.synthesis(torch.where(self._details, shrunk, c))

    def step(self, x: Image, size: Tensor | float, threshold: Tensor | float = 1.0) -> Image:
        """Go down the gradient and shrink: one iteration of ISTA or IHT.

        Parameters
        ----------
        x
            Where.
        size
            Of the step, over that of ISTA, 1 / lipschitz.
        threshold
            Over that which minimises F.
        """
        step = torch.as_tensor(size, dtype=x.dtype, device=x.device) / self.lipschitz
        proper = self.strength * step if self.penalty == "l1" else (2 * self.strength).sqrt() * step.sqrt()
        return self.prox(x - step * self.gradient(x), proper * threshold)

    def objective(self, x: Image) -> Float[Tensor, " b"]:
        """F of each element."""
        c = self._coefficients(x)
        magnitude = self._magnitude(self._grouped(c))
        if self.penalty == "l0":
            # Wavelets there and back leave rounding errors where a coefficient was set to zero.
            error = 0.0 if self.wavelets is None else _ROUNDING * torch.finfo(c.dtype).eps
            largest = magnitude.flatten(1).amax(1).reshape(-1, *(1,) * (magnitude.ndim - 1))
            magnitude = (magnitude > error * largest).to(c.dtype)
        if self.wavelets is not None:
            magnitude = magnitude * self._details
        penalty = self.strength.flatten() * magnitude.flatten(1).sum(1)
        return 0.5 * _energy(self.physics.A(x) - self.y) + penalty

    def largest_coefficient(self, x: Image) -> Float[Tensor, "b *ones"]:
        """Magnitude of the largest coefficient that is shrunk."""
        magnitude = self._magnitude(self._grouped(self._coefficients(x)))
        if self.wavelets is not None:
            magnitude = magnitude * self._details
        return magnitude.flatten(1).amax(1).reshape(self.strength.shape)

    def relative_objective(self, x: Image) -> Float[Tensor, " b"]:
        """F over its value at zero, which does not depend on the unit of the measurements."""
        return self.objective(x) / (0.5 * _energy(self.y)).clamp_min(torch.finfo(x.dtype).tiny)

    def _coefficients(self, x: Image) -> Image:
        return x if self.wavelets is None else self.wavelets.analysis(x)

    @cached_property
    def _details(self) -> Bool[Tensor, "*spatial"]:
        """Tell detail coefficients from those of the low-pass corner, which are not shrunk."""
        assert self.wavelets is not None
        inside = torch.ones(self.wavelets.spatial, dtype=torch.bool, device=self.backprojection.device)
        inside[last_axes(slice(0, n) for n in self.wavelets.low)] = False
        return inside

    def _grouped(self, c: Image) -> Float[Tensor, "b group part *spatial"]:
        return c.unflatten(1, (-1, 2 if self.complex_pairs else 1))

    def _magnitude(self, grouped: Float[Tensor, "b group part *spatial"]) -> Float[Tensor, "b group 1 *spatial"]:
        return torch.linalg.vector_norm(grouped, dim=2, keepdim=True) if self.complex_pairs else grouped.abs()


def sparse_problem(
    y: Tensor,
    physics: LinearPhysics,
    penalty: Penalty,
    *,
    regularisation: float | None,
    relative: float,
    sparsity: Sparsity,
) -> SparseProblem:
    r"""Pose the problem of a batch.

    Parameters
    ----------
    y, physics
        Measurements and their operator. Where measurements are complex, so are images, as pairs of channels.
    penalty
        l1 or l0.
    regularisation
        Lambda, in the unit of y with l1, of its square with l0. None: by ``relative``.
    relative
        Threshold of the first iteration over the largest coefficient then: of l1, lambda is ``relative`` times
        :math:`\|\Psi A^T y\|_\infty`, from which on the solution is zero.
    sparsity
        The image is sparse itself, in its ``pixels``, or in ``wavelets``; ``auto``: the latter where it has at least
        16 pixels along two axes.

    Raises
    ------
    ShapeError
        Measurements that do not fit the operator.
    DataError
        Measurements that are not finite.
    """
    check_measurements(y, physics)
    if not bool(torch.isfinite(torch.view_as_real(y) if y.is_complex() else y).all()):
        raise DataError("the measurements are not finite")
    b = physics.A_adjoint(y)
    spatial = tuple(b.shape[2:])
    by_wavelets = sparsity == "wavelets" or (sparsity == "auto" and sum(n >= _IMAGE for n in spatial) >= 2)
    problem = SparseProblem(
        y=y,
        physics=physics,
        penalty=penalty,
        backprojection=b,
        strength=torch.ones(len(b), *(1,) * (b.ndim - 1), dtype=b.dtype, device=b.device),
        lipschitz=squared_norm(physics, b),
        wavelets=Wavelets(spatial, dtype=b.dtype, device=b.device) if by_wavelets else None,
        complex_pairs=y.is_complex(),
    )
    if regularisation is not None:
        return replace(problem, strength=regularisation * problem.strength)
    largest = problem.largest_coefficient(b)
    strength = relative * largest if penalty == "l1" else (relative * largest) ** 2 / (2 * problem.lipschitz)
    return replace(problem, strength=strength * problem.strength)


def squared_norm(physics: LinearPhysics, like: Image) -> Float[Tensor, "#b *ones"]:
    """Return the largest eigenvalue of ``A^T A``, or a little more: what the physics knows of it, or each element's."""
    known = getattr(physics, "sqnorm", None)
    if known is None and isinstance(physics, CoilOperator):
        known = largest_eigenvalue(physics)
    if known is None:
        generator = torch.Generator().manual_seed(0)
        x0 = torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)
        known = _MARGIN * max_eigenvalue(physics.A_adjoint_A, x0, tol=1e-3)
    value = torch.as_tensor(known, dtype=like.dtype, device=like.device).detach()
    return value.clamp_min(torch.finfo(like.dtype).tiny).reshape(-1, *(1,) * (like.ndim - 1))


def check_options(*, iterations: int, regularisation: float | None, relative: float, sparsity: str) -> None:
    """Raise `OptionError` for options that no problem can be posed with."""
    if iterations < 1:
        raise OptionError("there is at least one iteration", found=iterations)
    if not (relative > 0 and math.isfinite(relative)) or not (
        regularisation is None or (regularisation > 0 and math.isfinite(regularisation))
    ):
        raise OptionError("a strength is positive", found=f"regularisation {regularisation}, relative {relative}")
    if sparsity not in get_args(Sparsity):
        raise OptionError("no such sparsity", found=sparsity, expected=f"one of {', '.join(get_args(Sparsity))}")


def objectives(
    problem: SparseProblem, images: Iterable[Image], names: Sequence[str]
) -> tuple[Image, dict[str, Float[Tensor, ""]]]:
    """Return the last of the images that iterations yield, and by name the losses that need no ground truth.

    Parameters
    ----------
    problem
        What is minimised.
    images
        Of each iteration.
    names
        Of `OBJECTIVES`: ``objective``, F of the last image over F(0), mean over the batch; ``objective-all-layers``,
        its mean over all.
    """
    every, values = "objective-all-layers" in names, []
    for x in images:
        if every:
            values.append(problem.relative_objective(x).mean())
    last = values[-1] if every else problem.relative_objective(x).mean()
    told = {"objective": last, "objective-all-layers": torch.stack(values).mean() if every else last}
    return x, {name: told[name] for name in names}


def _energy(y: Tensor) -> Float[Tensor, " b"]:
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1).square().sum(1)
