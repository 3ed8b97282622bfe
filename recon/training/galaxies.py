"""What a network for galaxies is trained on: a stamp with its PSF and truth, and batches of such stamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepinv.physics import GaussianNoise
from jaxtyping import Float
from torch import Tensor

from recon.datasets.tensors import TensorBatch
from recon.physics.errors import ShapeError
from recon.physics.psf import PSFConvolution


@dataclass(frozen=True, kw_only=True, eq=False)
class GalaxyExample:
    """One stamp, in any unit.

    Parameters
    ----------
    y
        ``(y, x)``, the sky taken off.
    psf
        ``(h, w)``, centred on n // 2.
    target
        ``(y, x)``: the galaxy without PSF and noise.
    sigma
        Standard deviation of the noise where there is no light.
    name
        For messages.
    """

    y: Float[Tensor, "y x"]
    psf: Float[Tensor, "h w"]
    target: Float[Tensor, "y x"]
    sigma: float
    name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class GalaxyBatch(TensorBatch):
    """Stamps of one size."""

    y: Float[Tensor, "b 1 y x"]
    psf: Float[Tensor, "b 1 h w"]
    target: Float[Tensor, "b 1 y x"]
    sigma: Float[Tensor, " b"]
    names: tuple[str, ...]

    def physics(self) -> PSFConvolution:
        """Return the operator, which knows the noise."""
        return PSFConvolution(self.psf, noise_model=GaussianNoise(self.sigma))


def collate_galaxies(examples: Sequence[GalaxyExample]) -> GalaxyBatch:
    """Make a batch.

    Raises
    ------
    ShapeError
        Stamps or PSFs of several sizes.
    """
    shapes = {(tuple(example.y.shape), tuple(example.psf.shape)) for example in examples}
    if len(shapes) != 1:
        raise ShapeError("a batch of stamps of several sizes", found=sorted(shapes), cure="Take a batch size of 1")
    return GalaxyBatch(
        y=torch.stack([example.y for example in examples])[:, None],
        psf=torch.stack([example.psf for example in examples])[:, None],
        target=torch.stack([example.target for example in examples])[:, None],
        sigma=torch.tensor([example.sigma for example in examples], dtype=examples[0].y.dtype),
        names=tuple(example.name for example in examples),
    )


def turned(example: GalaxyExample, element: int) -> GalaxyExample:
    """Turn and mirror stamp, PSF and truth about their pixel n // 2, by one of the 8 symmetries of the square.

    A row or column that an even stamp has on one side only goes round to where it belongs modulo its size, so that an
    example and its mirror image obey the same equation.
    """
    return GalaxyExample(
        y=_turned(example.y, element),
        psf=_turned(example.psf, element),
        target=_turned(example.target, element),
        sigma=example.sigma,
        name=example.name,
    )


def _turned(x: Float[Tensor, "y x"], element: int) -> Float[Tensor, "yy xx"]:
    if element & 1:
        x = _mirrored(x, 0)
    if element & 2:
        x = _mirrored(x, 1)
    return x.T.contiguous() if element & 4 else x


def _mirrored(x: Float[Tensor, "y x"], dim: int) -> Float[Tensor, "y x"]:
    """Mirror one axis about n // 2."""
    return x.flip(dim) if x.shape[dim] % 2 else x.flip(dim).roll(1, dim)
