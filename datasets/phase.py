"""The phase of an image, which magnitude images lack: smooth over the body, and of the tissue itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recon.datasets.coils import pixel_centers
from recon.datasets.random import Number, Seed, as_generator
from recon.physics.errors import OptionError

_ORDER = 4  # highest sum of the three cosine orders in the low-frequency phase
_WAVES = 3  # cosines of the random curve from grey values to phase


@dataclass(frozen=True)
class BackgroundPhase:
    """Smooth phase over a volume: a quadratic polynomial and a few low spatial frequencies.

    Parameters
    ----------
    polynomial
        Coefficients of 1, x, y, z, x^2, y^2, z^2, xy, xz, yz on -1 to 1, in radians.
    cosines
        Coefficients of ``cos(pi i u) cos(pi j v) cos(pi k w)`` for z, y, x on 0 to 1, in radians.
    """

    polynomial: Float[Tensor, " 10"]
    cosines: Float[Tensor, "k j i"]

    def __call__(self, shape: tuple[int, int], z: Number = 0.0) -> Float[Tensor, "y x"]:
        """Phase of the slice at height ``z`` (-1 to 1), in radians."""
        y, x = pixel_centers(shape[0])[:, None], pixel_centers(shape[1])[None, :]
        p = self.polynomial
        smooth = p[0] + p[1] * x + p[2] * y + p[3] * z + p[4] * x**2 + p[5] * y**2 + p[6] * z**2
        smooth = smooth + p[7] * x * y + p[8] * x * z + p[9] * y * z
        order = torch.arange(len(self.cosines)) * torch.pi / 2
        along_z = torch.cos(order * (z + 1))
        along_y, along_x = torch.cos(order * (y + 1)), torch.cos(order * (x.T + 1))
        return smooth + torch.einsum("kji,k,yj,xi->yx", self.cosines, along_z, along_y, along_x)


def random_phase(generator: Seed = 0) -> BackgroundPhase:
    """Draw a background phase that varies by about pi over the field of view."""
    rng = as_generator(generator)
    polynomial = 0.8 * torch.randn(10, generator=rng)
    order = torch.arange(_ORDER + 1)
    total = order[:, None, None] + order[None, :, None] + order[None, None, :]
    cosines = torch.randn(total.shape, generator=rng) * 0.4 / total.clamp_min(1) ** 1.5
    cosines[(total == 0) | (total > _ORDER)] = 0
    return BackgroundPhase(polynomial, cosines)


def tissue_phase(image: Float[Tensor, "y x"], strength: Number, generator: Seed = 0) -> Float[Tensor, "y x"]:
    r"""Draw a phase that follows the anatomy, in radians.

    Two parts of random share: one that is a function of the grey value (off-resonance and receiver-independent phase of
    each tissue, such as the chemical shift of fat), and the field of a susceptibility that is another such function, by
    the dipole kernel :math:`1/3 - (\hat b \cdot k)^2 / |k|^2` with a main field of random direction [1]_. The plane is
    taken to go on unchanged along its normal.

    Parameters
    ----------
    image
        Magnitude, not negative.
    strength
        Root mean square of the phase over the image, weighted with the magnitude, in radians.
    generator
        Generator or seed.

    References
    ----------
    .. [1] Marques and Bowtell, Application of a Fourier-based method for rapid calculation of field inhomogeneity due
        to spatial variation of magnetic susceptibility, Concepts in Magnetic Resonance B 25, 2005, eq. 6.
    """
    if not strength >= 0:
        raise OptionError("the strength of a phase is not negative", found=strength)
    rng = as_generator(generator)
    grey = image / image.max().clamp_min(torch.finfo(image.dtype).tiny)
    direction = torch.randn(3, generator=rng)
    y, x = direction[:2] / direction.norm()
    ky, kx = torch.fft.fftfreq(image.shape[0])[:, None], torch.fft.rfftfreq(image.shape[1])
    size = (ky.square() + kx.square()).clamp_min(torch.finfo(image.dtype).tiny)
    dipole = 1 / 3 - (ky * y + kx * x).square() / size
    dipole[0, 0] = 0  # a field that is the same everywhere
    susceptibility = _curve(grey, rng)
    field = torch.fft.irfft2(dipole * torch.fft.rfft2(susceptibility), s=list(image.shape))
    own = _unit(_curve(grey, rng), grey)
    share = torch.rand((), generator=rng)
    return strength * _unit(share * own + (1 - share) * _unit(field, grey), grey)


def _curve(grey: Float[Tensor, "y x"], rng: torch.Generator) -> Float[Tensor, "y x"]:
    """Smooth random function of the grey value, from 0 to 1."""
    coefficients = torch.randn(_WAVES, generator=rng).tolist()
    return sum(c / n * torch.cos(torch.pi * n * grey) for n, c in enumerate(coefficients, 1))


def _unit(phase: Float[Tensor, "y x"], weight: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """Weighted mean 0 and mean square 1; a phase that is the same everywhere becomes 0."""
    total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
    centred = phase - (weight * phase).sum() / total
    size = ((weight * centred.square()).sum() / total).sqrt()
    return torch.where(size > 1e-6, centred / size.clamp_min(1e-6), 0.0)
