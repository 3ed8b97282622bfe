"""What networks for any linear operator are told of it: the operator on padded images, and the noise of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from deepinv.physics import Denoising, LinearPhysics
from deepinv.physics.noise import ZeroNoise
from deepinv.utils.tensorlist import TensorList
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.noise import PhotonNoise, PostLogNoise, post_log_variance

Measurements: TypeAlias = Tensor | TensorList
Level: TypeAlias = float | Tensor | None
"""Of noise: one for all, ``(b,)``, or a map ``(b, 1, y, x)``; None: what the operator's noise model says."""


class PaddedOperator:
    r"""An operator on images with a margin, :math:`AC` with the crop :math:`C`: nothing is assumed of what it cuts off.

    Everything is computed in the precision of the image that is given, whatever autocast says: a Fourier transform
    has no 16 bits.

    Parameters
    ----------
    physics
        :math:`A`.
    margin
        Rows above and columns to the left.
    """

    def __init__(self, physics: LinearPhysics, margin: tuple[int, int] = (0, 0)) -> None:
        self.physics, self.margin = physics, margin

    def crop(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c yy xx"]:
        """Cut the margin off."""
        return x[..., self.margin[0] :, self.margin[1] :]

    def pad(self, x: Float[Tensor, "b c y x"], value: float = 0.0) -> Float[Tensor, "b c yy xx"]:
        """Put a value in the margin: with zeros, the adjoint of `crop`."""
        return pad(x, (self.margin[1], 0, self.margin[0], 0), value=value) if any(self.margin) else x

    def noise_map(
        self, level: Float[Tensor, "#b 1 #yy #xx"], x: Float[Tensor, "b c y x"], least: float
    ) -> Float[Tensor, "b 1 y x"]:
        """Spread a noise level over images with their margin, in which a map has the least level."""
        if level.shape[2:] == (1, 1):
            return level.expand(len(x), 1, *x.shape[2:])
        return self.pad(level.expand(len(x), 1, *self.crop(x).shape[2:]), least)

    def normal(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Apply :math:`(AC)^T AC`."""
        with torch.autocast(x.device.type, enabled=False):
            return self.pad(self.physics.A_adjoint_A(self.crop(x).contiguous()))

    def prox(self, y: Measurements, x: Float[Tensor, "b c y x"], gamma: Tensor) -> Float[Tensor, "b c y x"]:
        r"""Minimise :math:`\gamma \|ACu - y\|^2 + \|u - x\|^2` over u, for x that is 0 in the margin."""
        with torch.autocast(x.device.type, enabled=False):
            return self.pad(self.physics.prox_l2(self.crop(x).contiguous(), y, gamma=gamma))


def margins(size: Sequence[int], multiple: int, least: int) -> tuple[int, int]:
    """Rows and columns that a size lacks to be a multiple, and at least so many pixels."""
    missing = [max(-(-n // multiple) * multiple, least) - n for n in size]
    return missing[0], missing[1]


def backprojected(y: Measurements, physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
    """Return the adjoint of measurements, out of autocast.

    Raises
    ------
    ShapeError, DataError
        What comes back is no image ``(b, c, y, x)``, or not finite.
    """
    device = y[0].device.type if isinstance(y, TensorList) else y.device.type
    with torch.autocast(device, enabled=False):
        x = physics.A_adjoint(y)
    if not isinstance(x, Tensor) or x.ndim != 4 or x.is_complex():
        raise ShapeError(
            "this network makes real images of two axes",
            found=tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__,
            expected="(b, channels, y, x), with two channels where images are complex",
        )
    if not bool(torch.isfinite(x).all()):
        raise DataError("measurements that are not finite", cure="Mask them, or replace them")
    return x


@dataclass(frozen=True, eq=False)
class Given:
    """What a network for any linear operator starts from.

    Parameters
    ----------
    physics
        The operator; that of denoising where none was given.
    sigma, gain
        Of the noise, as `noise_of` says.
    projected
        The adjoint of the measurements.
    head
        Place of the network's head for so many channels.
    """

    physics: LinearPhysics
    sigma: Level
    gain: Level
    projected: Float[Tensor, "b c y x"]
    head: int


def given(y: Measurements, physics: LinearPhysics | None, sigma: Level, gain: Level, channels: Sequence[int]) -> Given:
    """Read what a network was called with; without an operator it denoises.

    Parameters
    ----------
    y
        Measurements.
    physics
        Their operator.
    sigma, gain
        Of the noise: a number, ``(b,)`` or a map ``(b, 1, y, x)``, in units of y; None: those of the operator's noise
        model.
    channels
        That the network has heads for.

    Raises
    ------
    OptionError
        Neither an operator nor a noise level; a negative one.
    ShapeError, DataError
        Images with another number of channels, measurements that are not finite.
    """
    if physics is None:
        if sigma is None and gain is None:
            raise OptionError("to denoise, this network needs the noise level", cure="Give sigma, gain or physics")
        physics = Denoising(noise_model=ZeroNoise())
    sigma, gain = noise_of(physics, sigma, gain, y)
    projected = backprojected(y, physics)
    return Given(physics, sigma, gain, projected, head_of(channels, projected.shape[1]))


def head_of(channels: Sequence[int], count: int) -> int:
    """Return the place of the head for so many channels.

    Raises
    ------
    ShapeError
        The network has none.
    """
    if count not in channels:
        raise ShapeError(
            "a network without a head for these images", found=f"{count} channels", expected=list(channels)
        )
    return list(channels).index(count)


def each(y: Measurements) -> list[Tensor]:
    """Return the tensors of measurements, of which there is one but for stacked operators."""
    return list(y) if isinstance(y, TensorList) else [y]


def divided(y: Measurements, by: Float[Tensor, " b"]) -> Measurements:
    """Divide each item of a batch of measurements."""
    quotients = [part / by.reshape(-1, *(1,) * (part.ndim - 1)) for part in each(y)]
    return TensorList(quotients) if isinstance(y, TensorList) else quotients[0]


def noise_of(physics: LinearPhysics, sigma: Level, gain: Level, y: Measurements) -> tuple[Level, Level]:
    """Return the levels that were given, else those of the operator's noise model, else None.

    The photons of CT count as Gaussian noise, of the level that they have on average after the logarithm.

    Raises
    ------
    OptionError
        One that was given is negative or not finite.
    """
    for name, value in (("sigma", sigma), ("gain", gain)):
        if value is not None:
            given = torch.as_tensor(value)
            if not bool((torch.isfinite(given) & (given >= 0)).all()):
                raise OptionError(f"the noise's {name} is not negative", found=float(given.flatten()[0]))
    model = physics.noise_model
    if sigma is None and isinstance(model, PhotonNoise | PostLogNoise):
        sigma = post_log_variance(each(y)[0], model.photons).flatten(1).mean(1).sqrt()
    return (
        getattr(model, "sigma", None) if sigma is None else sigma,
        getattr(model, "gain", None) if gain is None else gain,
    )


def as_map(value: float | Tensor, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "#b 1 #y #x"]:
    """Bring a level to a shape that goes with images.

    Raises
    ------
    ShapeError
        It has another batch, or another size.
    """
    level = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    if level.ndim < 2 and level.numel() in (1, len(x)):
        return level.reshape(-1, 1, 1, 1)
    fits = level.ndim == 4 and level.shape[1] == 1
    if not fits or any(m not in (1, n) for m, n in zip(level.shape, (len(x), 1, *x.shape[2:]), strict=True)):
        raise ShapeError(
            "a noise level that does not fit the images",
            found=tuple(level.shape),
            expected=f"one number, ({len(x)},) or {(len(x), 1, *x.shape[2:])}",
        )
    return level
