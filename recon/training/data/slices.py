"""One slice of a scan as an example: whitened, without oversampling, undersampled where it is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Complex
from torch import Tensor
from torch.nn.functional import pad

from recon.calibration import noise_covariance, noise_level, remove_oversampling, whiten, whitening_matrix
from recon.datasets.masks import MASKS, make_mask
from recon.datasets.scan import Scan
from recon.physics.errors import CalibrationError, DataError, OptionError
from recon.physics.fft import fft_centred, ifft_centred
from recon.training.examples import Example, make_example

Target = Literal["combined", "rss"]
_LINES = ("random", "equispaced", "equispaced_fraction", "gaussian_lines")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How full data are undersampled; one mask and one acceleration are drawn each time.

    Parameters
    ----------
    masks
        Names of masks (`recon.datasets.masks.MASKS`).
    accelerations
        Numbers of 1 or more.
    center
        Fully sampled centre: a number of lines or samples, a fraction, or None for the mask's own (fastMRI's for
        lines: 0.32 / acceleration).
    """

    masks: tuple[str, ...] = ("equispaced_fraction",)
    accelerations: tuple[float, ...] = (4.0, 8.0)
    center: int | float | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.masks if name not in MASKS]
        if unknown or not self.masks:
            raise OptionError("no such masks", found=unknown, expected=f"some of {', '.join(MASKS)}")
        if not self.accelerations or min(self.accelerations) < 1:
            raise OptionError("accelerations are 1 or more", found=self.accelerations)

    def draw(self, shape: tuple[int, int], generator: torch.Generator, *, transposed: bool) -> Bool[Tensor, "y x"]:
        """Draw a mask; ``transposed``: lines run along x, as in scans whose readout is x."""
        name = self.masks[int(torch.randint(len(self.masks), (), generator=generator))]
        acceleration = self.accelerations[int(torch.randint(len(self.accelerations), (), generator=generator))]
        transposed = transposed and name in _LINES
        size = (shape[1], shape[0]) if transposed else shape
        if name == "equispaced":
            acceleration = max(round(acceleration), 1)
        mask = make_mask(name, size, acceleration, center=self.center, generator=generator)
        mask = mask.expand(size)
        return mask.T if transposed else mask


def example_of_slice(
    scan: Scan,
    index: int,
    *,
    full: bool,
    draw: Callable[[tuple[int, int], bool], Bool[Tensor, "y x"]],
    matrix: tuple[int, int] | None = None,
    target: Target = "combined",
    repetitions: Sequence[Scan] = (),
) -> Example:
    """Make an example of a slice as `recon.prepare` would make it ready, undersampled first where it is full.

    Parameters
    ----------
    scan, index
        The slice.
    full
        Whether it holds full data; if not, its own mask is kept, and there is no target.
    draw
        From (y, x), and whether lines run along x, to a mask.
    matrix
        Crop the coil images of full data, or add air, to this (y, x).
    target
        Full data combined by the example's coil maps, or the magnitude of their root sum of squares with that
        image's phase: fastMRI's ``reconstruction_rss``.
    repetitions
        Scans of the same object: the target is made of their mean.

    Raises
    ------
    ReconError
        A slice that cannot be used.
    """
    name = f"{scan.source}, slice {index}"
    k = torch.from_numpy(scan.slice(index))
    sampled, _ = scan.sampling(index)
    acquired = torch.from_numpy(np.array(sampled))
    better = torch.stack([torch.from_numpy(other.slice(index)) for other in repetitions]).mean(0) if repetitions else k
    if better.shape != k.shape:
        raise DataError("repetitions of another shape", file=scan.source.path, found=tuple(better.shape))
    sigma = float("nan")
    if scan.noise is not None:
        covariance = noise_covariance(torch.from_numpy(scan.noise))
        power = torch.diagonal(covariance).real.mean()
        mixing = whitening_matrix(covariance) * power.sqrt()
        k, better = (whiten(x[None], mixing)[0] for x in (k, better))
        sigma = float((power / 2).sqrt())
    k, better, acquired = _without_oversampling(k, better, acquired, scan)
    if full and matrix is not None and tuple(k.shape[1:]) != tuple(matrix):
        k, better = (fft_centred(_fitted(ifft_centred(x, (-2, -1)), matrix), (-2, -1)) for x in (k, better))
        acquired = _resized(acquired, matrix)
    shape = (k.shape[1], k.shape[2])
    mask = draw(shape, scan.readout_axis == -1) & acquired if full else acquired
    if not mask.any():
        raise DataError("a slice of which nothing is sampled", file=scan.source.path, found=f"slice {index}")
    if scan.noise is None:
        try:
            sigma = float(noise_level((k * mask)[None], mask[None, None]))
        except CalibrationError:
            sigma = float("nan")  # too few samples in the corners
    example = make_example(k, mask, target=better * acquired if full else None, sigma=sigma, name=name)
    if target == "rss" and example.target is not None:
        images = ifft_centred(better * acquired, (-2, -1))
        rss = torch.linalg.vector_norm(images, dim=0) / example.scale
        example = replace(example, target=torch.polar(rss, example.target.angle()))
    return example


def _without_oversampling(
    k: Tensor, better: Tensor, acquired: Tensor, scan: Scan
) -> tuple[Tensor, Tensor, Bool[Tensor, "y x"]]:
    axis, factor = scan.readout_axis, scan.oversampling
    if axis is None or factor is None or factor <= 1:
        return k, better, acquired
    along = acquired.any(dim=axis, keepdim=True)
    if not torch.equal(acquired, along.expand_as(acquired)):
        return k, better, acquired
    k, better = (remove_oversampling(x[None], axis, factor)[0] for x in (k, better))
    shape = list(acquired.shape)
    shape[axis] = k.shape[axis]
    return k, better, along.expand(shape)


def _fitted(images: Complex[Tensor, "coil y x"], size: tuple[int, int]) -> Complex[Tensor, "coil v u"]:
    """Cut off, or add air, so that the centre (index n // 2) stays the centre."""
    for dim, n in ((1, size[0]), (2, size[1])):
        have = images.shape[dim]
        if have > n:
            images = images.narrow(dim, have // 2 - n // 2, n)
        elif have < n:
            before = n // 2 - have // 2
            margins = (before, n - have - before)
            images = pad(images, (0, 0, *margins) if dim == 1 else margins)
    return images


def _resized(acquired: Bool[Tensor, "y x"], size: tuple[int, int]) -> Bool[Tensor, "v u"]:
    """Carry over what was acquired to the samples of another field of view, which lie at other frequencies."""
    places = []
    for n, m in zip(acquired.shape, size, strict=True):
        place = torch.round((torch.arange(m) - m // 2) * (n / m)).long() + n // 2
        places.append(place.clamp(0, n - 1))
    return acquired[places[0]][:, places[1]]
