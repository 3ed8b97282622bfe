"""The noise of a camera: sky, read-out and dark current, from a recipe or as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon.physics.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of one pixel, in the image's own counts.

    Parameters
    ----------
    sky
        Counts of sky and dark current in a pixel.
    read
        Standard deviation of the read-out.
    gain
        Electrons a count.
    poisson
        The observed stamp is Poisson in electrons and keeps its sky; otherwise the noise is Gaussian, the same in all
        pixels, and the sky is subtracted.
    """

    sky: float
    read: float = 0.0
    gain: float = 1.0
    poisson: bool = False

    def __post_init__(self) -> None:
        if not (self.sky >= 0 and self.read >= 0 and self.gain > 0 and self.sigma > 0):
            raise OptionError("noise that is negative or nil", found=self, expected="sky, read >= 0, gain > 0")

    @property
    def sigma(self) -> float:
        """Standard deviation of a pixel without source, in counts."""
        return math.sqrt(self.sky / self.gain + self.read**2)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What an exposure's noise follows from.

    Parameters
    ----------
    exposure
        Seconds.
    zero_point
        Magnitude of a source of one photon a second.
    quantum_efficiency
        Electrons a photon.
    sky_magnitude
        Of a square arcsecond.
    read_noise
        Electrons.
    reads
        Number of read-outs.
    dark
        Electrons a second and pixel.
    gain
        Electrons a count.
    """

    exposure: float
    zero_point: float
    sky_magnitude: float
    quantum_efficiency: float = 1.0
    read_noise: float = 0.0
    reads: int = 1
    dark: float = 0.0
    gain: float = 1.0

    def noise(self, pixel_scale: float) -> Noise:
        """Return the noise of a pixel of ``pixel_scale`` arcsec."""
        rate = 10 ** (-0.4 * (self.sky_magnitude - self.zero_point)) * pixel_scale**2  # photons a second
        electrons = self.exposure * (rate * self.quantum_efficiency + self.dark)
        read = self.read_noise * math.sqrt(self.reads)
        return Noise(sky=electrons / self.gain, read=read / self.gain, gain=self.gain)


# Li & Alexander 2023: i-band sky 20.48, 30 s, gain 2.3, quantum efficiency 0.94, read noise 8.8 e-. Their recipe takes
# 27.85 photons a second for magnitude 24 and counts Poisson-distributed in ADU: a camera of gain 1 whose efficiency
# and read noise are those of one ADU. It gives a sky of 349.47 and a sigma of 19.037 ADU a pixel of 0.2".
LETTER_CAMERA = Camera(
    exposure=30.0,
    zero_point=24 + 2.5 * math.log10(27.85),
    sky_magnitude=20.48,
    quantum_efficiency=0.94 / 2.3,
    read_noise=8.8 * 0.94 / 2.3,
)
