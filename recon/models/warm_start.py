"""Images that unrolled networks start from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from recon.calibration import noise_level
from recon.models.l1_wavelet import L1Wavelet
from recon.physics import MultiCoilMRI
from recon.physics.errors import CalibrationError
from recon.physics.layout import to_complex
from recon.physics.linalg import conjugate_gradient
from recon.regularisation import single

_STRENGTH = 0.7  # of the wavelets' penalty, over the noise level: about what is chosen from left-out samples
_UNKNOWN = 0.01  # noise level, over the scale of the data, where nothing tells it

Image = Complex[Tensor, "b set y x"]


def cg_sense_image(y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI, iterations: int) -> Image:
    """CG-SENSE of so many iterations."""
    return conjugate_gradient(physics.normal, to_complex(physics.A_adjoint(y)), max_iter=iterations, tol=0.0)


def sparse_image(
    y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI, levels: Float[Tensor, " b"], iterations: int
) -> Image:
    """L1-wavelet [Lustig 2007], its strength proportional to the noise level.

    Parameters
    ----------
    y
        K-space, of any unit.
    physics
        Its operator.
    levels
        Standard deviation of the real part of a sample's noise, in the unit of ``y``; see `noise_levels`.
    iterations
        Of the solution.
    """
    # Nothing here is trained, and matrices of wavelets want all of their digits.
    with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
        images = []
        for index, level in enumerate(levels.tolist()):
            y_i, physics_i = single(y, physics, index)
            model = L1Wavelet(regularisation=_STRENGTH * level, iterations=iterations)
            images.append(to_complex(model(y_i, physics_i)))
        return torch.cat(images)


def filled_in(
    image: Image, z0: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI, mask: Bool[Tensor, "#b 1 y x"]
) -> Complex[Tensor, "b coil y x"]:
    """Coil images of the data, ``z0``, whose missing samples are those of an image; the mask has DC at index 0."""
    guess = (physics.coil_maps * image[:, :, None]).sum(1)
    return z0 + torch.fft.ifftn(~mask * torch.fft.fftn(guess, dim=(-2, -1)), dim=(-2, -1))


def noise_levels(
    y: Complex[Tensor, "b coil y x"], physics: MultiCoilMRI, unit: Float[Tensor, "b 1 1 1"]
) -> Float[Tensor, " b"]:
    """Return the standard deviation of the real part of a sample's noise, over ``unit`` as ``y`` is.

    It is that of the noise model, whose own unit is that of the measurements; or else as the outer samples tell it.
    """
    sigma = getattr(physics.noise_model, "sigma", None)
    if sigma is not None and bool((torch.as_tensor(sigma) > 0).all()):
        return torch.as_tensor(sigma, dtype=unit.dtype, device=unit.device).flatten() / unit.flatten()
    try:
        return noise_level(y, physics.mask).flatten()
    except CalibrationError:
        return torch.full_like(unit.flatten(), _UNKNOWN)
