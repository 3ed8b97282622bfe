"""The steps of RecurrentVarNet, on images of coils or of their combination."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from recon.models.convgru import State
from recon.physics import MultiCoilMRI
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient

MAP_POOLS = 4  # of the U-Net for coil maps
_SMALLEST = 2 ** (MAP_POOLS + 1)  # side that leaves it two pixels


def gradient_step(
    regulariser: nn.Module,
    block: int,
    step_size: Tensor,
    z: Complex[Tensor, "b coil y x"],
    state: State,
    z0: Complex[Tensor, "b coil y x"],
    maps: Complex[Tensor, "#b set coil y x"],
    mask: Tensor,
    seen: Tensor | None,
) -> tuple[Complex[Tensor, "b coil y x"], State]:
    """Step of the paper, on coil images."""
    update, state = regularised(regulariser, block, combined(maps, z), state, seen)
    gradient = torch.fft.ifftn(mask * torch.fft.fftn(z, dim=(-2, -1)), dim=(-2, -1)) - z0
    return z - step_size * gradient + expanded(maps, update), state


def proximal_step(
    regulariser: nn.Module,
    block: int,
    weight: Tensor,
    x: Complex[Tensor, "b set y x"],
    state: State,
    right: Complex[Tensor, "b set y x"],
    physics: MultiCoilMRI,
    iterations: int,
    seen: Tensor | None,
) -> tuple[Complex[Tensor, "b set y x"], State]:
    """Regularise, then bring the image back to the data."""
    update, state = regularised(regulariser, block, x, state, seen)
    return consistent(x + update, right, physics, weight, iterations), state


def regularised(
    regulariser: nn.Module, block: int, x: Complex[Tensor, "b set y x"], state: State, seen: Tensor | None
) -> tuple[Complex[Tensor, "b set y x"], State]:
    """Return the update of an image, each set by itself, and the next state."""
    sets = x.shape[1]
    features = as_features(x, block)
    if seen is not None:
        constant = seen.repeat_interleave(sets, 0).expand(-1, -1, *features.shape[-2:])
        features = torch.cat((features, constant), 1).contiguous(memory_format=torch.channels_last)
    w, state = regulariser(features, state)
    w = pixel_shuffle(w.to(x.real.dtype), block)[..., : x.shape[-2], : x.shape[-1]]
    return to_complex(w).reshape(x.shape), state


def combined(maps: Tensor, z: Complex[Tensor, "b coil y x"]) -> Complex[Tensor, "b set y x"]:
    """Combine the coils' images."""
    return (maps.conj() * z[:, None]).sum(2)


def expanded(maps: Tensor, x: Complex[Tensor, "b set y x"]) -> Complex[Tensor, "b coil y x"]:
    """Return the coils' images of an image; the adjoint of `combined`."""
    return (maps * x[:, :, None]).sum(1)


def refined(network: nn.Module, maps: Complex[Tensor, "b set coil y x"]) -> Complex[Tensor, "b set coil y x"]:
    """Refine maps one by one, and give them unit norm over the coils where they had any."""
    h, w = maps.shape[3:]
    # Only small images are padded: the U-Net's instance normalisation needs more than one pixel at its coarsest scale.
    images = pad(to_channels(maps.reshape(-1, 1, h, w)), (0, max(_SMALLEST - w, 0), 0, max(_SMALLEST - h, 0)))
    refined = to_complex(network(images)[..., :h, :w]).reshape(maps.shape)
    norm = torch.linalg.vector_norm(torch.view_as_real(refined), dim=(2, -1)).unsqueeze(2)
    return torch.where(maps.abs().sum(2, keepdim=True) > 0, refined / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0)


def as_features(x: Complex[Tensor, "b set y x"], block: int) -> Float[Tensor, "n c v u"]:
    """Each set as an image of two channels, in blocks; the channels last in memory."""
    parts = torch.view_as_real(x.resolve_conj()).flatten(0, 1).movedim(-1, 1)
    if block == 1:
        return parts
    parts = pad(parts, (0, -x.shape[-1] % block, 0, -x.shape[-2] % block), mode="replicate")
    return pixel_unshuffle(parts, block).contiguous(memory_format=torch.channels_last)


def consistent(
    prior: Complex[Tensor, "b set y x"],
    right: Complex[Tensor, "b set y x"],
    physics: MultiCoilMRI,
    weight: Tensor,
    iterations: int,
) -> Complex[Tensor, "b set y x"]:
    r"""Solve :math:`(A^H A + \lambda) x = A^H y + \lambda x_{prior}` from the prior; differentiated as it runs."""
    return conjugate_gradient(
        lambda v: physics.normal(v) + weight * v, right + weight * prior, x0=prior, max_iter=iterations, tol=0.0
    )
