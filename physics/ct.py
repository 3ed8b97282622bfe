"""Computed tomography: line integrals of the attenuation along a parallel or a fan beam."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.functional import RampFilter
from deepinv.physics.noise import GaussianNoise, NoiseModel, ZeroNoise
from jaxtyping import Float
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import OptionError, ShapeError
from recon.physics.rays import Projector, Rays


class Tomography(LinearPhysics, ABC):
    r"""Line integrals :math:`y_{t\theta} = \int x(p_{t\theta} + s\, d_{t\theta})\, ds` of 2-D images.

    The adjoint is exact (`recon.physics.rays`), unlike back-projection by rotating. A child says where the rays run.

    Parameters
    ----------
    img_size
        (c, y, x); channels are measured one by one.
    angles
        In degrees: how many, spread evenly over ``arc``, or each one.
    arc
        Over which a number of angles is spread, in degrees; None: `full_arc`, and less than it is limited-angle CT.
    detectors
        Cells of the detector; None: as many as see the whole image from every side.
    detector_spacing
        Distance of two cells, in the unit of ``pixel_size``; None: such that they are a pixel apart in the middle of
        the image.
    pixel_size
        Side of a pixel, mm say: the integrals are in its unit.
    normalize
        Divide by the largest singular value, so that it becomes 1 (`scale` then is not).
    noise_model
        None: no noise. `recon.physics.noise` has the photon noise of CT.
    matrix
        See `recon.physics.rays.Projector`.

    Attributes
    ----------
    full_arc
        Degrees over which the geometry sees every line.
    angles
        In degrees.
    scale
        By which the line integrals are multiplied.

    Raises
    ------
    OptionError
        No angle, no detector, or sizes that are not positive.
    """

    full_arc: ClassVar[float]
    scale: float

    def __init__(
        self,
        img_size: tuple[int, int, int],
        angles: int | Sequence[float] | Float[Tensor, "angle"],
        *,
        arc: float | None = None,
        detectors: int | None = None,
        detector_spacing: float | None = None,
        pixel_size: float = 1.0,
        normalize: bool = False,
        noise_model: NoiseModel | None = None,
        matrix: bool | None = None,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), img_size=tuple(img_size))
        if isinstance(angles, int):
            arc = self.full_arc if arc is None else arc
            angles = [arc * k / angles for k in range(angles)]
        self.angles = torch.as_tensor(angles, dtype=torch.float64)
        positive = {"a pixel": pixel_size, "a detector spacing": detector_spacing, "the number of detectors": detectors}
        for what, value in positive.items():
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise OptionError(f"{what} is positive", found=value)
        if self.angles.ndim != 1 or len(self.angles) == 0 or not bool(torch.isfinite(self.angles).all()):
            raise OptionError("CT needs angles, in degrees, at least one", found=angles)
        self.pixel_size = pixel_size
        self.detectors = detectors or self._enough_detectors()
        self.detector_spacing = detector_spacing or pixel_size * self._magnification()
        self._projector = Projector(self._rays(), self.img_size[1:], matrix=matrix)
        self.scale = 1.0
        if normalize:
            self.scale = self.sqnorm**-0.5

    @property
    def sqnorm(self) -> float:
        """Largest eigenvalue of :math:`A^T A`."""
        return self._projector.sqnorm * (self.scale * self.pixel_size) ** 2

    @property
    def half_diagonal(self) -> float:
        """Distance of the image's corners from its centre, in pixels."""
        return math.hypot(*self.img_size[1:]) / 2

    def A(self, x: Float[Tensor, "b c y x"], **parameters: Any) -> Float[Tensor, "b c detector angle"]:
        """Integrate along the rays; the sinogram has the axes of deepinv's `Tomography`."""
        self.update_parameters(**parameters)
        y = self._projector.forward(x.flatten(0, 1)) * (self.scale * self.pixel_size)
        return y.reshape(*x.shape[:2], self.detectors, len(self.angles))

    def A_adjoint(self, y: Float[Tensor, "b c detector angle"], **parameters: Any) -> Float[Tensor, "b c y x"]:
        """Back-project: the adjoint of `A`."""
        self.update_parameters(**parameters)
        if y.ndim != 4 or y.shape[2:] != (self.detectors, len(self.angles)):
            raise ShapeError(
                "a sinogram that does not fit the geometry",
                found=tuple(y.shape),
                expected=f"(b, c, {self.detectors} detectors, {len(self.angles)} angles)",
            )
        x = self._projector.adjoint(y.flatten(0, 1).flatten(1)) * (self.scale * self.pixel_size)
        return x.reshape(*y.shape[:2], *self.img_size[1:])

    @abstractmethod
    def fbp(self, y: Float[Tensor, "b c detector angle"]) -> Float[Tensor, "b c y x"]:
        """Reconstruct by filtered back-projection, in the unit of the image."""

    @abstractmethod
    def _rays(self) -> Rays:
        """Return the rays, of each detector all angles."""

    @abstractmethod
    def _enough_detectors(self) -> int: ...

    @abstractmethod
    def _magnification(self) -> float:
        """How much larger something at the centre of the image is on the detector."""

    def cells(self) -> Float[Tensor, "detector"]:
        """Return the place of each cell on the detector, in pixels of the image."""
        place = torch.arange(self.detectors, dtype=torch.float64) - (self.detectors - 1) / 2
        return place * (self.detector_spacing / self.pixel_size)


