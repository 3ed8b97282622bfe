"""Cartesian multi-coil MRI: coil maps, Fourier transform, sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from deepinv.physics import LinearPhysics
from deepinv.physics.noise import NoiseModel, ZeroNoise
from jaxtyping import Complex, Float, Num
from torch import Tensor

from recon.physics import operators
from recon.physics.errors import DTypeError, MaskError, OptionError, ShapeError
from recon.physics.fft import centring_phases, ifft_centred
from recon.physics.layout import to_channels, to_complex
from recon.physics.linalg import conjugate_gradient

# Bytes of coil images that are worked on at once. On a processor a chunk stays in its cache; on an
# accelerator a chunk only has to be large enough to fill it.
_CHUNK_BYTES = {"cpu": 2 << 20}
_CHUNK_BYTES_ELSEWHERE = 512 << 20


@operators.register("multicoil-mri")
class MultiCoilMRI(LinearPhysics):
    r"""Sampled Fourier transform of coil images, :math:`y_c = M F \sum_s S_{s,c}\, x_s` [Pruessmann 1999; Uecker 2014].

    :math:`F` is the centred orthonormal FFT. Its shifts are two phases (see `recon.physics.fft.centring_phases`);
    in :math:`A^H A` even these cancel, because a convolution commutes with a shift:

    .. math:: A^H A x = \sum_c \bar S_c\, F_0^H M_0 F_0\, (S_c x),

    with the plain FFT :math:`F_0` and the mask :math:`M_0` with its centre at index 0. Along an axis on which the
    mask is constant the two transforms cancel too, and are left out.

    Parameters
    ----------
    coil_maps
        ``(b, coil, y, x)``, or ``(b, set, coil, y, x)`` for soft SENSE; a ``z`` more with ``three_d``. A batch of 1
        serves any batch. ``(coil, *spatial)`` is taken as a batch of 1.
    mask
        True where sampled, broadcastable to ``(b, 1, *spatial)``; None: everything is sampled. The two equal
        channels that deepinv's masks have, and numbers 0 and 1, are understood.
    three_d
        Images have three spatial axes. Tells ``(b, coil, z, y, x)`` from ``(b, set, coil, y, x)``.
    noise_model
        Its sigma is the standard deviation of the real and of the imaginary part of a sample.
    coil_chunk
        Coils that `A_adjoint_A` and `A_adjoint` work on at once; by default as many as fit the cache.
    max_iter, tol
        Of the conjugate gradients in `A_dagger` and of deepinv's solvers in `prox_l2`.

    Raises
    ------
    ShapeError, DTypeError, MaskError
        Maps or mask do not fit.
    """

    coil_maps: Tensor
    mask: Tensor

    def __init__(
        self,
        coil_maps: Complex[Tensor, "*b coil y x"],
        mask: Tensor | None = None,
        *,
        three_d: bool = False,
        noise_model: NoiseModel | None = None,
        coil_chunk: int | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
    ) -> None:
        super().__init__(noise_model=noise_model or ZeroNoise(), max_iter=max_iter, tol=tol, device=coil_maps.device)
        if coil_chunk is not None and coil_chunk < 1:
            raise OptionError("a chunk has at least one coil", found=coil_chunk)
        self.three_d, self.coil_chunk = three_d, coil_chunk
        self._dims = (-3, -2, -1) if three_d else (-2, -1)
        maps = self._checked_maps(coil_maps)
        self.register_buffer("coil_maps", maps)
        if mask is None:
            mask = torch.ones(maps.shape[3:], dtype=torch.bool, device=maps.device)
        self.register_buffer("mask", self._checked_mask(mask))
        for name in ("_phase_m", "_phase_k", "_gram_mask"):  # set by _prepare_*, and follow the device
            self.register_buffer(name, None, persistent=False)
        self._prepare_maps()
        self._prepare_mask()

    # --- parameters -------------------------------------------------------------------------------------------

    @property
    def spatial(self) -> tuple[int, ...]:
        """(y, x) or (z, y, x)."""
        return tuple(self.coil_maps.shape[3:])

    @property
    def n_sets(self) -> int:
        """Number of sets of coil maps."""
        return self.coil_maps.shape[1]

    def update_parameters(
        self, mask: Tensor | None = None, coil_maps: Tensor | None = None, **_noise_parameters: object
    ) -> None:
        """Replace the mask, the coil maps or both. The noise model's parameters, which deepinv hands on, are left."""
        if coil_maps is not None:
            self.coil_maps = self._checked_maps(coil_maps).to(self.coil_maps.device)
            self._prepare_maps()
        if mask is not None:
            self.mask = self._checked_mask(mask)
            self._prepare_mask()
        elif coil_maps is not None and tuple(self.mask.shape[2:]) != self.spatial:
            raise MaskError(
                "the mask does not fit the new coil maps", found=tuple(self.mask.shape), expected=self.spatial
            )

    def _checked_maps(self, maps: Tensor) -> Tensor:
        d = len(self._dims)
        if not maps.is_complex():
            raise DTypeError("coil maps are complex", found=maps.dtype)
        if maps.ndim == d + 1:
            maps = maps[None]
        if maps.ndim == d + 2:
            maps = maps[:, None]
        if maps.ndim != d + 3 or 0 in maps.shape:
            wanted = "z, y, x" if self.three_d else "y, x"
            raise ShapeError(
                "coil maps of a shape that cannot be used",
                found=tuple(maps.shape),
                expected=f"(b, coil, {wanted}) or (b, set, coil, {wanted})",
            )
        return maps.resolve_conj()

    def _checked_mask(self, mask: Tensor) -> Tensor:
        mask = mask.to(self.coil_maps.device)
        if mask.dtype != torch.bool:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise MaskError("a mask says sampled or not", expected="True and False, or 1 and 0")
            mask = mask != 0
        d = len(self._dims)
        found = tuple(mask.shape)
        mask = mask.reshape((1,) * (d + 2 - mask.ndim) + found)
        if mask.ndim == d + 2 and mask.shape[1] == 2 and torch.equal(mask[:, 0], mask[:, 1]):
            mask = mask[:, :1]
        fits = mask.ndim == d + 2 and mask.shape[1] == 1
        fits = fits and all(m in (1, n) for m, n in zip(mask.shape[2:], self.spatial, strict=True))
        if not fits:
            raise MaskError(
                "the mask does not fit the coil maps",
                found=found,
                expected=f"a shape that broadcasts to (b, 1, {self.spatial})",
            )
        if not bool(mask.any()):
            raise MaskError("the mask samples nothing")
        return mask.expand(-1, -1, *self.spatial).contiguous()

    def _prepare_maps(self) -> None:
        maps = self.coil_maps
        self.img_size = (2 * self.n_sets, *self.spatial)
        if self._phase_m is None or self._phase_m.shape != maps.shape[3:] or self._phase_m.dtype != maps.dtype:
            self._phase_m, self._phase_k = centring_phases(self.spatial, maps.dtype, maps.device)

    def _prepare_mask(self) -> None:
        """Find the axes to transform, and the mask that is multiplied between the two FFTs of the normal operator."""
        mask = self.mask
        self._gram_dims = tuple(
            dim for dim in self._dims if not torch.equal(mask, mask.narrow(dim, 0, 1).expand_as(mask))
        )
        if not self._gram_dims:
            self._gram_mask = None
            return
        # Only a corner of the constant axes is needed. The two unnormalised FFTs leave a factor, and
        # conj(IFFT(z)) = FFT(conj(z)) / n: conjugating here saves conjugating the maps.
        for dim in self._dims:
            if dim not in self._gram_dims:
                mask = mask.narrow(dim, 0, 1)
        n = math.prod(mask.shape[dim] for dim in self._gram_dims)
        real = torch.fft.ifftshift(mask, self._gram_dims).to(self.coil_maps.real.dtype) / n
        real = real.expand(-1, -1, *real.shape[2:-1], self.spatial[-1])
        self._gram_mask = torch.stack((real, -real), -1).contiguous()

    # --- operator ---------------------------------------------------------------------------------------------

    def A(
        self,
        x: Float[Tensor, "b channel *spatial"],
        mask: Tensor | None = None,
        coil_maps: Tensor | None = None,
        **_noise_parameters: object,
    ) -> Complex[Tensor, "b coil *spatial"]:
        """Measure images of ``2 * set`` real channels; a mask or maps given here stay, as in deepinv."""
        self.update_parameters(mask=mask, coil_maps=coil_maps)
        return self.expand(to_complex(x)).mul_(self.mask)

    def A_adjoint(
        self,
        y: Num[Tensor, "b ..."],
        mask: Tensor | None = None,
        coil_maps: Tensor | None = None,
        **_noise_parameters: object,
    ) -> Float[Tensor, "b channel *spatial"]:
        """Adjoint of `A` [complex ``(b, coil, *spatial)``, or deepinv's real ``(b, 2, coil, *spatial)``]."""
        self.update_parameters(mask=mask, coil_maps=coil_maps)
        if not y.is_complex():
            if y.ndim != len(self._dims) + 3 or y.shape[1] != 2:
                raise ShapeError(
                    "k-space of a shape that cannot be used", found=tuple(y.shape), expected="complex, or two channels"
                )
            y = to_complex(y.transpose(1, 2).flatten(1, 2))
        return to_channels(self._with_sets(self.combine(y * self.mask)))

    def A_adjoint_A(
        self,
        x: Float[Tensor, "b channel *spatial"],
        mask: Tensor | None = None,
        coil_maps: Tensor | None = None,
        **_noise_parameters: object,
    ) -> Float[Tensor, "b channel *spatial"]:
        """Apply the normal operator, without a shift and with one chunk of coils in memory."""
        self.update_parameters(mask=mask, coil_maps=coil_maps)
        return to_channels(self.normal(to_complex(x)))

    def A_dagger(
        self,
        y: Num[Tensor, "b ..."],
        solver: str = "CG",
        max_iter: int | None = None,
        tol: float | None = None,
        verbose: bool = False,
        mask: Tensor | None = None,
        coil_maps: Tensor | None = None,
    ) -> Float[Tensor, "b channel *spatial"]:
        """CG-SENSE [Pruessmann 2001]: the least-squares image of least norm; other solvers are deepinv's."""
        self.update_parameters(mask=mask, coil_maps=coil_maps)
        if solver != "CG":
            return super().A_dagger(y, solver=solver, max_iter=max_iter, tol=tol, verbose=verbose)
        b = to_complex(self.A_adjoint(y))
        x = conjugate_gradient(self.normal, b, max_iter=max_iter or self.max_iter, tol=self.tol if tol is None else tol)
        return to_channels(x)

    def noise(
        self, x: Complex[Tensor, "b coil *spatial"], **noise_parameters: object
    ) -> Complex[Tensor, "b coil *spatial"]:
        """Apply the noise model to the real and imaginary part of the sampled entries."""
        noisy = self.noise_model(torch.view_as_real(x.resolve_conj()), **noise_parameters)
        return torch.view_as_complex(noisy.contiguous()) * self.mask

    # --- its parts --------------------------------------------------------------------------------------------

    def expand(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b coil *spatial"]:
        """K-space of all coils, unmasked, of an image ``(b, *spatial)`` or ``(b, set, *spatial)``."""
        x = self._with_sets(x) * self._phase_m
        return torch.fft.fftn(self._coil_images(self.coil_maps, x), dim=self._dims, norm="ortho").mul_(self._phase_k)

    def combine(self, k: Complex[Tensor, "b coil *spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """Adjoint of `expand`: ``(b, *spatial)`` for one set of maps, else ``(b, set, *spatial)``."""
        batch = []
        for i, maps_i in self._batches(k.shape[0]):
            total: Tensor | None = None
            for c in self._coils(i):
                # conj(IFFT(conj(phase) k)) = FFT(phase conj(k)): the maps need no conjugate copy.
                images = torch.fft.fftn(k[i, c].conj() * self._phase_k, dim=self._dims, norm="ortho")
                total = self._add_coils(total, maps_i[:, :, c], images)
            batch.append(total)
        x = (torch.cat(batch) * self._phase_m).conj().resolve_conj()
        return x[:, 0] if self.n_sets == 1 else x

    def normal(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """`A_adjoint_A` on complex images, ``(b, *spatial)`` or ``(b, set, *spatial)``; the same shape comes back."""
        sets = self._with_sets(x)
        batch = []
        for i, maps_i in self._batches(x.shape[0]):
            total: Tensor | None = None
            for c in self._coils(i):
                S = maps_i[:, :, c]
                images = self._filtered(self._coil_images(S, sets[i]), i)
                total = self._add_coils(total, S, images)
            batch.append(total)
        result = torch.cat(batch) if len(batch) > 1 else batch[0]
        result = result.conj_physical_() if not result.requires_grad else result.conj().resolve_conj()
        return result.reshape(x.shape)

    def _filtered(self, images: Tensor, i: slice) -> Tensor:
        """conj(F^H M F images), M with its centre at index 0; ``images`` may be overwritten."""
        if self._gram_mask is None:
            return images.conj()
        mask = self._gram_mask if self._gram_mask.shape[0] == 1 else self._gram_mask[i]
        k = torch.fft.fftn(images, dim=self._gram_dims)
        k = torch.view_as_complex(torch.view_as_real(k) * mask) if k.requires_grad else _mul_real_(k, mask)
        return torch.fft.fftn(k, dim=self._gram_dims)

    @staticmethod
    def _coil_images(maps: Tensor, x: Tensor) -> Tensor:
        """Sum over the sets of ``maps (b, set, coil, *spatial) * x (b, set, *spatial)``."""
        images = maps[:, 0] * x[:, :1]
        for s in range(1, maps.shape[1]):
            images = (
                images.addcmul(maps[:, s], x[:, s : s + 1])
                if images.requires_grad
                else images.addcmul_(maps[:, s], x[:, s : s + 1])
            )
        return images

    @staticmethod
    def _add_coils(total: Tensor | None, maps: Tensor, images: Tensor) -> Tensor:
        """Add the sum over coils of ``maps (b, set, coil, *spatial) * images (b, coil, *spatial)``."""
        for c in range(maps.shape[2]):
            S, z = maps[:, :, c], images[:, None, c]
            if total is None:
                total = S * z
            else:
                total = total.addcmul(S, z) if total.requires_grad or z.requires_grad else total.addcmul_(S, z)
        assert total is not None
        return total

    # --- batches and chunks -----------------------------------------------------------------------------------

    def _with_sets(self, x: Tensor) -> Tensor:
        d = len(self._dims)
        sets = x[:, None] if x.ndim == d + 1 else x
        if sets.ndim != d + 2 or sets.shape[1] != self.n_sets or tuple(sets.shape[2:]) != self.spatial:
            raise ShapeError(
                "an image that does not fit the coil maps",
                found=tuple(x.shape),
                expected=f"(b, {self.n_sets}, {self.spatial})",
            )
        return sets

    def _chunk(self) -> int:
        """Coil images worked on at once."""
        if self.coil_chunk is not None:
            return self.coil_chunk
        maps = self.coil_maps
        image = math.prod(self.spatial) * maps.element_size()
        return max(1, _CHUNK_BYTES.get(maps.device.type, _CHUNK_BYTES_ELSEWHERE) // image)

    def _batches(self, b: int) -> Iterator[tuple[slice, Tensor]]:
        coil = self.coil_maps.shape[2]
        step = max(1, self._chunk() // coil)
        for start in range(0, b, step):
            i = slice(start, min(start + step, b))
            yield i, self.coil_maps if self.coil_maps.shape[0] == 1 else self.coil_maps[i]

    def _coils(self, i: slice) -> Iterator[slice]:
        step = max(1, self._chunk() // (i.stop - i.start))
        for start in range(0, self.coil_maps.shape[2], step):
            yield slice(start, start + step)


def _mul_real_(x: Tensor, real: Tensor) -> Tensor:
    torch.view_as_real(x).mul_(real)
    return x


def decouple_readout(
    kspace: Complex[Tensor, "b coil z y x"], axis: int
) -> Complex[Tensor, "b_readout coil first second"]:
    """Turn 3D k-space with a fully sampled readout into independent 2D problems by one inverse centred FFT.

    Parameters
    ----------
    axis
        The readout: -1 (x), -2 (y) or -3 (z).

    Returns
    -------
    Tensor
        ``(b * readout, coil, *other axes)``: 2D k-space of each position along the readout.
    """
    if axis not in (-3, -2, -1):
        raise OptionError("the readout is a spatial axis", found=axis, expected="-3, -2 or -1")
    return ifft_centred(kspace, (axis,)).movedim(axis, 1).flatten(0, 1)
