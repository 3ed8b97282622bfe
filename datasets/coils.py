"""Receive coils and their noise: what an image lacks to become raw data of many channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import interpolate

from recon.datasets.random import Number, Seed, as_generator
from recon.physics.errors import CalibrationError, OptionError

_SEGMENTS = 32  # straight pieces of a loop
_COARSE = 48  # the field is computed on at most so many points an axis, and interpolated
_WIRE = 0.3  # thickness of the wire: keeps the field smooth where a loop cuts a corner of the field of view


@dataclass(frozen=True)
class LoopArray:
    """Circular receive loops around a field of view that reaches from -1 to 1 along y and x.

    Parameters
    ----------
    centers, normals
        (x, y, z) of each loop's centre, and the unit vector along its axis.
    radii
        Radius of each loop.
    gains
        Complex gain of each receiver.
    """

    centers: Float[Tensor, "coil 3"]
    normals: Float[Tensor, "coil 3"]
    radii: Float[Tensor, " coil"]
    gains: Complex[Tensor, " coil"]

    def maps(self, shape: tuple[int, int], z: Number = 0.0) -> Complex[Tensor, "coil y x"]:
        r"""Coil maps of the plane at height ``z``, normalised to :math:`\sum_c |S_c|^2 = 1` everywhere.

        The receive sensitivity :math:`B_1^- = B_x - i B_y` by Biot and Savart's law, main field along z
        [Hoult 2000]. The field is smooth, so it is computed on a coarse grid and interpolated (bicubic).
        """
        field = _interpolated(self.sensitivity(tuple(min(n, _COARSE) for n in shape), z), shape)
        return field / torch.linalg.vector_norm(field, dim=0)

    def sensitivity(self, shape: Sequence[int], z: Number = 0.0) -> Complex[Tensor, "coil y x"]:
        """Sensitivity before normalisation, on a grid of pixel centres."""
        y, x = (pixel_centers(n) for n in shape)
        points = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x)), torch.full((len(y), len(x)), z)), -1)
        field = torch.stack([_loop_field(*loop, points) for loop in zip(*self._loops(), strict=True)])
        return self.gains[:, None, None] * torch.complex(field[..., 0], -field[..., 1])

    def volume(self, shape: tuple[int, int, int]) -> Complex[Tensor, "coil z y x"]:
        """Coil maps of a volume whose slices fill the height of the array."""
        return torch.stack([self.maps(shape[1:], float(z)) for z in pixel_centers(shape[0])], dim=1)

    def _loops(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.centers, self.normals, self.radii


def random_loops(coils: int, generator: Seed = 0) -> LoopArray:
    """Draw an array of loops: rings around the body, each loop at its own place, size, tilt, gain and phase.

    Parameters
    ----------
    coils
        Number of coils; up to 8 a ring, rings one above the other.
    generator
        Generator or seed.
    """
    if coils < 1:
        raise OptionError("an array has at least one coil", found=coils)
    rng = as_generator(generator)

    def uniform(low: Number, high: Number) -> Tensor:
        return low + (high - low) * torch.rand(coils, generator=rng)

    rings = -(-coils // 8)
    index = torch.arange(coils)
    ring, slots = index % rings, -(-coils // rings)
    angle = 2 * torch.pi * (index // rings + 0.5 * ring + uniform(-0.3, 0.3)) / slots + uniform(0, 1)[0] * 2 * torch.pi
    height = (ring - (rings - 1) / 2) * (1.4 / max(rings - 1, 1)) + uniform(-0.2, 0.2)
    distance = uniform(1.5, 1.8)
    tilt = angle + uniform(-0.25, 0.25)
    lift = uniform(-0.25, 0.25)
    return LoopArray(
        centers=torch.stack((distance * angle.cos(), distance * angle.sin(), height), -1),
        normals=torch.stack((tilt.cos() * lift.cos(), tilt.sin() * lift.cos(), lift.sin()), -1),
        radii=uniform(0.5, 0.9),
        gains=torch.polar(uniform(0.7, 1.4), uniform(0, 2 * torch.pi)),
    )


def resample_maps(maps: Complex[Tensor, "coil v u"], shape: tuple[int, int]) -> Complex[Tensor, "coil y x"]:
    r"""Bring coil maps, of a real scan say, to another matrix of the same field of view.

    Interpolated (bicubic) and normalised to :math:`\sum_c |S_c|^2 = 1` again, where they are not zero.
    """
    field = _interpolated(maps, shape)
    size = torch.linalg.vector_norm(field, dim=0)
    return torch.where(size > 0.5 * size.max(), field / size.clamp_min(torch.finfo(size.dtype).tiny), 0)


def noise_covariance(
    sensitivity: Complex[Tensor, "coil *spatial"], correlation: Number = 0.3, generator: Seed = 0
) -> Complex[Tensor, "coil coil"]:
    r"""Covariance of the noise between coils, of mean variance 1.

    Coils that see the same part of the body receive the same part of its noise [Roemer 1990], so the correlations
    are those of the sensitivities, times ``correlation``; what is left is each receiver's own noise. Receivers
    differ in level by up to a fifth.

    Parameters
    ----------
    sensitivity
        Coil maps or unnormalised sensitivities.
    correlation
        Share of body noise, from 0 (white but for the levels) to below 1.
    generator
        Generator or seed of the levels.

    References
    ----------
    Roemer, Edelstein, Hayes, Souza, Mueller, The NMR phased array, MRM 16, 1990, eq. 6-8.
    """
    if not 0 <= correlation < 1:
        raise OptionError("a correlation lies between 0 and 1", found=correlation)
    flat = sensitivity.flatten(1).to(torch.complex128)
    size = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    if not bool((size > 0).all()):
        raise CalibrationError("a coil map is zero everywhere", cure="Leave this coil out")
    gram = (flat / size) @ (flat / size).mH
    coils = len(flat)
    levels = 1 + 0.2 * (2 * torch.rand(coils, generator=as_generator(generator), dtype=torch.float64) - 1)
    levels = levels / levels.square().mean().sqrt()
    unit = torch.eye(coils, dtype=torch.complex128)
    return levels[:, None] * (correlation * gram + (1 - correlation) * unit) * levels[None, :]


def _loop_field(center: Tensor, normal: Tensor, radius: Tensor, points: Float[Tensor, "*p 3"]) -> Float[Tensor, "*p 3"]:
    """Field of a circular loop by the Biot-Savart law, up to a constant: the sum of dl x r / |r|^3, wire thick."""
    # Any two unit vectors that span the loop's plane.
    across = torch.linalg.cross(normal, torch.eye(3)[int(normal.abs().argmin())])
    across = across / across.norm()
    up = torch.linalg.cross(normal, across)
    angle = 2 * torch.pi * torch.arange(_SEGMENTS) / _SEGMENTS
    wire = center + radius * (angle.cos()[:, None] * across + angle.sin()[:, None] * up)
    current = radius * (angle.cos()[:, None] * up - angle.sin()[:, None] * across) * (2 * torch.pi / _SEGMENTS)
    # sum of w (dl x (p - wire)) = (sum of w dl) x p - sum of w (dl x wire): the sums are products of matrices.
    distance = points.square().sum(-1, keepdim=True) - 2 * points @ wire.T + wire.square().sum(-1)
    w = (distance + _WIRE**2) ** -1.5
    return torch.linalg.cross(w @ current, points) - w @ torch.linalg.cross(current, wire)


def _interpolated(field: Complex[Tensor, "coil v u"], shape: Sequence[int]) -> Complex[Tensor, "coil height width"]:
    if tuple(field.shape[1:]) == tuple(shape):
        return field
    parts = torch.view_as_real(field.resolve_conj()).movedim(-1, 1)
    fine = interpolate(parts, size=tuple(shape), mode="bicubic", align_corners=False)
    return torch.view_as_complex(fine.movedim(1, -1).contiguous())


def pixel_centers(n: int) -> Float[Tensor, " n"]:
    """Centres of ``n`` pixels that fill -1 to 1, the places that the interpolation takes them to have."""
    return (2 * torch.arange(n) + 1) / n - 1