@operators.register("ct")
class ParallelCT(Tomography):
    """CT with a parallel beam; for the parameters see `Tomography`.

    At angle 0 the rays run down the columns, and detector i sees column i of an image as wide as the detector;
    directions are those of deepinv's `Tomography`, from which only the interpolation differs.
    """

    full_arc = 180.0

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[ParallelCT, Float[Tensor, "b c y x"]]:
        """Make an instance and an image for the shared operator test."""
        x = torch.randn(batch, 2, 7, 8, dtype=dtype, generator=generator).to(device)
        return cls((2, 7, 8), 6, noise_model=GaussianNoise(0.1)), x

    def fbp(self, y: Float[Tensor, "b c detector angle"]) -> Float[Tensor, "b c y x"]:
        """Filter each projection by a ramp and back-project it, weighted by the angle that it stands for."""
        weights = angular_weights(self.angles, self.full_arc).to(y.device, y.dtype)
        filtered = RampFilter(dtype=y.dtype)(y) * weights  # deepinv's ramp is twice |frequency|
        return self.A_adjoint(filtered) / (2 * (self.scale * self.pixel_size) ** 2)

    def _rays(self) -> Rays:
        radians = torch.deg2rad(self.angles)
        cos, sin = radians.cos(), radians.sin()
        t = self.cells()[:, None]
        point = torch.stack([t * cos, -t * sin], -1)
        direction = torch.stack([sin, cos], -1).expand_as(point)
        return Rays(point.reshape(-1, 2), direction.reshape(-1, 2))

    def _enough_detectors(self) -> int:
        return math.ceil(2 * self.half_diagonal)

    def _magnification(self) -> float:
        return 1.0


