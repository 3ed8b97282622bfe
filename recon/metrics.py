"""How far an image is from its reference: PSNR, SSIM, NMSE as fastMRI defines them, HFEN, VIF, bootstrap intervals.

Images are ``(y, x)`` or ``(slice, y, x)``, numpy or torch; complex ones are compared by magnitude. All figures
are those of the whole volume. A `support` (True where it counts) broadcasts to the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from numpy import ndarray
from scipy.signal import oaconvolve
from skimage.metrics import structural_similarity
from torch import Tensor

from recon.physics.errors import DataError, OptionError, ShapeError

Pixels = Num[ndarray, "..."] | Num[Tensor, "..."]
Support = Bool[ndarray, "..."] | Bool[Tensor, "..."] | None

_WINDOW = 7  # of the SSIM
_LOG_SIZE, _LOG_SIGMA = 15, 1.5
_VIF_SIDE, _VIF_NOISE = 41, 2.0
_RESAMPLES = 2000
_FEWEST_SLICES = 8  # fewer than these are cut into blocks for the bootstrap
_BLOCKS = 8  # along each axis of a slice


def psnr(image: Pixels, reference: Pixels, support: Support = None) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the maximum of the reference volume [Zbontar 2018]."""
    x, ref, inside = _prepare(image, reference, support)
    return float(_decibel(((x - ref)[inside] ** 2).mean(), ref[inside].max()))


def nmse(image: Pixels, reference: Pixels, support: Support = None) -> float:
    """Squared norm of the error over that of the reference [Zbontar 2018]."""
    x, ref, inside = _prepare(image, reference, support)
    return float(((x - ref)[inside] ** 2).sum() / (ref[inside] ** 2).sum())


def ssim(image: Pixels, reference: Pixels, support: Support = None) -> float:
    """Structural similarity, windows of 7x7, mean over slices [Wang 2004; Zbontar 2018].

    The range is the maximum of the reference volume. Windows that leave the image do not count; with a
    support, the windows count whose centre lies in it.
    """
    x, ref, inside = _prepare(image, reference, support)
    values, counted = _similarity(x, ref, inside)
    return float(values[counted].mean())


def hfen(image: Pixels, reference: Pixels, support: Support = None) -> float:
    """High-frequency error norm: error over reference after a Laplacian of Gaussian, 15x15, sigma 1.5.

    References
    ----------
    Ravishankar, Bresler, MR image reconstruction from highly undersampled k-space data by dictionary
    learning, IEEE TMI 30, 2011, section IV-A; here over the norm of the filtered reference.
    """
    x, ref, inside = _prepare(image, reference, support)
    return float(np.linalg.norm(_edges(x - ref)[inside]) / np.linalg.norm(_edges(ref)[inside]))


def picture_figures(image: Pixels, reference: Pixels, white: float = 255.0) -> dict[str, float]:
    """Return ``psnr`` (dB) and ``ssim`` as papers on compressed sensing of pictures have them.

    The image is clipped to 0 to white, which is also the peak; the SSIM has windows of 7x7 [Wang 2004]. Of several
    slices it is the mean.

    Raises
    ------
    ShapeError, DataError
        As `evaluate`.
    """
    x, ref, _ = _prepare(image, reference, None)
    x = np.clip(x, 0, white)
    similar = [structural_similarity(r, i, win_size=_WINDOW, data_range=white) for i, r in zip(x, ref, strict=True)]
    errors = ((x - ref) ** 2).mean(axis=(1, 2))
    return {"psnr": float(_decibel(errors, white).mean()), "ssim": float(np.mean(similar))}


