"""Reconstruction by any linear operator: measurements checked, their noise found, a model chosen, tiles where large."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from deepinv.models import Reconstructor
from deepinv.physics import MRI, BlurFFT, Downsampling, LinearPhysics, TomographyWithAstra
from deepinv.physics import Blur as DeepinvBlur
from deepinv.physics import Denoising as DeepinvDenoising
from deepinv.physics import Inpainting as DeepinvInpainting
from deepinv.physics import Tomography as DeepinvTomography
from deepinv.physics.noise import GaussianNoise, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from jaxtyping import Float, Num
from torch import Tensor

from recon.calibration import noise_level
from recon.calibration.image_noise import NoiseEstimate, image_noise_level, poisson_gaussian_noise
from recon.models.learned import LearnedReconstructor
from recon.physics import Demosaicing, FunctionPhysics, Resampling
from recon.physics.checks import check_measurements, check_operator
from recon.physics.compressed_sensing import BlockCompressedSensing
from recon.physics.ct import Tomography
from recon.physics.demosaicing import PATTERNS
from recon.physics.errors import CalibrationError, DataError, OptionError
from recon.physics.layout import to_complex
from recon.physics.noise import PhotonNoise, PostLogNoise, noise_model, post_log_variance
from recon.tiles import LARGE, OVERLAP, TILE, is_local, reconstruct_tiled
from recon.zoo import load_model, ready

FOUNDATION, CLASSICAL = "ram-light", "tv"
_CHANNELS = (1, 2, 3)  # of the foundation model
_OTHER_NOISE = (PoissonNoise, PoissonGaussianNoise, PhotonNoise, PostLogNoise)
_NOISELESS = 1e-6  # of the measurements' root mean square: below, an estimate says that there is no noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """An image from measurements, and how it was made.

    Parameters
    ----------
    image
        ``(b, c, y, x)``, in the units of the operator.
    model, why
        Which, and why that one.
    physics
        The operator, its noise model as the model was told.
    notes
        What a user should know: what was estimated.
    details
        What the model says of its work.
    spread
        Standard deviation of the magnitude over posterior samples, of models that draw them.
    """

    image: Float[Tensor, "b c y x"]
    model: str
    why: str
    physics: LinearPhysics
    notes: tuple[str, ...] = ()
    details: dict[str, float] = field(default_factory=dict)
    spread: Float[Tensor, "b y x"] | None = None

    @property
    def sigma(self) -> float | None:
        """Of the Gaussian noise that the model was told of; None: of none."""
        return _number(getattr(self.physics.noise_model, "sigma", None))

    @property
    def gain(self) -> float | None:
        """Of the Poisson noise that the model was told of; None: of none."""
        return _number(getattr(self.physics.noise_model, "gain", None))


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A model that is ready, so that many measurements do not load it anew.

    Parameters
    ----------
    model
        The model.
    name, why
        What it is called, and why it was taken.
    """

    model: Reconstructor
    name: str
    why: str


def chosen_method(
    model: str | Reconstructor, channels: int, physics: LinearPhysics, device: torch.device | str = "cpu"
) -> Method:
    """Load a model for an operator and images of so many channels; ``model`` is that of `reconstruct_measured`.

    Raises
    ------
    OptionError, CheckpointError
        No such model, or no weights for it.
    """
    if isinstance(model, Reconstructor):
        return Method(model=model.to(device), name=type(model).__name__, why="given")
    name, why = model, "asked for"
    if name == "auto" and FOUNDATION in ready() and channels in _CHANNELS:
        name, why = FOUNDATION, "one network for every linear operator"
    elif name == "auto" and isinstance(physics, BlockCompressedSensing):
        name, why = "l1-wavelet", "of mixtures of a block's pixels it reaches its image in few iterations"
    elif name == "auto":
        name, why = CLASSICAL, "no network that comes with the package takes such images"
    loaded = load_model(name).to(device)
    # a user's own model sees the noise as it is
    return Method(
        model=loaded if isinstance(loaded, LearnedReconstructor) else GaussianView(loaded), name=name, why=why
    )


