"""What models of galaxy stamps share: checks, masked pixels, noise levels, their scale, the flux they keep."""

from __future__ import annotations

import torch
from deepinv.physics.noise import GaussianNoise
from jaxtyping import Bool, Float
from torch import Tensor

from recon.models.convolution import Grid
from recon.physics.errors import DataError, OptionError, ShapeError
from recon.physics.psf import PSFConvolution
from recon.physics.sky_noise import SkyNoise

Stamps = Float[Tensor, "b 1 y x"]
Seen = Bool[Tensor, "b 1 y x"]

_BORDER = 3  # pixels of the frame whose noise is measured
_TO_SIGMA = 1.4826  # from the median absolute deviation to the standard deviation of normal noise
_FLOOR = 3.0  # deviations of noise below which no scale lies
_WINDOW = 2.5  # width of the one under which flux is compared, in widths of the PSF
_FLUX_PRIOR = 0.01  # relative error of the flux that this gives
_MOST = 4.0  # factor by which flux is corrected at most


def check_stamps(y: Tensor, physics: object) -> PSFConvolution:
    """Return the physics, which are those of stamps and fit them.

    Raises
    ------
    OptionError
        Other physics.
    ShapeError
        Stamps that do not fit the PSF or the weights.
    DataError
        A pixel that is not finite and not masked.
    """
    if not isinstance(physics, PSFConvolution):
        raise OptionError(
            "this model deconvolves stamps by a PSF",
            found=type(physics).__name__,
            expected="PSFConvolution",
            cure="For k-space take cg-sense, l1-wavelet or recurrentvarnet",
        )
    b = physics.psf.shape[0]
    if y.ndim != 4 or y.shape[1] != 1 or b not in (1, len(y)):
        raise ShapeError(
            "stamps that do not fit the PSF", found=tuple(y.shape), expected=f"({'b' if b == 1 else b}, 1, y, x)"
        )
    weight = physics.weight
    if weight is not None and (weight.shape[2:] != y.shape[2:] or len(weight) not in (1, len(y))):
        raise ShapeError("weights that do not fit the stamps", found=tuple(weight.shape), expected=tuple(y.shape))
    bad = ~torch.isfinite(y) if weight is None else ~torch.isfinite(y) & (weight > 0)
    if bool(bad.any()):
        raise DataError(
            "stamps have pixels that are not finite",
            found=f"{int(bad.sum())} in {int(bad.flatten(1).any(1).sum())} of {len(y)}",
            cure="Give them weight 0",
        )
    return physics


def seen_pixels(y: Stamps, physics: PSFConvolution) -> Seen | None:
    """Pixels that are not masked; None where none is."""
    if physics.weight is None or bool((physics.weight > 0).all()):
        return None
    return (physics.weight > 0).expand_as(y)


def filled(y: Stamps, grid: Grid, seen: Seen | None) -> Stamps:
    """Fill masked pixels by the mean of their neighbours, weighted by the PSF; 0 where there are none."""
    if seen is None:
        return y
    known = torch.where(seen, y, 0)
    share = grid.adjoint(seen.to(y.dtype))
    smooth = torch.where(share > 1e-3, grid.adjoint(known) / share.clamp_min(1e-3), 0)
    return torch.where(seen, known, smooth)


def relative_weights(y: Stamps, physics: PSFConvolution) -> Stamps:
    """Inverse variances in units of each stamp's median one, 0 where masked, 1 where they are not known."""
    if physics.weight is None:
        return torch.ones_like(y)
    weight = physics.weight.to(y.dtype).expand_as(y)
    middle = _median_seen(weight)[:, None, None, None]
    return torch.where(middle > 0, weight / middle.clamp_min(torch.finfo(y.dtype).tiny), 0)


