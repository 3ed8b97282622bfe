"""Measurements with their operators, and a view of them as deepinv's losses want them: real, white, in one vector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch

import torch
from deepinv.physics import MRI, Inpainting, LinearPhysics
from deepinv.physics.noise import GaussianNoise, NoiseModel
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recon.physics import MultiCoilMRI, PSFConvolution

Model = Callable[[Tensor, LinearPhysics], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What one forward pass of a network takes.

    Parameters
    ----------
    y
        Measurements, the batch first.
    physics
        Their operator; its noise model says what is known of the noise.
    name
        Where they are from.
    estimated
        Whether the noise level was found out from them.
    """

    y: Tensor
    physics: LinearPhysics
    name: str = ""
    estimated: bool = False

    def to(self, device: torch.device | str) -> Measurement:
        """Copy to a device; the operator, which may belong to somebody else, is copied too where it has to move."""
        if self.y.device == torch.device(device):
            return self
        return replace(self, y=self.y.to(device), physics=copy.deepcopy(self.physics).to(device))

    @cached_property
    def sampled(self) -> Bool[Tensor, "..."] | None:
        """Which entries of ``y`` were measured; None: all."""
        return sampled_entries(self.physics, self.y)

    @cached_property
    def deviation(self) -> Float[Tensor, "..."] | None:
        """Standard deviation of the Gaussian noise, broadcastable to ``y``, of each real part; None where unknown."""
        return noise_deviation(self.physics, self.y)


@singledispatch
def sampled_entries(physics: LinearPhysics, y: Tensor) -> Bool[Tensor, "..."] | None:  # noqa: ARG001 - as the others
    """Return which entries of ``y`` were measured; None: all."""
    return None


@sampled_entries.register
def _(physics: MultiCoilMRI, y: Tensor) -> Bool[Tensor, "..."] | None:
    return physics.mask.expand_as(y)


@sampled_entries.register(Inpainting)
@sampled_entries.register(MRI)
def _(physics: Inpainting | MRI, y: Tensor) -> Bool[Tensor, "..."] | None:
    return (physics.mask != 0).expand_as(y)


@sampled_entries.register
def _(physics: PSFConvolution, y: Tensor) -> Bool[Tensor, "..."] | None:
    return None if physics.weight is None else (physics.weight > 0).expand_as(y)


@singledispatch
def noise_deviation(physics: LinearPhysics, y: Tensor) -> Float[Tensor, "..."] | None:
    """Return the standard deviation of Gaussian noise as the noise model has it; None where it has none."""
    model = physics.noise_model
    if not isinstance(model, GaussianNoise):
        return None
    sigma = torch.as_tensor(model.sigma, dtype=y.real.dtype, device=y.device).detach()
    return sigma.reshape(-1, *(1,) * (y.ndim - 1)) if bool((sigma > 0).all() & torch.isfinite(sigma).all()) else None


@noise_deviation.register
def _(physics: PSFConvolution, y: Tensor) -> Float[Tensor, "..."] | None:
    weight = physics.weight
    known = noise_deviation.dispatch(LinearPhysics)(physics, y)
    if weight is None or known is None:
        return known
    median = torch.where(weight > 0, weight, torch.nan).flatten(1).nanmedian(1).values[:, None, None, None]
    relative = (median / weight.clamp_min(torch.finfo(weight.dtype).tiny)).sqrt()
    return known * torch.where(weight > 0, relative, 1.0).to(y.dtype)


def with_noise(physics: LinearPhysics, noise_model: NoiseModel) -> LinearPhysics:
    """Return the operator with another noise model; everything else is shared."""
    other = copy.copy(physics)
    other.__dict__["_modules"] = dict(other._modules)  # noqa: SLF001 - which a shallow copy of a module shares
    other.noise_model = noise_model
    return other


class Standardised(nn.Module):
    r"""Measurements as a real vector :math:`(y + o) / u` of those entries that were measured, ``(1, m)``.

    deepinv's losses square, correlate and perturb what they are given: that is right for real numbers of about one
    size, all of them measured. This has the operator's ``A`` in the same units, and wraps a network likewise.

    Parameters
    ----------
    measurement
        Real or complex.
    unit
        :math:`u`, broadcastable to ``y``.
    offset
        :math:`o`, broadcastable to ``y``.
    """

    def __init__(self, measurement: Measurement, unit: Tensor, offset: Tensor | None = None) -> None:
        super().__init__()
        self.measurement, self.unit, self.offset = measurement, unit, offset
        self.y = self.pack(measurement.y)

    def pack(self, y: Tensor) -> Float[Tensor, "1 m"]:
        """From the measurements' shape to the vector."""
        scaled = (y if self.offset is None else y + self.offset) / self.unit
        picked = scaled if self.measurement.sampled is None else scaled[self.measurement.sampled]
        return (torch.view_as_real(picked.resolve_conj()) if picked.is_complex() else picked).reshape(1, -1)

    def pack_constant(self, value: Tensor) -> Float[Tensor, "1 m"]:
        """Lay a real constant of each entry out like the vector."""
        full = value.expand(self.measurement.y.shape)
        picked = full if self.measurement.sampled is None else full[self.measurement.sampled]
        return (torch.stack((picked, picked), -1) if self.measurement.y.is_complex() else picked).reshape(1, -1)

    def unpack(self, v: Float[Tensor, "1 m"]) -> Tensor:
        """Invert `pack`; what was not measured is 0."""
        like, sampled = self.measurement.y, self.measurement.sampled
        entries = torch.view_as_complex(v.reshape(-1, 2)) if like.is_complex() else v.reshape(-1)
        if sampled is None:
            scaled = entries.reshape(like.shape)
        else:
            scaled = torch.zeros_like(like).masked_scatter(sampled, entries)
        whole = scaled * self.unit if self.offset is None else scaled * self.unit - self.offset
        return whole if sampled is None else torch.where(sampled, whole, 0)

    def A(self, x: Tensor) -> Float[Tensor, "1 m"]:  # noqa: N802 - deepinv's name
        """Measure."""
        return self.pack(self.measurement.physics.A(x))

    def model(self, model: Model, *, noise: NoiseModel | None = None) -> Wrapped:
        """Wrap a network so that it takes the vector; it may be told of other noise than the operator's."""
        physics = self.measurement.physics
        return Wrapped(self, model, physics if noise is None else with_noise(physics, noise))


class Wrapped(nn.Module):
    """A network that takes the vector of `Standardised`."""

    view: Standardised
    inner: Model
    physics: LinearPhysics

    def __init__(self, view: Standardised, model: Model, physics: LinearPhysics) -> None:
        super().__init__()
        # Not registered: whose weights are trained, and in which mode, is not decided here.
        self.__dict__.update(view=view, inner=model, physics=physics)

    def forward(self, v: Float[Tensor, "1 m"], _physics: object) -> Tensor:
        """Reconstruct."""
        return self.inner(self.view.unpack(v), self.physics)
