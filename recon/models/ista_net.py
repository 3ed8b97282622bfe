"""ISTA-Net: unrolled ISTA with a learned sparsifying transform."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from recon.models import registry
from recon.models.gradient_step import Seen
from recon.models.recursion import Recursion
from recon.models.unrolled import PIXELS, UnrolledReconstructor

Features = Float[Tensor, "n features h w"]

RHO, THETA = 0.5, 0.01  # where step size and threshold start


@registry.register("ista-net")
class ISTANet(UnrolledReconstructor):
    r"""ISTA-Net [1]_: in each phase a gradient step and a soft threshold between a transform and its learned inverse.

    .. math:: r = x - \rho\, A^T (A x - y), \quad x = \tilde H(\mathrm{soft}(H(r), \theta))

    Parameters
    ----------
    phases
        9 as published, with weights of their own.
    features
        Channels of the transform.
    channels
        Of the images it sees.
    stitch
        Put the blocks of block compressed sensing together before the convolutions; as published they are apart.
    scale
        ``none``: images from 0 to 1, as published. ``image``: the 99.9th percentile of :math:`A^T y` is 1.
    measurements, pixels
        Size of the matrix Q of the linear estimate to start from, which `fit_start` finds; 0: start from
        :math:`A^T y`.

    References
    ----------
    .. [1] Zhang, Ghanem, ISTA-Net: Interpretable optimization-inspired deep network for image compressive sensing, CVPR
       2018.
    """

    own_losses = ("symmetry",)
    linear_start = True

    def __init__(
        self,
        phases: int = 9,
        features: int = 32,
        *,
        channels: int = 1,
        stitch: bool = False,
        scale: str = "none",
        measurements: int = 0,
        pixels: int = PIXELS,
    ) -> None:
        super().__init__(
            channels, features, stitch=stitch, crop=True, scale=scale, measurements=measurements, pixels=pixels
        )
        self.recursion = Recursion(phases)
        self.blocks = nn.ModuleList(_Phase(channels, features) for _ in range(phases))


class _Phase(nn.Module):
    """H and its inverse on the image itself."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.step, self.threshold = nn.Parameter(torch.tensor(RHO)), nn.Parameter(torch.tensor(THETA))
        self.transform = Transform(channels, features, features)
        self.inverse = Transform(features, features, channels)

    def forward(self, r: Seen, gains: Tensor | None, symmetry: bool) -> tuple[Seen, Seen | None]:  # noqa: ARG002
        """Return the next image, and the symmetry residual where it is wanted."""
        f = self.transform(r)
        x = self.inverse(soft_threshold(f, self.threshold))
        return x, self.inverse(f) - r if symmetry else None


class Transform(nn.Sequential):
    """Two 3x3 convolutions without bias with a ReLU between them."""

    def __init__(self, into: int, between: int, out: int) -> None:
        super().__init__(kernels(into, between), nn.ReLU(inplace=True), kernels(between, out))

    def forward(
        self, x: Float[Tensor, "n into h w"], gain: Float[Tensor, " out"] | None = None
    ) -> Float[Tensor, "n out h w"]:
        """Transform, and multiply each channel by a gain."""
        first, rectified, last = self
        assert isinstance(last, nn.Conv2d)
        return modulated(last, rectified(first(x)), gain)


def kernels(into: int, out: int) -> nn.Conv2d:
    """3x3 convolution without bias, normal weights [Glorot, Bengio 2010]."""
    convolution = nn.Conv2d(into, out, 3, padding=1, bias=False)
    nn.init.xavier_normal_(convolution.weight)
    return convolution


def modulated(
    convolution: nn.Conv2d, x: Float[Tensor, "n into h w"], gain: Float[Tensor, " out"] | None
) -> Float[Tensor, "n out h w"]:
    """Convolve and multiply each channel that comes out by a gain: as cheap as without, for the weights are scaled."""
    weight, bias = convolution.weight, convolution.bias
    if gain is not None:
        weight = weight * gain[:, None, None, None]
        bias = None if bias is None else bias * gain
    return conv2d(x, weight, bias, padding=convolution.padding)


class _SoftThreshold(torch.autograd.Function):
    """Keeps only its input for the backward pass."""

    @staticmethod
    def forward(f: Tensor, theta: Tensor) -> Tensor:
        return f.sign().mul_(relu(f.abs().sub_(theta)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        f, theta = ctx.saved_tensors
        kept = gradient * (f.abs() > theta)
        return kept, -(kept * f.sign()).sum(dtype=theta.dtype).reshape(theta.shape)


def soft_threshold(f: Tensor, theta: Float[Tensor, ""]) -> Tensor:
    r""":math:`\mathrm{sign}(f) \max(|f| - \theta, 0)`; a negative threshold enlarges, as in the published networks."""
    return _SoftThreshold.apply(f, theta)