@torch.no_grad()
def reconstruct_measured(
    y: Num[Tensor, "b ..."],
    physics: LinearPhysics,
    model: str | Reconstructor | Method = "auto",
    *,
    sigma: float | None = None,
    gain: float | None = None,
    tile: int | None = None,
) -> Measured:
    r"""Reconstruct images from measurements of any linear operator.

    Parameters
    ----------
    y, physics
        Measurements and their operator.
    model
        A name, a model, or ``"auto"``: the foundation model where its weights come with the package and it takes such
        images, else l1-wavelet for block compressed sensing and total variation for the rest; or what `chosen_method`
        made of one of these.
    sigma, gain
        Of the noise :math:`y = \gamma\,\mathrm{Poisson}(Ax / \gamma) + \sigma n`; None: what the operator's noise
        model says, and where that says nothing, what the data say.
    tile
        Side of the tiles in which a large image is reconstructed; None: `recon.tiles.TILE` for networks and images
        above `recon.tiles.LARGE`, where the operator is local.

    Raises
    ------
    ShapeError, DataError
        Measurements of another shape than the operator's, not finite, or negative counts.
    OptionError
        A noise level that is not positive, a tile where the operator is not local.
    OperatorError
        A user's functions that are not linear, or not adjoint.
    """
    check_measurements(y, physics)
    if isinstance(physics, FunctionPhysics):
        check_operator(physics, dtype=y.real.dtype if y.dtype == torch.float64 else torch.float32, device=y.device)
    physics, notes = with_noise(y, physics, sigma, gain)
    channels = y.shape[1] if physics.img_size is None or len(physics.img_size) == 2 else physics.img_size[0]
    method = model if isinstance(model, Method) else chosen_method(model, channels, physics, y.device)
    large = isinstance(method.model, LearnedReconstructor) and max(y.shape[-2:]) > LARGE
    if tile is not None or (large and is_local(physics)):
        side = TILE if tile is None else tile
        image, spread = reconstruct_tiled(method.model, y, physics, side, min(OVERLAP, side // 4)), None
        notes = (*notes, f"in tiles of {side} pixels")
    else:
        image = method.model(y, physics)
        spread = getattr(method.model, "spread", None)
    if not bool(torch.isfinite(image).all()):
        raise DataError(f"{method.name} gave values that are not finite")
    return Measured(
        image=image,
        model=method.name,
        why=method.why,
        physics=physics,
        notes=notes,
        details={key: float(value) for key, value in getattr(method.model, "details", {}).items()},
        spread=spread,
    )


def with_noise(
    y: Num[Tensor, "b ..."], physics: LinearPhysics, sigma: float | None = None, gain: float | None = None
) -> tuple[LinearPhysics, tuple[str, ...]]:
    """Return the operator with a noise model that says what is known or can be found out, and notes of what was found.

    Parameters and errors are those of `reconstruct_measured`; the operator that is given stays as it is.
    """
    model = physics.noise_model
    if sigma is not None or gain is not None:
        told = noise_model(sigma, gain)
        _check_counts(y, told)
        return _told(physics, told), ()
    for name in ("sigma", "gain"):
        value = getattr(model, name, None)
        if value is not None and not bool((torch.as_tensor(value) >= 0).all()):
            raise OptionError(f"the noise's {name} is not negative", found=_number(value))
    _check_counts(y, model)
    if not isinstance(model, ZeroNoise):
        return physics, ()
    try:
        found = estimated_noise(y, physics)
    except CalibrationError as error:
        return physics, (f"the noise level is not known: {error.problem}",)
    if found is None:
        return physics, ("the noise level is not known, and this operator's data do not tell it",)
    least = _NOISELESS * float(y.abs().square().mean().sqrt())
    if found.gain is not None:
        told = noise_model(max(found.sigma, least), found.gain)
        return _told(physics, told), (
            f"noise estimated from the data: Poisson of gain {found.gain:.4g}, Gaussian of {found.sigma:.4g}",
        )
    if not found.sigma > least:
        return physics, ("no noise was found in the data",)
    return _told(physics, noise_model(found.sigma)), (f"noise level estimated from the data: {found.sigma:.4g}",)


def estimated_noise(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> NoiseEstimate | None:
    """Estimate the noise of measurements; of noisy images Poisson noise too, where it is the larger part.

    Raises
    ------
    CalibrationError
        Too few measurements for an estimate.
    """
    sigma = estimated_sigma(y, physics)
    if sigma is None:
        return None
    if isinstance(physics, DeepinvDenoising):
        with suppress(CalibrationError):
            both = poisson_gaussian_noise(y)
            if both.gain is not None and both.gain * float(y.mean()) > both.sigma**2:
                return both
    return NoiseEstimate(sigma)


def estimated_sigma(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> float | None:
    """Estimate the noise level from measurements that are images, sinograms or k-space; None for others.

    Raises
    ------
    CalibrationError
        Too few measurements for an estimate.
    """
    if isinstance(physics, MRI):
        mask = physics.mask[:, :1] != 0
        return float(noise_level(to_complex(y), mask).square().mean().sqrt())
    if isinstance(physics, Demosaicing) and len(PATTERNS[physics.pattern]) == 2:
        mosaic = y.sum(1, keepdim=True)  # no two neighbours are of one colour, but every second pixel is
        phases = [mosaic[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return min(image_noise_level(phase) for phase in phases)
    if isinstance(physics, DeepinvInpainting):
        return image_noise_level(y, (physics.mask != 0).expand(*physics.mask.shape[:2], *y.shape[2:]))
    images = (DeepinvDenoising, DeepinvBlur, BlurFFT, Downsampling, Resampling)
    sinograms = (Tomography, DeepinvTomography, TomographyWithAstra)
    return image_noise_level(y) if isinstance(physics, (*images, *sinograms)) else None


def effective_sigma(y: Num[Tensor, "b ..."], physics: LinearPhysics) -> float | None:
    """Root mean square over the measurements of the noise that the operator's model tells; None where it tells none."""
    model = physics.noise_model
    if isinstance(model, PhotonNoise | PostLogNoise):
        return math.sqrt(float(post_log_variance(y, model.photons.to(y.device, y.dtype)).mean()))
    gain, sigma = (_number(getattr(model, name, None)) for name in ("gain", "sigma"))
    if gain is None or not isinstance(model, _OTHER_NOISE):
        return sigma
    return math.sqrt(gain * max(float(y.real.mean()), 0.0) + (sigma or 0.0) ** 2)


class GaussianView(Reconstructor):
    """A model that knows Gaussian noise only, told of other noise by the level that it has on average.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: Reconstructor) -> None:
        super().__init__()
        self.model = model

    @property
    def details(self) -> dict[str, float]:
        """What the model says of its work."""
        return getattr(self.model, "details", {})

    @property
    def spread(self) -> Tensor | None:
        """What the model says of its uncertainty."""
        return getattr(self.model, "spread", None)

    def forward(self, y: Num[Tensor, "b ..."], physics: LinearPhysics) -> Float[Tensor, "b c y x"]:
        """Reconstruct."""
        level = effective_sigma(y, physics)
        if level is not None and level > 0 and isinstance(physics.noise_model, _OTHER_NOISE):
            physics = _told(physics, GaussianNoise(level))
        image: Tensor = self.model(y, physics)
        return image


def _told(physics: LinearPhysics, model: torch.nn.Module) -> LinearPhysics:
    told = physics.clone()
    told.noise_model = model.to(next((buffer.device for buffer in physics.buffers()), torch.device("cpu")))
    return told


def _check_counts(y: Tensor, model: torch.nn.Module) -> None:
    if isinstance(model, PoissonNoise) and bool((y.real < 0).any()):
        raise DataError(
            "Poisson data with negative counts",
            found=f"{int((y.real < 0).sum())} below 0, the least {float(y.real.min()):.4g}",
            cure="Give sigma too where a Gaussian part was added, or add the background that was subtracted",
        )


def _number(value: object) -> float | None:
    if value is None:
        return None
    return float(torch.as_tensor(value).double().mean())
