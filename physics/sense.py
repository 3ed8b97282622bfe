"""The sums over coils of parallel imaging as pure functions: they hold no state and work chunk by chunk.

Shapes throughout: maps ``(b | 1, set, coil, *spatial)``, images ``(b, set, *spatial)``, coils ``(b, coil, *spatial)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def coil_images(
    maps: Complex[Tensor, "#b set coil *spatial"], x: Complex[Tensor, "b set *spatial"]
) -> Complex[Tensor, "b coil *spatial"]:
    r""":math:`\sum_s S_{s,c} x_s` for each coil :math:`c`."""
    images = maps[:, 0] * x[:, :1]
    for s in range(1, maps.shape[1]):
        images = images + maps[:, s] * x[:, s : s + 1]
    return images


def combined(
    maps: Complex[Tensor, "#b set coil *spatial"],
    k: Complex[Tensor, "b coil *spatial"],
    phase: Complex[Tensor, "*spatial"],
    dims: Sequence[int],
    chunk: int,
) -> Complex[Tensor, "b set *spatial"]:
    r""":math:`\sum_c \bar S_{s,c} F^H \bar\varphi\, k_c` for each set :math:`s`, the FFT orthonormal."""
    dims = tuple(dims)

    def image(coils: Tensor) -> Tensor:
        # conj(F^H(conj(phase) k)) = F(phase conj(k)): the maps need no conjugate copy.
        return torch.fft.fftn(coils.conj() * phase, dim=dims, norm="ortho")

    batch = []
    for i, groups in chunks(k.shape[0], k.shape[1], chunk):
        S = _rows(maps, i)
        batch.append(_sum_coils((S[:, :, c], image(k[i, c])) for c in groups))
    return torch.cat(batch).conj().resolve_conj()


def gram(
    x: Complex[Tensor, "b set *spatial"],
    maps: Complex[Tensor, "#b set coil *spatial"],
    mask: Float[Tensor, "#b 1 *mask_spatial 2"] | None,
    dims: Sequence[int],
    chunk: int,
) -> Complex[Tensor, "b set *spatial"]:
    r"""Apply the normal operator :math:`\sum_c \bar S_{r,c} F^H M F \sum_s S_{s,c} x_s` of the plain FFT over ``dims``.

    Parameters
    ----------
    mask
        Real view of what `gram_mask` made; None where there is nothing to transform. Where it is larger than the
        image along ``dims``, the image is padded with zeros for the transforms (a Toeplitz operator).
    chunk
        Coil images worked on at once; no more than two such chunks are in memory.

    Gradients with respect to ``x`` cost one more application and keep no coil image; gradients with respect to
    ``maps`` are recorded by autograd.
    """
    dims = tuple(dims)
    if not (x.requires_grad or maps.requires_grad):
        return _gram(x, maps, mask, dims, chunk)
    if not maps.requires_grad and not torch.compiler.is_compiling():  # the compiler knows no `jvp`
        return _Gram.apply(x, maps, mask, dims, chunk)
    images = coil_images(maps, x)
    if mask is not None:
        k = torch.fft.fftn(images, s=_sizes(mask, dims), dim=dims) * mask[..., 0]
        images = _crop(torch.fft.ifftn(k, dim=dims, norm="forward"), images)  # the mask is divided by n already
    return torch.stack([(maps[:, s].conj() * images).sum(1) for s in range(maps.shape[1])], 1)


def gram_mask(mask: Float[Tensor, "#b 1 *spatial"], dims: Sequence[int]) -> Complex[Tensor, "#b 1 *spatial"]:
    """Turn a centred mask into the factor that stands between the two unnormalised FFTs of `gram`.

    It goes to the FFT's order and is divided by the transform's size. Its real part is to multiply real parts, its
    imaginary part, the negative of the real one, imaginary parts: conj(IFFT(z)) is FFT(conj(z)) / n, and
    conjugating here spares a conjugate copy of the maps.
    """
    real = torch.fft.ifftshift(mask, tuple(dims)) / math.prod(mask.shape[dim] for dim in dims)
    return torch.complex(real, -real)


def _gram(x: Tensor, maps: Tensor, mask: Tensor | None, dims: tuple[int, ...], chunk: int) -> Tensor:
    def filtered(images: Tensor, factor: Tensor | None) -> Tensor:
        if factor is None:
            return images.conj()
        k = torch.fft.fftn(images, s=_sizes(factor, dims), dim=dims)
        torch.view_as_real(k).mul_(factor)
        return _crop(torch.fft.fftn(k, dim=dims), images)

    batch = []
    for i, groups in chunks(x.shape[0], maps.shape[2], chunk):
        S, factor = _rows(maps, i), None if mask is None else _rows(mask, i)
        batch.append(_sum_coils((S[:, :, c], filtered(coil_images(S[:, :, c], x[i]), factor)) for c in groups))
    result = torch.cat(batch) if len(batch) > 1 else batch[0]
    return result.conj_physical_()


def _sizes(mask: Tensor, dims: tuple[int, ...]) -> list[int]:
    return [mask.shape[dim - 1] for dim in dims]  # the last axis of the mask is the real and imaginary part


def _crop(x: Tensor, like: Tensor) -> Tensor:
    for dim in range(2, like.ndim):
        x = x.narrow(dim, 0, like.shape[dim])
    return x


class _Gram(torch.autograd.Function):
    """`gram` by itself its own derivative and its own adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, maps: Tensor, mask: Tensor | None, dims: tuple[int, ...], chunk: int) -> Tensor:
        return _gram(x, maps, mask, dims, chunk)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, maps, mask, ctx.dims, ctx.chunk = inputs
        ctx.save_for_backward(maps, mask)
        ctx.save_for_forward(maps, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        maps, mask = ctx.saved_tensors
        return _Gram.apply(gradient, maps, mask, ctx.dims, ctx.chunk), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        maps, mask = ctx.saved_tensors
        return _Gram.apply(tangent, maps, mask, ctx.dims, ctx.chunk)


def _sum_coils(parts: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum ``maps * images`` over the coils of all (maps, images): ``(b, set, *spatial)``."""
    total = None
    for maps, images in parts:
        for c in range(maps.shape[2]):
            S, z = maps[:, :, c], images[:, None, c]
            # made here, so that it may be written to, also where a transform of torch.func wraps the images
            total = S * z if total is None else total.addcmul_(S, z)
    assert total is not None, "there is at least one coil"
    return total


def chunks(b: int, coil: int, chunk: int) -> Iterator[tuple[slice, list[slice]]]:
    """Split batch and coils so that no more than ``chunk`` coil images (at least one) come together."""
    rows = max(1, chunk // coil)
    for start in range(0, b, rows):
        i = slice(start, min(start + rows, b))
        most = max(1, chunk // (i.stop - i.start))
        step = math.ceil(coil / math.ceil(coil / most))  # even groups: the last one has work for all threads too
        yield i, [slice(c, min(c + step, coil)) for c in range(0, coil, step)]


def _rows(x: Tensor, i: slice) -> Tensor:
    """Batch elements ``i``; a batch of 1 serves all."""
    return x if x.shape[0] == 1 else x[i]
