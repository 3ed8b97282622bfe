"""Cartesian multi-coil MRI: coil maps, Fourier transform, sampling."""

from __future__ import annotations

import math

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
from recon.physics.sense import coil_images, combined, gram, gram_mask

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
        self.register_buffer("mask", self._checked_mask(mask, maps))
        for name in ("_phase_m", "_phase_k", "_gram_mask"):  # set by _prepare, and follow the device
            self.register_buffer(name, None, persistent=False)
        self._prepare()

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
        if mask is None and coil_maps is None:
            return
        maps = self.coil_maps if coil_maps is None else self._checked_maps(coil_maps).to(self.coil_maps.device)
        self.mask = self._checked_mask(self.mask if mask is None else mask, maps)  # nothing changes where one is bad
        self.coil_maps = maps
        self._prepare()

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

    def _checked_mask(self, mask: Tensor, maps: Tensor) -> Tensor:
        spatial = tuple(maps.shape[3:])
        found, ndim = tuple(mask.shape), len(spatial) + 2
        mask = mask.to(maps.device).reshape((1,) * (ndim - mask.ndim) + found)
        if mask.dtype != torch.bool:
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise MaskError("a mask says sampled or not", expected="True and False, or 1 and 0")
            mask = mask != 0
        if mask.ndim == ndim and mask.shape[1] == 2 and torch.equal(mask[:, 0], mask[:, 1]):
            mask = mask[:, :1]
        fits = mask.ndim == ndim and mask.shape[1] == 1
        fits = fits and all(m in (1, n) for m, n in zip(mask.shape[2:], spatial, strict=True))
        if not fits or (mask.shape[0] > 1 and maps.shape[0] > 1 and mask.shape[0] != maps.shape[0]):
            batch = "b" if maps.shape[0] == 1 else maps.shape[0]
            raise MaskError(
                "the mask does not fit the coil maps",
                found=found,
                expected=f"a shape that broadcasts to ({batch}, 1, {', '.join(map(str, spatial))})",
            )
        if not bool(mask.any()):
            raise MaskError("the mask samples nothing")
        return mask.expand(-1, -1, *spatial).contiguous()

    def _prepare(self) -> None:
        """Precompute what depends on maps and mask: phases, axes to transform, memory layout, `gram_mask`."""
        maps, mask = self.coil_maps, self.mask
        self.img_size = (2 * self.n_sets, *self.spatial)
        if self._phase_m is None or self._phase_m.shape != maps.shape[3:] or self._phase_m.dtype != maps.dtype:
            self._phase_m, self._phase_k = centring_phases(self.spatial, maps.dtype, maps.device)
        varies = [not torch.equal(mask, mask.narrow(dim, 0, 1).expand_as(mask)) for dim in self._dims]
        self._gram_dims = tuple(dim for dim, v in zip(self._dims, varies, strict=True) if v)
        self._gram_mask = None
        if self._gram_dims:
            for dim in set(self._dims) - set(self._gram_dims):
                mask = mask.narrow(dim, 0, 1)
            factors = torch.view_as_complex(gram_mask(mask, self._gram_dims, maps.real.dtype))
            self._gram_mask = torch.view_as_real(self._in_layout(factors))
        self.coil_maps = self._in_layout(maps)

    def _in_layout(self, x: Tensor) -> Tensor:
        """Keep the axes that the normal operator transforms contiguous in memory: FFTs across rows take long."""
        constant = [dim for dim in self._dims if dim not in self._gram_dims]
        order = [*range(x.ndim - len(self._dims)), *(x.ndim + dim for dim in (*constant, *self._gram_dims))]
        return x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])

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
        images = coil_images(self.coil_maps, self._with_sets(x) * self._phase_m)
        return torch.fft.fftn(images, dim=self._dims, norm="ortho").mul_(self._phase_k)

    def combine(self, k: Complex[Tensor, "b coil *spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """Adjoint of `expand`: ``(b, *spatial)`` for one set of maps, else ``(b, set, *spatial)``."""
        x = combined(self.coil_maps, k, self._phase_k, self._dims, self._chunk()) * self._phase_m.conj()
        return x[:, 0] if self.n_sets == 1 else x

    def normal(self, x: Complex[Tensor, "b *set_and_spatial"]) -> Complex[Tensor, "b *set_and_spatial"]:
        """`A_adjoint_A` on complex images, ``(b, *spatial)`` or ``(b, set, *spatial)``; the same shape comes back."""
        sets = self._in_layout(self._with_sets(x))
        return gram(sets, self.coil_maps, self._gram_mask, self._gram_dims, self._chunk()).reshape(x.shape)

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
