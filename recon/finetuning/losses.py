r"""What fine-tuning minimises: losses of measurements alone, by name.

Most are deepinv's, seen through `recon.finetuning.measurements.Standardised`. Every loss is divided by the mean square
of the measurements in the same units, so that it compares with a null-space term (`recon.finetuning.null_space`)
whatever the data are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from deepinv.loss import MCLoss, R2RLoss, SureGaussianLoss, SurePGLoss, SurePoissonLoss
from deepinv.models import Reconstructor
from deepinv.physics.noise import GaussianNoise, PoissonGaussianNoise, PoissonNoise
from jaxtyping import Float
from torch import Tensor

from recon.finetuning.measurements import Measurement, Standardised
from recon.finetuning.splitting import split
from recon.models.learned import LearnedReconstructor
from recon.physics import MultiCoilMRI
from recon.physics.errors import DataError, OptionError
from recon.physics.sky_noise import SkyNoise
from recon.sparse_problem import OBJECTIVES

Value = tuple[Float[Tensor, ""], Tensor]
MeasurementLoss = Callable[[Reconstructor, Measurement, torch.Generator], Value]
"""From a network, a measurement and random numbers to the loss and the image that it was computed of."""

SPLIT = 0.2
"""Share of the measurements that `ssdu` predicts from the others."""
_PROBE = 0.1  # size of the perturbation that finds the divergence, in standard deviations of the noise
_UNKNOWN = 1e-2  # the same, in root mean squares of the measurements, where the noise is not known
_RECORRUPTION = 0.15  # deepinv's alpha
_RATE = 1e-4  # of the multiplier of UNSURE


def ssdu(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:
    r"""Predict a random part of the measurements from the others [Yaman 2020, eq. 6-7].

    .. math:: \frac{\|u - v\|_2}{\|u\|_2} + \frac{\|u - v\|_1}{\|u\|_1}

    of what is left out, u, and its prediction v. Each step draws another part; see `recon.finetuning.splitting`.
    """
    kept, left_out = split(measurement, SPLIT, rng)
    x = model(kept.y, kept.physics)
    difference = _real(measurement.physics.A(x) - measurement.y) * _like_real(left_out, measurement.y)
    target = _real(measurement.y) * _like_real(left_out, measurement.y)
    tiny = torch.finfo(target.dtype).tiny
    value = torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(target).clamp_min(tiny)
    return value + difference.abs().sum() / target.abs().sum().clamp_min(tiny), x


def sure(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG001
    """Stein's unbiased estimate of the error of the measurements [Stein 1981], Gaussian noise of known level."""
    view = Standardised(measurement, known_deviation(measurement))
    x = model(measurement.y, measurement.physics)
    loss = SureGaussianLoss(sigma=1.0, tau=_PROBE)
    return _relative(loss(y=view.y, x_net=x, physics=view, model=view.model(model)), view), x


