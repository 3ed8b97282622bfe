"""How far an image can be trusted when there is no reference: residual, hold-out error, noise amplification.

Everywhere ``sigma`` is the standard deviation of the real part (and of the imaginary part) of a k-space sample,
the same in all coils and independent between them: whiten the data first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from deepinv.physics import LinearPhysics
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.datasets.random import Number, Seed, as_generator
from recon.left_out import choose_left_out, is_of_lines
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.physics.layout import to_complex

Model = Callable[[Tensor, LinearPhysics], Tensor]
"""``model(y, physics) -> x``: a deepinv `Reconstructor` or any function like it."""

RESIDUAL_LIMIT = 1.3
"""Above this `data_residual` an image contradicts its data by more than noise."""

_SPLIT_SAMPLES, _SPLIT_LINES = (0.05, 1), (0.1, 4)  # fraction and folds


def data_residual(
    x: Float[Tensor, "b channel *spatial"],
    y: Complex[Tensor, "b coil *sampled"],
    physics: LinearPhysics,
    sigma: Number,
) -> float:
    r"""Misfit of an image to its data, in units of what noise explains.

    .. math:: \sqrt{\sum |Ax - y|^2 \,/\, (2 \sigma^2 m)}

    over the :math:`m` samples of all coils. No degrees of freedom are taken off: the true image gives 1, a
    least-squares image of :math:`n` free pixels :math:`\sqrt{1 - n/m}`, and a regularised one something between
    or above. Values over `RESIDUAL_LIMIT` say that maps, mask or regularisation do not fit the data.

    Parameters
    ----------
    x
        Image of two channels a set of coil maps.
    y
        The measurements; what the mask leaves out is ignored.
    physics
        `MultiCoilMRI` or `NonCartesianMRI`.
    sigma
        See the module.
    """
    check_sigma(sigma)
    mask = _sampled(y, physics)
    error = (physics.A(x) - y)[mask.expand_as(y)]
    return float(error.abs().square().mean().sqrt() / (math.sqrt(2) * sigma))


def residual_map(
    x: Float[Tensor, "b channel *spatial"],
    y: Complex[Tensor, "b coil *spatial"],
    physics: MultiCoilMRI,
    sigma: Number,
) -> Float[Tensor, "b *spatial"]:
    """Misfit at each k-space sample in units of the noise: root mean square over coils, 0 where nothing is sampled.

    Parameters are those of `data_residual`.
    """
    check_sigma(sigma)
    error = (physics.A(x) - y) * _sampled(y, physics)
    return error.abs().square().mean(dim=1).sqrt() / (math.sqrt(2) * sigma)


@dataclass(frozen=True)
class HoldOut:
    """How well left-out samples were predicted.

    Parameters
    ----------
    error
        Squared error over squared magnitude of the left-out samples (NMSE); NaN where none could be left out.
    noise_floor
        What ``error`` would be for a perfect prediction, because the samples themselves are noisy; NaN
        where sigma is not known.
    samples
        Left-out k-space samples of all folds, counted once for all coils.
    """

    error: float
    noise_floor: float
    samples: int

    @property
    def corrected(self) -> float:
        """Error against the noise-free samples: ``error - noise_floor``, at least 0."""
        return self.error if math.isnan(self.error) else max(self.error - self.noise_floor, 0.0)


@torch.no_grad()
def hold_out_error(
    model: Model,
    y: Complex[Tensor, "b coil *spatial"],
    physics: MultiCoilMRI,
    *,
    sigma: Number | None = None,
    fraction: Number | None = None,
    folds: int | None = None,
    seed: Seed = 0,
) -> HoldOut:
    """Leave out some measured samples, reconstruct without them, and predict them from the image.

    A quality figure that needs no reference: the left-out samples' noise is independent of the image, so in
    expectation the figure is that of the noise-free samples plus a floor that is the same for every method.
    Methods compare by it when they are run with the same seed on the same data.

    The fully sampled centre is never left out, since coil maps come from it. Of a mask of lines whole lines
    are left out, for single samples would be given away by their neighbours. There are few of them, so that
    several folds are needed. A line that is missing from an equispaced pattern leaves a wider gap than the
    image has to bridge: there the figure says less.

    Parameters
    ----------
    model
        The method; called once a fold with a physics whose mask lacks the left-out samples.
    y, physics
        The measurements and their operator, which is not changed.
    sigma
        Of the noise; by default what ``physics.noise_model`` says, if it says something.
    fraction
        Share of the samples or lines outside the centre that each fold leaves out; by default 0.05 of samples
        and 0.1 of lines.
    folds
        Repeats, each with other samples; by default 1 for samples and 4 for lines.
    seed
        Generator or seed of the choice.

    References
    ----------
    Yaman et al., Self-supervised learning of physics-guided reconstruction neural networks without fully
    sampled reference data, MRM 84, 2020 (the split); Picard, Cook, Cross-validation of regression models,
    JASA 79, 1984.
    """
    usual_fraction, usual_folds = _SPLIT_LINES if is_of_lines(physics.mask[0, 0]) else _SPLIT_SAMPLES
    fraction = usual_fraction if fraction is None else fraction
    folds = usual_folds if folds is None else folds
    if not 0 < fraction < 1 or folds < 1 or folds * fraction >= 1:
        raise OptionError(
            "a hold-out leaves out a part of the samples",
            found=f"fraction {fraction:g}, {folds} folds",
            expected="a fraction above 0, and below 1 in all folds together",
        )
    sigma = _known_sigma(physics) if sigma is None else sigma
    held_out = choose_left_out(physics.mask, fraction, folds, as_generator(seed))
    error = energy = floor = 0.0
    samples = 0
    for left_out in held_out:
        if not bool(left_out.any()):
            continue
        x = model(y * ~left_out, rebuilt(physics, mask=physics.mask & ~left_out))
        chosen = left_out.expand_as(y)
        measured = y[chosen]
        error += float((physics.expand(to_complex(x))[chosen] - measured).abs().square().sum())
        energy += float(measured.abs().square().sum())
        floor += math.nan if sigma is None else 2 * float(sigma) ** 2 * measured.numel()
        samples += int(left_out.sum())
    if energy == 0:
        return HoldOut(math.nan, math.nan, samples)
    return HoldOut(error / energy, floor / energy, samples)


@torch.no_grad()
def noise_map(
    model: Model,
    y: Complex[Tensor, "b coil *sampled"],
    physics: LinearPhysics,
    sigma: Number,
    *,
    n: int = 16,
    seed: Seed = 0,
) -> Float[Tensor, "b *spatial"]:
    """Map the standard deviation of each pixel through measurement noise, by pseudo replicas [Robson 2008].

    Noise of the known level is added to the measurements ``n`` times, and each is reconstructed. Deviations are
    taken along the image's own phase: where there is signal that is the deviation of the magnitude, where there
    is none it has no Rician bias. For a linear method the map is exact up to the error of ``n`` draws,
    ``1 / sqrt(2 n - 2)`` of the value; for others it says what a little more noise does to this image.

    Parameters
    ----------
    model
        The method; called ``n + 1`` times.
    y, physics
        The measurements and their operator.
    sigma
        See the module.
    n
        Replicas, at least 2.
    seed
        Generator or seed of the noise.

    References
    ----------
    Robson, Grant, Madhuranthakam, Lattanzi, Sodickson, McKenzie, Comprehensive quantification of signal-to-noise
    ratio and g-factor for image-based and k-space-based parallel imaging reconstructions, MRM 60, 2008.
    """
    check_sigma(sigma)
    if n < 2:
        raise OptionError("a deviation needs two replicas or more", found=n)
    rng = as_generator(seed)
    mask = _sampled(y, physics)
    x = model(y, physics)
    size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    first = torch.zeros_like(x)
    first[:, 0] = 1
    direction = torch.where(size > 0, x / size.clamp_min(torch.finfo(x.dtype).tiny), first)
    total = torch.zeros_like(x[:, 0])
    squares = torch.zeros_like(x[:, 0])
    for _ in range(n):
        noise = torch.randn((*y.shape, 2), generator=rng, dtype=y.real.dtype).to(y.device)
        change = ((model(y + sigma * torch.view_as_complex(noise) * mask, physics) - x) * direction).sum(dim=1)
        total += change
        squares += change.square()
    return ((squares - total.square() / n) / (n - 1)).clamp_min(0).sqrt()


def g_factor(deviation: Float[Tensor, "b y x"], physics: MultiCoilMRI, sigma: Number) -> Float[Tensor, "b y x"]:
    r"""Noise amplification over what the shorter scan alone explains [Pruessmann 1999, eq. 24].

    .. math:: g = \frac{\texttt{deviation}}{\sqrt{R}\; \sigma / \sqrt{\sum_c |S_c|^2}}

    The denominator is the noise of the optimal combination of full data, times the root of the acceleration
    :math:`R` (all k-space points over sampled ones). Unregularised SENSE has ``g >= 1``; regularised methods can
    stay below it. 0 where the coil maps are.

    Parameters
    ----------
    deviation
        From `noise_map`.
    physics
        The operator; of several sets of maps each pixel's strongest counts.
    sigma
        See the module.
    """
    check_sigma(sigma)
    sensitivity = physics.coil_maps.abs().square().sum(dim=2).amax(dim=1).sqrt()
    dims = tuple(range(2, physics.mask.ndim))
    rate = 1 / physics.mask.to(deviation.dtype).mean(dim=dims)[:, 0]
    return deviation * sensitivity / (sigma * rate.sqrt().reshape(-1, *[1] * len(dims)))


def check_sigma(sigma: Number) -> None:
    """Raise `DataError` where the noise level is not a number above 0."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise DataError("the noise level must be above 0 to judge by it", found=float(sigma))


def _sampled(y: Tensor, physics: LinearPhysics) -> Bool[Tensor, "..."]:
    """Where samples are, broadcastable to ``y``: everywhere for trajectories."""
    if isinstance(physics, MultiCoilMRI):
        return physics.mask
    return torch.ones((1,) * y.ndim, dtype=torch.bool, device=y.device)


def _known_sigma(physics: MultiCoilMRI) -> float | None:
    sigma = getattr(physics.noise_model, "sigma", None)
    return None if sigma is None else float(torch.as_tensor(sigma).flatten()[0])


def rebuilt(physics: MultiCoilMRI, *, mask: Tensor | None = None, coil_maps: Tensor | None = None) -> MultiCoilMRI:
    """Build the same operator with another mask or other coil maps; what is not given is shared."""
    return MultiCoilMRI(
        physics.coil_maps if coil_maps is None else coil_maps,
        physics.mask if mask is None else mask,
        three_d=physics.three_d,
        noise_model=physics.noise_model,
        coil_chunk=physics.coil_chunk,
        max_iter=physics.max_iter,
        tol=physics.tol,
    )