@operators.register("ct-fan")
class FanCT(Tomography):
    """CT with a fan beam and a flat detector; the rest as in `Tomography`.

    At angle 0 the source is on the left of the image, and the detector's cells run downwards, as in deepinv.

    Parameters
    ----------
    source_distance, detector_distance
        Of source and detector from the centre of the image, in the unit of ``pixel_size``; None: four times the
        image's half diagonal, and half of that.
    """

    full_arc = 360.0

    def __init__(
        self,
        img_size: tuple[int, int, int],
        angles: int | Sequence[float] | Float[Tensor, "angle"],
        *,
        arc: float | None = None,
        source_distance: float | None = None,
        detector_distance: float | None = None,
        detectors: int | None = None,
        detector_spacing: float | None = None,
        pixel_size: float = 1.0,
        normalize: bool = False,
        noise_model: NoiseModel | None = None,
        matrix: bool | None = None,
    ) -> None:
        radius = math.hypot(*img_size[1:]) / 2 * pixel_size
        self.source_distance = 4 * radius if source_distance is None else source_distance
        self.detector_distance = self.source_distance / 2 if detector_distance is None else detector_distance
        if not self.source_distance > radius or not self.detector_distance >= 0:
            raise OptionError(
                "the source lies outside the image, and the detector beyond its centre",
                found=f"distances {self.source_distance:g} and {self.detector_distance:g}",
                expected=f"more than {radius:g}, and at least 0",
            )
        super().__init__(
            img_size,
            angles,
            arc=arc,
            detectors=detectors,
            detector_spacing=detector_spacing,
            pixel_size=pixel_size,
            normalize=normalize,
            noise_model=noise_model,
            matrix=matrix,
        )

    @classmethod
    def example(
        cls,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch: int = 1,
    ) -> tuple[FanCT, Float[Tensor, "b c y x"]]:
        """Make an instance and an image for the shared operator test."""
        x = torch.randn(batch, 1, 8, 7, dtype=dtype, generator=generator).to(device)
        return cls((1, 8, 7), 7, normalize=True, noise_model=GaussianNoise(0.1)), x

    def fbp(self, y: Float[Tensor, "b c detector angle"]) -> Float[Tensor, "b c y x"]:
        """Sort the rays into parallel beams (interpolated between its rays), and back-project those."""
        parallel = ParallelCT(self.img_size, len(self.angles), pixel_size=self.pixel_size, matrix=False)
        return parallel.fbp(self.rebinned(y, parallel) / self.scale)

    def rebinned(self, y: Float[Tensor, "b c detector angle"], parallel: ParallelCT) -> Float[Tensor, "b c ray view"]:
        r"""Interpolate the sinogram of a parallel beam: ray (t, θ) leaves the source at angle γ = asin(t / D).

        Rays that the arc did not measure are taken from the other side, where that was; else they are 0.
        """
        t, theta = parallel.cells()[:, None], torch.deg2rad(parallel.angles)[None]
        distance = self.source_distance / self.pixel_size
        cells = self.cells()
        total = torch.zeros(*y.shape[:2], *torch.broadcast_shapes(t.shape, theta.shape), dtype=y.dtype, device=y.device)
        hits = torch.zeros_like(total[:1, :1])
        angles = torch.deg2rad(self.angles)
        step = 2 * math.pi / len(angles) if len(angles) < 2 else float((angles[-1] - angles[0]) / (len(angles) - 1))
        round_trip = abs(abs(step) * len(angles) - 2 * math.pi) < abs(step) / 2
        wrapped = torch.cat([y, y[..., :1]], -1) if round_trip else y
        for side in (0, 1):  # the same line seen from the other end
            gamma = torch.asin(((-1) ** side * t / distance).clamp(-1, 1))
            beta = theta + side * math.pi - math.pi / 2 - gamma
            u = -gamma.tan() * (distance + self.detector_distance / self.pixel_size)
            turn = (
                torch.remainder(beta - angles[0], 2 * math.pi)
                if step > 0
                else torch.remainder(angles[0] - beta, 2 * math.pi)
            )
            place = torch.stack(
                [
                    2 * (turn / abs(step)) / max(wrapped.shape[-1] - 1, 1) - 1,
                    (2 * (u - cells[0]) / (cells[-1] - cells[0]) - 1).expand_as(beta),
                ],
                -1,
            ).to(y.device, y.dtype)
            grid = place[None].expand(len(y), -1, -1, -1)
            seen = (place.abs() <= 1).all(-1).to(y.dtype)
            total += torch.nn.functional.grid_sample(wrapped, grid, align_corners=True) * seen
            hits += seen
        return total / hits.clamp_min(1)

    def _rays(self) -> Rays:
        radians = torch.deg2rad(self.angles + 90)
        cos, sin = radians.cos(), radians.sin()
        u = -self.cells()[:, None]
        source, detector = self.source_distance / self.pixel_size, self.detector_distance / self.pixel_size
        axis, beam = torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)
        point = (-source * beam).expand(len(u), -1, -1)
        direction = beam * (source + detector) + u[..., None] * axis
        return Rays(point.reshape(-1, 2), direction.reshape(-1, 2))

    def _enough_detectors(self) -> int:
        distance = self.source_distance / self.pixel_size
        widest = distance * math.tan(math.asin(min(self.half_diagonal / distance, 1.0)))
        return math.ceil(2 * widest)

    def _magnification(self) -> float:
        return (self.source_distance + self.detector_distance) / self.source_distance


def angular_weights(angles: Float[Tensor, "angle"], period: float) -> Float[Tensor, "angle"]:
    """Radians that each angle (in degrees) stands for: half of the gaps to its neighbours, which close a ``period``.

    Where a gap is more than three times the median, as at the ends of a limited arc, it counts like the median.
    """
    if len(angles) == 1:
        return torch.tensor([math.radians(period)], dtype=angles.dtype)
    turned = torch.remainder(angles, period)
    order = turned.argsort()
    gaps = turned[order].diff(append=turned[order][:1] + period)
    median = gaps.median()
    gaps = torch.where(gaps > 3 * median, median, gaps)
    weights = torch.empty_like(angles)
    weights[order] = (gaps + gaps.roll(1)) / 2
    return torch.deg2rad(weights)