def vif(image: Pixels, reference: Pixels) -> float:
    """Visual information fidelity, pixel domain, four scales; mean over slices that show something.

    The maximum of the reference volume counts as 255, and the visual noise has a variance of 2, as in the authors'
    own code. (The Calgary-Campinas challenge sets slices to a maximum of 1 and the noise to 0.4: its figures do not
    compare.) 1 for equal images, and above 1 for one with more contrast.

    Raises
    ------
    ShapeError, DataError
        As `evaluate`; slices smaller than 41x41.

    References
    ----------
    Sheikh, Bovik, Image information and visual quality, IEEE TIP 15, 2006.
    """
    from torchmetrics.functional.image import visual_information_fidelity

    x, ref, _ = _prepare(image, reference, None)
    if min(ref.shape[1:]) < _VIF_SIDE:
        raise ShapeError("images too small for four scales", found=ref.shape[1:], expected=f"{_VIF_SIDE} x {_VIF_SIDE}")
    unit = 255 / ref.max()
    pairs = [
        [torch.from_numpy(np.ascontiguousarray(a * unit))[None, None] for a in pair]
        for pair in zip(x, ref, strict=True)
        if np.ptp(pair[1]) > 0
    ]
    if not pairs:
        raise DataError("the reference is flat: there is no information in it")
    return float(np.mean([float(visual_information_fidelity(a, b, sigma_n_sq=_VIF_NOISE)) for a, b in pairs]))


