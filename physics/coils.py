"""What Cartesian and non-Cartesian multi-coil MRI share: coil maps, chunks, the normal operator, CG-SENSE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import NoiseModel, ZeroNoise
from jaxtyping import Complex, Float, Num
from torch import Tensor

from recon.physics.errors import DTypeError, OptionError, ShapeError
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient
from recon.physics.sense import gram

# Bytes of coil images that are worked on at once. On a processor a chunk stays in the caches of its cores, and its
# buffers are small enough to come back from the allocator without new pages; an accelerator only has to be filled.
_CHUNK_BYTES_A_THREAD = 2 << 20
_CHUNK_BYTES_ELSEWHERE = 512 << 20

# glibc gives freed memory back to the system, and getting new pages for every buffer can take longer than its FFT.
# Once it has freed a block of this size (never touched, so that it costs nothing) it keeps up to twice as much.
torch.empty(31 << 20, dtype=torch.uint8)


class CoilPhysics(LinearPhysics, ABC):
    r"""Operator :math:`y_c = E \sum_s S_{s,c}\, x_s` whose :math:`E^H E` is a multiplication between two FFTs.

    A child gives `expand`, `combine`, `A`, `A_adjoint` and `update_parameters`, and calls `_set_gram`.

    Parameters
    ----------
    coil_maps
        ``(coil, *spatial)``, ``(b, coil, *spatial)`` or ``(b, set, coil, *spatial)``.
    n_axes
        Spatial axes: 2 or 3.
    noise_model, coil_chunk, max_iter, tol
        As in `MultiCoilMRI`.
    """

    coil_maps: Tensor

    def __init__(
        self,
        coil_maps: Complex[Tensor, "*b coil y x"],
        *,
        n_axes: int,
        noise_model: NoiseModel | None,
        coil_chunk: int | None,
        max_iter: int,
        tol: float,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), max_iter=max_iter, tol=tol, device=coil_maps.device)
        if coil_chunk is not None and coil_chunk < 1:
            raise OptionError("a chunk has at least one coil", found=coil_chunk)
        self.coil_chunk = coil_chunk
        self._chunk = 1
        self._dims = tuple(range(-n_axes, 0))
        maps = self._checked_maps(coil_maps)
        self.register_buffer("coil_maps", maps)
        self.register_buffer("_gram_mask", None, persistent=False)
        self._gram_dims: tuple[int, ...] = ()
        self.img_size = (2 * self.n_sets, *self.spatial)

    @property
    def spatial(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x)."""
        return tuple(self.coil_maps.shape[3:])

    @property
    def n_sets(self) -> int:
        """Number of sets of coil maps."""
        return self.coil_maps.shape[1]

    @abstractmethod
    def expand(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b coil *samples"]:
        """Take the samples of all coils of an image ``(b, *spatial)`` or ``(b, set, *spatial)``."""

    @abstractmethod
    def combine(self, k: Complex[Tensor, "b coil *samples"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """Adjoint of `expand`: ``(b, *spatial)`` for one set of maps, else ``(b, set, *spatial)``."""

    def normal(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """`A_adjoint_A` on complex images, ``(b, *spatial)`` or ``(b, set, *spatial)``; the same shape comes back."""
        sets = self._in_layout(self._with_sets(x))
        return gram(sets, self.coil_maps, self._gram_mask, self._gram_dims, self._chunk).reshape(x.shape)

    def A_adjoint_A(
        self, x: Float[Tensor, "b channel *spatial"], **parameters: Any
    ) -> Float[Tensor, "b channel *spatial"]:
        """Apply the normal operator with no more than two chunks of coil images in memory."""
        self.update_parameters(**parameters)
        return to_channels(self.normal(self._with_sets(to_complex(x))))

    def A_dagger(
        self,
        y: Num[Tensor, "b ..."],
        solver: str = "CG",
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        **parameters: Any,
    ) -> Float[Tensor, "b channel *spatial"]:
        """CG-SENSE [Pruessmann 2001]: the least-squares image of least norm; other solvers are deepinv's."""
        self.update_parameters(**parameters)
        if solver != "CG":
            return super().A_dagger(y, solver=solver, max_iter=max_iter, tol=tol, verbose=verbose)
        b = to_complex(self.A_adjoint(y))
        max_iter = self.max_iter if max_iter is None else max_iter
        return to_channels(conjugate_gradient(self.normal, b, max_iter=max_iter, tol=self.tol if tol is None else tol))

    def noise(self, x: Complex[Tensor, "b coil *samples"], **parameters: Any) -> Complex[Tensor, "b coil *samples"]:
        """Apply the noise model to the real and to the imaginary part."""
        noisy = self.noise_model(torch.view_as_real(x.resolve_conj()), **parameters)
        return torch.view_as_complex(noisy.contiguous())

    def adjointness_test(
        self,
        u: Float[Tensor, "b channel *spatial"] | None = None,
        img_size: tuple[int, ...] | None = None,
        num_samples: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, ""]:
        """Run deepinv's test on the real view of the samples: images are real, so it is the real part that agrees."""
        real = LinearPhysics(
            A=lambda x: torch.view_as_real(self.A(x)),
            A_adjoint=lambda y: self.A_adjoint(torch.view_as_complex(y)),
            img_size=self.img_size,
        )
        return real.adjointness_test(u, img_size=img_size, num_samples=num_samples, device=device, dtype=dtype)

    def _checked_maps(self, maps: Tensor) -> Tensor:
        d = len(self._dims)
        if not maps.is_complex():
            raise DTypeError("coil maps are complex", found=maps.dtype)
        found = tuple(maps.shape)
        if maps.ndim == d + 1:
            maps = maps[None]
        if maps.ndim == d + 2:
            maps = maps[:, None]
        if maps.ndim != d + 3 or 0 in maps.shape:
            wanted = "y, x" if d == 2 else "z, y, x"
            raise ShapeError(
                "coil maps of a shape that cannot be used",
                found=found,
                expected=f"(b, coil, {wanted}) or (b, set, coil, {wanted})",
            )
        return maps.resolve_conj()

    def _with_sets(self, x: Tensor) -> Tensor:
        sets = x[:, None] if x.ndim == len(self._dims) + 1 else x
        fits = sets.ndim == len(self._dims) + 2 and tuple(sets.shape[1:]) == (self.n_sets, *self.spatial)
        if not fits or self.coil_maps.shape[0] not in (1, sets.shape[0]):
            raise ShapeError(
                "an image that does not fit the coil maps",
                found=tuple(x.shape),
                expected=f"{self.n_sets} sets of {self.spatial}, a batch for maps {tuple(self.coil_maps.shape)}",
            )
        return sets

    def _without_sets(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.n_sets == 1 else x

    def _set_gram(self, factors: Complex[Tensor, "#b 1 *mask_spatial"] | None, dims: tuple[int, ...]) -> None:
        """Take the factor between the FFTs of `normal` (see `gram_mask`) and lay the maps out for it."""
        self._gram_dims = dims
        self._gram_mask = None if factors is None else torch.view_as_real(self._in_layout(factors))
        self.coil_maps = self._in_layout(self.coil_maps)
        self.img_size = (2 * self.n_sets, *self.spatial)
        cpu = self.coil_maps.device.type == "cpu"
        room = _CHUNK_BYTES_A_THREAD * torch.get_num_threads() if cpu else _CHUNK_BYTES_ELSEWHERE
        fitting = room // (math.prod(self.spatial) * self.coil_maps.element_size())
        self._chunk = self.coil_chunk or max(1, fitting)

    def _in_layout(self, x: Tensor) -> Tensor:
        """Keep the axes that `normal` transforms contiguous in memory: FFTs across rows take long."""
        constant = [dim for dim in self._dims if dim not in self._gram_dims]
        order = [*range(x.ndim - len(self._dims)), *(x.ndim + dim for dim in (*constant, *self._gram_dims))]
        return x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])
