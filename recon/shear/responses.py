"""How shapes respond to shear, through a whole pipeline.

Whatever turns stamps into shapes, a learned reconstruction included, answers to shear with some response that is not 1.
It is measured on the data themselves: every stamp is sheared by +-0.01 before its PSF (`recon.shear.metacal`), goes
through the pipeline again, and the change of its shape over the change of shear is its response
[Huff & Mandelbaum 2017; Sheldon & Huff 2017].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recon.datasets.random import Number, child_generator
from recon.physics.errors import OptionError
from recon.shear.metacal import sheared_stamps
from recon.shear.moments import adaptive_moments
from recon.shear.shapes import Shapes

Estimator = Callable[[Tensor, Tensor], Shapes]
"""From stamps ``(b, 1, y, x)`` and the PSF ``(b, 1, h, w)`` that they have to shapes; ``e1`` and ``e2`` are used."""

Model = Callable[[Tensor, Any], Tensor]
"""From stamps and a `recon.physics.PSFConvolution` to reconstructed stamps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShearResponses:
    """Shapes of the same objects unsheared and under four small shears.

    Parameters
    ----------
    e
        ``(5, b, 2)``: both components; unsheared, then +g1, -g1, +g2, -g2. NaN where there is no shape.
    good
        ``(5, b)``: where there is one and it is selected.
    step
        The small shear.
    """

    e: Float[Tensor, "five b 2"]
    good: Bool[Tensor, "five b"]
    step: float

    def __len__(self) -> int:
        return self.e.shape[1]

    @property
    def response(self) -> Float[Tensor, "b 2 2"]:
        """Response ``d e_i / d g_j`` of each object; NaN where a shape is missing."""
        return torch.stack([self.e[1] - self.e[2], self.e[3] - self.e[4]], -1) / (2 * self.step)

    @classmethod
    def without(cls, shapes: Shapes) -> ShearResponses:
        """Take the shapes' ``g`` as they are, with a response of 1: what an uncalibrated catalogue would give."""
        g = torch.stack([shapes.g1, shapes.g2], -1)
        step = 0.01
        changes = step * torch.tensor([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=g.dtype, device=g.device)
        good = (shapes.flags == 0) & torch.isfinite(g).all(1)
        e = torch.where(good[:, None], g + changes[:, None], torch.nan)
        return cls(e=e, good=good.expand(5, -1), step=step)

    @classmethod
    def joined(cls, parts: Sequence[ShearResponses]) -> ShearResponses:
        """Put the objects of several together.

        Raises
        ------
        OptionError
            Nothing to join, or steps that differ.
        """
        if len({part.step for part in parts}) != 1:
            raise OptionError("responses that do not belong together", found=[part.step for part in parts])
        return cls(
            e=torch.cat([part.e for part in parts], 1),
            good=torch.cat([part.good for part in parts], 1),
            step=parts[0].step,
        )


def shear_responses(
    stamps: Float[Tensor, "b 1 y x"],
    psf: Float[Tensor, "p 1 h w"],
    noise: Float[Tensor, " b"] | Number,
    estimator: Estimator,
    model: Model | None = None,
    *,
    select: Callable[[Any], Tensor] | None = None,
    step: float = 0.01,
    sigma: Float[Tensor, " b"] | Number | None = None,
    correct: bool = True,
    ids: Int[Tensor, " b"] | None = None,
    seed: int = 0,
    chunk: int = 256,
) -> ShearResponses:
    """Measure shapes and their response to shear through reconstruction and measurement.

    Galaxies are sheared about their centroids.

    Parameters
    ----------
    stamps
        Square, sky-subtracted, masked pixels filled.
    psf
        One a stamp or one for all; the effective PSF, with the pixel response in it, for shear comes before the pixel.
    noise
        Standard deviation of a pixel.
    estimator
        Called with stamps and the PSF they have: a round Gaussian, or a delta after a ``model``.
    model
        Reconstructs before the measurement: called with the reconvolved stamps, and a `PSFConvolution` that knows
        their PSF and noise level.
    select
        Called with the shapes; true where an object is to be used. It is asked for each sheared version, so that the
        response of the selection is known too [Sheldon & Huff 2017, sec. 2].
    step
        The small shear.
    sigma
        Of the round PSF, as in `recon.shear.metacal.sheared_stamps`.
    correct
        Add noise against the response of the stamps' own, as told there. At a high signal-to-noise ratio it is not
        needed and only costs precision.
    ids
        Stamps of one number get the same added noise: pairs of +-g, between which it then cancels. None: no two.
    seed
        Of the added noise, which depends on it and the id alone.
    chunk
        Objects at a time.

    Raises
    ------
    ShapeError, DataError
        See `recon.shear.metacal.sheared_stamps`.
    OptionError
        A step that is not small.
    """
    if not 0 < step < 0.1:
        raise OptionError("a step that is small", found=step, expected="between 0 and 0.1")
    b = len(stamps)
    level = torch.as_tensor(noise, dtype=stamps.dtype, device=stamps.device).expand(b)
    width = None if sigma is None else torch.as_tensor(sigma, dtype=stamps.dtype, device=stamps.device).expand(b)
    shears = [(0.0, 0.0), (step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
    ellipticities, goods = [], []
    for first in range(0, b, chunk):
        part = slice(first, first + chunk)
        added = None
        if correct:
            numbers = range(first, min(first + chunk, b)) if ids is None else ids[part].tolist()
            added = level[part, None, None, None] * _noise(seed, numbers, stamps)
        versions = sheared_stamps(
            stamps[part],
            psf if len(psf) == 1 else psf[part],
            shears,
            noise=level[part],
            sigma=None if width is None else width[part],
            added=added,
            centre=_centroid(stamps[part]),
        )
        found = [_measured(image, versions.psf, versions.noise, estimator, model) for image in versions.images]
        e = torch.stack([torch.stack([shapes.e1, shapes.e2], -1) for shapes in found])
        good = torch.stack([shapes.flags == 0 for shapes in found]) & torch.isfinite(e).all(-1)
        ellipticities.append(torch.where(good[..., None], e, torch.nan))
        if select is not None:
            good = good & torch.stack([select(shapes) for shapes in found])
        goods.append(good)
    return ShearResponses(e=torch.cat(ellipticities, 1), good=torch.cat(goods, 1), step=step)


def _centroid(stamps: Tensor) -> Float[Tensor, "b 2"]:
    """Return x, y from the pixel ``n // 2``; that pixel where there is no centroid."""
    m = adaptive_moments(stamps.detach())
    offset = torch.stack([m.x - stamps.shape[3] // 2, m.y - stamps.shape[2] // 2], 1)
    return torch.where(m.converged[:, None], offset, 0)


def _noise(seed: int, numbers: Sequence[int], like: Tensor) -> Tensor:
    shape = like.shape[1:]
    draws = [torch.randn(shape, generator=child_generator(seed, number), dtype=like.dtype) for number in numbers]
    return torch.stack(draws).to(like.device)


def _measured(image: Tensor, psf: Tensor, noise: Tensor, estimator: Estimator, model: Model | None) -> Any:
    if model is None:
        return estimator(image, psf)
    from deepinv.physics import GaussianNoise

    from recon.physics import PSFConvolution

    with torch.no_grad():
        x = model(image, PSFConvolution(psf, (image.shape[2], image.shape[3]), noise_model=GaussianNoise(noise)))
    delta = torch.zeros_like(psf)
    delta[..., psf.shape[2] // 2, psf.shape[3] // 2] = 1
    return estimator(x, delta)