def evaluate(
    image: Pixels,
    reference: Pixels,
    *,
    support: Support = None,
    level: float | None = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Compare an image with its reference.

    Parameters
    ----------
    image, reference
        ``(y, x)`` or ``(slice, y, x)``.
    support
        Where to compare; everywhere by default. The peak is the reference's maximum inside.
    level
        Of the bootstrap intervals: slices are drawn again, or, where there are fewer than 8, the blocks of an
        8x8 grid on them. None leaves the intervals out.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``psnr`` (dB), ``ssim``, ``nmse``, ``hfen``; with a level also ``psnr_low``, ``psnr_high`` and so on.

    Raises
    ------
    ShapeError, DataError
        Images of different shapes or smaller than 7x7; values that are not finite; a reference or a support
        that is zero everywhere.
    """
    x, ref, inside = _prepare(image, reference, support)
    peak = float(ref[inside].max())
    similarity, counted = _similarity(x, ref, inside)
    ones = np.ones_like(ref)
    # Every figure is a function of sums over pixels, so a resampled figure is one of resampled sums.
    sums = np.stack(
        [
            _sums_of_units(np.where(where, values, 0))
            for values, where in (
                ((x - ref) ** 2, inside),
                (ref**2, inside),
                (ones, inside),
                (_edges(x - ref) ** 2, inside),
                (_edges(ref) ** 2, inside),
                (similarity, counted),
                (ones, counted),
            )
        ],
        axis=-1,
    )

    def figures(total: Float[ndarray, "*n 7"]) -> dict[str, ndarray]:
        error, energy, count, edge_error, edge_energy, similar, windows = np.moveaxis(total, -1, 0)
        return {
            "psnr": _decibel(error / count, peak),
            "ssim": similar / np.maximum(windows, 1),
            "nmse": error / energy,
            "hfen": np.sqrt(edge_error / edge_energy),
        }

    result = {name: float(value) for name, value in figures(sums.sum(axis=0)).items()}
    if level is not None:
        totals = _resample(sums, seed).sum(axis=1)
        totals = totals[(totals[:, 1] > 0) & (totals[:, 4] > 0)]  # draws of nothing but air have no relative error
        for name, values in figures(totals).items():
            result[f"{name}_low"], result[f"{name}_high"] = _percentiles(values, level)
    return result


def bootstrap_interval(
    values: Float[ndarray, " n"] | Sequence[float], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean of independent values (one a slice, say): percentile bootstrap [Efron 1979].

    Raises
    ------
    DataError
        Fewer than two values, or values that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise DataError("an interval needs two or more finite values", found=array.tolist())
    return _percentiles(_resample(array, seed).mean(axis=1), level)


def _resample(units: Float[ndarray, "n *k"], seed: int) -> Float[ndarray, "resample n *k"]:
    draws = np.random.default_rng(seed).integers(len(units), size=(_RESAMPLES, len(units)))
    return units[draws]


def _percentiles(values: Float[ndarray, " n"], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise OptionError("a confidence level lies between 0 and 1", found=level)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def _prepare(
    image: Pixels, reference: Pixels, support: Support
) -> tuple[Float[ndarray, "slice y x"], Float[ndarray, "slice y x"], Bool[ndarray, "slice y x"]]:
    """Return magnitudes in double precision with a slice axis, and the support in their shape."""
    x, ref = _magnitude(image), _magnitude(reference)
    if x.shape != ref.shape or min(x.shape[1:]) < _WINDOW:
        raise ShapeError(
            "image and reference cannot be compared",
            found=f"{tuple(image.shape)} and {tuple(reference.shape)}",
            expected=f"the same shape, at least {_WINDOW} x {_WINDOW}",
        )
    inside = np.asarray(support.cpu() if isinstance(support, Tensor) else True if support is None else support)
    try:
        inside = np.broadcast_to(inside, ref.shape)
    except ValueError as error:
        raise ShapeError("the support does not fit the image", found=inside.shape, expected=ref.shape) from error
    if not (np.isfinite(x).all() and np.isfinite(ref).all()):
        raise DataError("images with values that are not finite cannot be compared")
    if not (inside & (ref > 0)).any():
        raise DataError("the reference is zero wherever it counts", cure="Give another reference or support")
    return x, ref, inside


def _magnitude(pixels: Pixels) -> Float[ndarray, "slice y x"]:
    array = pixels.detach().cpu().resolve_conj().numpy() if isinstance(pixels, Tensor) else pixels
    array = np.abs(array) if np.iscomplexobj(array) else array
    return np.asarray(array, dtype=np.float64).reshape(-1, *array.shape[-2:])


def _decibel(mean_square: Float[ndarray, "*n"] | float, peak: float) -> ndarray:
    with np.errstate(divide="ignore"):  # an image without error has infinitely many
        return np.asarray(10 * np.log10(peak**2 / np.asarray(mean_square)))


def _similarity(
    x: Float[ndarray, "slice y x"], ref: Float[ndarray, "slice y x"], inside: Bool[ndarray, "slice y x"]
) -> tuple[Float[ndarray, "slice y x"], Bool[ndarray, "slice y x"]]:
    """Return the map of local similarity, and where its windows count."""
    peak = ref[inside].max()
    pairs = zip(x, ref, strict=True)
    values = np.stack([structural_similarity(r, i, win_size=_WINDOW, data_range=peak, full=True)[1] for i, r in pairs])
    margin = _WINDOW // 2
    counted = np.zeros_like(inside)
    interior = (slice(None), slice(margin, ref.shape[1] - margin), slice(margin, ref.shape[2] - margin))
    counted[interior] = inside[interior]
    return values, counted


def _edges(volume: Float[ndarray, "slice y x"]) -> Float[ndarray, "slice y x"]:
    """Filter each slice with a Laplacian of Gaussian that sums to zero."""
    offset = np.arange(_LOG_SIZE) - _LOG_SIZE // 2
    square = offset[:, None] ** 2 + offset[None, :] ** 2
    gauss = np.exp(-square / (2 * _LOG_SIGMA**2))
    kernel = gauss / gauss.sum() * (square - 2 * _LOG_SIGMA**2) / _LOG_SIGMA**4
    return oaconvolve(volume, (kernel - kernel.mean())[None], mode="same", axes=(1, 2))


def _sums_of_units(volume: Float[ndarray, "slice y x"]) -> Float[ndarray, " unit"]:
    """Sum over slices where there are enough of them to draw from, else over the blocks of a grid."""
    if len(volume) >= _FEWEST_SLICES:
        return volume.sum(axis=(1, 2))
    y, x = (np.linspace(0, n, min(_BLOCKS, n) + 1).astype(int)[:-1] for n in volume.shape[1:])
    return np.add.reduceat(np.add.reduceat(volume, y, axis=1), x, axis=2).reshape(-1)
