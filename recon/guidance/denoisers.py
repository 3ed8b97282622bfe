"""Denoisers for images of any number of channels: ours, deepinv's, a user's."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import torch
from deepinv.models import Reconstructor
from deepinv.physics import Denoising
from deepinv.physics.noise import GaussianNoise
from jaxtyping import Float
from torch import Tensor, nn

from recon.models.noise_unet import DEVIATION
from recon.physics.errors import ShapeError
from recon.zoo import load_model

DenoiserLike: TypeAlias = nn.Module | str | Path


class ImageDenoiser(nn.Module):
    """A denoiser for images of so many channels.

    It is applied to groups of channels by themselves where it takes fewer: to pairs, which are complex images, or to
    one channel after the other.

    Parameters
    ----------
    model
        deepinv's `Denoiser` or any module ``model(x, sigma)``; a model of ours that denoises
        (``diffusion-denoiser``, ``ram-light``, ``drunet-pnp``), its name, or a file of its weights. Where it has an
        attribute ``channels``, it takes these numbers of channels; else the images are given to it as they are.
    channels
        Of the images.

    Attributes
    ----------
    deviation
        Root mean square of the images that the denoiser knows, whose magnitude is 1.

    Raises
    ------
    ShapeError
        A denoiser that does not take such images, nor parts of them.
    """

    def __init__(self, model: DenoiserLike, channels: int) -> None:
        super().__init__()
        loaded = network_of(model)
        inner = getattr(loaded, "denoiser", None)
        if isinstance(loaded, Reconstructor) and not isinstance(inner, nn.Module):
            self.network: nn.Module = _ByOperator(loaded)
        else:
            self.network = inner if isinstance(inner, nn.Module) else loaded
        known = getattr(self.network, "channels", getattr(loaded, "channels", None))
        self.channels, self.group = channels, _group(known, channels)
        self.deviation = float(getattr(self.network, "deviation", DEVIATION))

    def forward(self, x: Float[Tensor, "b c y x"], sigma: float | Tensor) -> Float[Tensor, "b c y x"]:
        """Denoise; one noise level for all, or one an image.

        Raises
        ------
        ShapeError
            The denoiser does not take these images, or gives others.
        """
        images = x.reshape(-1, self.group, *x.shape[-2:])
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten()
        if len(level) > 1:
            level = level.repeat_interleave(len(images) // len(x))
        try:
            found = self.network(images, level if len(level) > 1 else level[0])
        except ShapeError:
            raise
        except RuntimeError as error:
            if "channels" not in str(error) and "size" not in str(error):
                raise
            raise ShapeError(
                f"the denoiser does not take these images: {str(error).splitlines()[0]}", found=tuple(images.shape)
            ) from error
        if found.shape != images.shape:
            raise ShapeError(
                "the denoiser gives images of another shape", found=tuple(found.shape), expected=tuple(images.shape)
            )
        return found.to(x.dtype).reshape(x.shape)


class _ByOperator(nn.Module):
    """A reconstructor as a denoiser: the operator is the identity."""

    def __init__(self, model: Reconstructor) -> None:
        super().__init__()
        self.model = model
        self.channels = getattr(model, "channels", None)

    def forward(self, x: Float[Tensor, "b c y x"], sigma: Tensor) -> Float[Tensor, "b c y x"]:
        """Denoise."""
        found: Tensor = self.model(x, Denoising(GaussianNoise(sigma)))
        return found


def network_of(model: DenoiserLike) -> nn.Module:
    """Return the model of a name or a file; a module as it is.

    Raises
    ------
    OptionError, CheckpointError
        As `recon.load_model`.
    """
    return load_model(model) if isinstance(model, str | Path) else model


def _group(known: object, channels: int) -> int:
    """Return how many channels the denoiser is given at once."""
    if not isinstance(known, tuple | list) or channels in known:
        return channels
    fits = [count for count in known if channels % count == 0]
    if not fits:
        raise ShapeError(
            "a denoiser of images with other channels", found=f"{channels} channels", expected=f"{list(known)}"
        )
    return int(max(fits))
