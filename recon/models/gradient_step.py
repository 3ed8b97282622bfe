r"""The gradient step of unrolled networks, :math:`x - \rho/\|A\|^2\, A^T (A x - y)`, in the networks' layout.

They see images of few channels, ``(n, k, h, w)``: those of a batch, or the blocks of block compressed sensing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from recon.models.scaling import peak
from recon.physics import BlockCompressedSensing, MultiCoilMRI
from recon.physics.errors import ShapeError
from recon.regularisation import check_measurements
from recon.sparse_problem import squared_norm

Seen = Float[Tensor, "n k h w"]


class GradientStep(ABC):
    """What a network needs of its measurements."""

    start: Seen

    @abstractmethod
    def __call__(self, x: Seen, rho: Float[Tensor, ""]) -> Seen:
        """Step towards the measurements."""

    @abstractmethod
    def image(self, x: Seen) -> Float[Tensor, "b c y x"]:
        """Bring what the network sees into an image's layout."""

    def pieces(self, size: int) -> Sequence[GradientStep]:  # noqa: ARG002 - images are seen whole
        """Cut into parts of at most ``size`` examples where these do not meet in the network."""
        return [self]

    def joined(self, parts: Sequence[Tensor]) -> Seen:
        """Put together what the network made of the parts."""
        return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


class ImageStep(GradientStep):
    """Any operator.

    Parameters
    ----------
    y, physics
        Measurements and their operator.
    channels
        The network's; an image of more is seen as several, one set of coil maps or one colour after the other.

    Raises
    ------
    ShapeError
        Measurements that do not fit the operator; an image whose channels are no multiple of the network's.
    """

    def __init__(self, y: Tensor, physics: LinearPhysics, channels: int) -> None:
        check_measurements(y, physics)
        self.physics = physics
        self.back = physics.A_adjoint(y)
        check_channels(self.back.shape[1], channels)
        self.shape = (-1, channels, *self.back.shape[-2:])
        self.scale = 1 / squared_norm(physics, self.back)
        self.start = (self.scale * self.back).reshape(self.shape)

    def __call__(self, x: Seen, rho: Float[Tensor, ""]) -> Seen:
        """Step towards the measurements."""
        image = x.reshape(self.back.shape)
        gradient = self.physics.A_adjoint_A(image) - self.back
        return (image - rho * self.scale * gradient).reshape(self.shape)

    def image(self, x: Seen) -> Float[Tensor, "b c y x"]:
        """Bring what the network sees into an image's layout."""
        return x.reshape(self.back.shape)


class _Blocks(GradientStep):
    """Block compressed sensing as matrix products, all blocks of a batch at once."""

    def __init__(self, y: Tensor, physics: BlockCompressedSensing, initial: Tensor | None) -> None:
        expected = (physics.matrix.shape[0], *physics.grid)
        if y.ndim != 5 or tuple(y.shape[2:]) != expected:
            raise ShapeError(
                "measurements that do not fit the operator", found=tuple(y.shape), expected=("b", "c", *expected)
            )
        self.physics, self.matrix, self.initial = physics, physics.matrix.to(y.dtype), initial
        self.scale = 1 / physics.sqnorm

    def first(self, y: Float[Tensor, "blocks m"]) -> Float[Tensor, "blocks pixels"]:
        """Where iterations start: the linear estimate, or the adjoint."""
        if self.initial is None:
            return self.scale * (y @ self.matrix)
        return y @ self.initial.to(y.dtype).mT

    def descend(
        self, x: Float[Tensor, "blocks pixels"], y: Float[Tensor, "blocks m"], rho: Float[Tensor, ""]
    ) -> Float[Tensor, "blocks pixels"]:
        r"""Step; below half of the pixels' number of measurements two products cost less than one by Phi^T Phi."""
        with torch.autocast(x.device.type, enabled=False):  # a residual is a small difference of large numbers
            x = x.to(y.dtype)
            residual = torch.addmm(y, x, self.matrix.mT, beta=-1)
            return x - rho * self.scale * (residual @ self.matrix)


