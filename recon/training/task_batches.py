"""Batches of one task: images, the operator that measured them, and the noise."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import GaussianNoise, NoiseModel, PoissonGaussianNoise
from jaxtyping import Float, Shaped
from torch import Tensor

from recon.datasets.tensors import TensorBatch
from recon.physics import MultiCoilMRI
from recon.physics.inpainting import Inpainting
from recon.physics.single_coil import SingleCoilMRI

_REFERENCE = 0.1  # noise level over the images' scale at which a weight is 1
_LEAST = 0.01  # noise level over the images' scale below which a weight grows no more


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskBatch(TensorBatch):
    """Images measured by one operator.

    Parameters
    ----------
    y
        Measurements, the batch first.
    target
        The images.
    operator
        What measured them.
    sigma, gain
        Of the noise; a gain of 0 is no photon noise.
    weight
        Of each example in the loss.
    task
        Its name.
    names
        Where each image is from.
    """

    y: Tensor
    target: Float[Tensor, "b channel y x"]
    operator: LinearPhysics
    sigma: Float[Tensor, " b"]
    gain: Float[Tensor, " b"]
    weight: Float[Tensor, " b"]
    task: str
    names: tuple[str, ...]

    def physics(self) -> LinearPhysics:
        """Return the operator, which knows the noise."""
        self.operator.noise_model = self._noise_model()
        return self.operator

    def to(self, device: torch.device | str) -> TaskBatch:
        """Return the batch on ``device``, with an operator of its own where it moves."""
        moved = super().to(device)
        if moved.y.device == self.y.device:
            return self
        object.__setattr__(moved, "operator", deepcopy(self.operator).to(moved.y.device))
        return moved

    def _noise_model(self) -> NoiseModel:
        if bool((self.gain > 0).any()):
            return PoissonGaussianNoise(self.gain, self.sigma)
        return GaussianNoise(self.sigma)


def measured(
    images: Float[Tensor, "b channel y x"],
    operator: LinearPhysics,
    exact: Shaped[Tensor, "b ..."],
    *,
    sigma: Float[Tensor, " b"],
    gain: Float[Tensor, " b"] | None = None,
    task: str,
    names: tuple[str, ...],
    power: float,
    generator: torch.Generator,
) -> TaskBatch:
    r"""Measure images: :math:`y = \gamma\,\mathrm{Poisson}(Ax/\gamma) + \sigma n`.

    Examples weigh :math:`(0.1\, s / \sigma_e)^p`, with the root mean square s of the back-projection for A of norm 1,
    and the noise level :math:`\sigma_e` that both kinds of noise make. With p = 1 that is RAM's
    :math:`\|A^T y\| / \sigma` [Terris et al. 2025] but for a factor, and for a bound where there is hardly any noise.

    Parameters
    ----------
    images
        The truth.
    operator
        A; where its norm is not 1, with an attribute ``sqnorm``.
    exact
        Ax, which noise was drawn for.
    sigma, gain
        Noise of each.
    task, names
        For the batch.
    power
        p.
    generator
        Of the noise.
    """
    wide = (-1, *(1,) * (exact.ndim - 1))
    y = exact
    if gain is not None:
        counts = torch.poisson(exact.clamp_min(0) / gain.reshape(wide), generator=generator)
        y = counts * gain.reshape(wide)
    noise = torch.randn((*y.shape, 2) if y.is_complex() else y.shape, generator=generator)
    y = y + sigma.reshape(wide) * (torch.view_as_complex(noise) if y.is_complex() else noise)
    if isinstance(operator, Inpainting | SingleCoilMRI | MultiCoilMRI):
        y = y * operator.mask
    gain = torch.zeros_like(sigma) if gain is None else gain
    square = float(getattr(operator, "sqnorm", 1.0))
    scale = (operator.A_adjoint(y) / square).flatten(1).square().mean(1).sqrt()
    level = (sigma.square() + gain * exact.abs().flatten(1).mean(1)).sqrt() / square**0.5
    weight = (_REFERENCE * scale / torch.maximum(level, _LEAST * scale).clamp_min(1e-12)) ** power
    return TaskBatch(
        y=y, target=images, operator=operator, sigma=sigma, gain=gain, weight=weight, task=task, names=names
    )