def noise_levels(y: Stamps, physics: PSFConvolution) -> Float[Tensor, " b"]:
    """Return the standard deviation of the noise of each stamp where there is no light.

    What the operator's noise model says; else the median weight; else what the border of the stamp says.
    """
    model, n = physics.noise_model, len(y)
    if isinstance(model, SkyNoise):
        return model.to(y.device).variance(torch.zeros_like(y[:, 0, 0, 0])).sqrt().expand(n)
    if isinstance(model, GaussianNoise):
        return torch.as_tensor(model.sigma, dtype=y.dtype, device=y.device).flatten().expand(n)
    if physics.weight is not None:
        middle = _median_seen(physics.weight.to(y.dtype).expand_as(y))
        return torch.where(middle > 0, middle.clamp_min(torch.finfo(y.dtype).tiny).rsqrt(), 0)
    return border_noise(y)


def border_noise(y: Stamps) -> Float[Tensor, " b"]:
    """Measure the noise of each stamp on a frame three pixels wide, robust against a neighbour that reaches into it."""
    inner = torch.zeros(y.shape[-2:], dtype=torch.bool, device=y.device)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    frame = y[:, 0, ~inner]
    return _TO_SIGMA * (frame - frame.median(1, keepdim=True).values).abs().median(1).values


def scale(y: Stamps, grid: Grid, sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    """Return a positive number as large as the galaxy is bright: the peak of the stamp seen through its PSF once more.

    At least three deviations of that peak's noise, so that a faint stamp is not divided by nothing; 1 for an empty one.
    It does not depend on the size of the stamp, and grows with the stamp's unit.
    """
    peak = grid.adjoint(y).flatten(1).amax(1)
    norm = grid.power().sqrt()
    alpha = torch.maximum(peak, _FLOOR * norm * sigma)
    return torch.where(alpha > 0, alpha, 1)[:, None, None, None]


def with_flux_of(y: Stamps, x: Stamps, grid: Grid, sigma: Float[Tensor, " b"], seen: Seen | None) -> Stamps:
    r"""Scale deconvolved stamps so that they have the flux of the data; shapes do not change.

    Data and blurred result are made equal in the sum under a Gaussian window that the data do not choose, so that noise
    does not bias it: at the middle of the stamp, 2.5 times as wide as the PSF. What flux is then still missing is
    added, weighted by how well the sum of all pixels tells it, :math:`s^2 / (s^2 + N\sigma^2/F^2)` with s = 1 %:
    without noise all of it.
    """
    model, tiny = grid.A(x), torch.finfo(y.dtype).tiny
    shown = torch.ones_like(y) if seen is None else seen.to(y.dtype)
    window = shown * _window(y, grid)
    inside, expected = (window * y).sum((1, 2, 3)), (window * model).sum((1, 2, 3))
    usable = (inside > tiny) & (expected > tiny)
    a = torch.where(usable, inside, 1) / torch.where(usable, expected, 1)
    total = a * model.sum((1, 2, 3))
    usable = usable & (total > tiny)
    total = torch.where(usable, total, 1)
    lost = (shown * (y - a[:, None, None, None] * model)).sum((1, 2, 3))
    trust = _FLUX_PRIOR**2 / (_FLUX_PRIOR**2 + shown.sum((1, 2, 3)) * (sigma / total).square())
    factor = torch.where(usable, a * (1 + trust * lost / total), 1).clamp(1 / _MOST, _MOST)
    return x * factor[:, None, None, None]


def _window(y: Stamps, grid: Grid) -> Float[Tensor, "#b 1 y x"]:
    """Gaussian at the middle of the stamp, whose width goes by that of a Gaussian PSF of the same power."""
    rows, columns = (torch.arange(n, dtype=y.dtype, device=y.device) - n // 2 for n in y.shape[-2:])
    variance = _WINDOW**2 / (4 * torch.pi * grid.power())
    return torch.exp(-(rows[:, None].square() + columns.square()) / (2 * variance[:, None, None, None]))


def _median_seen(weight: Stamps) -> Float[Tensor, " b"]:
    """Return the median of the positive ones of each stamp; 0 where there are none."""
    values = torch.where(weight > 0, weight, torch.nan).flatten(1)
    return values.nanmedian(1).values.nan_to_num(0.0)