class BlockStep(_Blocks):
    """Block compressed sensing, each block an image of its own, as ISTA-Net is published.

    Parameters
    ----------
    y, physics
        Measurements and their operator.
    channels
        The network's.
    initial
        Matrix of the linear estimate that iterations start from, (pixels, m); None: the adjoint.
    """

    def __init__(
        self,
        y: Float[Tensor, "b c m rows columns"],
        physics: BlockCompressedSensing,
        channels: int,
        initial: Float[Tensor, "pixels m"] | None,
    ) -> None:
        super().__init__(y, physics, initial)
        check_channels(y.shape[1], channels)
        grouped = y.unflatten(1, (-1, channels)).permute(0, 1, 4, 5, 2, 3)
        self.layout = (*grouped.shape[:5], *physics.block)  # b, group, rows, columns, channel, h, w
        self.channels = channels
        self._set(grouped.reshape(-1, y.shape[2]))

    def _set(self, y: Float[Tensor, "blocks m"]) -> None:
        self.y, self.start = y, self._seen(self.first(y))

    def _seen(self, x: Float[Tensor, "blocks pixels"]) -> Seen:
        return x.reshape(-1, self.channels, *self.physics.block)

    def __call__(self, x: Seen, rho: Float[Tensor, ""]) -> Seen:
        """Step towards the measurements."""
        return self._seen(self.descend(x.reshape(len(self.y), -1), self.y, rho))

    def image(self, x: Seen) -> Float[Tensor, "b c y x"]:
        """Bring what the network sees into an image's layout."""
        blocks = x.reshape(self.layout).permute(0, 1, 4, 2, 3, 5, 6).flatten(1, 2)
        return _cropped(self.physics.from_blocks(blocks), self.physics.img_size)

    def pieces(self, size: int) -> Sequence[GradientStep]:
        """Cut the batch into parts of at most ``size`` blocks."""
        if len(self.start) <= size:
            return [self]
        parts = []
        for y in self.y.split(size * self.channels):
            part = copy(self)
            part._set(y)  # noqa: SLF001 - of the same class
            parts.append(part)
        return parts


class StitchedStep(_Blocks):
    """Block compressed sensing, the blocks put together between steps: convolutions see no borders of blocks.

    Parameters
    ----------
    y, physics, channels, initial
        As of `BlockStep`.
    crop
        The network sees the image only, and its padding is 0 in each step after the first, as in the authors' code of
        R-COAST; else it sees the padding too, as it has become, as in that of COAST.
    """

    def __init__(
        self,
        y: Float[Tensor, "b c m rows columns"],
        physics: BlockCompressedSensing,
        channels: int,
        initial: Float[Tensor, "pixels m"] | None,
        *,
        crop: bool,
    ) -> None:
        super().__init__(y, physics, initial)
        check_channels(y.shape[1], channels)
        self.y = y.movedim(2, -1).reshape(-1, y.shape[2])
        self.size = physics.img_size if crop else physics.padded_size
        self.layout = (*y.shape[:2], *self.size)
        self.channels = channels
        self.vectors = self.first(self.y)
        self.start = self._seen(self.vectors)

    def _seen(self, x: Float[Tensor, "blocks pixels"]) -> Seen:
        b, c = self.layout[:2]
        blocks = x.reshape(b, c, *self.physics.grid, *self.physics.block)
        image = _cropped(self.physics.from_blocks(blocks), self.size)
        return image.reshape(-1, self.channels, *self.size)

    def __call__(self, x: Seen, rho: Float[Tensor, ""]) -> Seen:
        """Step towards the measurements."""
        vectors = self.vectors if x is self.start else self._cut(x)
        return self._seen(self.descend(vectors, self.y, rho))

    def _cut(self, x: Seen) -> Float[Tensor, "blocks pixels"]:
        missing = [whole - side for whole, side in zip(self.physics.padded_size, self.size, strict=True)]
        image = x.reshape(self.layout)
        whole = pad(image, (0, missing[1], 0, missing[0])) if any(missing) else image
        return self.physics.to_blocks(whole).reshape(len(self.y), -1)

    def image(self, x: Seen) -> Float[Tensor, "b c y x"]:
        """Bring what the network sees into an image's layout."""
        return _cropped(x.reshape(self.layout), self.physics.img_size)


def check_channels(found: int, channels: int) -> None:
    """Raise `ShapeError` where an image's channels are no multiple of the network's."""
    if found % channels:
        raise ShapeError(
            "an image whose channels do not fit the network", found=found, expected=f"a multiple of {channels}"
        )


def sampled_share(physics: LinearPhysics, y: Tensor, pixels: int) -> float:
    """Return the measurements a pixel: of blocks, of k-space, else by counting; at most 1."""
    if isinstance(physics, BlockCompressedSensing):
        return physics.ratio
    if isinstance(physics, MultiCoilMRI):
        return float(physics.mask.to(torch.float32).mean())
    return min(1.0, y[0].numel() / pixels)


def image_scale(y: Tensor, physics: LinearPhysics) -> Float[Tensor, "b 1 1 1"]:
    """Return what makes the 99.9th percentile of the backprojection's magnitude 1, channels taken together."""
    return peak(torch.linalg.vector_norm(physics.A_adjoint(y), dim=1))


def _cropped(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x[..., : size[0], : size[1]]