class Unsure:
    """SURE of unknown noise level: the level is the multiplier of a constraint [Tachella 2025], learned on the way."""

    def __init__(self, rate: float = _RATE) -> None:
        self.loss = SureGaussianLoss(sigma=_UNKNOWN, tau=_UNKNOWN, unsure=True, step_size=rate)

    def __call__(self, model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG002
        """Return the loss; in training the multiplier is changed too."""
        view = Standardised(measurement, _size(measurement))
        x = model(measurement.y, measurement.physics)
        wrapped = view.model(model).train(model.training)
        self.loss.sigma2 = self.loss.sigma2.to(view.y).detach().requires_grad_()
        return _relative(self.loss(y=view.y, x_net=x, physics=view, model=wrapped), view), x


def sure_poisson(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG001
    """SURE of Poisson noise [Le Montagner 2014]."""
    noise = measurement.physics.noise_model
    if not isinstance(noise, PoissonNoise):
        raise OptionError("this loss is for Poisson noise", found=type(noise).__name__)
    check_counts(measurement)
    view = Standardised(measurement, _of_entries(noise.gain, measurement.y))
    x = model(measurement.y, measurement.physics)
    loss = SurePoissonLoss(gain=1.0, tau=_PROBE * float(view.y.mean().clamp_min(1e-6).sqrt()))
    return _relative(loss(y=view.y, x_net=x, physics=view, model=view.model(model)), view), x


def sure_poisson_gaussian(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG001
    """SURE of photons and read noise [Le Montagner 2014]."""
    noise, y = measurement.physics.noise_model, measurement.y
    if not isinstance(noise, PoissonGaussianNoise):
        raise OptionError("this loss is for Poisson-Gaussian noise", found=type(noise).__name__)
    gain = _of_entries(noise.gain, y)
    sky = _of_entries(noise.sky, y) if isinstance(noise, SkyNoise) else None
    view = Standardised(measurement, gain, sky)
    sigma = view.pack_constant(_of_entries(noise.sigma, y) / gain)
    x = model(y, measurement.physics)
    level = float((view.y.clamp_min(0) + sigma.square()).mean().clamp_min(1e-6).sqrt())
    loss = SurePGLoss(sigma=sigma, gain=1.0, tau1=_PROBE * level, tau2=level, second_derivative=True)
    return _relative(loss(y=view.y, x_net=x, physics=view, model=view.model(model)), view), x


def r2r(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG001
    """Recorrupted to recorrupted [Pang 2021; Monroy 2025]: reconstruct noisier data, predict data of other noise."""
    noise = measurement.physics.noise_model
    if isinstance(noise, PoissonNoise):
        check_counts(measurement)
        view = Standardised(measurement, _of_entries(noise.gain, measurement.y))
        unit_noise, noisier = PoissonNoise(1.0), PoissonNoise(noise.gain / (1 - _RECORRUPTION))
    else:
        deviation = known_deviation(measurement)
        view = Standardised(measurement, deviation)
        sigma = measurement.physics.noise_model.sigma
        unit_noise, noisier = GaussianNoise(1.0), GaussianNoise(sigma / (1 - _RECORRUPTION) ** 0.5)
    loss = R2RLoss(noise_model=unit_noise, alpha=_RECORRUPTION)
    adapted = loss.adapt_model(view.model(model, noise=noisier)).train()
    x = adapted(view.y, view, update_parameters=True)
    return _relative(loss(x_net=x, y=view.y, physics=view, model=adapted), view), x


def mc(model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG001
    """Squared misfit of the measurements, which is for data without noise, and with a null-space term."""
    view = Standardised(measurement, _size(measurement))
    x = model(measurement.y, measurement.physics)
    return _relative(MCLoss()(y=view.y, x_net=x, physics=view), view), x


class Own:
    """A loss that only the network itself can tell, such as the objective that it unfolds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: Reconstructor, measurement: Measurement, rng: torch.Generator) -> Value:  # noqa: ARG002
        """Return the loss; raises `OptionError` where the network has none of this name."""
        if not isinstance(model, LearnedReconstructor) or self.name not in model.own_losses:
            raise OptionError(
                f"this network tells no loss {self.name!r}",
                found=type(model).__name__,
                expected="one that unfolds the minimisation of an objective, such as unfolded-ista",
                cure="Take another loss",
            )
        x, values = model.with_losses(measurement.y, measurement.physics, [self.name])
        return values[self.name], x


LOSSES: Mapping[str, Callable[[], MeasurementLoss]] = {
    "ssdu": lambda: ssdu,
    "sure": lambda: sure,
    "unsure": Unsure,
    "sure-poisson": lambda: sure_poisson,
    "sure-poisson-gaussian": lambda: sure_poisson_gaussian,
    "r2r": lambda: r2r,
    "mc": lambda: mc,
    **{name: partial(Own, name) for name in OBJECTIVES},
}


def make_loss(name: str) -> MeasurementLoss:
    """Return a new loss of a name, with whatever it learns on the way at its start; raises `OptionError`."""
    if name not in LOSSES:
        raise OptionError(f"no loss is called {name!r}", expected=f"auto, {', '.join(LOSSES)}")
    return LOSSES[name]()


def known_deviation(measurement: Measurement) -> Float[Tensor, "..."]:
    """Return the standard deviation of Gaussian noise; raises `OptionError` where it is not known."""
    if measurement.deviation is None:
        raise OptionError(
            "this loss needs the level of Gaussian noise, above 0",
            file=measurement.name or None,
            found=type(measurement.physics.noise_model).__name__,
            cure="Give the operator a noise model, or take unsure or ssdu",
        )
    return measurement.deviation


def check_counts(measurement: Measurement) -> None:
    """Raise where Poisson data are negative (`DataError`) or not in the units of the image (`OptionError`)."""
    if not bool(measurement.physics.noise_model.normalize):
        raise OptionError(
            "Poisson data are in units of the image here", found="normalize=False", cure="Multiply them by the gain"
        )
    least = float(measurement.y.min())
    if least < 0:
        raise DataError(
            "Poisson data are not negative",
            file=measurement.name or None,
            found=f"{least:.4g}",
            cure="Where an offset or sky was taken off, give the operator SkyNoise or PoissonGaussianNoise",
        )


def automatic(measurement: Measurement, *, can_split: bool) -> tuple[str, str]:
    """Return the name of the loss for measurements of which nobody said how, and why.

    Parameters
    ----------
    measurement
        The first of them.
    can_split
        Whether the network reconstructs from a part of the measurements.
    """
    noise, physics = measurement.physics.noise_model, measurement.physics
    if isinstance(physics, MultiCoilMRI) and not bool(physics.mask.all()) and can_split:
        return "ssdu", "undersampled k-space: samples that are left out are predicted"
    if isinstance(noise, PoissonNoise):
        return "sure-poisson", "Poisson noise of known gain"
    if isinstance(noise, PoissonGaussianNoise):
        return "sure-poisson-gaussian", "photon and read noise of known levels"
    if measurement.deviation is not None and not measurement.estimated:
        return "sure", "Gaussian noise of known level"
    if isinstance(noise, GaussianNoise) and bool((noise.sigma == 0).all()):
        return "mc", "the noise model says that there is no noise"
    if can_split:
        return "ssdu", "noise of unknown level: measurements that are left out are predicted"
    return "unsure", "noise of unknown level, and the network takes no part of the measurements"


def _relative(loss: Tensor, view: Standardised) -> Float[Tensor, ""]:
    return loss.mean() / view.y.square().mean().clamp_min(torch.finfo(view.y.dtype).tiny)


def _size(measurement: Measurement) -> Float[Tensor, "..."]:
    """Root mean square of each row's entries, broadcastable to ``y``; what was not measured counts as 0."""
    y = measurement.y
    power = _real(y).square().flatten(1).mean(1).sqrt()
    return torch.where(power > 0, power, 1).reshape(-1, *(1,) * (y.ndim - 1))


def _of_entries(value: Tensor, y: Tensor) -> Float[Tensor, "..."]:
    value = torch.as_tensor(value, dtype=y.real.dtype, device=y.device).detach()
    return value.reshape(-1, *(1,) * (y.ndim - 1))


def _real(v: Tensor) -> Tensor:
    return torch.view_as_real(v.resolve_conj()) if v.is_complex() else v


def _like_real(mask: Tensor, y: Tensor) -> Tensor:
    return mask.expand_as(y)[..., None] if y.is_complex() else mask.expand_as(y)
