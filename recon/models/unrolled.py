"""What ISTA-Net, COAST and their recursive versions share: gradient steps and learned blocks in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import ref

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor, nn

from recon.models.gradient_step import (
    BlockStep,
    GradientStep,
    ImageStep,
    Seen,
    StitchedStep,
    image_scale,
    sampled_share,
)
from recon.models.learned import LearnedReconstructor
from recon.models.recursion import Recursion, Turn
from recon.physics import BlockCompressedSensing
from recon.physics.errors import OptionError

Gains = Float[Tensor, "turn gain features"]

PIXELS = 33 * 33  # of a block, in all the papers
_PIECE = 16  # blocks of 33 x 33 whose features stay in a processor's cache
_QUIET = 0.1
_FOREIGN = 0.1  # how far Phi Q may be from the identity: weights may be stored in 16 bits


class UnrolledReconstructor(LearnedReconstructor):
    r"""Gradient steps :math:`r = x - \rho_i / \|A\|^2\, A^T (A x - y)`, each followed by a learned block.

    Any linear operator will do: its squared norm is 1 for orthonormal rows, known for block compressed sensing, and
    else found by power iterations. The real and imaginary parts of complex images, sets of coil maps and colours are
    ``channels`` of the network, or go through it one after the other where it has fewer.

    Attributes
    ----------
    recursion
        How often each block is applied.
    blocks
        They have a ``step``, and are called with (r, gains, whether the symmetry residual is wanted).
    initial
        Matrix Q, (pixels, measurements), of the linear estimate :math:`x_0 = Q y` for block compressed sensing with one
        matrix; None: :math:`x_0 = A^T y / \|A\|^2`.
    linear_start
        Whether training with one matrix is to fit one.
    """

    recursion: Recursion
    blocks: nn.ModuleList
    initial: Tensor | None
    linear_start = False

    def __init__(
        self,
        channels: int,
        features: int,
        *,
        stitch: bool,
        crop: bool,
        scale: str,
        measurements: int = 0,
        pixels: int = PIXELS,
    ) -> None:
        super().__init__()
        if min(channels, features) < 1 or measurements < 0 or measurements > pixels or scale not in ("none", "image"):
            raise OptionError(
                "a network has a channel and a feature, as many measurements as pixels at most, and one of two scales",
                found=f"channels {channels}, features {features}, measurements {measurements}, pixels {pixels}, "
                f"scale {scale}",
                expected="scale none or image",
            )
        self.channels, self.stitch, self.crop, self.scale = channels, stitch, crop, scale
        self.register_buffer("initial", torch.zeros(pixels, measurements) if measurements else None)
        self._checked: ref[Tensor] | None = None

    def forward(
        self, y: Tensor, physics: LinearPhysics, recursions: Sequence[int] | None = None
    ) -> Float[Tensor, "b c y x"]:
        """Reconstruct.

        Parameters
        ----------
        y
            Measurements.
        physics
            Their operator.
        recursions
            Turns of each block; None: drawn in training, else all.

        Raises
        ------
        ShapeError
            Measurements or an image that do not fit.
        OptionError
            Numbers of turns, or a matrix, that do not fit the network.
        """
        return self._run(y, physics, recursions, every=False)[0][-1]

    def iterates(
        self, y: Tensor, physics: LinearPhysics, recursions: Sequence[int] | None = None
    ) -> list[Float[Tensor, "b c y x"]]:
        """Return the image after each turn; parameters and errors as those of `forward`."""
        return self._run(y, physics, recursions, every=True)[0]

    def with_losses(
        self, y: Tensor, physics: LinearPhysics, names: Sequence[str]
    ) -> tuple[Float[Tensor, "b c y x"], dict[str, Float[Tensor, ""]]]:
        r"""Reconstruct, and tell losses of the network's own.

        ``symmetry``: :math:`\sum_k \|e_k\|^2`, the mean square of the symmetry residual, summed over the turns.
        """
        images, residuals = self._run(y, physics, None, every=False, symmetry="symmetry" in names)
        told = {"symmetry": torch.stack([e.float().square().mean() for e in residuals]).sum()} if residuals else {}
        return images[-1], told

    def fit_start(self, matrix: Float[Tensor, "m pixels"], second_moment: Float[Tensor, "pixels pixels"]) -> None:
        r"""Take the best linear estimate of blocks, :math:`Q = X Y^T (Y Y^T)^{-1}` with :math:`Y = \Phi X`, for start.

        Parameters
        ----------
        matrix
            :math:`\Phi`.
        second_moment
            :math:`X X^T` of training blocks, up to a factor.
        """
        initial = linear_estimate(matrix, second_moment)
        like = next(self.parameters())
        self.initial = initial.to(like)
        self.arguments |= {"measurements": matrix.shape[0], "pixels": matrix.shape[1]}

    def gains(self, turns: Sequence[Turn], ratio: float) -> Gains | None:  # noqa: ARG002 - for those that have some
        """Return the gains of each turn's features at a sampling ratio; None: they have none."""
        return None

    def _run(
        self,
        y: Tensor,
        physics: LinearPhysics,
        recursions: Sequence[int] | None,
        *,
        every: bool,
        symmetry: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return images, the last or all, and symmetry residuals where they are wanted."""
        unit = None if self.scale == "none" else image_scale(y, physics)
        step = self._step(y if unit is None else y / unit.reshape(-1, *(1,) * (y.ndim - 1)), physics)
        turns = self.recursion.turns(recursions)
        gains = self.gains(turns, sampled_share(physics, y, step.start[0, 0].numel()))
        residuals: list[Tensor] = []
        # Blocks by themselves go through all turns a few at a time: their features stay in the cache.
        whole = torch.is_grad_enabled() or symmetry or not step.start.is_cpu
        pieces = [step] if whole else step.pieces(_PIECE)
        parts = []
        for piece in pieces:
            xs = self._turns(piece, turns, gains, residuals if symmetry else None)
            parts.append(list(xs) if every else [_last(xs)])
        images = [step.image(step.joined(xs)) for xs in zip(*parts, strict=True)]
        return [image if unit is None else unit * image for image in images], residuals

    def _turns(
        self, step: GradientStep, turns: Sequence[Turn], gains: Gains | None, residuals: list[Tensor] | None
    ) -> Iterator[Seen]:
        x = step.start
        for k, turn in enumerate(turns):
            block: Any = self.blocks[turn.block]
            r = step(x, block.get_parameter("step"))
            x, residual = block(r, None if gains is None else gains[k], residuals is not None)
            if residuals is not None and residual is not None:
                residuals.append(residual)
            yield x

    def _step(self, y: Tensor, physics: LinearPhysics) -> GradientStep:
        if not isinstance(physics, BlockCompressedSensing):
            return ImageStep(y, physics, self.channels)
        if self.initial is not None:
            self._check_matrix(physics.matrix)
        if self.stitch:
            return StitchedStep(y, physics, self.channels, self.initial, crop=self.crop)
        return BlockStep(y, physics, self.channels, self.initial)

    def _check_matrix(self, matrix: Tensor) -> None:
        """Raise `OptionError` unless the linear estimate is that of this matrix: a right inverse of it."""
        if self.training or (self._checked is not None and self._checked() is matrix):
            return
        assert self.initial is not None
        m = self.initial.shape[1]
        fits = matrix.shape == self.initial.mT.shape
        if fits:
            product = (matrix.to(self.initial) @ self.initial).diagonal()
            fits = bool((product - 1).abs().mean() < _FOREIGN)
        if not fits:
            raise OptionError(
                "the network starts from a linear estimate that belongs to another measurement matrix",
                found="x".join(map(str, matrix.shape)),
                expected=f"the matrix that it was trained with, of {m} rows",
                cure="Measure with its matrix, or take a network that is for all matrices, such as recursive-coast",
            )
        self._checked = ref(matrix)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_checked": None}  # a weak reference does not travel


def quieten(blocks: nn.ModuleList, last: str) -> None:
    """Make the weights of the layers that end blocks' corrections small, so that the first images are the data's."""
    with torch.no_grad():
        for parameter in (p for block in blocks for p in block.get_submodule(last).parameters()):
            parameter.mul_(_QUIET)


def linear_estimate(
    matrix: Float[Tensor, "m pixels"], second_moment: Float[Tensor, "pixels pixels"]
) -> Float[Tensor, "pixels m"]:
    r"""Return :math:`Q = C \Phi^T (\Phi C \Phi^T)^{-1}`, of all linear estimates of blocks that with the least error.

    Parameters
    ----------
    matrix
        :math:`\Phi`.
    second_moment
        C, the mean of :math:`x x^T` over blocks, up to a factor.
    """
    phi, moment = matrix.double(), second_moment.double()
    cross = moment @ phi.mT
    return cross @ torch.linalg.pinv(phi @ cross, hermitian=True)


def _last(xs: Iterator[Seen]) -> Seen:
    x = next(xs)
    for x in xs:  # noqa: B007 - the last one counts
        pass
    return x
